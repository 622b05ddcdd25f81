"""OpenAI's API: chat and text completions, responses, embeddings, speech to text, and reranking as vLLM and Jina have
it.

``GET /v1/models`` and ``GET /v1/models/{name}`` are native routes, whose answers are supersets of OpenAI's. A field of
a request that changes nothing is accepted, and says so where it is declared; one that this server cannot honour is an
error that names it.
"""

from __future__ import annotations

from engine import errors as e
from engine.api.dialect import Dialect
from engine.api.http import encode_json, error_body
from engine.api.openai.audio import (
    AudioText,
    TranscriptionForm,
    TranslationForm,
    create_transcription,
    create_translation,
)
from engine.api.openai.chat import ChatCompletion, create_chat_completion
from engine.api.openai.chat_request import ChatCompletionRequest
from engine.api.openai.completions import CompletionAnswer, CompletionRequest, create_completion
from engine.api.openai.embeddings import EmbeddingAnswer, EmbeddingRequest, create_embedding
from engine.api.openai.rerank import RerankAnswer, RerankRequest, create_ranking
from engine.api.openai.response_object import ResponseObject
from engine.api.openai.response_request import ResponseRequest
from engine.api.openai.responses import create_response
from engine.api.streaming import EVENT_STREAM
from engine.operations import ANSWER_ERRORS, Operation, Parameter

__all__ = ["DIALECT"]

_PARAMETERS = (
    Parameter(
        "x-request-timeout-ms",
        "header",
        "integer",
        "Deadline of the whole answer, at most seven days. Without it, server.deadline_ms bounds the time until the "
        "first token.",
    ),
    Parameter("x-request-priority", "header", "integer", "From -100 to 100, higher goes first; the default is 0."),
)

_AUDIO_PARAMETERS = (
    Parameter(
        "x-request-timeout-ms",
        "header",
        "integer",
        "Deadline of the whole answer, at most seven days. Without it, server.deadline_ms bounds the time until the "
        "recording is decoded.",
    ),
    *_PARAMETERS[1:],
)

_STREAMS = (EVENT_STREAM,)

_FORMATS = (
    "The `response_format` `verbose_json` adds segments or words with their times; `text`, `srt` and `vtt` are plain "
    "text."
)

_OPERATIONS = (
    Operation(
        "create_chat_completion",
        "POST",
        "/v1/chat/completions",
        "openai",
        "Answer a conversation, as OpenAI's chat completions do.",
        ChatCompletion,
        ChatCompletionRequest,
        errors=ANSWER_ERRORS,
        parameters=_PARAMETERS,
        response_media=_STREAMS,
        description="With `stream`, the answer is `data: {json}` events that end with `data: [DONE]`; an error on the "
        "way is an event with an ErrorBody. A plugin that answers text can be chatted with, too: it gets `messages`, "
        "and as `input` the user's last text.",
    ),
    Operation(
        "create_completion",
        "POST",
        "/v1/completions",
        "openai",
        "Go on with a text, as OpenAI's older completions do.",
        CompletionAnswer,
        CompletionRequest,
        errors=ANSWER_ERRORS,
        parameters=_PARAMETERS,
        response_media=_STREAMS,
        description="With `stream`, the answer is `data: {json}` events that end with `data: [DONE]`; an error on the "
        "way is an event with an ErrorBody.",
    ),
    Operation(
        "create_response",
        "POST",
        "/v1/responses",
        "openai",
        "Answer a conversation, as OpenAI's responses do.",
        ResponseObject,
        ResponseRequest,
        errors=ANSWER_ERRORS,
        parameters=_PARAMETERS,
        response_media=_STREAMS,
        description="With `stream`, the answer is OpenAI's events, from `response.created` to `response.completed` or "
        "`response.incomplete`; an error on the way is an event with an ErrorBody.",
    ),
    Operation(
        "create_embedding",
        "POST",
        "/v1/embeddings",
        "openai",
        "Turn texts into vectors, as OpenAI's embeddings do.",
        EmbeddingAnswer,
        EmbeddingRequest,
        errors=ANSWER_ERRORS,
        parameters=_PARAMETERS,
    ),
    Operation(
        "create_ranking",
        "POST",
        "/v1/rerank",
        "openai",
        "Order documents by how well they answer a query, as vLLM and Jina do.",
        RerankAnswer,
        RerankRequest,
        errors=ANSWER_ERRORS,
        parameters=_PARAMETERS,
    ),
    Operation(
        "create_transcription",
        "POST",
        "/v1/audio/transcriptions",
        "openai",
        "Write down a recording in the language that is spoken.",
        AudioText,
        form=TranscriptionForm,
        errors=(*ANSWER_ERRORS, e.UnsupportedMediaType),
        parameters=_AUDIO_PARAMETERS,
        response_media=("text/plain", EVENT_STREAM),
        description=f"{_FORMATS} With `stream`, the answer is the events `transcript.text.delta` and, at the end, "
        "`transcript.text.done`; an error on the way is an event with an ErrorBody.",
    ),
    Operation(
        "create_translation",
        "POST",
        "/v1/audio/translations",
        "openai",
        "Write down a recording in English, whatever is spoken.",
        AudioText,
        form=TranslationForm,
        errors=(*ANSWER_ERRORS, e.UnsupportedMediaType),
        parameters=_AUDIO_PARAMETERS,
        response_media=("text/plain",),
        description=_FORMATS,
    ),
)


def _error_event(error: e.UniModelError, rid: str) -> bytes:
    """The last event of a stream that failed."""
    return b"data: %s\n\n" % encode_json(error_body(error, rid))


DIALECT = Dialect(
    name="openai",
    operations=_OPERATIONS,
    handlers={
        "create_chat_completion": create_chat_completion,
        "create_completion": create_completion,
        "create_response": create_response,
        "create_embedding": create_embedding,
        "create_ranking": create_ranking,
        "create_transcription": create_transcription,
        "create_translation": create_translation,
    },
    error_body=error_body,
    error_event=_error_event,
)
