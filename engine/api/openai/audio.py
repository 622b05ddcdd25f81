"""``POST /v1/audio/transcriptions`` and ``POST /v1/audio/translations``."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.api.dialect import Call, EventStream, Reply
from engine.api.forms import decode_form
from engine.api.http import encode_json
from engine.api.openai.common import naming, refuse, wrong_model
from engine.errors import InvalidInput
from engine.pool import Entry
from engine.subtitles import subtitles
from engine.transport.transcription import TranscribeRequest, TranscriptDelta

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]

File = Annotated[bytes, Meta(extra_json_schema={"contentEncoding": "binary"})]

_NAMES = {r"input\b": "file", r"vad\b": "vad_filter"}


class TranslationForm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/audio/translations``. `hotwords` and `vad_filter` are faster-whisper's."""

    file: File
    """A recording: WAV, FLAC, MP3, OGG, M4A or WebM, among others."""
    model: str
    prompt: str = ""
    """A text in the style and with the names that are to be expected."""
    response_format: ResponseFormat = "json"
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    """0 raises it where the likeliest text is hardly likely, or repeats itself."""
    hotwords: str = ""
    """Words that are likely in all of the recording."""
    vad_filter: bool | None = None
    """Whether what is no speech is cut out first; the model's own default when not given."""


class TranscriptionForm(TranslationForm, kw_only=True):
    """``POST /v1/audio/transcriptions``. `hotwords` and `vad_filter` are faster-whisper's."""

    language: str | None = None
    """What is spoken, such as ``en``; the model finds it out when not given."""
    timestamp_granularities: list[Literal["word", "segment"]] = msgspec.field(
        name="timestamp_granularities[]", default_factory=list
    )
    """What a ``verbose_json`` answer has the times of; of segments when nothing is given."""
    stream: bool = False
    include: list[str] | None = msgspec.field(name="include[]", default=None)
    """Log probabilities of tokens are not supported."""
    chunking_strategy: str | None = None
    """Accepted as ``auto``; the model finds the pauses by itself."""


class DurationUsage(msgspec.Struct, kw_only=True):
    """What a request cost."""

    type: Literal["duration"] = "duration"
    seconds: int
    """Of the recording, rounded up."""


class AudioText(msgspec.Struct, kw_only=True):
    """The answer of the audio routes, with the `response_format` ``json``; with others it is text, or has more."""

    text: str
    usage: DurationUsage


async def create_transcription(call: Call) -> Reply | EventStream:
    """Writes down a recording in the language that is spoken."""
    form = decode_form(TranscriptionForm, call.body, call.headers.text(b"content-type"))
    refuse(form, {"include": "log probabilities are not kept"})
    if form.chunking_strategy not in (None, "auto"):
        raise InvalidInput("chunking_strategy can be auto alone.", field="chunking_strategy")
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise InvalidInput(
            "timestamp_granularities[] needs the response_format verbose_json.", field="timestamp_granularities[]"
        )
    if form.stream and form.response_format not in ("json", "text"):
        raise InvalidInput(f"A stream has no response_format {form.response_format}.", field="response_format")
    request = _request(form)
    request.language = form.language
    request.words = "word" in form.timestamp_granularities
    request.stream = form.stream
    entry = await _entry(call, form)
    with naming(_NAMES):
        if form.stream:
            return EventStream(_events(await call.transcribe(entry, request)))
        return _reply(
            form.response_format, request, await call.transcript(entry, request), form.timestamp_granularities
        )


async def create_translation(call: Call) -> Reply:
    """Writes down a recording in English."""
    form = decode_form(TranslationForm, call.body, call.headers.text(b"content-type"))
    request = _request(form)
    request.task = "translate"
    entry = await _entry(call, form)
    with naming({**_NAMES, r"task\b": "model"}):
        return _reply(form.response_format, request, await call.transcript(entry, request), [])


def _request(form: TranslationForm) -> TranscribeRequest:
    if not form.file:
        raise InvalidInput("The file is empty.", field="file")
    return TranscribeRequest(
        audio=form.file,
        prompt=form.prompt,
        hotwords=form.hotwords,
        temperature=form.temperature or None,
        vad=form.vad_filter,
    )


async def _entry(call: Call, form: TranslationForm) -> Entry:
    entry = await call.entry(form.model)
    if entry.spec.info.transcription is None:
        raise wrong_model(entry, "audio")
    return entry


def _reply(
    response_format: ResponseFormat, request: TranscribeRequest, whole: TranscriptDelta, granularities: list[Any]
) -> Reply:
    text = whole.text.strip()
    if response_format == "json":
        return Reply(AudioText(text=text, usage=_usage(whole)))
    if response_format == "verbose_json":
        return Reply(_verbose(request, whole, granularities))
    if response_format != "text":
        text = subtitles(response_format, ((s.start, s.end, s.text) for s in whole.segments))
    return Reply(text.rstrip("\n").encode() + b"\n", media_type="text/plain; charset=utf-8")


def _verbose(request: TranscribeRequest, whole: TranscriptDelta, granularities: list[Any]) -> dict[str, Any]:
    about = whole.recording
    answer: dict[str, Any] = {
        "task": request.task,
        "language": about.language if about is not None else "",
        "duration": round(about.duration, 3) if about is not None else 0.0,
        "text": whole.text.strip(),
    }
    if request.words:
        answer["words"] = [
            {"word": w.word.strip(), "start": round(w.start, 3), "end": round(w.end, 3)}
            for s in whole.segments
            for w in s.words or ()
        ]
    if "segment" in granularities or not granularities:
        answer["segments"] = [
            {
                "id": i,
                "seek": s.seek,
                "start": round(s.start, 3),
                "end": round(s.end, 3),
                "text": s.text,
                "tokens": s.tokens,
                "temperature": s.temperature,
                "avg_logprob": s.avg_logprob,
                "compression_ratio": s.compression_ratio,
                "no_speech_prob": s.no_speech_prob,
            }
            for i, s in enumerate(whole.segments)
        ]
    answer["usage"] = _usage(whole)
    return answer


def _usage(whole: TranscriptDelta) -> DurationUsage:
    return DurationUsage(seconds=math.ceil(whole.recording.duration) if whole.recording is not None else 0)


async def _events(deltas: AsyncGenerator[TranscriptDelta, None]) -> AsyncGenerator[bytes, None]:
    whole = TranscriptDelta()
    async with aclosing(deltas):
        async for delta in deltas:
            text = delta.text if whole.segments else delta.text.lstrip()
            whole.add(delta)
            if text:
                yield _event("transcript.text.delta", delta=text)
    yield _event("transcript.text.done", text=whole.text.strip(), usage=_usage(whole))


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: %s\n\n" % encode_json({"type": kind, **fields})
