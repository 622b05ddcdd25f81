"""Encoded recordings: WAV, FLAC, MP3 and the like to samples at 16 kHz, within bounds. Runs in a worker.

A file of a few KiB can hold hours of silence, so what counts is how long a recording turns out to be while it is
decoded, whatever its head says. All recordings of a model together hold no more than the longest that is allowed, and
one more block of each.
"""

from __future__ import annotations

import io
import itertools
import threading
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np

from backends.base import InvalidInput, MissingRuntime
from backends.transcription import SAMPLE_RATE, Samples

FORMATS = ("wav", "w64", "aiff", "caf", "au", "flac", "mp3", "ogg", "mov", "matroska", "aac", "amr", "asf")
"""FFmpeg's names of the containers that are read. Some others are lists of other files and addresses, which it would
open."""

_FULL_SCALE = 32768.0
_BLOCK = 30.0
"""Seconds that are counted at once."""


class AudioBudget:
    """Bounds the seconds of sound that recordings hold together. The first of them never waits."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._held: dict[Audio, float] = {}
        """In the order in which they began."""
        self._changed = threading.Condition()

    def hold(self, audio: Audio, seconds: float) -> None:
        """Counts more of a recording, when there is room for it. Raises `InvalidInput` if it was closed meanwhile."""
        with self._changed:
            self._held.setdefault(audio, 0.0)
            self._changed.wait_for(lambda: audio.closed or self._has_room(audio, seconds))
            if audio.closed:
                self._held.pop(audio, None)
                raise InvalidInput("The recording is not wanted any more.")
            self._held[audio] += seconds

    def _has_room(self, audio: Audio, seconds: float) -> bool:
        return next(iter(self._held)) is audio or sum(self._held.values()) + seconds <= self._limit

    def release(self, audio: Audio) -> None:
        """What a closed recording held is free."""
        with self._changed:
            self._held.pop(audio, None)
            self._changed.notify_all()


class Audio:
    """One encoded recording. `samples` decodes it, once, on whatever thread; `close` may be called from another."""

    def __init__(self, data: bytes, longest: float, budget: AudioBudget) -> None:
        self._data = data
        self._longest = longest
        self._budget = budget
        self.closed = False

    def samples(self) -> Samples:
        """The recording as a model takes it: what it has of channels mixed into one. Raises `InvalidInput`."""
        data, self._data = self._data, b""
        blocks = list(self._within_bounds(decode(data)))
        del data
        samples = np.empty(sum(map(len, blocks)), np.float32)
        end = len(samples)
        while blocks:  # from the end, so that each block's memory is free as soon as it has been copied
            block = blocks.pop()
            np.divide(block, _FULL_SCALE, out=samples[end - len(block) : end])
            end -= len(block)
        return samples

    def close(self) -> None:
        """Nobody wants it any more, or its samples are not needed any more."""
        self.closed = True
        self._budget.release(self)

    def _within_bounds(self, blocks: Iterator[np.ndarray[Any, Any]]) -> Iterator[np.ndarray[Any, Any]]:
        seconds = 0.0
        for block in blocks:
            more = len(block) / SAMPLE_RATE
            seconds += more
            if seconds > self._longest:
                raise InvalidInput(
                    f"The recording lasts {seconds:.1f} s or longer; max_audio_s allows {self._longest:g} s. "
                    "Cut it into parts.",
                    field="input",
                )
            self._budget.hold(self, more)
            yield block


def silence() -> bytes:
    """A tenth of a second of silence, as a WAV file: a recording that any model takes."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(8000)
        out.writeframes(b"\x80" * 800)
    return file.getvalue()


def decode(data: bytes) -> Iterator[np.ndarray[Any, Any]]:
    """The samples of a recording as 16-bit integers, in blocks. Raises `InvalidInput`, `MissingRuntime`."""
    try:
        import av
    except ImportError:
        raise MissingRuntime("av", "audio") from None
    bounds = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore", container_options=bounds) as container:
            if not container.streams.audio:
                raise InvalidInput("The file has no sound.", field="input")
            yield from _resampled(_frames(container, container.streams.audio[0]))
    except (av.FFmpegError, OSError, ValueError, OverflowError) as e:
        raise _unreadable(e) from None


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """The decoded frames. A recording may be cut out of a stream: its first packets then belong to what is missing."""
    import av

    begun = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if begun:
                raise
            continue
        for frame in frames:
            begun = True
            frame.pts = None  # gaps in the times are none in the sound
            yield frame


def _resampled(frames: Iterator[Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Frames as blocks of one channel at `SAMPLE_RATE`. What they are like may change on the way."""
    import av

    kind: tuple[Any, ...] | None = None
    resampler: Any = None
    gathered: list[np.ndarray[Any, Any]] = []
    for frame in itertools.chain(frames, [None]):
        this = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if this != kind and resampler is not None:
            gathered += [f.to_ndarray()[0] for f in resampler.resample(None)]
        if this != kind and this is not None:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        kind = this
        if frame is not None:
            _check_rate(frame)
            gathered += [f.to_ndarray()[0] for f in resampler.resample(frame)]
        if gathered and (frame is None or sum(map(len, gathered)) >= _BLOCK * SAMPLE_RATE):
            yield np.concatenate(gathered)
            gathered = []


def _check_rate(frame: Any) -> None:
    """A frame of few samples a second would become very many at `SAMPLE_RATE`. Raises `InvalidInput`."""
    if frame.sample_rate < 1000:
        raise InvalidInput(
            f"The recording has {frame.sample_rate} samples a second; at least 1000 are needed.", field="input"
        )


def _unreadable(error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInput(
        f"The recording cannot be decoded ({reason[:100]}). Send a whole file: WAV, FLAC, MP3, OGG, M4A or WebM.",
        field="input",
    )
