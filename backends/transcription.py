"""The contract between the engine and a model that writes down speech: what is asked of it, and what comes back.

The engine adds requests, calls `TranscriptionBackend.step` as long as any is under way, and may cancel them in between.
Recordings are long beside what a model hears at once, so each is a sequence of windows, and a step takes a window of
each request.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.base import StepBackend, StepPiece

SAMPLE_RATE = 16_000
"""Samples in a second."""

Samples = NDArray[np.float32]
"""Sound: one channel of `SAMPLE_RATE` samples a second, from -1 to 1."""


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as a `TranscriptionBackend` takes it."""

    audio: Callable[[], Samples]
    """Decodes the recording, which may take long: it is to be called once, off the model's thread. Raises
    `InvalidInput`."""
    language: str | None = None
    """What is spoken, as a code of `TranscriptionInfo.languages`; the model finds it out when not given."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Whether the text is in the language that is spoken, or in English."""
    prompt: str = ""
    """What was said before, or a text in the style and with the names that are to be expected."""
    hotwords: str = ""
    """Words that are likely in all of the recording."""
    temperature: float | None = None
    """0 is greedy. When not given, it is raised where the likeliest text is hardly likely, or repeats itself."""
    words: bool = False
    """Whether segments have the times of their words."""
    vad: bool | None = None
    """Whether what is no speech is cut out first; the model's own default when not given."""
    beam_size: int | None = None
    """Texts that are followed at once; the model's own default when not given."""
    condition_on_previous_text: bool = True
    """Whether each window is read as going on with the text of the last."""


class Word(msgspec.Struct, frozen=True, array_like=True):
    """A word and when it was said, in seconds from the beginning of the recording."""

    word: str
    """With the space before it."""
    start: float
    end: float
    probability: float


class Segment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of the text, about a sentence, and when it was said, in seconds from the beginning of the recording."""

    start: float
    end: float
    text: str
    """With the space before it: the texts of all segments are the whole text."""
    tokens: tuple[int, ...] = ()
    seek: int = 0
    """Where its window begins, in hundredths of a second."""
    temperature: float = 0.0
    """That it was written with."""
    avg_logprob: float = 0.0
    """Of a token, on the average."""
    compression_ratio: float = 0.0
    """How far the text of its window can be compressed: above 2.4 it repeats itself."""
    no_speech_prob: float = 0.0
    """How likely it is that nothing was said."""
    words: tuple[Word, ...] | None = None
    """If they were asked for."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a recording before its text is."""

    duration: float
    """In seconds."""
    language: str
    language_probability: float
    """1 when it was given."""


class Piece(StepPiece, kw_only=True):
    """What one step added to one request."""

    recording: Recording | None = None
    """Of the first piece."""
    segments: tuple[Segment, ...] = ()
    ended: bool = False
    """Whether it is the last piece."""


class TranscriptionBackend(StepBackend[Transcription, Piece]):
    """A model that writes down speech, for many requests at once.

    `load` returns a `ModelInfo` with `transcription`.
    """

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Whether a step has anything to do, which is waited for at most so long: a recording may be being decoded."""
