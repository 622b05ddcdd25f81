"""The error tree. Each class carries its code, HTTP status, gRPC status and CLI exit code; edges only translate.

Tree::

    UniModelError
    ├── InvalidRequest            invalid_request          400
    │   ├── InvalidInput          invalid_input            400   the input does not fit the model
    │   ├── InvalidOption         invalid_option           400   a model option or setting
    │   ├── InvalidJSON           invalid_json             400
    │   ├── BodyTooLarge          body_too_large           413
    │   ├── UnsupportedMediaType  unsupported_media_type   415
    │   ├── ModelFileError        model_file_error         422   missing, truncated, corrupt or unknown file
    │   ├── AmbiguousBackend      ambiguous_backend        422
    │   └── UntrustedModel        untrusted_model          403   loading it would run code
    ├── NotFound                  not_found                404
    │   ├── ModelNotFound         model_not_found          404
    │   └── MethodNotAllowed      method_not_allowed       405
    ├── Conflict                  conflict                 409
    ├── Cancelled                 cancelled                499
    ├── Overloaded                overloaded               429   carries Retry-After
    ├── DeadlineExceeded          deadline_exceeded        504
    ├── Unavailable               unavailable              503
    │   ├── ServerStopping        server_stopping          503
    │   └── ModelFailed           model_failed             503   it failed to load, and says why
    ├── InsufficientMemory        insufficient_memory      507
    ├── InsufficientStorage       insufficient_storage     507
    ├── MissingRuntime            missing_runtime          501
    ├── ModelError                model_error              500   the model raised while computing
    ├── WorkerDied                worker_died              502   the request was running when its worker died
    ├── ResponseTooLarge          response_too_large       500
    ├── ServerUnreachable         server_unreachable       –     client side
    └── InternalError             internal                 500
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    OVERLOADED = 5
    TIMED_OUT = 6


class UniModelError(Exception):
    """Base of every error that a user may see. `message` is a sentence that names the fix."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """The part of the request at fault, such as ``input.age``."""
        self.retry_after = retry_after
        """Seconds after which a retry makes sense."""
        self.details = details or {}


class InvalidRequest(UniModelError):
    """The request is wrong; the same request will fail again."""

    code = "invalid_request"
    status = 400
    grpc_status = "INVALID_ARGUMENT"


class InvalidInput(InvalidRequest):
    """The input does not fit the model's signature."""

    code = "invalid_input"


class InvalidOption(InvalidRequest):
    """A model option or a setting is unknown or has a bad value."""

    code = "invalid_option"


class InvalidJSON(InvalidRequest):
    """The body is not JSON, or is nested too deeply."""

    code = "invalid_json"


class BodyTooLarge(InvalidRequest):
    """The body exceeds ``server.max_body_mb``, or its tensors half of ``engine.max_batch_mb``."""

    code = "body_too_large"
    status = 413


class UnsupportedMediaType(InvalidRequest):
    """No decoder for this content type."""

    code = "unsupported_media_type"
    status = 415


class ModelFileError(InvalidRequest):
    """The model file is missing, truncated, corrupt or of an unknown kind."""

    code = "model_file_error"
    status = 422
    grpc_status = "FAILED_PRECONDITION"


class AmbiguousBackend(InvalidRequest):
    """Several backends could load the file; the user must say which."""

    code = "ambiguous_backend"
    status = 422
    grpc_status = "FAILED_PRECONDITION"


class UntrustedModel(InvalidRequest):
    """Loading this file would run code from it, and the user has not allowed that."""

    code = "untrusted_model"
    status = 403
    grpc_status = "PERMISSION_DENIED"


class NotFound(UniModelError):
    """There is nothing at that address."""

    code = "not_found"
    status = 404
    grpc_status = "NOT_FOUND"
    exit_code = ExitCode.NOT_FOUND


class ModelNotFound(NotFound):
    """No model, version or alias of that name is registered."""

    code = "model_not_found"


class MethodNotAllowed(NotFound):
    """The route exists, under another HTTP method."""

    code = "method_not_allowed"
    status = 405
    exit_code = ExitCode.FAILED


class Conflict(UniModelError):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409
    grpc_status = "ALREADY_EXISTS"


class Cancelled(UniModelError):
    """The client went away before its request was computed."""

    code = "cancelled"
    status = 499
    grpc_status = "CANCELLED"


class Overloaded(UniModelError):
    """The model's queue is full; retry after `retry_after` seconds."""

    code = "overloaded"
    status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    exit_code = ExitCode.OVERLOADED


class DeadlineExceeded(UniModelError):
    """The deadline passed before the answer was there."""

    code = "deadline_exceeded"
    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    exit_code = ExitCode.TIMED_OUT


class Unavailable(UniModelError):
    """The server cannot serve this now, and may later."""

    code = "unavailable"
    status = 503
    grpc_status = "UNAVAILABLE"


class ServerStopping(Unavailable):
    """The server drains and takes no new requests."""

    code = "server_stopping"


class ModelFailed(Unavailable):
    """The model failed to load; the message carries the reason."""

    code = "model_failed"


class InsufficientMemory(UniModelError):
    """It does not fit the memory budget."""

    code = "insufficient_memory"
    status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class InsufficientStorage(UniModelError):
    """The disk is full or read-only."""

    code = "insufficient_storage"
    status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class MissingRuntime(UniModelError):
    """The runtime of this backend is not installed."""

    code = "missing_runtime"
    status = 501
    grpc_status = "UNIMPLEMENTED"


class ModelError(UniModelError):
    """The model raised while computing this request."""

    code = "model_error"
    status = 500


class WorkerDied(UniModelError):
    """The worker died while it computed this request, also on the second try."""

    code = "worker_died"
    status = 502
    grpc_status = "ABORTED"


class ResponseTooLarge(UniModelError):
    """The outputs exceed ``engine.max_batch_mb``."""

    code = "response_too_large"


class ServerUnreachable(UniModelError):
    """Client side: no server answers at that address."""

    code = "server_unreachable"
    status = 503
    grpc_status = "UNAVAILABLE"
    exit_code = ExitCode.UNREACHABLE


class InternalError(UniModelError):
    """A defect of UniModel. The server's log has the whole trace under the request id."""


def _tree(cls: type[UniModelError]) -> Iterator[type[UniModelError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)


BY_CODE: dict[str, type[UniModelError]] = {cls.code: cls for cls in _tree(UniModelError)}
"""Every code and its class. Codes are stable: clients and scripts match on them."""


def from_code(
    code: str,
    message: str,
    *,
    field: str | None = None,
    retry_after: float | None = None,
    details: dict[str, Any] | None = None,
) -> UniModelError:
    """The error that another process or the server described by its code."""
    cls = BY_CODE.get(code, InternalError)
    return cls(message, field=field, retry_after=retry_after, details=details)
