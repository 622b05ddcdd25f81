"""A connection with a short cut for predictions.

For each request uvicorn builds a scope, a task and two writes, which costs more than all that the server itself does
for a small prediction. Here a ``POST …:predict`` whose model is loaded is handled from the parser's callbacks, and its
answer is written, in one piece, in the very turn of the loop in which the worker's reply arrives. Everything else
(other routes, cold models, streams, chunked or pipelined bodies, HTTP/1.0) goes uvicorn's ordinary way, to the app.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from engine.api.body_receiver import BodyReceiver
from engine.api.connection import Connection
from engine.api.http import Body, BodyBudget, Headers, RawHeaders
from engine.api.native import MODELS, PREDICT, parse_target
from engine.errors import UniModelError

if TYPE_CHECKING:
    from engine.api.native import PredictEndpoint

_MODELS, _PREDICT = MODELS.encode(), PREDICT.encode()
_LARGE = BodyBudget.LARGE
"""Bytes from which a body is received in place."""


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
        "more_body",
        "name",
        "response_complete",
        "version",
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
        self.more_body = True
        """Whether some of the body is not here yet. Once it is whole, the request will be answered."""

    def is_gone(self) -> bool:
        """Whether the client closed the connection."""
        return self.disconnected


class PredictProtocol(Connection):
    """One connection."""

    endpoint: PredictEndpoint
    """Set on a subclass by `protocol_for`, since uvicorn makes the instances."""
    max_body: int

    def data_received(self, data: bytes) -> None:
        """Bytes of the connection. What is left of a large body after the first piece bypasses the parser."""
        super().data_received(data)
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle and cycle.length > _LARGE and cycle.more_body and cycle.body:
            got = sum(map(len, cycle.body))
            if got < cycle.length and not self.transport.is_closing():
                BodyReceiver(self, cycle.length, b"".join(cycle.body), functools.partial(self._body_received, cycle))
                cycle.body = []

    def _body_received(self, cycle: PredictCycle, body: bytearray) -> None:
        """A large body is here, whose end the parser never saw."""
        self._predict(cycle, body)
        self.new_parser()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; a prediction whose body was not whole yet will never be answered."""
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle and cycle.more_body:
            cycle.more_body = False
            self._release(cycle.length)
        super().connection_lost(exc)

    def begin_request(self) -> None:
        """The head is here: of a prediction, or of a request for the app."""
        cycle = self._short_cut()
        if cycle is None:
            super().begin_request()
        else:
            self.cycle = cycle  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A piece of the body; never more than the announced length, which was checked."""
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle:
            cycle.body.append(body)
        else:
            super().on_body(body)

    def end_request(self) -> None:
        """The whole request is here."""
        cycle: Any = self.cycle
        if type(cycle) is PredictCycle:
            body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
            cycle.body = []
            self._predict(cycle, body)
        else:
            super().end_request()

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
        if self.over_limit or self.flow.write_paused:
            return None  # the app's way refuses it, or waits until the client has read what it was sent
        headers = Headers(self.headers)
        announced = headers.get(b"content-length")
        if announced is None or not announced.isdigit() or b"expect" in headers:
            return None
        length = int(announced)
        if length > self.max_body:
            return None
        if length > _LARGE and not self.endpoint.budget.reserve(length):
            return None  # the app refuses it
        return PredictCycle(*target, headers, length, parser.should_keep_alive() and not self._closing)

    def _predict(self, cycle: PredictCycle, body: bytes | bytearray) -> None:
        cycle.more_body = False

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
        self.write_response(status, headers, data, close=not cycle.keep_alive)
        self.on_response_complete()

    def _release(self, length: int) -> None:
        if length > _LARGE:
            self.endpoint.budget.release(length)

    def _hand_over(self, body: bytes | bytearray) -> None:
        """Gives a prediction that must wait, or stream, to the app."""
        self.cycle = None  # type: ignore[assignment]
        super().begin_request()
        cycle: RequestResponseCycle = self.cycle
        cycle.body += body
        cycle.more_body = False
        cycle.message_event.set()


def protocol_for(endpoint: PredictEndpoint, max_body: int, max_connections: int) -> type[asyncio.Protocol]:
    """The protocol class of one server."""
    members = {"endpoint": endpoint, "max_body": max_body, "max_connections": max_connections}
    return type("BoundPredictProtocol", (PredictProtocol,), members)
