"""The recordings that a model writes down: decoded on threads, computed step by step.

A `Listener` is the model: it makes a `Hearing` of a recording's samples, and computes the next piece of several of
them at once.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from backends.base import Finding, InvalidInput, TranscriptionInfo
from backends.transcription import Piece, Recording, Samples, Segment, Transcription, TranscriptionBackend


class Hearing:
    """One recording under way, and what was heard of it since that was last asked for."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.segments: list[Segment] = []
        self.ended = False

    def taken(self, request_id: int) -> Piece | None:
        """What is new; `None` if nothing is."""
        if self.recording is None and not self.segments and not self.ended:
            return None
        piece = Piece(id=request_id, recording=self.recording, segments=tuple(self.segments), ended=self.ended)
        self.recording, self.segments = None, []
        return piece


class Listener(ABC):
    """A model that writes down speech."""

    info: TranscriptionInfo
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @abstractmethod
    def check(self, request: Transcription) -> None:
        """Raises `InvalidInput` for what the model cannot do."""

    @abstractmethod
    def begin(self, request: Transcription, samples: Samples) -> Hearing:
        """Takes in a recording, which has samples. Called off the model's thread, and by several at once."""

    @abstractmethod
    def advance(self, hearings: Sequence[Hearing]) -> None:
        """Computes the next piece of each, or of those whose turn it is. What it raises before any of them changed is
        raised for all of them."""


class Recordings:
    """Owns the requests under way."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._changed = threading.Condition()
        self._hearings: dict[int, Hearing | None] = {}
        """By request, in the order in which they came; `None` while a recording is being decoded."""
        self._failed: list[Piece] = []
        """Of recordings that could not be decoded."""

    @property
    def busy(self) -> bool:
        """Whether any recording is under way, or an error is left to be given out."""
        with self._changed:
            return bool(self._hearings or self._failed)

    def add(self, request_id: int, request: Transcription) -> None:
        """Begins a recording. Raises `InvalidInput`."""
        self._listener.check(request)
        with self._changed:
            self._hearings[request_id] = None
        threading.Thread(
            target=self._begin, args=(request_id, request), name=f"recording {request_id}", daemon=True
        ).start()

    def _begin(self, request_id: int, request: Transcription) -> None:
        hearing, error = None, None
        try:
            samples = request.audio()
            if not len(samples):
                raise InvalidInput("The recording is empty.", field="input")
            hearing = self._listener.begin(request, samples)
        except Exception as e:
            error = e
        with self._changed:
            if request_id not in self._hearings:  # nobody waits for it any more
                return
            if hearing is not None:
                self._hearings[request_id] = hearing
            else:
                del self._hearings[request_id]
                self._failed.append(Piece(id=request_id, error=error))
            self._changed.notify_all()

    def cancel(self, request_id: int) -> None:
        """Drops a recording; of one that is unknown, nothing."""
        with self._changed:
            self._hearings.pop(request_id, None)
            self._failed = [piece for piece in self._failed if piece.id != request_id]
            self._changed.notify_all()

    def stop(self) -> None:
        """Drops all of them."""
        with self._changed:
            self._hearings.clear()
            self._failed.clear()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether there is something to compute or give out, which is waited for at most so long."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._failed or any(self._hearings.values()), seconds))

    def step(self) -> list[Piece]:
        """Computes the next piece of each recording, and returns what that added."""
        with self._changed:
            pieces, self._failed = self._failed, []
            ready = {number: hearing for number, hearing in self._hearings.items() if hearing is not None}
        errors = self._advance(ready)
        for number, hearing in ready.items():
            error = errors.get(number)
            piece = Piece(id=number, error=error) if error is not None else hearing.taken(number)
            if piece is not None:
                pieces.append(piece)
        with self._changed:
            for number, hearing in ready.items():
                if hearing.ended or number in errors:
                    self._hearings.pop(number, None)
        return pieces

    def _advance(self, ready: dict[int, Hearing]) -> dict[int, Exception]:
        """Computes for all of them; where that fails, for each alone, so that only the one at fault fails."""
        try:
            if ready:
                self._listener.advance(list(ready.values()))
        except Exception as e:
            if len(ready) == 1:
                return dict.fromkeys(ready, e)
            return {n: error for number, one in ready.items() for n, error in self._advance({number: one}).items()}
        return {}


class ListeningBackend(TranscriptionBackend):
    """A backend whose model is a `Listener`, which `load` begins the recordings with."""

    _recordings: Recordings | None = None

    def add(self, request_id: int, request: Transcription) -> None:
        self._loaded.add(request_id, request)

    def wait(self, seconds: float) -> bool:
        return self._loaded.wait(seconds)

    def step(self) -> list[Piece]:
        return self._loaded.step()

    def cancel(self, request_id: int) -> None:
        self._loaded.cancel(request_id)

    @property
    def busy(self) -> bool:
        return self._loaded.busy

    @property
    def _loaded(self) -> Recordings:
        assert self._recordings is not None, "load comes first"
        return self._recordings

    def close(self) -> None:
        """Lets go of the recordings."""
        if self._recordings is not None:
            self._recordings.stop()
            self._recordings = None
