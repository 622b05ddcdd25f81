"""A Whisper model and recordings for tests: real clips, and files of every kind that are made of them."""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from scripts import fetch_models
from scripts.packages import FetchError

RATE = 16_000

TEXTS = {
    "0870": "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do "
    "for them.",
    "0920": "Had he married a more amiable woman, he might have been made still more respectable than he was.",
    "0930": "He might even have been made amiable himself.",
    "goforward": "Go forward 10 meters.",
}
"""What tiny.en hears in the clips that it gets right."""

KINDS: dict[str, tuple[str, str, int, str]] = {
    "wav": ("wav", "pcm_s16le", 44_100, "stereo"),
    "wav24": ("wav", "pcm_s24le", 48_000, "mono"),
    "wav8": ("wav", "pcm_u8", 8_000, "mono"),
    "flac": ("flac", "flac", 48_000, "stereo"),
    "mp3": ("mp3", "mp3", 44_100, "mono"),
    "ogg": ("ogg", "libopus", 48_000, "mono"),
    "m4a": ("ipod", "aac", 44_100, "stereo"),
    "webm": ("webm", "libopus", 48_000, "stereo"),
    "aac": ("adts", "aac", 44_100, "mono"),
    "aiff": ("aiff", "pcm_s16be", 22_050, "stereo"),
}
"""Container, codec, rate and channels."""


def whisper() -> Path:
    """Whisper tiny.en, which knows English alone."""
    return fetch_models.fetch("whisper")


def weights() -> dict[str, np.ndarray[Any, Any]]:
    """Its weights, by CTranslate2's names."""
    with (whisper() / "model.bin").open("rb") as file:
        return dict(_weights(file))


_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
"""By CTranslate2's number of a type."""


def _weights(file: BinaryIO) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The weights of a ``model.bin``, whose format `backends.whisper.file` describes."""

    def number(kind: str) -> int:
        return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])

    def text() -> str:
        return file.read(number("H"))[:-1].decode()

    assert (number("I"), text()) == (6, "WhisperSpec")
    number("I")
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        dtype, size = _TYPES[number("B")], number("I")
        values = np.frombuffer(file.read(size), dtype)
        assert values.size == math.prod(shape)
        yield name, values.reshape(shape)


def clip(name: str) -> bytes:
    """A clip as a WAV file. Skips the test when Debian's archive cannot be reached and it was not fetched before."""
    try:
        folder = fetch_models.fetch("speech")
    except FetchError as e:
        pytest.skip(f"the clips of speech are not here: {e}")
    if name == "goforward":
        return wav(np.frombuffer((folder / "goforward.raw").read_bytes(), "<i2"))
    return (folder / f"{name}.wav").read_bytes()


def samples(name: str) -> np.ndarray[Any, Any]:
    """A clip as 16-bit samples."""
    with wave.open(io.BytesIO(clip(name))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def sound(name: str) -> np.ndarray[Any, Any]:
    """A clip as a model takes it."""
    return samples(name).astype(np.float32) / 32768.0


@cache
def long_recording() -> np.ndarray[Any, Any]:
    """More than 90 seconds of speech, as 16-bit samples."""
    return np.concatenate([samples(name) for _ in range(4) for name in ("0870", "0880", "0890", "0920", "0930")])


def wav(pcm: np.ndarray[Any, Any], rate: int = RATE) -> bytes:
    """16-bit samples of one channel as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.astype("<i2").tobytes())
    return file.getvalue()


@cache
def encoded(name: str, kind: str) -> bytes:
    """A clip as a file of another kind; one of `KINDS`."""
    return encode([samples(name)], kind)


def encode(blocks: Sequence[np.ndarray[Any, Any]], kind: str) -> bytes:
    """16-bit samples at `RATE` as a file of a kind."""
    import av

    container, codec, rate, layout = KINDS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate)
        stream.layout = layout
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, layout, rate, context.frame_size or None)
        for block in [*blocks, None]:
            frame = None
            if block is not None:
                frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = None
            for one in resampler.resample(frame):
                out.mux(stream.encode(one))
        out.mux(stream.encode(None))
    return file.getvalue()
