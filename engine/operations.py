"""The native API as a table of operations.

The server builds its routes from it, and `engine.openapi` its document. The bodies are the structs of `engine.schema`
that the server decodes and encodes with, so neither can drift from what is served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from engine import errors as e
from engine import schema as s

JSON = "application/json"
"""The media type of bodies, unless an operation says otherwise."""

ErrorType = type[e.UniModelError]


@dataclass(frozen=True)
class Parameter:
    """A part of a request outside its body."""

    name: str
    location: Literal["path", "query", "header"]
    type: Literal["string", "integer"]
    description: str


@dataclass(frozen=True)
class Operation:
    """One row of the table: a method on a path, what it takes and what it answers."""

    operation_id: str
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE"]
    path: str
    """``{name}``, ``{version}``, ``{alias}`` and ``{digest}`` stand for path parameters."""
    tag: Literal["models", "prediction", "aliases", "server", "openai", "ollama", "anthropic"]
    summary: str
    response: type[msgspec.Struct] | None
    """The JSON body of the answer; `None` when the answer is not JSON."""
    request: type[msgspec.Struct] | None = None
    alternative: type[msgspec.Struct] | None = None
    """What the JSON body of the answer may also be, or have besides."""
    form: type[msgspec.Struct] | None = None
    """The body as ``multipart/form-data``, of an operation that takes no JSON."""
    status: int = 200
    errors: tuple[ErrorType, ...] = ()
    """What can go wrong, beyond `errors.InternalError`."""
    parameters: tuple[Parameter, ...] = ()
    """Query parameters and headers."""
    request_media: tuple[str, ...] = ()
    """Media types that the request may have instead of JSON. Without a `request`, its body is a file."""
    response_media: tuple[str, ...] = ()
    """Media types that the answer may have instead of JSON."""
    description: str = ""
    also: tuple[tuple[int, type[msgspec.Struct], str], ...] = ()
    """Further answers that are not errors: (status, body, description)."""

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """The names in braces, in order."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def takes_file(self) -> bool:
        """Whether the body is a file, which may be too large to be held."""
        return self.request is None and bool(self.request_media)


_PREDICT_PARAMETERS = (
    Parameter(
        "x-request-timeout-ms", "header", "integer", "Deadline, at most seven days; the default is server.deadline_ms."
    ),
    Parameter("x-request-priority", "header", "integer", "From -100 to 100, higher goes first; the default is 0."),
    Parameter("x-tensor-dtype", "header", "string", "With application/octet-stream: NumPy's dtype, such as float32."),
    Parameter("x-tensor-shape", "header", "string", "With application/octet-stream: such as 1,3,224,224."),
    Parameter("x-tensor-name", "header", "string", "With a raw tensor: the input that it is for."),
    Parameter("x-tensor-output", "header", "string", "With a raw tensor as the answer: the output to send."),
)

_PREDICT_DESCRIPTION = """\
Besides JSON, the body may be an encoded image or recording, one `.npy` array, or the bytes of one tensor (little-
endian, C order, with its batch axis) described by `x-tensor-dtype` and `x-tensor-shape`. An `Accept` header asks for
the answer as `.npy` or as a raw tensor, described by the same headers and `x-tensor-name`. With `"stream": true` the
answer is `data: {json}` events that end with `data: [DONE]`; an error on the way is an `event: error` with an
ErrorBody. A model that writes down speech answers a Transcript beside `model` and `version`; when the body is the
recording itself, its parameters are in the query, such as `?language=en&words=true&stream=true`."""

BODY_ERRORS = (e.InvalidRequest, e.InvalidInput, e.InvalidJSON, e.BodyTooLarge)
"""Of a request whose body is JSON."""
_BODY = (*BODY_ERRORS, e.UnsupportedMediaType)
_COLD = (e.ModelFailed, e.DeadlineExceeded, e.ServerStopping)
"""Of a request that has to load its model first."""
ANSWER_ERRORS = (
    *BODY_ERRORS,
    *_COLD,
    e.ModelNotFound,
    e.Overloaded,
    e.ModelError,
    e.ResponseTooLarge,
    e.WorkerDied,
    e.Unavailable,
)
"""Of a request that a model answers, in whatever dialect."""
_REGISTER = (
    *_BODY,
    e.InvalidOption,
    e.UntrustedModel,
    e.Conflict,
    e.ModelFileError,
    e.AmbiguousBackend,
    e.ModelError,
    e.MissingRuntime,
    e.WorkerDied,
    e.Unavailable,
    e.InsufficientMemory,
    e.InsufficientStorage,
)
_PREDICT = (*ANSWER_ERRORS, e.UnsupportedMediaType)
_WRITE = (e.InvalidRequest, e.Conflict, e.InsufficientStorage, e.Unavailable)


def _for_a_model(prefix: str, suffix: str, of: str, removal: tuple[Parameter, ...]) -> tuple[Operation, ...]:
    """The operations on a model's serving version, or on the version that the path names."""
    not_found = (e.InvalidRequest, e.ModelNotFound)
    return (
        Operation(f"get_{suffix}", "GET", prefix, "models", f"Describe {of}.", s.ModelView, errors=not_found),
        Operation(
            f"delete_{suffix}",
            "DELETE",
            prefix,
            "models",
            "Unregister one version of a model."
            if "version" in suffix
            else "Unregister a model, or one version of it.",
            s.Deleted,
            errors=(e.ModelNotFound, *_WRITE),
            parameters=removal,
        ),
        Operation(
            f"get_{suffix}_status",
            "GET",
            f"{prefix}/status",
            "models",
            f"Say how {of} is doing: its state, instances, queue and batches.",
            s.StatusView,
            errors=not_found,
        ),
        Operation(
            f"predict_{suffix}",
            "POST",
            f"{prefix}:predict",
            "prediction",
            f"Predict with {of}.",
            s.PredictResponse,
            s.PredictRequest,
            s.Transcript,
            errors=_PREDICT,
            parameters=_PREDICT_PARAMETERS,
            description=_PREDICT_DESCRIPTION,
            request_media=("application/octet-stream", "application/x-npy", "image/*", "audio/*"),
            response_media=("application/octet-stream", "application/x-npy", "text/event-stream"),
        ),
        Operation(
            f"load_{suffix}",
            "POST",
            f"{prefix}:load",
            "models",
            f"Load {of}, and wait until it is ready.",
            s.StatusView,
            errors=(*not_found, *_COLD),
        ),
        Operation(
            f"unload_{suffix}",
            "POST",
            f"{prefix}:unload",
            "models",
            f"Unload {of}; it loads again at its next request.",
            s.StatusView,
            errors=not_found,
        ),
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation("list_models", "GET", "/v1/models", "models", "List the registered models.", s.ModelList),
    Operation(
        "register_model",
        "POST",
        "/v1/models",
        "models",
        "Load a model and register it as a new version of its name.",
        s.ModelView,
        s.RegisterRequest,
        status=201,
        errors=_REGISTER,
    ),
    *_for_a_model(
        "/v1/models/{name}",
        "model",
        "a model",
        (Parameter("version", "query", "integer", "Remove only this version."),),
    ),
    *_for_a_model("/v1/models/{name}/versions/{version}", "model_version", "one version of a model", ()),
    Operation("list_aliases", "GET", "/v1/aliases", "aliases", "List the aliases.", s.AliasList),
    Operation(
        "set_alias",
        "PUT",
        "/v1/aliases/{alias}",
        "aliases",
        "Let a name stand for a model, or pin it to one version. A model's own name pins what serves.",
        s.Alias,
        s.AliasRequest,
        errors=(*_BODY, e.ModelNotFound, *_WRITE),
    ),
    Operation(
        "delete_alias",
        "DELETE",
        "/v1/aliases/{alias}",
        "aliases",
        "Remove an alias.",
        s.Alias,
        errors=(e.ModelNotFound, *_WRITE),
    ),
    Operation("get_status", "GET", "/v1/status", "server", "Say how the server is doing.", s.ServerView),
    Operation("get_config", "GET", "/v1/config", "server", "List the settings and where each came from.", s.ConfigView),
    Operation("list_backends", "GET", "/v1/backends", "server", "List the model runtimes.", s.BackendList),
    Operation("get_health", "GET", "/healthz", "server", "Say whether the process is alive.", s.Health),
    Operation(
        "get_readiness",
        "GET",
        "/readyz",
        "server",
        "Say whether the server takes requests.",
        s.Health,
        also=((503, s.Health, "The server is starting or draining."),),
    ),
    Operation(
        "get_metrics",
        "GET",
        "/metrics",
        "server",
        "The metrics in Prometheus' text format.",
        None,
        response_media=("text/plain",),
    ),
    Operation(
        "get_openapi",
        "GET",
        "/openapi.json",
        "server",
        "This document.",
        None,
        response_media=(JSON,),
    ),
)
"""The whole native API. `operation_id` names the handler."""
