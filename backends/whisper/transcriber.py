"""faster-whisper's own transcription of one recording, of which the pieces are given out as they come.

`faster_whisper.WhisperModel.transcribe` does all of it: the features, the language, the windows, temperatures, prompts,
silence and words. All that is different here is the model that it asks: a `Seat` of `Rounds`.
"""

from __future__ import annotations

import copy
from typing import Any

from backends.base import InvalidInput
from backends.transcription import Recording, Segment, Transcription, Word
from backends.whisper.rounds import Seat

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The next of them is tried when the text is hardly likely, or repeats itself."""


def transcribe(whisper: Any, seat: Seat, request: Transcription, beam_size: int, vad: bool) -> None:
    """Gives the pieces of a recording to its seat. `whisper` is a `faster_whisper.WhisperModel`, which stays as it is.

    Raises `InvalidInput`, or what the model raises.
    """
    model = copy.copy(whisper)
    model.model = seat
    samples = request.audio()
    if not len(samples):
        raise InvalidInput("The recording is empty.", field="input")
    segments, found = model.transcribe(
        samples,
        language=request.language,
        task=request.task,
        beam_size=request.beam_size or beam_size,
        temperature=TEMPERATURES if request.temperature is None else request.temperature,
        condition_on_previous_text=request.condition_on_previous_text,
        initial_prompt=request.prompt or None,
        hotwords=request.hotwords or None,
        word_timestamps=request.words,
        vad_filter=vad if request.vad is None else request.vad,
    )
    del samples  # an hour of them is 230 MB
    seat.put(
        recording=Recording(
            duration=found.duration,
            language=found.language,
            language_probability=float(found.language_probability),
        )
    )
    for segment in segments:
        seat.put(segments=(_segment(segment),))
    seat.put(ended=True)


def _segment(found: Any) -> Segment:
    """A segment as the contract has it, of numbers that are Python's own."""
    words = None
    if found.words is not None:
        words = tuple(Word(w.word, float(w.start), float(w.end), float(w.probability)) for w in found.words)
    return Segment(
        start=float(found.start),
        end=float(found.end),
        text=found.text,
        tokens=tuple(map(int, found.tokens)),
        seek=int(found.seek),
        temperature=float(found.temperature or 0.0),
        avg_logprob=float(found.avg_logprob),
        compression_ratio=float(found.compression_ratio),
        no_speech_prob=float(found.no_speech_prob),
        words=words,
    )
