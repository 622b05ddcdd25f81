"""Transcribes many recordings at once with code that was written for one.

faster-whisper's loop over the windows of a recording decides after each window where the next one begins, and what text
it goes on with. Here that loop runs for each recording on a thread of its own, and in place of the model it gets a
`Seat`: what it asks of the model waits there, until all the others ask for something too. Then what goes together is
computed in one call, and each gets its part of the answer. So a *round* takes one window of each recording: all of them
are encoded, then decoded, then aligned. A recording whose window needs more calls than those of others has them wait.

The threads only take turns: while the model computes they all wait, and it waits while any of them is between two
calls, which takes milliseconds. Not for one that has not asked for anything yet: a long recording takes long to decode.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import OutOfMemory
from backends.transcription import Piece


class Stopped(BaseException):  # no `Exception`, so that no code on its way takes it for an error of its own
    """Ends the thread of a recording that nobody waits for any more."""


@dataclass(eq=False, slots=True)
class _Call:
    """A call of the model that waits to be computed. Those of equal keys can be computed together."""

    method: str
    features: NDArray[Any]
    """Of one window: [1, …]."""
    arguments: tuple[Any, ...] = ()
    """One value for each of the window's own arguments."""
    options: dict[str, Any] | None = None
    key: object = None
    answer: Any = None
    error: Exception | None = None
    done: bool = False


class Rounds:
    """Owns the recordings that are being transcribed, and computes what they ask for."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._changed = threading.Condition()
        self._seats: dict[int, Seat] = {}
        """Of all threads that run, by request, in the order in which they came."""
        self._pieces: list[Piece] = []

    @property
    def busy(self) -> bool:
        """Whether any recording is under way, or pieces of one that ended are left."""
        with self._changed:
            return bool(self._seats or self._pieces)

    def start(self, request_id: int, work: Callable[[Seat], None]) -> None:
        """Begins a recording; `work` transcribes it, and gives its pieces to the seat."""
        seat = Seat(self, self._model, request_id)
        with self._changed:
            self._seats[request_id] = seat
        threading.Thread(target=self._run, args=(seat, work), name=f"recording {request_id}", daemon=True).start()

    def _run(self, seat: Seat, work: Callable[[Seat], None]) -> None:
        try:
            with contextlib.suppress(Stopped):
                try:
                    work(seat)
                except Exception as e:
                    seat.put(error=e)
        finally:
            with self._changed:
                if self._seats.get(seat.request_id) is seat:
                    del self._seats[seat.request_id]
                self._changed.notify_all()

    def cancel(self, request_id: int) -> None:
        """Drops a recording and what is left of its pieces. Its thread ends when it next asks for something."""
        with self._changed:
            seat = self._seats.pop(request_id, None)
            if seat is not None:
                seat.stopped = True
            self._pieces = [piece for piece in self._pieces if piece.id != request_id]
            self._changed.notify_all()

    def stop(self) -> None:
        """Drops all of them."""
        for request_id in list(self._seats):
            self.cancel(request_id)

    def wait(self, seconds: float) -> bool:
        """Whether there is a call to compute or a piece to give out, which is waited for at most so long."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._pieces or self._due(), seconds))

    def step(self) -> list[Piece]:
        """Computes what is due, and gives out the pieces that there are."""
        with self._changed:
            calls = self._due()
        if calls:
            self._compute(calls)
        with self._changed:
            for call in calls:
                call.done = True
            self._changed.notify_all()
            pieces, self._pieces = self._pieces, []
        return pieces

    def _due(self) -> list[_Call]:
        """The calls to compute next. Of several kinds, encoding comes last: it is what the next round begins with."""
        seats = [seat for seat in self._seats.values() if seat.has_asked]
        calls = [seat.call for seat in seats if seat.call is not None and not seat.call.done]
        if not calls or len(calls) < len(seats):
            return []
        first = next((call for call in calls if call.method != "encode"), calls[0])
        return [call for call in calls if call.key == first.key]

    def _compute(self, calls: Sequence[_Call]) -> None:
        try:
            answers = _ANSWERS[calls[0].method](self._model, calls)
        except Exception as e:
            if len(calls) > 1:  # only the one at fault fails
                for call in calls:
                    self._compute([call])
                return
            calls[0].error = _translated(e)
            return
        for call, answer in zip(calls, answers, strict=True):
            call.answer = answer

    # --- for the seats -----------------------------------------------------------------------------------------------

    def ask(self, seat: Seat, call: _Call) -> Any:
        """The answer to a call, once it has been computed. Raises `Stopped`, or what the model raised."""
        with self._changed:
            seat.call, seat.has_asked = call, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: call.done or seat.stopped)
        if seat.stopped:
            raise Stopped
        if call.error is not None:
            raise call.error
        return call.answer

    def put(self, seat: Seat, piece: Piece) -> None:
        """A piece of a recording's text. Raises `Stopped`."""
        with self._changed:
            if seat.stopped:
                raise Stopped
            self._pieces.append(piece)
            self._changed.notify_all()


class Seat:
    """The model as one recording's thread sees it: what faster-whisper asks of `ctranslate2.models.Whisper`."""

    def __init__(self, rounds: Rounds, model: Any, request_id: int) -> None:
        self._rounds = rounds
        self._model = model
        self.request_id = request_id
        self.call: _Call | None = None
        """The last one."""
        self.has_asked = False
        self.stopped = False

    def __getattr__(self, name: str) -> Any:
        """What is known of the model, such as ``is_multilingual``."""
        return getattr(self._model, name)

    def put(self, **fields: Any) -> None:
        """A piece of the text, as `backends.transcription.Piece` has it."""
        self._rounds.put(self, Piece(id=self.request_id, **fields))

    def encode(self, features: Any, to_cpu: bool = False) -> NDArray[Any]:  # noqa: ARG002
        """What the other methods take; on the CPU, where the windows of a round are taken apart."""
        encoded: NDArray[Any] = self._ask(_Call("encode", np.asarray(features), key="encode"))
        return encoded

    def detect_language(self, features: NDArray[Any]) -> list[Any]:
        """Of the one window, the languages and how likely each is."""
        return [self._ask(_Call("detect_language", features, key="detect_language"))]

    def generate(self, features: NDArray[Any], prompts: list[list[int]], **options: Any) -> list[Any]:
        """The text of the one window. Prompts have to be equally long to be computed together."""
        key = ("generate", len(prompts[0]), repr(sorted(options.items())))
        return [self._ask(_Call("generate", features, (prompts[0],), options, key))]

    def align(
        self,
        features: NDArray[Any],
        start_sequence: Sequence[int],
        text_tokens: list[list[int]],
        num_frames: int,
        **options: Any,
    ) -> list[Any]:
        """When the tokens of the one window were said."""
        key = ("align", tuple(start_sequence), repr(sorted(options.items())))
        arguments = (start_sequence, text_tokens[0], num_frames)
        return [self._ask(_Call("align", features, arguments, options, key))]

    def _ask(self, call: _Call) -> Any:
        return self._rounds.ask(self, call)


# --- calls together -------------------------------------------------------------------------------------------------


def _encode(model: Any, calls: Sequence[_Call]) -> list[NDArray[Any]]:
    from ctranslate2 import DataType

    encoded = model.encode(_together(calls), to_cpu=True)
    if encoded.dtype == DataType.bfloat16:  # which NumPy does not have
        encoded = encoded.to(DataType.float32)
    return np.split(np.asarray(encoded), len(calls))


def _detect_language(model: Any, calls: Sequence[_Call]) -> list[Any]:
    return list(model.detect_language(_together(calls)))


def _generate(model: Any, calls: Sequence[_Call]) -> list[Any]:
    return list(model.generate(_together(calls), [call.arguments[0] for call in calls], **(calls[0].options or {})))


def _align(model: Any, calls: Sequence[_Call]) -> list[Any]:
    start, _, _ = calls[0].arguments
    texts, frames = [call.arguments[1] for call in calls], [call.arguments[2] for call in calls]
    return list(model.align(_together(calls), list(start), texts, frames, **(calls[0].options or {})))


_ANSWERS: dict[str, Callable[[Any, Sequence[_Call]], Sequence[Any]]] = {
    "encode": _encode,
    "detect_language": _detect_language,
    "generate": _generate,
    "align": _align,
}


def _together(calls: Sequence[_Call]) -> Any:
    from ctranslate2 import StorageView

    return StorageView.from_array(np.ascontiguousarray(np.concatenate([call.features for call in calls])))


def _translated(error: Exception) -> Exception:
    if isinstance(error, RuntimeError) and "out of memory" in str(error):
        return OutOfMemory("The device has no memory left for a window of sound; lower the option batch_windows.")
    return error
