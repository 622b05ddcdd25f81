"""Raw ASGI: what every dialect's hot path needs. Starlette's Request and Response cost half the throughput here."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from engine.errors import BodyTooLarge, Cancelled, InternalError, InvalidRequest, Overloaded, UniModelError
from engine.schema import ErrorBody, ErrorDetail
from engine.telemetry import tracing

log = logging.getLogger("unimodel.http")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]
Body = bytes | memoryview
"""Of a response; a view saves a copy of a large tensor."""

encode_json = msgspec.json.Encoder().encode

_MAX_ID = 128
_prefix = os.urandom(4).hex()
_ids = itertools.count(1)

PRIORITIES = (-100, 100)
TIMEOUTS_MS = (1, 7 * 24 * 3600 * 1000)
"""Bounds of what the headers may ask for."""

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class Headers(dict[bytes, bytes]):
    """The request's headers by lower-case name; of one that was sent twice, the last."""

    def text(self, name: bytes) -> str | None:
        """A header's value."""
        value = dict.get(self, name)
        return None if value is None else value.decode("latin-1")

    def integer(self, name: bytes, least: int, most: int) -> int | None:
        """A whole number. Raises `InvalidRequest` that names the header."""
        text = self.text(name)
        if text is None:
            return None
        value = int(text) if _WHOLE_NUMBER.fullmatch(text) else None
        if value is None or not least <= value <= most:
            header = name.decode()
            raise InvalidRequest(
                f"Header {header} must be a whole number from {least} to {most}; got {text[:40]!r}.", field=header
            )
        return value

    @property
    def timeout(self) -> float | None:
        """The seconds in which the client wants its answer, if it says. Raises `InvalidRequest`."""
        milliseconds = self.integer(b"x-request-timeout-ms", *TIMEOUTS_MS)
        return None if milliseconds is None else milliseconds / 1000

    @property
    def priority(self) -> int:
        """Of the request; higher goes first. Raises `InvalidRequest`."""
        return self.integer(b"x-request-priority", *PRIORITIES) or 0


def parse_version(text: str) -> int:
    """The number of a version in a path. Raises `InvalidRequest`."""
    if not _VERSION.fullmatch(text):
        raise InvalidRequest(f"The version must be a whole number of at least 1; got {text[:40]!r}.", field="version")
    return int(text)


def request_id(headers: Headers) -> str:
    """The client's own id if it is printable and short, else a new one."""
    given = headers.text(b"x-request-id") if b"x-request-id" in headers else None
    if given and len(given) <= _MAX_ID and given.isascii() and given.isprintable():
        return given
    return f"{_prefix}-{next(_ids):x}"


class Reservation:
    """What one body holds of a `BodyBudget`."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._held = 0

    def cover(self, length: int) -> None:
        """Holds `length` bytes from now on, if that is many. Raises `Overloaded` when they are not there."""
        more = length - self._held
        if length > BodyBudget.LARGE and more > 0:
            if not self._budget.reserve(more, self._held):
                raise self._budget.refusal()
            self._held = length

    def release(self) -> None:
        """Gives back what it holds."""
        self._budget.release(self._held)
        self._held = 0


class BodyBudget:
    """Bounds the memory of all large bodies that are being received or computed. One of them always fits."""

    LARGE = 64 * 1024
    """Bytes from which a body counts."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def reserve(self, length: int, held: int = 0) -> bool:
        """Takes `length` bytes, if they are there, for a body that holds some already."""
        if self._held > held and self._held + length > self._limit:
            return False
        self._held += length
        return True

    def release(self, length: int) -> None:
        """Gives them back."""
        self._held -= length

    def refusal(self) -> Overloaded:
        """The error of a body that does not fit now."""
        return Overloaded(
            f"Large bodies hold {self._held >> 20} MiB already (server.max_buffered_mb); retry later.", field="body"
        )


def announced_length(headers: Headers, limit: float = math.inf) -> int:
    """The length that the head announces; 0 for a chunked body. Raises `BodyTooLarge` beyond `limit`."""
    announced = headers.get(b"content-length", b"0")
    length = int(announced) if announced.isdigit() else 0
    if length > limit:
        raise _too_large(length, int(limit))
    return length


async def read_body(receive: Receive, limit: int, on_growth: Callable[[int], None] | None = None) -> bytes | bytearray:
    """The whole body. Raises `BodyTooLarge` beyond `limit` bytes, `Cancelled` when the client went away.

    `on_growth` hears its length so far whenever a piece has come; what it raises ends the request.
    """
    message = await receive()
    first: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        if len(first) > limit:
            raise _too_large(len(first), limit)
        return first
    body = bytearray(first)
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(len(body), limit)
        if on_growth is not None:
            on_growth(len(body))
    if message["type"] == "http.disconnect":
        raise _gone()
    return body


async def read_pieces(receive: Receive) -> AsyncGenerator[bytes, None]:
    """A body in pieces, as they come. Raises `Cancelled` when the client goes away."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _gone()
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _gone() -> Cancelled:
    return Cancelled("The client closed the connection before its whole request was here.")


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body has more than {limit >> 20} MiB ({size} bytes); send less at once or raise server.max_body_mb.",
        field="body",
    )


def disconnect_probe(receive: Receive) -> Callable[[], bool] | None:
    """Whether the client went away, without a task that waits for it on every request.

    uvicorn keeps that on the request cycle whose method `receive` is; a test fails should that ever change. Under
    another server there is no probe, and a request of a client that left is computed in vain.
    """
    cycle = getattr(receive, "__self__", None)
    if not hasattr(cycle, "disconnected"):
        return None
    return lambda: bool(cycle.disconnected)  # type: ignore[union-attr]


async def send_body(send: Send, status: int, headers: RawHeaders, body: Body) -> None:
    """A whole response. `content-length` is added."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: BaseException, rid: str) -> None:
    """An error in the native (and OpenAI's) shape. An unexpected one is logged whole and told in one line."""
    known = as_known(error, rid)
    await send_body(send, known.status, error_headers(known, rid), encode_json(error_body(known, rid)))


def as_known(error: BaseException, rid: str) -> UniModelError:
    """The error that the client may see."""
    if isinstance(error, UniModelError):
        known = error
    else:
        log.error("unexpected error", exc_info=error, extra={"request_id": rid})
        known = InternalError(f"An unexpected error; the server's log has it under request id {rid}.")
    if (span := tracing.current()) is not None:
        span.answered(known)
    return known


def log_request(rid: str, status: int, seconds: float, **about: object) -> None:
    """The line of a request that was answered: a warning where the server is at fault."""
    level = logging.WARNING if status >= 500 else logging.INFO
    log.log(level, "request", extra={"request_id": rid, **about, "status": status, "seconds": round(seconds, 6)})


def error_headers(error: UniModelError, rid: str) -> RawHeaders:
    """The headers of an error response."""
    headers: RawHeaders = [(b"content-type", b"application/json"), (b"x-request-id", rid.encode())]
    if isinstance(error, Overloaded) or error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after or 1))))
    if isinstance(error, BodyTooLarge):
        headers.append((b"connection", b"close"))  # the rest of the body will not be read
    return headers


def error_body(error: UniModelError, rid: str) -> ErrorBody:
    """The body of an error response."""
    if error.status == 404:
        kind = "not_found_error"
    elif error.status == 429:
        kind = "overloaded_error"
    else:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    return ErrorBody(
        error=ErrorDetail(
            code=error.code,
            message=error.message,
            type=kind,
            param=error.field,
            request_id=rid,
            details=error.details,
        )
    )
