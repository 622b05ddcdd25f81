"""Requests of one model that are answered step by step: each step of the backend advances all of them, and goes to the
server as one message. What runs between two steps is on the model's thread, so it has to be quick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from backends.base import StepBackend, StepPiece
from engine.transport.channel import Channel
from engine.transport.messages import CancelStream, Chunk, StartStream, StepDone, StreamEnd, encode
from engine.worker.answers import describe
from engine.worker.gate import ModelGate

_LONGEST_WAIT = 0.05
"""Seconds without anything to compute after which messages are looked at."""
_SIGN_OF_LIFE = 0.25
"""Seconds of steps that added to no answer, such as those of a long prompt, after which the server is told that the
model does not hang. Well below the least ``engine.hang_timeout_s``."""
_ALIVE = encode(StepDone([], []))
_encode_deltas = msgspec.msgpack.Encoder().encode


@dataclass(slots=True, kw_only=True)
class OpenRequest:
    """One request on its way."""

    request_id: str
    streamed: bool
    left: int = 1
    """Answers that have not ended."""
    begun: bool = False
    deltas: list[Any] = field(default_factory=list)
    """Of this step."""

    def close(self) -> None:
        """Nothing more is done for it."""


R = TypeVar("R", bound=OpenRequest)
P = TypeVar("P", bound=StepPiece)


class StepRunner(ABC, Generic[R, P]):
    """Owns the requests that one model is answering."""

    def __init__(self, backend: StepBackend[Any, P], channel: Channel, gate: ModelGate) -> None:
        self._steps = backend
        self._channel = channel
        self._gate = gate
        self._open: dict[int, R] = {}

    @abstractmethod
    def _begin(self, message: StartStream) -> R | None:
        """Gives a request to the backend; `None` when it has been answered already. Raises what is wrong with it."""

    @abstractmethod
    def _take(self, request: R, piece: P) -> None:
        """Puts what a step added to a request into its `deltas`, and counts the answers that ended."""

    @property
    def busy(self) -> bool:
        """Whether any request is under way."""
        return self._steps.busy

    def start(self, message: StartStream) -> None:
        """Takes in a request. Its first deltas come with the next steps."""
        try:
            request = self._begin(message)
            if request is not None:
                self._open[message.id] = request
        except Exception as e:
            self._channel.send(encode(StreamEnd(message.id, describe(e, message.request_id))))

    def cancel(self, message: CancelStream) -> None:
        """Drops a request whose client went away, and says so, unless its end was told already."""
        if message.id in self._open:
            self._drop(message.id)
            self._channel.send(encode(StreamEnd(message.id)))

    def step(self) -> None:
        """Computes once, and sends what that added; now and then, when that is nothing, that the model is alive."""
        if self._steps.wait(_LONGEST_WAIT):
            self._compute()
        elif self._steps.out_of_process:
            return  # it has heard nothing
        if self.busy and self._channel.silent_for > _SIGN_OF_LIFE:
            self._channel.send(_ALIVE)

    def _compute(self) -> None:
        with self._gate.turn(self._steps.threads):
            pieces = self._steps.step()
        touched: dict[int, R] = {}
        ends: list[StreamEnd] = []
        for piece in pieces:
            request = self._open.get(piece.id)
            if request is None:
                continue
            touched[piece.id] = request
            try:
                if piece.error is not None:
                    raise piece.error
                self._take(request, piece)
            except Exception as e:  # of this request, or a mistake of what reads its answer; the others go on
                ends.append(StreamEnd(piece.id, describe(e, request.request_id)))
                self._drop(piece.id)
                del touched[piece.id]
                continue
            if not request.left:
                ends.append(StreamEnd(piece.id))
                self._open.pop(piece.id).close()
        chunks = [chunk for stream_id, r in touched.items() if (chunk := _chunk(stream_id, r)) is not None]
        if chunks or ends:
            self._channel.send(encode(StepDone(chunks, ends)))

    def _drop(self, stream_id: int) -> None:
        """Ends a request before its end. The backend may know that already."""
        request = self._open.pop(stream_id)
        self._steps.cancel(stream_id)
        request.close()


def _chunk(stream_id: int, request: OpenRequest) -> Chunk | None:
    """What a request gets of this step; empty to say that its answer, which comes whole, has begun."""
    deltas, request.deltas = request.deltas, []
    if deltas:
        request.begun = True
        return Chunk(stream_id, _encode_deltas(deltas))
    if not request.begun:
        request.begun = True
        return Chunk(stream_id, b"")
    return None
