"""The native API but for `:predict`: registering, describing, loading, aliases, the server itself. Each handler only
translates between HTTP and the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from engine import installed, openapi, schema, views
from engine.api.http import Headers, announced_length, encode_json, parse_version, read_body
from engine.api.predict_body import JSON, decode_json, media_type
from engine.api.routes import OPERATIONS
from engine.core import Engine
from engine.errors import UnsupportedMediaType
from engine.registry import split_version
from engine.settings import Provenance
from engine.telemetry.metrics import CONTENT_TYPE
from engine.types import ModelSpec
from engine.version import __version__

MAX_ADMIN_BODY = 1 << 20


class Reply(msgspec.Struct):
    """What a handler answers."""

    body: bytes
    status: int = 200
    media_type: str = JSON


Handler = Callable[[Request], Awaitable[Reply]]
S = TypeVar("S", bound=msgspec.Struct)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(encode_json(value), status)


class Admin:
    """The handlers, one for each operation of `engine.operations.OPERATIONS` that is not a prediction."""

    def __init__(self, engine: Engine, config: Mapping[str, Provenance]) -> None:
        self.engine = engine
        self.config = config
        self._openapi = encode_json(openapi.document(__version__, OPERATIONS))

    def handler(self, operation_id: str) -> Handler:
        """The handler of an operation: the method of its name, for one version and the serving one alike."""
        method: Handler = getattr(self, operation_id.replace("_model_version", "_model"))
        return method

    # --- models ------------------------------------------------------------------------------------------------------

    async def list_models(self, _: Request) -> Reply:
        """``GET /v1/models``"""
        specs = self.engine.registry.list()
        return _json(schema.ModelList(data=[views.model_view(self.engine, s, with_example=False) for s in specs]))

    async def register_model(self, request: Request) -> Reply:
        """``POST /v1/models``"""
        spec = await self.engine.register(await _decode(request, schema.RegisterRequest))
        return _json(views.model_view(self.engine, spec), 201)

    async def get_model(self, request: Request) -> Reply:
        """``GET /v1/models/{name}``"""
        return _json(views.model_view(self.engine, self._spec(request)))

    async def delete_model(self, request: Request) -> Reply:
        """``DELETE /v1/models/{name}``"""
        name = request.path_params["name"]
        version = _version(request.path_params.get("version") or request.query_params.get("version"))
        name, version = split_version(name, version)
        return _json(schema.Deleted(name=name, versions=await self.engine.unregister(name, version)))

    async def get_model_status(self, request: Request) -> Reply:
        """``GET /v1/models/{name}/status``"""
        return _json(views.status_view(self.engine, self._spec(request)))

    async def load_model(self, request: Request) -> Reply:
        """``POST /v1/models/{name}:load``"""
        spec = self._spec(request)
        await self.engine.load(spec)
        return _json(views.status_view(self.engine, spec))

    async def unload_model(self, request: Request) -> Reply:
        """``POST /v1/models/{name}:unload``"""
        spec = self._spec(request)
        await self.engine.pool.unload(spec)
        return _json(views.status_view(self.engine, spec))

    def _spec(self, request: Request) -> ModelSpec:
        return self.engine.registry.get(request.path_params["name"], _version(request.path_params.get("version")))

    # --- aliases -----------------------------------------------------------------------------------------------------

    async def list_aliases(self, _: Request) -> Reply:
        """``GET /v1/aliases``"""
        return _json(schema.AliasList(aliases=self.engine.registry.aliases()))

    async def set_alias(self, request: Request) -> Reply:
        """``PUT /v1/aliases/{alias}``"""
        body = await _decode(request, schema.AliasRequest)
        return _json(self.engine.registry.set_alias(request.path_params["alias"], body.model, body.version))

    async def delete_alias(self, request: Request) -> Reply:
        """``DELETE /v1/aliases/{alias}``"""
        return _json(self.engine.registry.remove_alias(request.path_params["alias"]))

    # --- server ------------------------------------------------------------------------------------------------------

    async def get_status(self, _: Request) -> Reply:
        """``GET /v1/status``"""
        return _json(views.server_view(self.engine))

    async def get_config(self, _: Request) -> Reply:
        """``GET /v1/config``"""
        return _json(views.config_view(self.config))

    async def list_backends(self, _: Request) -> Reply:
        """``GET /v1/backends``"""
        return _json(await asyncio.to_thread(installed.backends))

    async def get_health(self, _: Request) -> Reply:
        """``GET /healthz``: the loop turns."""
        return _json(schema.Health(status="ok", version=__version__))

    async def get_readiness(self, _: Request) -> Reply:
        """``GET /readyz``: requests are taken."""
        state = self.engine.state
        status = 200 if state == "ready" else 503
        return _json(schema.Health(status="ok" if state == "ready" else state, version=__version__), status)

    async def get_metrics(self, _: Request) -> Reply:
        """``GET /metrics``"""
        views.refresh_gauges(self.engine)
        return Reply(self.engine.metrics.render(), media_type=CONTENT_TYPE)

    async def get_openapi(self, _: Request) -> Reply:
        """``GET /openapi.json``"""
        return Reply(self._openapi)


def _version(text: str | None) -> int | None:
    return None if text is None else parse_version(text)


async def _decode(request: Request, kind: type[S]) -> S:
    """The JSON body as a struct. Raises `InvalidRequest` that names the field."""
    headers = Headers(list(request.scope["headers"]))
    media = media_type(headers.text(b"content-type"))
    if media not in ("", JSON, "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(f"This route takes {JSON}; got {media}.", field="content-type")
    announced_length(headers, MAX_ADMIN_BODY)
    body = await read_body(request.receive, MAX_ADMIN_BODY)
    decoded: S = decode_json(msgspec.json.Decoder(kind).decode, body)
    return decoded
