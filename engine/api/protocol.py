"""uvicorn's HTTP protocol with a short cut for predictions.

For each request uvicorn builds a scope, a task and two writes, which costs more than all that the server itself does
for a small prediction. Here a ``POST …:predict`` whose model is loaded is handled from the parser's callbacks, and its
answer is written, in one piece, in the very turn of the loop in which the worker's reply arrives. Everything else
(other routes, cold models, streams, chunked or pipelined bodies, HTTP/1.0) goes uvicorn's ordinary way, to the app.
"""

from __future__ import annotations

import asyncio
import functools
import math
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from engine.api.body_receiver import BodyReceiver
from engine.api.http import Body, BodyBudget, Headers, RawHeaders
from engine.api.native import MODELS, PREDICT, parse_target
from engine.errors import UniModelError

if TYPE_CHECKING:
    from engine.api.native import PredictEndpoint

_MODELS, _PREDICT = MODELS.encode(), PREDICT.encode()
_LARGE = BodyBudget.LARGE
"""Bytes from which a body is received in place, and an answer is written apart from its head."""


@functools.lru_cache(maxsize=4096)
def _target(url: bytes) -> tuple[str, int | None] | None:
    """The model and version that a URL predicts with; `None` when it does not, or needs a closer look."""
    if not (url.endswith(_PREDICT) and url.startswith(_MODELS)) or b"%" in url or b"?" in url:
        return None
    try:
        return parse_target(url[len(_MODELS) : -len(_PREDICT)].decode("ascii"))
    except (UniModelError, UnicodeDecodeError):
        return None


class _NoEvent:
    """uvicorn wakes the reader of a request's body; a prediction has none."""

    def set(self) -> None:
        """Nobody waits."""


class PredictCycle:
    """One prediction on a connection. Has what uvicorn's protocol looks at in a cycle."""

    __slots__ = (
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "length",
        "name",
        "response_complete",
        "version",
        "whole",
    )

    message_event = _NoEvent()

    def __init__(self, name: str, version: int | None, headers: Headers, length: int, keep_alive: bool) -> None:
        self.name = name
        self.version = version
        self.headers = headers
        self.length = length
        """Bytes of the body, as announced."""
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self.disconnected = False
        self.response_complete = False
        self.whole = False
        """Whether all of the body is here, from when on the request will be answered."""

    def is_gone(self) -> bool:
        """Whether the client closed the connection."""
        return self.disconnected


class PredictProtocol(HttpToolsProtocol):
    """One connection."""

    endpoint: PredictEndpoint
    """Set on a subclass by `protocol_for`, since uvicorn makes the instances."""
    max_body: int

    _idle_since = math.inf
    """When the last response was complete; infinity while a request is under way."""

    def data_received(self, data: bytes) -> None:
        """Bytes of the connection. What is left of a large body after the first piece bypasses the parser."""
        super().data_received(data)
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle and cycle.length > _LARGE and not cycle.response_complete:
            got = sum(map(len, cycle.body))
            if cycle.body and got < cycle.length and not self.transport.is_closing():
                BodyReceiver(self, cycle.length, b"".join(cycle.body), functools.partial(self._body_received, cycle))
                cycle.body = []

    def _body_received(self, cycle: PredictCycle, body: bytearray) -> None:
        """A large body is here. The parser never saw its end, so the next request gets a new one."""
        self.parser = httptools.HttpRequestParser(self)
        self._predict(cycle, body)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; a prediction whose body was not whole yet will never be answered."""
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle and not cycle.whole:
            cycle.whole = True
            self._release(cycle.length)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    # --- parser callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins. Its scope is built when it is known to need one."""
        self.url = b""
        self.headers = []

    def on_headers_complete(self) -> None:
        """The head is here: a prediction, or one for uvicorn."""
        cycle = self._short_cut()
        if cycle is None:
            self._build_scope()
            super().on_headers_complete()
        else:
            self.cycle = cycle  # type: ignore[assignment]

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """A piece of the body; never more than the announced length, which was checked."""
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle:
            cycle.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle:
            body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
            cycle.body = []
            self._predict(cycle, body)
        else:
            super().on_message_complete()

    # --- predictions -------------------------------------------------------------------------------------------------

    def _short_cut(self) -> PredictCycle | None:
        """The cycle of a request that can go the short way; `None` for any doubt."""
        target = _target(self.url)
        if target is None:
            return None
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            return None
        headers = Headers(self.headers)
        announced = headers.get(b"content-length")
        if announced is None or not announced.isdigit() or b"expect" in headers:
            return None
        length = int(announced)
        if length > self.max_body:
            return None
        if length > _LARGE and not self.endpoint.budget.reserve(length):
            return None  # the app refuses it
        return PredictCycle(*target, headers, length, parser.should_keep_alive())

    def _predict(self, cycle: PredictCycle, body: bytes | bytearray) -> None:
        cycle.whole = True

        def respond(status: int, headers: RawHeaders, data: Body) -> None:
            self._respond(cycle, status, headers, data)

        started = self.endpoint.start(cycle.name, cycle.version, cycle.headers, body, cycle.is_gone, respond)
        if not started:
            self._release(cycle.length)
            self._hand_over(body)

    def _respond(self, cycle: PredictCycle, status: int, headers: RawHeaders, data: Body) -> None:
        cycle.response_complete = True
        self._release(cycle.length)
        if cycle.disconnected or self.transport.is_closing():
            return
        lines = b"".join([b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)])
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = b"%s%s%scontent-length: %d\r\n\r\n" % (STATUS_LINE[status], lines, close, len(data))
        if len(data) < _LARGE:
            self.transport.write(head + data)
        else:
            self.transport.writelines((head, data))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _release(self, length: int) -> None:
        if length > _LARGE:
            self.endpoint.budget.release(length)

    # --- keep-alive --------------------------------------------------------------------------------------------------

    def _unset_keepalive_if_required(self) -> None:
        """The connection is in use: its timer, if it has one, will see that."""
        self._idle_since = math.inf

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one timer that looks at the time, instead of one that is armed for each response."""
        self._idle_since = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._look_at_idleness)

    def _look_at_idleness(self) -> None:
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            delay = min(left, self.timeout_keep_alive)
            self.timeout_keep_alive_task = self.loop.call_later(delay, self._look_at_idleness)

    # --- the ordinary way --------------------------------------------------------------------------------------------

    def _build_scope(self) -> None:
        """What uvicorn does when a request begins."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)

    def _hand_over(self, body: bytes | bytearray) -> None:
        """Gives a prediction that must wait, or stream, to the app."""
        self.cycle = None  # type: ignore[assignment]
        self._build_scope()
        super().on_headers_complete()
        cycle: RequestResponseCycle = self.cycle
        cycle.body += body
        cycle.more_body = False
        cycle.message_event.set()


def protocol_for(endpoint: PredictEndpoint, max_body: int) -> type[asyncio.Protocol]:
    """The protocol class of one server."""
    return type("BoundPredictProtocol", (PredictProtocol,), {"endpoint": endpoint, "max_body": max_body})
