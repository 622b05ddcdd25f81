"""The server's side of one loaded model on one worker: its batch queue, and what was given to it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import UniModelError
from engine.scheduling.batcher import MAX_OUTSTANDING, InstanceLoad
from engine.scheduling.queue import Pending
from engine.scheduling.tuner import Speed
from engine.telemetry.tracing_calls import ModelCall
from engine.transport import messages, packing
from engine.transport.batchqueue import Slots
from engine.transport.channel import AsyncChannel
from engine.transport.messages import BatchDone, CancelStream, Chunk, Loaded, StartStream, StreamEnd
from engine.types import Answer

if TYPE_CHECKING:
    from engine.worker.supervisor import Worker

MAX_STREAM_BYTES = 4 << 20
"""Chunks that may wait for a slow reader before its stream is cut off."""


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that a worker computes together."""

    id: int
    slot: int
    items: list[Pending]
    prompt_tokens: int = 0
    """Known when it is done."""


class Stream:
    """The chunks of one streamed request, on their way to one reader."""

    def __init__(self, stream_id: int, body: bytes, request_id: str, priority: int = 0, choices: int = 1) -> None:
        self.id = stream_id
        self.body = body
        self.request_id = request_id
        self.priority = priority
        self.choices = choices
        """Sequences that it takes."""
        self.begun = False
        """Whether a chunk reached the reader, after which the request cannot be tried again."""
        self.retried = False
        self._chunks: asyncio.Queue[bytes | UniModelError | None] = asyncio.Queue()
        self.waiting_bytes = 0
        self.call: ModelCall | None = None
        """Its span, if it is traced."""

    def put(self, chunk: bytes) -> None:
        """Adds a chunk. An empty one says that the first token of an answer that comes whole is there."""
        self.begun = self.begun or bool(chunk)
        self.waiting_bytes += len(chunk)
        self._chunks.put_nowait(chunk)

    def end(self, error: UniModelError | None = None) -> None:
        """No chunk follows."""
        self._chunks.put_nowait(error)

    async def next(self) -> bytes | None:
        """The next chunk, or `None` at the end. Raises the error that ended the stream."""
        chunk = await self._chunks.get()
        if isinstance(chunk, UniModelError):
            raise chunk
        if chunk is not None:
            self.waiting_bytes -= len(chunk)
        return chunk


class Instance:
    """Owns the slots and the channel of one loaded model on one worker.

    `on_done(instance, batch, answers, compute_seconds)` gets every finished batch; `on_lost(instance)` runs once when
    the worker dies or drops the model. `outstanding` and `streams` then hold what must be tried again.
    """

    def __init__(self, worker: Worker, key: str, slot_bytes: int) -> None:
        self.worker = worker
        self.key = key
        self.slots = Slots.create(MAX_OUTSTANDING, slot_bytes)
        self.outstanding: deque[Batch] = deque()
        self.streams: dict[int, Stream] = {}
        self.speed = Speed()
        self.loaded: Loaded | None = None
        self.on_done: Callable[[Instance, Batch, list[Answer | UniModelError], float], None] | None = None
        self.on_lost: Callable[[Instance], None] | None = None
        self.on_stream_end: Callable[[], None] | None = None
        self._free_slots = list(range(MAX_OUTSTANDING))
        self._next_id = 0
        self._last_done = 0.0
        self._last_requests = 0
        self._unended: set[int] = set()
        """Streams that the worker has not ended, also those that nobody reads any more."""
        self._last_sign = 0.0
        """When the worker last said something, or was given something while it had nothing to do."""
        ours, self.child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = AsyncChannel(ours, self._on_message, self._on_close)

    def load(self, now: float) -> InstanceLoad:
        """What the batcher needs to know."""
        return InstanceLoad(
            len(self.outstanding), self._last_requests, now - self._last_done, self.speed.compute_seconds
        )

    def send(self, items: list[Pending]) -> None:
        """Gives a batch to the worker. Only when fewer than `MAX_OUTSTANDING` are with it."""
        self._note_start()
        self._next_id += 1
        batch = Batch(self._next_id, self._free_slots.pop(), items)
        self.outstanding.append(batch)
        self._channel.send(packing.pack_batch(batch.id, batch.slot, self.slots, [i.request for i in items]))

    def start_stream(self, stream: Stream) -> None:
        """Gives a streamed request to the worker."""
        self._note_start()
        self._unended.add(stream.id)
        self.streams[stream.id] = stream
        if stream.call is not None:
            stream.call.sent(self.worker.name, str(self.worker.device))
        self._channel.send(messages.encode(StartStream(stream.id, stream.request_id, stream.body)))

    def cancel_stream(self, stream: Stream) -> None:
        """Tells the worker that nobody reads a stream any more."""
        if self.streams.pop(stream.id, None) is not None:
            self._channel.send(messages.encode(CancelStream(stream.id)))

    def _note_start(self) -> None:
        if not self.has_work:
            self._last_sign = time.monotonic()

    @property
    def has_work(self) -> bool:
        """Whether the worker has anything to do for this model, be it for nobody any more."""
        return bool(self.outstanding or self._unended)

    @property
    def silent_for(self) -> float:
        """Seconds in which a worker that has work gave no sign: of a batch, a stream, or a step of generated text."""
        return time.monotonic() - self._last_sign if self.has_work else 0.0

    def trim(self, idle_seconds: float) -> None:
        """Gives back the memory of slots that nobody used for a while."""
        if not self.outstanding and time.monotonic() - self._last_done > idle_seconds:
            for slot in self._free_slots:
                self.slots.trim(slot)

    def lose(self) -> None:
        """Takes what came before the worker died, or dropped the model, and reports the loss."""
        self._channel.end()

    def close(self) -> None:
        """Ends the batch queue, upon which the worker unloads the model. Not while batches are out."""
        self.on_lost = None
        self._channel.close()
        self.child_socket.close()
        self.slots.close()

    def _on_message(self, data: bytes) -> None:
        self._last_sign = time.monotonic()
        message = messages.decode_batch_up(data)
        if isinstance(message, BatchDone):
            self._batch_done(message)
        elif isinstance(message, Chunk):
            self._chunk(message)
        elif isinstance(message, StreamEnd):
            self._stream_end(message)
        else:
            for chunk in message.chunks:
                self._chunk(chunk)
            for end in message.ends:
                self._stream_end(end)

    def _batch_done(self, message: BatchDone) -> None:
        batch = self.outstanding.popleft()
        batch.prompt_tokens = message.prompt_tokens
        answers = packing.unpack_answers(message, self.slots, [i.request for i in batch.items])
        self._free_slots.append(batch.slot)
        self._last_done = time.monotonic()
        self._last_requests = len(batch.items)
        self.speed.record(sum(i.rows for i in batch.items), message.compute_seconds)
        if self.on_done is not None:
            self.on_done(self, batch, answers, message.compute_seconds)

    def _chunk(self, message: Chunk) -> None:
        stream = self.streams.get(message.id)
        if stream is None:
            return
        stream.put(message.data)
        if stream.waiting_bytes > MAX_STREAM_BYTES:
            self.cancel_stream(stream)
            stream.end(UniModelError("The client reads its stream too slowly; it was cut off."))
            if self.on_stream_end is not None:  # its reader may be a long while
                self.on_stream_end()

    def _stream_end(self, message: StreamEnd) -> None:
        self._unended.discard(message.id)
        stream = self.streams.pop(message.id, None)
        if stream is not None:
            stream.end(None if message.error is None else packing.to_error(message.error))
            if self.on_stream_end is not None:
                self.on_stream_end()

    def _on_close(self) -> None:
        if self.on_lost is not None:
            self.on_lost(self)
