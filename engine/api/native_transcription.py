"""``:predict`` of a model that writes down speech: a recording to its text, its segments and their words.

The body is the file itself (``audio/*``, ``video/*`` or ``application/octet-stream``), with parameters in the query
(``?language=en&words=true``); or JSON, ``{"input": "<base64>", "parameters": {"language": "en"}}``. The answer is a
`engine.schema.Transcript` beside ``model`` and ``version``. With ``stream`` it comes in pieces of the same form, whose
texts and segments follow on each other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from backends.transcription import Segment
from engine import schema
from engine.api.dialect import Call
from engine.api.http import Receive, Send, encode_json, send_body
from engine.api.native_generation import error_event
from engine.api.parts import decode_base64, encoded_in
from engine.api.predict_body import JSON, JSON_TYPES, OCTETS, media_type
from engine.api.streaming import EVENT_STREAM, send_events, while_connected
from engine.errors import InvalidInput, UnsupportedMediaType
from engine.pool import Entry
from engine.transport.transcription import TranscribeRequest, TranscriptDelta

RAW_TYPES = ("audio/", "video/")
"""What else the body may be, besides bytes of no type; recordings of browsers are ``video/webm``."""


class TranscribeParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a recording is to be written down; see `backends.transcription.Transcription`."""

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    hotwords: str = ""
    temperature: float | None = None
    words: bool = False
    vad: bool | None = None
    beam_size: int | None = None
    condition_on_previous_text: bool = True


class TranscribeQuery(TranscribeParameters, kw_only=True):
    """The query of a request whose body is the recording."""

    stream: bool = False


class TranscribeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The JSON body of a transcription."""

    input: str
    parameters: TranscribeParameters = msgspec.field(default_factory=TranscribeParameters)
    stream: bool = False


async def answer(call: Call, entry: Entry, receive: Receive, send: Send) -> None:
    """Answers one request. What is wrong with it is raised before anything was sent."""
    request = request_of(call)
    identity = {"model": entry.spec.name, "version": entry.spec.version}
    if request.stream:
        deltas = await while_connected(call.transcribe(entry, request), receive)
        if deltas is not None:
            await send_events(_events(deltas, identity), EVENT_STREAM, error_event, call.request_id, receive, send)
        return
    whole = await while_connected(call.transcript(entry, request), receive)
    if whole is not None:
        headers = [(b"content-type", b"application/json"), (b"x-request-id", call.request_id.encode())]
        await send_body(send, 200, headers, encode_json({**identity, **fields(whole)}))


def request_of(call: Call) -> TranscribeRequest:
    """What is asked of the model. Raises `InvalidInput`, `InvalidJSON` or `UnsupportedMediaType`."""
    kind = media_type(call.headers.text(b"content-type"))
    query = _query(call.query)
    if kind in JSON_TYPES or kind.endswith("+json"):
        if query:
            name = next(iter(query))
            raise InvalidInput(f"A JSON body has its parameters in it, not in the query; got {name!r}.", field=name)
        return of_body(call.decode(TranscribeBody))
    if kind == OCTETS or kind.startswith(RAW_TYPES):
        asked = _converted(query)
        return _request(bytes(call.body), asked, asked.stream)
    raise UnsupportedMediaType(
        f"Cannot decode {kind!r}; send the file itself as audio/* or {OCTETS}, or {JSON}.", field="content-type"
    )


def of_body(body: TranscribeBody) -> TranscribeRequest:
    """What a JSON body asks for. Raises `InvalidInput`."""
    return _request(decode_base64(encoded_in(body.input), "input", "recording"), body.parameters, body.stream)


def _request(audio: bytes, parameters: TranscribeParameters, stream: bool) -> TranscribeRequest:
    if not audio:
        raise InvalidInput("The recording is empty.", field="input")
    given = {name: getattr(parameters, name) for name in TranscribeParameters.__struct_fields__}
    return TranscribeRequest(audio=audio, stream=stream, **given)


def _query(query: bytes) -> dict[str, str]:
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def _converted(query: dict[str, str]) -> TranscribeQuery:
    try:
        return msgspec.convert(query, TranscribeQuery, strict=False)
    except msgspec.ValidationError as e:
        text, _, where = str(e).partition(" - at `$")
        name = where.rstrip("`").lstrip(".") or (text.split("`")[1] if "unknown field" in text else "")
        raise InvalidInput(f"{name}: {text[0].lower()}{text[1:]}.", field=name or None) from None


async def _events(
    deltas: AsyncGenerator[TranscriptDelta, None], identity: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    count = 0
    async with aclosing(deltas):
        async for delta in deltas:
            about = identity if delta.recording is not None else {}
            yield b"data: %s\n\n" % encode_json({**about, **fields(delta, count)})
            count += len(delta.segments)
    yield b"data: [DONE]\n\n"


def fields(delta: TranscriptDelta, count: int = 0) -> dict[str, Any]:
    """A transcription as a plain `schema.Transcript`, or a piece of one, before which there were `count` segments."""
    about = delta.recording
    text = delta.text if count else delta.text.lstrip()
    found = schema.Transcript(text=text, segments=[_segment(count + i, s) for i, s in enumerate(delta.segments)])
    if about is not None:
        found.language, found.duration = about.language, round(about.duration, 3)
        found.language_probability = round(about.language_probability, 4)
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


def _segment(number: int, found: Segment) -> schema.TranscriptSegment:
    segment = schema.TranscriptSegment(
        id=number,
        start=round(found.start, 3),
        end=round(found.end, 3),
        text=found.text,
        avg_logprob=round(found.avg_logprob, 4),
        no_speech_prob=round(found.no_speech_prob, 4),
        compression_ratio=round(found.compression_ratio, 4),
        temperature=found.temperature,
    )
    if found.words is not None:
        segment.words = [
            schema.TranscriptWord(
                word=w.word, start=round(w.start, 3), end=round(w.end, 3), probability=round(w.probability, 4)
            )
            for w in found.words
        ]
    return segment
