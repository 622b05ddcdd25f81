"""Models of the library that tell the letter of each moment (CTC): wav2vec2, HuBERT, WavLM and their like.

The likeliest letter of each moment is taken. A long recording is heard in chunks that overlap, as the library's own
pipeline does it: of each chunk, the part at its edges is left to its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends import speech
from backends.base import Finding, InvalidInput, ModelFileError, TranscriptionInfo
from backends.pytorch import limit_threads
from backends.recordings import Hearing, Listener
from backends.transcription import (
    SAMPLE_RATE,
    Recording,
    Samples,
    Segment,
    Transcription,
    Word,
)
from backends.transformers.folder import Folder
from backends.transformers.library import Network, from_folder, reason
from backends.transformers.tokens import Tokenizer

LOADER = "AutoModelForCTC"
CHUNK_SECONDS = 30
_EDGE_SECONDS = 5
"""At each end of a chunk, so much is left to its neighbour."""
_LEAST_SAMPLES = 1600
"""Of a chunk; shorter ones are filled with silence, as the first layers need some sound."""
_PAUSE = 0.6
"""Seconds of silence behind which a new segment begins."""
_LONGEST = 8.0
"""Seconds, after which a segment ends with the next word."""


class Chunk(NamedTuple):
    """A part of a recording, in samples."""

    begin: int
    end: int
    left: int
    """So much of its beginning was heard in the chunk before."""
    right: int
    """So much of its end will be heard in the next one."""


def chunks(count: int, align: int) -> Iterator[Chunk]:
    """The chunks of a recording, whose edges are multiples of `align`."""
    length, edge = (round(seconds * SAMPLE_RATE / align) * align for seconds in (CHUNK_SECONDS, _EDGE_SECONDS))
    for begin in range(0, count, length - 2 * edge):
        end = min(begin + length, count)
        yield Chunk(begin, end, edge if begin else 0, edge if end < count else 0)
        if end == count:
            return


class CtcHearing(Hearing):
    """A recording, and what was heard of it that is in no segment yet."""

    def __init__(self, samples: Samples, words: bool, align: int) -> None:
        super().__init__()
        self.samples = samples
        self.words = words
        self.chunks = list(chunks(len(samples), align))
        self.next = 0
        """The chunk to be heard."""
        self.letters = np.zeros(0, np.int64)
        """Of each moment, the likeliest."""
        self.logprobs = np.zeros(0, np.float32)
        self.begin = 0
        """The moment of the first of them."""

    def sound(self) -> Samples:
        """That of the next chunk."""
        chunk = self.chunks[self.next]
        sound = self.samples[chunk.begin : chunk.end]
        return np.pad(sound, (0, max(0, _LEAST_SAMPLES - len(sound))))

    def hear(self, letters: NDArray[np.int64], logprobs: NDArray[np.float32], align: int) -> None:
        """Adds what was heard in the next chunk, without its edges."""
        chunk = self.chunks[self.next]
        moments = round((chunk.end - chunk.begin) / align)
        inner = slice(round(chunk.left / align), moments - round(chunk.right / align))
        self.letters = np.concatenate([self.letters, letters[inner]])
        self.logprobs = np.concatenate([self.logprobs, logprobs[inner]])
        self.next += 1
        self.ended = self.next == len(self.chunks)

    def forget(self, moments: int) -> None:
        """Drops the first moments, which are in a segment by now."""
        self.letters, self.logprobs = self.letters[moments:], self.logprobs[moments:]
        self.begin += moments


class Spoken(NamedTuple):
    """A word, and the moments in which it was said."""

    text: str
    begin: int
    end: int


def sentences(words: Sequence[Spoken], moments_per_second: float) -> list[list[Spoken]]:
    """Words in segments, which end at a pause or when they are long."""
    found: list[list[Spoken]] = []
    for word in words:
        last = found[-1] if found else None
        if (
            last is None
            or word.begin - last[-1].end > _PAUSE * moments_per_second
            or word.end - last[0].begin > _LONGEST * moments_per_second
        ):
            found.append([word])
        else:
            last.append(word)
    return found


class CtcListener(Listener):
    """Owns a model with a letter for each moment, and the letters."""

    def __init__(self, folder: Folder, network: Network, windows: int, *, trusted: bool, language: str | None) -> None:
        """`windows` are computed at once. Raises `ModelFileError`."""
        self._network = network
        self._torch = network.torch
        self._windows = windows
        align = getattr(network.config, "inputs_to_logits_ratio", None)
        if not isinstance(align, int) or not 0 < align <= SAMPLE_RATE:
            raise ModelFileError(
                f"{folder.name} does not say how many samples a letter is heard in (inputs_to_logits_ratio), as "
                "wav2vec2, HuBERT, WavLM and their like do; that is not served."
            )
        self._align = align
        self._texts = Tokenizer(network.library, folder, trusted=trusted).inner
        if not hasattr(self._texts, "word_delimiter_token"):
            raise ModelFileError(
                f"{folder.name} has a tokenizer of the kind {type(self._texts).__name__}, which cannot tell when words "
                "were said; that of wav2vec2 is needed."
            )
        self._extractor = _extractor(folder, network, trusted)
        self._padded = bool(getattr(self._extractor, "return_attention_mask", False))
        self._input = network.model.main_input_name
        self.info = TranscriptionInfo(sequences=windows, languages=(language or speech.UNKNOWN_LANGUAGE,))
        self.findings = (
            Finding("language", language, "given", "the option language", "--set language=CODE")
            if language
            else Finding("language", "unknown", "guess", "no file says it", "--set language=CODE"),
        )

    def check(self, request: Transcription) -> None:
        speech.check(request, self.info, lambda _: 0)
        for field, unfit in (
            ("prompt", bool(request.prompt.strip())),
            ("hotwords", bool(request.hotwords.strip())),
            ("temperature", bool(request.temperature)),
            ("vad", bool(request.vad)),
            ("beam_size", request.beam_size not in (None, 1)),
        ):
            if unfit:
                raise InvalidInput(
                    f"This model takes the likeliest letter of each moment, so {field} means nothing to it; leave it "
                    "out.",
                    field=field,
                )

    def begin(self, request: Transcription, samples: Samples) -> Hearing:
        found = CtcHearing(samples, request.words, self._align)
        found.recording = Recording(
            duration=len(samples) / SAMPLE_RATE, language=self.info.languages[0], language_probability=1.0
        )
        return found

    def advance(self, hearings: Sequence[Hearing]) -> None:
        own = [one for one in hearings if isinstance(one, CtcHearing)]
        sounds = [one.sound() for one in own]
        answers: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        for group in self._groups([len(sound) for sound in sounds]):
            answers.update(zip(group, self._letters([sounds[i] for i in group]), strict=True))
        for i, one in enumerate(own):
            one.hear(*answers[i], self._align)
            self._write(one)

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """What is computed together: what is equally long, unless the model is told what of it is padding."""
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        groups: list[list[int]] = []
        for i in order:
            fits = groups and (self._padded or lengths[groups[-1][0]] == lengths[i])
            if fits and len(groups[-1]) < self._windows:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def _letters(self, sounds: Sequence[Samples]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each moment of each sound the likeliest letter, and how likely it is."""
        limit_threads(self._torch, self._network.threads)
        inputs = self._extractor(
            list(sounds),
            sampling_rate=SAMPLE_RATE,
            padding=True,
            return_attention_mask=self._padded,
            return_tensors="pt",
        )
        tensors = {self._input: inputs[self._input].to(self._network.device, self._network.model.dtype)}
        if self._padded:
            tensors["attention_mask"] = inputs["attention_mask"].to(self._network.device)
        logprobs, letters = self._network.compute(**tensors).logits.float().log_softmax(-1).max(-1)
        for i, sound in enumerate(sounds):
            moments = -(-len(sound) // self._align)  # the rest is padding
            yield letters[i, :moments].cpu().numpy(), logprobs[i, :moments].cpu().numpy()

    def _write(self, hearing: CtcHearing) -> None:
        """Makes segments of what was heard; the last may go on, unless the recording has ended."""
        rate = SAMPLE_RATE / self._align
        segments = sentences(self._words(hearing.letters), rate)
        whole = segments if hearing.ended else segments[:-1]
        hearing.segments += [self._segment(hearing, words, rate) for words in whole]
        if hearing.ended:
            hearing.forget(len(hearing.letters))
        elif segments:
            hearing.forget(segments[-1][0].begin)

    def _words(self, letters: NDArray[np.int64]) -> list[Spoken]:
        if not len(letters):
            return []
        offsets = self._texts.decode(letters, skip_special_tokens=False, output_word_offsets=True).word_offsets
        return [Spoken(one["word"], int(one["start_offset"]), int(one["end_offset"])) for one in offsets]

    def _segment(self, hearing: CtcHearing, words: Sequence[Spoken], rate: float) -> Segment:
        begin, end = words[0].begin, words[-1].end
        letters = hearing.letters[begin:end]
        said = letters != self._texts.pad_token_id
        timed = None
        if hearing.words:
            timed = tuple(
                Word(
                    f" {word.text}",
                    (hearing.begin + word.begin) / rate,
                    (hearing.begin + word.end) / rate,
                    float(np.exp(hearing.logprobs[word.begin : word.end]).mean()),
                )
                for word in words
            )
        return Segment(
            start=(hearing.begin + begin) / rate,
            end=(hearing.begin + end) / rate,
            text="".join(f" {word.text}" for word in words),
            tokens=tuple(letters[said].tolist()),
            avg_logprob=float(hearing.logprobs[begin:end][said].mean()),
            words=timed,
        )


def _extractor(folder: Folder, network: Network, trusted: bool) -> Any:
    """The folder's own. Raises `ModelFileError`."""
    name = "preprocessor_config.json"
    if not folder.read(name) and not folder.read("processor_config.json"):
        raise ModelFileError(f"{folder.name} has no {name}, which says how the model hears sound.")
    try:
        found = from_folder(network.library.transformers.AutoFeatureExtractor, folder.path, trusted)
    except Exception as e:
        raise ModelFileError(f"{folder.path / name} cannot be used: {reason(e)}") from e
    rate = getattr(found, "sampling_rate", None)
    if rate != SAMPLE_RATE:
        raise ModelFileError(f"{folder.path / name} has the sampling_rate {rate}; {SAMPLE_RATE} is served.")
    return found
