"""Recordings that a speech backend writes down in a test, to their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from backends.base import InvalidInput
from backends.transcription import Recording, Segment, Transcription, TranscriptionBackend
from tests.models_speech import TEXTS, sound


class Heard:
    """What came of one recording."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.segments: list[Segment] = []
        self.ended = False
        self.error: Exception | None = None

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


def run(backend: TranscriptionBackend, requests: Sequence[Transcription]) -> list[Heard]:
    """All requests at once, to their ends."""
    heard = [Heard() for _ in requests]
    for number, request in enumerate(requests):
        backend.add(number, request)
    while backend.busy:
        if not backend.wait(1.0):
            continue
        for piece in backend.step():
            one = heard[piece.id]
            assert not one.ended
            assert (piece.recording is not None) == (one.recording is None and piece.error is None)
            one.recording = piece.recording or one.recording
            one.segments.extend(piece.segments)
            one.ended, one.error = piece.ended, piece.error
    return heard


def hear(backend: TranscriptionBackend, sound: np.ndarray[Any, Any], **wishes: Any) -> Heard:
    (heard,) = run(backend, [Transcription(audio=lambda: sound, **wishes)])
    if heard.error is not None:
        raise heard.error
    assert heard.ended
    return heard


def each_request_has_its_own_error(backend: TranscriptionBackend) -> None:
    """What cannot be decoded, or is empty, fails alone."""

    def broken() -> Any:
        raise InvalidInput("It cannot be decoded.", field="input")

    audios: list[Callable[[], Any]] = [lambda: sound("0930"), broken, lambda: np.zeros(0, np.float32)]
    good, bad, empty = run(backend, [Transcription(audio=audio) for audio in audios])
    assert good.text == TEXTS["0930"]
    assert str(bad.error) == "It cannot be decoded."
    assert str(empty.error) == "The recording is empty."


def is_refused(backend: TranscriptionBackend, wishes: dict[str, Any], field: str, says: str) -> None:
    """A request with such wishes is an error that names the field, and is not under way."""
    with pytest.raises(InvalidInput) as caught:
        backend.add(1, Transcription(audio=lambda: np.zeros(1, np.float32), **wishes))
    assert says in caught.value.message
    assert caught.value.field == field
    assert not backend.busy
