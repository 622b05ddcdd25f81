"""Whisper models of the library, for many recordings at once: a step takes a window of each, at one temperature."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends import mel, speech
from backends.base import InvalidInput, InvalidOption, ModelFileError, TranscriptionInfo
from backends.pytorch import limit_threads
from backends.recordings import Hearing, Listener
from backends.transcription import SAMPLE_RATE, Recording, Samples, Segment, Transcription, Word
from backends.transformers.folder import Folder
from backends.transformers.library import Network, from_folder, reason
from backends.transformers.tokens import Tokenizer
from backends.transformers.whisper_network import GENERATION, Weighed, WhisperNetwork
from backends.transformers.whisper_windows import (
    MOMENTS,
    MOMENTS_PER_SECOND,
    Cut,
    Draft,
    WhisperHearing,
    cut,
)

LOADER = "WhisperForConditionalGeneration"
POSITIONS = MOMENTS // 2
"""That the decoder looks at in a window."""


class WhisperListener(Listener):
    """Owns a Whisper model and its tokenizer."""

    def __init__(
        self, folder: Folder, network: Network, windows: int, beams: int, *, trusted: bool, language: str | None
    ) -> None:
        """`windows` are computed at once, each with so many `beams`; `language` is spoken where a request does not say.

        Raises `ModelFileError` or `InvalidOption`.
        """
        config = network.config
        if config.max_source_positions != POSITIONS:
            raise ModelFileError(
                f"{folder.name} hears windows of {config.max_source_positions} positions; a Whisper has {POSITIONS}."
            )
        self._texts = Tokenizer(network.library, folder, trusted=trusted).inner
        self._network = WhisperNetwork(folder, network, self._texts)
        self._torch = network.torch
        self._extractor = _extractor(folder, network, trusted)
        self._windows, self._beams = windows, beams
        known = tuple(self._network.tokens.languages)
        self.info = TranscriptionInfo(sequences=windows, languages=known or ("en",), translates=bool(known))
        if language is not None and language not in self.info.languages:
            raise InvalidOption(
                f"Option language must be one that the model knows, such as {self.info.languages[0]!r}; got "
                f"{language[:20]!r}.",
                field="config.language",
            )
        self._usual = language or (None if known else "en")
        if self._network.alignment_heads is None:
            self.notes = (f"{GENERATION} has no alignment_heads, so the times of words are not known.",)

    def check(self, request: Transcription) -> None:
        speech.check(request, self.info, lambda text: len(self._tokens(text)))
        if request.vad:
            raise InvalidInput(
                "This model does not cut out what is no speech; leave vad out, or serve it in CTranslate2's format "
                "with the backend whisper.",
                field="vad",
            )
        if request.words and self._network.alignment_heads is None:
            raise InvalidInput(
                f"The times of words are not known: {GENERATION} of this model has no alignment_heads.", field="words"
            )

    def begin(self, request: Transcription, samples: Samples) -> Hearing:
        limit_threads(self._torch, 1)  # the model computes meanwhile
        seconds = len(samples) / SAMPLE_RATE
        features = self._features(samples)
        moments = min(features.shape[1], -(-len(samples) // mel.FIXED["hop_length"]))
        beams = request.beam_size or self._beams
        language = request.language or self._usual
        if language is not None:
            request = msgspec.structs.replace(request, language=language)
        prompt, hotwords = self._tokens(request.prompt), self._tokens(request.hotwords)
        found = WhisperHearing(request, features, moments, prompt, hotwords, beams, seconds)
        if language is not None:
            found.recording = Recording(duration=seconds, language=language, language_probability=1.0)
        return found

    def _features(self, samples: Samples) -> NDArray[np.float32]:
        """As the library has them, and with padding to a window if the recording is shorter."""
        if len(samples) > mel.BLOCK * mel.FIXED["hop_length"]:
            filters = self._extractor.mel_filters.T.astype(np.float32)
            return mel.in_blocks(samples, 0, len(samples) // mel.FIXED["hop_length"], filters)
        short = len(samples) <= self._extractor.n_samples
        found: NDArray[np.float32] = self._extractor(
            samples,
            sampling_rate=SAMPLE_RATE,
            truncation=False,
            padding="max_length" if short else "longest",
            return_tensors="np",
        ).input_features[0]
        return found

    def _tokens(self, text: str) -> list[int]:
        if not text.strip():
            return []
        ids: list[int] = self._texts.encode(f" {text.strip()}", add_special_tokens=False)
        return ids

    # --- computing --------------------------------------------------------------------------------------------------

    def advance(self, hearings: Sequence[Hearing]) -> None:
        own = [one for one in hearings if isinstance(one, WhisperHearing)]
        for group in _parts([one for one in own if one.encoded is None], self._windows):
            for one, encoded in zip(group, self._network.encode([one.window() for one in group]), strict=True):
                one.encoded = encoded
        for group in _parts([one for one in own if one.language is None], self._windows):
            told = self._network.tell_languages([one.encoded for one in group])
            for one, (language, chance) in zip(group, told, strict=True):
                one.language = language
                one.recording = Recording(duration=one.duration, language=language, language_probability=chance)
        groups = defaultdict(list)  # prompts have to be equally long to be computed together
        for one in own:
            groups[len(self._prompt(one)), one.temperature, one.beams, one.words].append(one)
        for (_, temperature, beams, words), group in groups.items():
            rows = max(1, self._windows * self._beams // beams) if temperature == 0 else self._windows
            for part in _parts(group, rows):
                self._write(part, temperature, beams, words)

    def _prompt(self, hearing: WhisperHearing) -> list[int]:
        """The tokens before the text: what was said before, and what is to be done."""
        tokens = self._network.tokens
        before = hearing.before()
        asked = [tokens.start]
        if tokens.languages:
            task = tokens.tasks["translate" if hearing.translates else "transcribe"]
            asked += [tokens.languages[str(hearing.language)], task]
        return [*([tokens.previous, *before] if before else []), *asked]

    def _write(self, group: Sequence[WhisperHearing], temperature: float, beams: int, words: bool) -> None:
        """Writes the windows of recordings that go together."""
        network = self._network
        encoded, prompts = [one.encoded for one in group], [self._prompt(one) for one in group]
        texts = network.write(encoded, prompts, [str(one.language) for one in group], temperature, beams)
        moments = [one.window_moments for one in group] if words else ()
        weighed = list(network.weigh(encoded, prompts, texts, moments))
        for one, tokens, weight in zip(group, texts, weighed, strict=True):
            self._take(one, tokens, weight)

    def _take(self, hearing: WhisperHearing, tokens: list[int], weight: Weighed) -> None:
        """Keeps the text of a window, unless it is to be written again."""
        draft = Draft(tokens, self._text(tokens), float(weight.logprobs.mean()), weight.no_speech_prob)
        if hearing.retries(draft):
            return
        moments = hearing.window_moments
        if draft.silent or not draft.text.strip():
            hearing.move(moments, ())
            return
        cuts, moments = cut(tokens, self._network.tokens.first_time, moments)
        hearing.segments += [s for s in (self._segment(hearing, draft, weight, one) for one in cuts) if s.text.strip()]
        hearing.move(moments, tokens[: cuts[-1].end])

    def _segment(self, hearing: WhisperHearing, draft: Draft, weight: Weighed, place: Cut) -> Segment:
        begin = hearing.seek / MOMENTS_PER_SECOND
        tokens = draft.tokens[place.begin : place.end]
        return Segment(
            start=begin + place.start,
            end=min(begin + place.stop, hearing.duration),
            text=self._text(tokens),
            tokens=tuple(tokens),
            seek=hearing.seek,
            temperature=hearing.temperature,
            avg_logprob=draft.avg_logprob,
            compression_ratio=draft.compression_ratio,
            no_speech_prob=draft.no_speech_prob,
            words=tuple(self._words(hearing, draft, weight, place)) if hearing.words else None,
        )

    def _words(self, hearing: WhisperHearing, draft: Draft, weight: Weighed, place: Cut) -> Iterator[Word]:
        from transformers.models.whisper.tokenization_whisper import LANGUAGES, _combine_tokens_into_words

        assert weight.times is not None
        at = [i for i in range(place.begin, place.end) if draft.tokens[i] < self._network.tokens.end]
        begin = hearing.seek / MOMENTS_PER_SECOND
        language = LANGUAGES.get(str(hearing.language), "english")
        texts, _, parts = _combine_tokens_into_words(self._texts, [draft.tokens[i] for i in at], language)
        for text, part in zip(texts, parts, strict=True):
            first, last = at[part[0]], at[part[-1]]
            start = float(weight.times[first - 1]) if first else 0.0
            chances = np.exp(weight.logprobs[[at[i] for i in part]])
            yield Word(text, begin + start, begin + float(weight.times[last]), float(chances.mean()))

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._texts.decode([token for token in tokens if token < self._network.tokens.end])
        return text


def _parts(group: list[WhisperHearing], most: int) -> Iterator[list[WhisperHearing]]:
    return (group[i : i + most] for i in range(0, len(group), most))


def _extractor(folder: Folder, network: Network, trusted: bool) -> Any:
    """The folder's own. Raises `ModelFileError`."""
    name = "preprocessor_config.json"
    settings = folder.read(name) or folder.read("processor_config.json").get("feature_extractor")
    if not isinstance(settings, dict):
        raise ModelFileError(f"{folder.name} has no {name}, which says how the model hears sound.")
    mel.check(settings, network.config.num_mel_bins, str(folder.path / name))
    try:
        return from_folder(network.library.transformers.WhisperFeatureExtractor, folder.path, trusted)
    except Exception as e:
        raise ModelFileError(f"{folder.path / name} cannot be used: {reason(e)}") from e
