"""Ollama's API under ``/api``, close enough for its unmodified clients.

What it has no place for is refused with a sentence that says what to do instead; nothing is left out in silence.
"""

from __future__ import annotations

from typing import Literal

from engine import errors as e
from engine.api.dialect import Dialect
from engine.api.http import encode_json
from engine.api.ollama import bodies as b
from engine.api.ollama.handlers import Handlers
from engine.api.parts import sentence
from engine.api.streaming import NDJSON
from engine.errors import UniModelError
from engine.operations import ANSWER_ERRORS, BODY_ERRORS, Operation

_WRITES = (*BODY_ERRORS, e.Conflict, e.InsufficientStorage, e.Unavailable)
_LOADS = (*_WRITES, e.ModelFileError, e.ModelError, e.MissingRuntime, e.InsufficientMemory)

_LINES = (
    "Unless `stream` is false, the answer is one JSON object a line; an error on the way is a last line with `error`."
)


def _operation(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    summary: str,
    response: type | None,
    request: type | None = None,
    errors: tuple[type[UniModelError], ...] = (),
    *,
    lines: bool = False,
) -> Operation:
    """One whose handler has the name of its path."""
    return Operation(
        f"ollama_{path}",
        method,
        f"/api/{path}",
        "ollama",
        summary,
        response,
        request,
        errors=errors,
        response_media=(NDJSON,) if lines else (),
        description=_LINES if lines else "",
    )


_OPERATIONS = (
    _operation(
        "POST",
        "generate",
        "Answer a prompt.",
        b.OllamaGenerateResponse,
        b.OllamaGenerateRequest,
        ANSWER_ERRORS,
        lines=True,
    ),
    _operation(
        "POST", "chat", "Answer a conversation.", b.OllamaChatResponse, b.OllamaChatRequest, ANSWER_ERRORS, lines=True
    ),
    _operation("POST", "embed", "Embed texts.", b.OllamaEmbedResponse, b.OllamaEmbedRequest, ANSWER_ERRORS),
    _operation(
        "POST", "embeddings", "Embed a text.", b.OllamaEmbeddingsResponse, b.OllamaEmbeddingsRequest, ANSWER_ERRORS
    ),
    _operation("GET", "tags", "List the models that text can be sent to.", b.OllamaModels),
    _operation("GET", "ps", "List the loaded models.", b.OllamaRunningModels),
    _operation(
        "POST", "show", "Describe a model.", b.OllamaDescription, b.OllamaShowRequest, (*BODY_ERRORS, e.ModelNotFound)
    ),
    _operation(
        "POST",
        "create",
        "Register the file of a model again, or uploaded files, with options of their own.",
        b.OllamaStatus,
        b.OllamaCreateRequest,
        (*_LOADS, e.ModelNotFound),
        lines=True,
    ),
    _operation(
        "POST",
        "copy",
        "Register a model under another name, too.",
        None,
        b.OllamaCopyRequest,
        (*_WRITES, e.ModelNotFound),
    ),
    _operation(
        "DELETE", "delete", "Unregister a model, or a version.", None, b.OllamaNameRequest, (*_WRITES, e.ModelNotFound)
    ),
    _operation(
        "POST",
        "pull",
        "Download a model from the Hugging Face hub, and register it.",
        b.OllamaStatus,
        b.OllamaPullRequest,
        (*_LOADS, e.NotFound),
        lines=True,
    ),
    Operation(
        "ollama_find_blob",
        "HEAD",
        "/api/blobs/{digest}",
        "ollama",
        "Say whether a file has been uploaded.",
        None,
        errors=(e.InvalidInput, e.NotFound),
    ),
    Operation(
        "ollama_store_blob",
        "POST",
        "/api/blobs/{digest}",
        "ollama",
        "Upload a file, of which a model is created then.",
        None,
        status=201,
        errors=(e.InvalidInput, e.BodyTooLarge, e.InsufficientStorage, e.Cancelled),
        request_media=("application/octet-stream",),
        description="A file that is here already is not read again: the answer is 200 then.",
    ),
    _operation("POST", "push", "Say that nothing is published.", None, b.OllamaPushRequest, BODY_ERRORS),
    _operation("GET", "version", "Say which Ollama this is like.", b.OllamaVersion),
)


def _error_body(error: UniModelError, rid: str) -> dict[str, str]:  # noqa: ARG001
    return {"error": sentence(error)}


def _error_line(error: UniModelError, rid: str) -> bytes:
    return encode_json(_error_body(error, rid)) + b"\n"


_handlers = Handlers()

DIALECT = Dialect(
    "ollama",
    _OPERATIONS,
    {o.operation_id: getattr(_handlers, o.operation_id.removeprefix("ollama_")) for o in _OPERATIONS},
    _error_body,
    _error_line,
)

__all__ = ["DIALECT"]
