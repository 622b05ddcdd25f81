"""uvicorn's HTTP protocol with a short cut for predictions.

For each request uvicorn builds a scope, a task and two writes, which costs more than all that the server itself does
for a small prediction. Here a ``POST …:predict`` whose model is loaded is handled from the parser's callbacks, and its
answer is written, in one piece, in the very turn of the loop in which the worker's reply arrives. Everything else
(other routes, cold models, streams, chunked or pipelined bodies, HTTP/1.0) goes uvicorn's ordinary way, to the app.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from engine.api.http import Headers, RawHeaders
from engine.api.native import MODELS, PREDICT, parse_target
from engine.errors import UniModelError

if TYPE_CHECKING:
    from engine.api.native import PredictEndpoint

_MODELS, _PREDICT = MODELS.encode(), PREDICT.encode()
_LARGE = 64 * 1024
"""Bytes of an answer from which it is written apart from its head, rather than copied behind it."""


class _NoEvent:
    """uvicorn wakes the reader of a request's body; a prediction has none."""

    def set(self) -> None:
        """Nobody waits."""


class PredictCycle:
    """One prediction on a connection. Has what uvicorn's protocol looks at in a cycle."""

    __slots__ = ("body", "disconnected", "keep_alive", "name", "response_complete", "version")

    message_event = _NoEvent()

    def __init__(self, name: str, version: int | None, keep_alive: bool) -> None:
        self.name = name
        self.version = version
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self.disconnected = False
        self.response_complete = False

    def is_gone(self) -> bool:
        """Whether the client closed the connection."""
        return self.disconnected


class PredictProtocol(HttpToolsProtocol):
    """One connection."""

    endpoint: PredictEndpoint
    """Set on a subclass by `protocol_for`, since uvicorn makes the instances."""
    max_body: int

    # --- parser callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins. Its scope is built when it is known to need one."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """The head is here: a prediction, or one for uvicorn."""
        cycle = self._short_cut()
        if cycle is None:
            self._build_scope()
            super().on_headers_complete()
        else:
            self.cycle = cycle  # type: ignore[assignment]

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
            self._predict(cycle)
        else:
            super().on_message_complete()

    # --- predictions -------------------------------------------------------------------------------------------------

    def _short_cut(self) -> PredictCycle | None:
        """The cycle of a request that can go the short way; `None` for any doubt."""
        url = self.url
        if not (url.endswith(_PREDICT) and url.startswith(_MODELS)) or b"%" in url or b"?" in url:
            return None
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or self.expect_100_continue:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            return None
        if not 0 <= self._announced() <= self.max_body:
            return None
        try:
            name, version = parse_target(url[len(_MODELS) : -len(_PREDICT)].decode("ascii"))
        except (UniModelError, UnicodeDecodeError):
            return None
        return PredictCycle(name, version, parser.should_keep_alive())

    def _announced(self) -> int:
        """The body's length by its header; -1 when there is none."""
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) if value.isdigit() else -1
        return -1

    def _predict(self, cycle: PredictCycle) -> None:
        body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
        cycle.body = []

        def respond(status: int, headers: RawHeaders, data: bytes) -> None:
            self._respond(cycle, status, headers, data)

        started = self.endpoint.start(cycle.name, cycle.version, Headers(self.headers), body, cycle.is_gone, respond)
        if not started:
            self._hand_over(body)

    def _respond(self, cycle: PredictCycle, status: int, headers: RawHeaders, data: bytes) -> None:
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        head = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            head += (name, b": ", value, b"\r\n")
        for name, value in headers:
            head += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(data))
        if len(data) < _LARGE:
            head.append(data)
            self.transport.write(b"".join(head))
        else:
            self.transport.writelines((b"".join(head), data))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    # --- the ordinary way --------------------------------------------------------------------------------------------

    def _build_scope(self) -> None:
        """What uvicorn does when a request begins."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)

    def _hand_over(self, body: bytes) -> None:
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
