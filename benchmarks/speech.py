"""Recordings of a read book, each of a sentence."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

NAMES = ("0870", "0890", "0920", "0930")
BEAM = 5
"""Texts that are followed at once; faster-whisper's own number, and UniModel's."""


@dataclass(frozen=True)
class Clip:
    """A WAV file."""

    wav: bytes

    @property
    def seconds(self) -> float:
        """How long it is."""
        with wave.open(io.BytesIO(self.wav)) as file:
            return file.getnframes() / file.getframerate()


def clips(count: int) -> list[Clip]:
    """So many recordings, the same again after the last one. Raises `scripts.packages.FetchError`."""
    from scripts import fetch_models

    folder = fetch_models.fetch("speech")
    known = [Clip((folder / f"{name}.wav").read_bytes()) for name in NAMES]
    return [known[i % len(known)] for i in range(count)]
