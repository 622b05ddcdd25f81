"""The spans of HTTP requests, by OpenTelemetry's conventions for servers: ``POST /v1/models/{name}:predict``.

The request's id is an attribute, so that a span is found by what the client has. Requests that are not sampled pass
through at the cost of that decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from engine.api.http import Headers, Receive, Scope, Send
from engine.core import Engine
from engine.errors import Cancelled, ServerStopping
from engine.operations import Operation
from engine.telemetry.tracing import ERROR_TYPE, REQUEST_ID, Span, within
from engine.telemetry.tracing_export import Tracer

_LONGEST_PATH = 512
"""Characters of a path that are kept; a name that is not registered may be of any length."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TracedRoute:
    """Begins and ends the spans of one route's requests."""

    def __init__(self, tracer: Tracer, clock: Callable[[], float], method: str, path: str) -> None:
        self._tracer = tracer
        self._clock = clock
        self._name = f"{method} {path}"
        self._about = {"http.request.method": method, "http.route": path, "url.scheme": "http"}

    def begin(self, headers: Headers, path: str, begin: float) -> Span | None:
        """The span of a request that came at `begin` on the engine's clock; `None` if it is not sampled."""
        span = self._tracer.request(self._name, headers, begin)
        if span is not None:
            span.set({**self._about, "url.path": path[:_LONGEST_PATH]})
        return span

    async def serve(self, scope: Scope, send: Send, answer: Callable[[Send], Awaitable[None]]) -> None:
        """Has a request answered by what is given where to send, and traces that."""
        span = self.begin(Headers(scope["headers"]), scope["path"], self._clock())
        if span is None:
            await answer(send)
            return
        status, request_id, whole = 0, b"", False

        async def hear(message: MutableMapping[str, Any]) -> None:
            nonlocal status, request_id, whole
            if message["type"] == "http.response.start":
                status, request_id = message["status"], Headers(message["headers"]).get(b"x-request-id", b"")
            else:
                whole = not message.get("more_body")
            await send(message)

        with within(span):
            try:
                await answer(hear)
            except asyncio.CancelledError:  # by the server, when the time of its drain is over
                span.fail(ServerStopping.code)
                raise
            finally:
                if not whole:
                    span.fail(Cancelled.code)  # nobody would have read the rest
                end(span, status, request_id.decode())


class Traced:
    """An ASGI application whose requests are traced."""

    def __init__(self, app: App, route: TracedRoute) -> None:
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        await self._route.serve(scope, send, partial(self._app, scope, receive))


def traced(app: App, engine: Engine, operation: Operation) -> App:
    """The application of an operation; what tells of the server itself is asked too often to be traced."""
    if engine.tracer is None or operation.tag == "server":
        return app
    return Traced(app, TracedRoute(engine.tracer, engine.clock, operation.method, operation.path))


def end(span: Span, status: int, request_id: str) -> None:
    """A request was answered, or its client left before it was: then there may be no status."""
    about: dict[str, str | int] = {REQUEST_ID: request_id} if request_id else {}
    if status:
        about["http.response.status_code"] = status
    if status >= 400 and not span.failed:
        about[ERROR_TYPE] = str(status)
    span.set(about)
    span.end()
