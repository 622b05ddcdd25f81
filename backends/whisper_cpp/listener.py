"""Writes down a recording, one window of 30 seconds after another, each in a call of whisper.cpp.

whisper.cpp has a loop over the windows of its own, which would hold up all other recordings until it is done. Here it
is given one window at a time: the loop is stopped when it would encode the next. Where that begins it tells in percent,
which with the end of the last segment says it exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from backends import speech
from backends.base import BackendError, InvalidInput, TranscriptionInfo
from backends.recordings import Hearing, Listener
from backends.speech import PROMPT_TOKENS
from backends.transcription import SAMPLE_RATE, Recording, Samples, Segment, Transcription
from backends.whisper_cpp.words import Token, Vocabulary, words

_WINDOW = 30 * SAMPLE_RATE
_SHORTEST = SAMPLE_RATE // 10
"""Samples that are not worth a window."""
_RAISE = 0.2
"""How much higher the next temperature is, when a text is hardly likely or repeats itself."""


class Runtime:
    """A loaded model: the binding's module and its context."""

    def __init__(self, module: Any, context: Any, threads: int) -> None:
        self.module = module
        self.context = context
        self.threads = threads
        self.end: int = module.whisper_token_eot(context)
        """The first token that is not text."""
        self.vocabulary = Vocabulary([module.whisper_token_to_bytes(context, i) for i in range(self.end)])
        self.multilingual = bool(module.whisper_is_multilingual(context))


class WhisperCppListener(Listener):
    """The model, which writes down a window of one recording at a time."""

    def __init__(self, runtime: Runtime, info: TranscriptionInfo, beam_size: int) -> None:
        self.info = info
        self._runtime = runtime
        self._beam_size = beam_size

    def check(self, request: Transcription) -> None:
        tokens = self._runtime.vocabulary.tokens
        speech.check(request, self.info, lambda text: len(tokens(text)))
        if request.vad:
            raise InvalidInput(
                "whisper.cpp cannot cut out what is no speech here; leave vad out, or serve CTranslate2's format.",
                field="vad",
            )

    def begin(self, request: Transcription, samples: Samples) -> Hearing:
        return _Windows(self._runtime, samples, request, self._beam_size)

    def advance(self, hearings: Sequence[Hearing]) -> None:
        """Computes one window, of the recording that has had fewest."""
        mine = [hearing for hearing in hearings if isinstance(hearing, _Windows)]
        min(mine, key=lambda hearing: hearing.heard).advance()


class _Windows(Hearing):
    """One recording that is being written down."""

    def __init__(self, runtime: Runtime, samples: Samples, request: Transcription, beam_size: int) -> None:
        super().__init__()
        self.heard = 0
        """Windows that were computed."""
        self._runtime = runtime
        self._samples = np.ascontiguousarray(samples, np.float32)
        self._request = request
        self._beam_size = request.beam_size or beam_size
        self._hotwords = self._tokens(request.hotwords)
        self._said = self._tokens(request.prompt)
        """The tokens of what was said before the next window."""
        self._language = request.language or ""
        self._next = 0
        """Where the next window begins."""

    def advance(self) -> None:
        """Writes down the next window."""
        if not self.heard:
            self.recording = self._begin()
        self.heard += 1
        if not self._is_done():
            self.segments += self._window()
        self.ended = self._is_done()

    def _is_done(self) -> bool:
        return len(self._samples) - self._next < _SHORTEST

    def _begin(self) -> Recording:
        """What is known before the text is; finds out the language."""
        probability = 1.0
        if not self._language:
            self._language, probability = self._detect() if self._runtime.multilingual else ("en", 1.0)
        return Recording(
            duration=len(self._samples) / SAMPLE_RATE, language=self._language, language_probability=probability
        )

    def _window(self) -> tuple[Segment, ...]:
        heard = self._samples[self._next : self._next + _WINDOW]
        percent = self._compute(heard)
        module, context = self._runtime.module, self._runtime.context
        texts = [
            module.whisper_full_get_segment_text(context, i).decode(errors="replace")
            for i in range(module.whisper_full_n_segments(context))
        ]
        tokens = [self._segment_tokens(i) for i in range(len(texts))]
        ratio = _compression_ratio("".join(texts))
        segments = tuple(self._segment(i, text, tokens[i], ratio) for i, text in enumerate(texts))
        self._said = self._said + _with_times(tokens) if self._request.condition_on_previous_text else []
        self._next += self._advance(segments, percent, len(heard))
        return segments

    # --- the runtime ---------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        return self._runtime.vocabulary.tokens(f" {text.strip()}") if text.strip() else []

    def _detect(self) -> tuple[str, float]:
        module, context, threads = self._runtime.module, self._runtime.context, self._runtime.threads
        heard = self._samples[:_WINDOW]
        probabilities = np.zeros(module.whisper_lang_max_id() + 1, np.float32)
        if module.whisper_pcm_to_mel(context, heard, len(heard), threads) != 0:
            raise BackendError("whisper.cpp could not read the recording.")
        number = module.whisper_lang_auto_detect(context, 0, threads, probabilities)
        if number < 0:
            raise BackendError("whisper.cpp could not find out the language; say which it is.", field="language")
        return str(module.whisper_lang_str(number)), float(probabilities[number])

    def _compute(self, heard: Samples) -> int:
        """Computes one window. How much of it is done with, in percent."""
        module, request = self._runtime.module, self._request
        kinds = module.whisper_sampling_strategy
        greedy = self._beam_size == 1
        asked = module.whisper_full_default_params(
            kinds.WHISPER_SAMPLING_GREEDY if greedy else kinds.WHISPER_SAMPLING_BEAM_SEARCH
        )
        if not greedy:
            asked.beam_search = {"beam_size": self._beam_size, "patience": -1.0}
        asked.n_threads = self._runtime.threads
        asked.language = self._language
        asked.translate = request.task == "translate"
        asked.token_timestamps = request.words
        asked.suppress_nst = True  # no "[BLANK_AUDIO]", as with Whisper's other runtimes
        asked.no_context = True  # that of the window before would be another recording's
        before = self._hotwords + self._said[len(self._hotwords) - PROMPT_TOKENS :]
        if before:
            asked.set_prompt_tokens(before)
        asked.temperature = request.temperature or 0.0
        asked.temperature_inc = _RAISE if request.temperature is None else 0.0
        windows = iter((True,))
        module.assign_encoder_begin_callback(asked, lambda *_: next(windows, False))
        percents = [0]
        asked.print_progress = True  # else it does not tell the callback either
        module.assign_progress_callback(asked, lambda percent, *_: percents.append(percent))
        if module.whisper_full(self._runtime.context, asked, heard, len(heard)) != 0:
            raise BackendError("whisper.cpp could not compute a window of the recording.")
        return percents[-1]

    def _segment_tokens(self, segment: int) -> list[Any]:
        module, context = self._runtime.module, self._runtime.context
        count = module.whisper_full_n_tokens(context, segment)
        return [module.whisper_full_get_token_data(context, segment, i) for i in range(count)]

    def _segment(self, number: int, text: str, tokens: Sequence[Any], ratio: float) -> Segment:
        module, context = self._runtime.module, self._runtime.context
        spoken = [token for token in tokens if token.id < self._runtime.end]
        return Segment(
            start=self._seconds(module.whisper_full_get_segment_t0(context, number)),
            end=self._seconds(module.whisper_full_get_segment_t1(context, number)),
            text=text,
            tokens=tuple(token.id for token in spoken),
            seek=self._next * 100 // SAMPLE_RATE,
            temperature=self._request.temperature or 0.0,
            avg_logprob=sum(token.plog for token in tokens) / max(1, len(tokens)),
            compression_ratio=ratio,
            words=words([self._word_part(token) for token in spoken], self._language) if self._request.words else None,
        )

    def _word_part(self, token: Any) -> Token:
        text = self._runtime.module.whisper_token_to_bytes(self._runtime.context, token.id)
        return Token(text, self._seconds(token.t0), self._seconds(token.t1), token.p)

    def _seconds(self, hundredths: int) -> float:
        """A time of the window's as one of the recording's."""
        return round(min(self._next + hundredths * SAMPLE_RATE // 100, len(self._samples)) / SAMPLE_RATE, 2)

    def _advance(self, segments: Sequence[Segment], percent: int, heard: int) -> int:
        """Samples from the beginning of this window to that of the next."""
        rough = percent * heard // 100
        said = round(segments[-1].end * SAMPLE_RATE) - self._next if segments else rough
        return (said if abs(said - rough) <= heard // 100 else rough) or heard


def _with_times(segments: Sequence[Sequence[Any]]) -> list[int]:
    """The tokens of segments, those of times among them: without, the model leaves them out of what follows, too.

    Where one segment ends and the next begins the model wrote the time twice, of which only the first is left.
    """
    numbers = [[token.id for token in tokens] for tokens in segments]
    return [number for tokens in numbers for number in (*tokens, *tokens[-1:])][:-1]


def _compression_ratio(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
