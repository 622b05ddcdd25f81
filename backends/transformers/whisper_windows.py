"""The windows of a recording, as Whisper hears it: 30 seconds at a time, each of which begins where the model says.

Whisper writes the times of segments as tokens between those of the text: a segment begins and ends with one. Two in a
row say that one segment ends and the next one begins; what follows the last such pair may go on in the next window,
which begins there.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.recordings import Hearing
from backends.speech import PROMPT_TOKENS
from backends.transcription import Transcription

MOMENTS = 3000
"""Of features, in a window."""
MOMENTS_PER_SECOND = 100
SECONDS_PER_TIME = 0.02
"""How far the token of a time is from the next one's."""

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The next of them is tried when the text is hardly likely, or repeats itself."""
_LEAST_LOGPROB = -1.0
_MOST_COMPRESSION = 2.4
_NO_SPEECH = 0.6
_FORGETFUL = 0.5
"""From texts of a higher temperature the next window does not go on."""


class Cut(NamedTuple):
    """A segment within a window: its tokens, and its times in seconds from the window's beginning."""

    begin: int
    end: int
    start: float
    stop: float


class Draft(NamedTuple):
    """The text of a window, at one temperature."""

    tokens: list[int]
    text: str
    avg_logprob: float
    no_speech_prob: float

    @property
    def compression_ratio(self) -> float:
        """How far the text can be compressed: what repeats itself can be far."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data)) if data else 0.0

    @property
    def silent(self) -> bool:
        """Whether nothing was said."""
        return self.no_speech_prob > _NO_SPEECH and self.avg_logprob < _LEAST_LOGPROB

    @property
    def unlikely(self) -> bool:
        """Whether a higher temperature may find a better one."""
        return not self.silent and (self.compression_ratio > _MOST_COMPRESSION or self.avg_logprob < _LEAST_LOGPROB)


class WhisperHearing(Hearing):
    """A recording, and the window that is next."""

    def __init__(
        self,
        request: Transcription,
        features: NDArray[np.float32],
        moments: int,
        prompt: Sequence[int],
        hotwords: Sequence[int],
        beams: int,
        duration: float,
    ) -> None:
        """`features` are [bands, moments], with zeros behind those that are the recording's `moments`."""
        super().__init__()
        self.language = request.language
        self.translates = request.task == "translate"
        self.words = request.words
        self.beams = beams
        self.duration = duration
        """In seconds."""
        self.seek = 0
        """The moment at which the window begins."""
        self.encoded: Any = None
        """What the encoder made of the window, if it did."""
        self._features = features
        self._moments = moments
        self._before = list(prompt)
        self._hotwords = list(hotwords)
        self._goes_on = request.condition_on_previous_text
        self._temperatures = TEMPERATURES if request.temperature is None else (request.temperature,)
        self._tried = 0

    @property
    def temperature(self) -> float:
        """At which the window is to be written now."""
        return self._temperatures[self._tried]

    @property
    def window_moments(self) -> int:
        """How much of the window is sound."""
        return min(MOMENTS, self._moments - self.seek)

    def window(self) -> NDArray[np.float32]:
        """Its features, [bands, `MOMENTS`]."""
        found = self._features[:, self.seek : self.seek + MOMENTS]
        return np.pad(found, ((0, 0), (0, MOMENTS - found.shape[1])))

    def before(self) -> list[int]:
        """The tokens that the window goes on with."""
        room = PROMPT_TOKENS - 1 - len(self._hotwords)
        return [*self._hotwords, *self._before[-room:]]

    def retries(self, draft: Draft) -> bool:
        """Whether the window is to be written again, at the next temperature."""
        if not draft.unlikely or self._tried + 1 == len(self._temperatures):
            return False
        self._tried += 1
        return True

    def move(self, moments: int, said: Sequence[int]) -> None:
        """Goes on to the next window, which begins `moments` after this one, where `said` has been said."""
        keeps = self._goes_on and self.temperature <= _FORGETFUL
        self._before = [*self._before, *said][-PROMPT_TOKENS:] if keeps else []
        self.seek += moments
        self.encoded, self._tried = None, 0
        self.ended = self.seek >= self._moments


def cut(tokens: Sequence[int], first_time: int, moments: int) -> tuple[list[Cut], int]:
    """The segments of a window with so many moments of sound, and how many moments after it the next one begins.

    `first_time` is the token of the time 0; those of later times follow it.
    """
    is_time = [token >= first_time for token in tokens]
    pairs = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]
    if not pairs:
        last = next((token for token in reversed(tokens) if token >= first_time), first_time)
        end = (last - first_time) * SECONDS_PER_TIME if last > first_time else moments / MOMENTS_PER_SECOND
        return [Cut(0, len(tokens), 0.0, end)], moments
    whole = is_time[-2:] == [False, True]  # nothing was said after that time
    ends = [*pairs, len(tokens)] if whole else pairs
    cuts = [
        Cut(begin, end, *((tokens[i] - first_time) * SECONDS_PER_TIME for i in (begin, end - 1)))
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    told = (tokens[pairs[-1] - 1] - first_time) * round(SECONDS_PER_TIME * MOMENTS_PER_SECOND)
    return cuts, moments if whole or not told else min(told, moments)
