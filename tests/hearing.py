"""Recordings that a speech backend writes down in a test, to their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.transcription import Recording, Segment, Transcription, TranscriptionBackend


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
