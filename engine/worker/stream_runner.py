"""Streams of one model: each step advances every open stream by one chunk, so that they share the model fairly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from backends.base import Backend, InvalidInput, ValueBackend
from engine.transport.channel import Channel
from engine.transport.messages import CancelStream, Chunk, StartStream, StreamEnd, encode
from engine.transport.values import encode_json
from engine.worker.answers import describe

log = logging.getLogger("unimodel.worker")


class StreamRunner:
    """Owns the open streams of one model."""

    def __init__(self, backend: Backend, channel: Channel) -> None:
        self._backend = backend
        self._channel = channel
        self._open: dict[int, tuple[str, Iterator[dict[str, Any]]]] = {}

    @property
    def busy(self) -> bool:
        """Whether any stream is open."""
        return bool(self._open)

    def start(self, message: StartStream) -> None:
        """Opens a stream. Its first chunk comes with the next step."""
        try:
            if not isinstance(self._backend, ValueBackend):
                raise InvalidInput("this model does not stream", field="stream")
            self._open[message.id] = (message.request_id, iter(self._backend.stream(msgspec.json.decode(message.body))))
        except Exception as e:
            self._channel.send(encode(StreamEnd(message.id, describe(e, message.request_id))))

    def cancel(self, message: CancelStream) -> None:
        """Closes a stream whose client went away, and says so, unless its end was told already."""
        if message.id not in self._open:
            return
        request_id, chunks = self._open[message.id]
        try:
            getattr(chunks, "close", lambda: None)()
        except Exception:
            log.exception("stream raised while it was closed", extra={"request_id": request_id})
        self._end(message.id, StreamEnd(message.id))

    def step(self) -> None:
        """One chunk of every open stream."""
        for stream_id, (request_id, chunks) in list(self._open.items()):
            try:
                chunk = encode_json(next(chunks))
            except StopIteration:
                self._end(stream_id, StreamEnd(stream_id))
            except Exception as e:
                self._end(stream_id, StreamEnd(stream_id, describe(e, request_id)))
            else:
                self._channel.send(encode(Chunk(stream_id, chunk)))

    def _end(self, stream_id: int, message: StreamEnd) -> None:
        del self._open[stream_id]
        self._channel.send(encode(message))
