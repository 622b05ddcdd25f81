"""The route table and the one place where an exception becomes a response.

Predictions take a short cut: they are recognised by their path and handed to a raw ASGI endpoint. Everything else
goes through Starlette's router, whose routes are the operations of `engine.api.routes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route, Router

from engine import operations
from engine.api.admin import Admin
from engine.api.dialect import Endpoint
from engine.api.http import Headers, Receive, Scope, Send, request_id, send_body, send_error
from engine.api.native import MODELS, PREDICT, PredictEndpoint, parse_target
from engine.api.routes import DIALECTS
from engine.api.traced import traced
from engine.core import Engine
from engine.errors import MethodNotAllowed, NotFound, ServerStopping, UniModelError
from engine.settings import Provenance


class App:
    """The ASGI application."""

    def __init__(self, engine: Engine, config: Mapping[str, Provenance]) -> None:
        self.predict = PredictEndpoint(engine)
        admin = Admin(engine, config)
        routes = [
            Route(o.path, traced(_Endpoint(admin, o.operation_id), engine, o), methods=[o.method])
            for o in operations.OPERATIONS
            if o.tag != "prediction"
        ]
        for dialect in DIALECTS:
            for o in dialect.operations:
                endpoint = Endpoint(engine, self.predict.budget, dialect, o)
                routes.append(Route(o.path, traced(endpoint, engine, o), methods=[o.method]))
        self._router = Router(_suffixes_first(routes), redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        try:
            if path.endswith(PREDICT) and path.startswith(MODELS):
                name, version = parse_target(path[len(MODELS) : -len(PREDICT)])
                if scope["method"] != "POST":
                    raise MethodNotAllowed(f"{path} takes POST, not {scope['method']}.")
                await self.predict(name, version, scope, receive, send)
            else:
                scope["app"] = self  # makes Starlette raise its 404 and 405 instead of answering them itself
                await self._router(scope, receive, send)
        except asyncio.CancelledError:  # by the server, when the time of its drain is over
            error = ServerStopping("The server is stopping; the request was not computed.")
            await send_error(send, error, request_id(Headers(scope["headers"])))
        except HTTPException as e:
            await send_error(send, _routing_error(e, scope), request_id(Headers(scope["headers"])))
        except Exception as e:
            await send_error(send, e, request_id(Headers(scope["headers"])))


class MetricsApp:
    """``/metrics`` alone, for a port of its own."""

    def __init__(self, engine: Engine) -> None:
        self._metrics = _Endpoint(Admin(engine, {}), "get_metrics")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            await self._metrics(scope, receive, send)
        else:
            error = NotFound("This port serves /metrics alone.")
            await send_error(send, error, request_id(Headers(scope["headers"])))


class _Endpoint:
    """A handler of `Admin` as an ASGI application, which is how Starlette takes a class instance."""

    def __init__(self, admin: Admin, operation_id: str) -> None:
        self._handler = admin.handler(operation_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rid = request_id(Headers(scope["headers"]))
        try:
            reply = await self._handler(Request(scope, receive))
        except Exception as e:
            await send_error(send, e, rid)
            return
        headers = [(b"content-type", reply.media_type.encode()), (b"x-request-id", rid.encode())]
        await send_body(send, reply.status, headers, reply.body)  # of a HEAD, uvicorn sends the headers alone


def _suffixes_first(routes: list[Route]) -> list[Route]:
    """``/v1/models/{name}:load`` before ``/v1/models/{name}``, whose parameter would swallow the suffix."""
    return sorted(routes, key=lambda r: ":" not in r.path.rpartition("/")[2])


def _routing_error(error: HTTPException, scope: Scope) -> UniModelError:
    path, method = scope["path"], scope["method"]
    if error.status_code == 405:
        return MethodNotAllowed(f"{path} does not take {method}.")
    return NotFound(f"There is no route {path}; GET /openapi.json lists them.")
