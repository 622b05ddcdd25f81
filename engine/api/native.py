"""``:predict`` of the native API: the hot path of the whole server.

The story of a request: read the body, find the model (loading it if it is cold), parse the body by the model's
signature, let the engine compute it, encode the answer. Each failure is one typed error.

A request takes one of two ways, which share all but the waiting. `PredictEndpoint.start` serves what needs no wait: the
model is loaded, and the answer goes out from the worker's reply. `PredictEndpoint.__call__` is the ASGI way, for cold
models and streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial

from engine.api import native_generation, native_transcription, predict_body, traced
from engine.api.dialect import Call
from engine.api.http import (
    Body,
    BodyBudget,
    Headers,
    RawHeaders,
    Receive,
    Reservation,
    Scope,
    Send,
    announced_length,
    as_known,
    disconnect_probe,
    encode_json,
    error_body,
    error_headers,
    log_request,
    parse_version,
    read_body,
    request_id,
    send_body,
    send_error,
)
from engine.api.streaming import EVENT_STREAM, send_events, while_connected
from engine.api.traced import TracedRoute
from engine.core import Engine
from engine.errors import InvalidRequest, NotFound
from engine.pipelines import is_pipeline
from engine.pool import Entry
from engine.telemetry.tracing import Span
from engine.types import Answer, ModelSpec, Request

MODELS = "/v1/models/"
PREDICT = ":predict"

_JSON_TYPE: RawHeaders = [(b"content-type", b"application/json")]

Respond = Callable[[int, RawHeaders, Body], None]
"""Writes a whole response: status, headers but for ``content-length``, body."""


def parse_target(text: str) -> tuple[str, int | None]:
    """``name`` or ``name/versions/3``, as they stand between `MODELS` and `PREDICT`."""
    name, slash, rest = text.partition("/")
    if not slash:
        return name, None
    kind, _, number = rest.partition("/")
    if kind != "versions" or not name:
        raise NotFound(f"There is no route {MODELS}{text}{PREDICT}.")
    return name, parse_version(number)


class PredictEndpoint:
    """``POST /v1/models/{name}:predict`` and ``POST /v1/models/{name}/versions/{v}:predict``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.max_body = engine.settings.server.max_body_mb << 20
        self.budget = BodyBudget(engine.settings.server.max_buffered_mb << 20)
        self._access_log = engine.settings.monitoring.access_log
        self._routes = None
        """Of a name, and of a version; `None` when nothing is traced."""
        if (tracer := engine.tracer) is not None:
            paths = ("{name}", "{name}/versions/{version}")
            self._routes = [TracedRoute(tracer, engine.clock, "POST", f"{MODELS}{path}{PREDICT}") for path in paths]

    def start(
        self,
        name: str,
        version: int | None,
        headers: Headers,
        body: bytes | bytearray,
        is_gone: Callable[[], bool],
        respond: Respond,
    ) -> bool:
        """Starts a request whose body is here. Its response comes through `respond`, exactly once.

        Returns false, having done nothing, when the model must be loaded first, answers step by step, or streams.
        """
        begin = self.engine.clock()
        rid = request_id(headers)
        span: Span | None = None

        def finish(outcome: Answer | BaseException) -> None:
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                content, data = predict_body.answer_body(outcome, request, dispatcher, headers)
                content.append((b"x-request-id", rid.encode()))
                status = 200
            except Exception as e:
                known = as_known(e, rid)
                status, content, data = known.status, error_headers(known, rid), encode_json(error_body(known, rid))
            respond(status, content, data)
            self._log(name, rid, status, begin)
            if span is not None:
                traced.end(span, status, rid)

        on_end: Callable[[Answer | BaseException], None] = finish
        try:
            if self._routes is not None:
                path = f"{MODELS}{name}{PREDICT}" if version is None else f"{MODELS}{name}/versions/{version}{PREDICT}"
                span = self._routes[version is not None].begin(headers, path, begin)
                if span is not None:
                    on_end = span.around(finish)
            entry = self.engine.ready_now(name, version)
            if entry is None or entry.spec.info.sequences is not None:
                return False  # a span that does not end is never sent
            dispatcher = entry.dispatcher
            request, stream = self._request(entry, body, headers, rid, begin, is_gone)
            if stream:
                return False
            dispatcher.submit(request, on_end, span)
        except Exception as e:
            on_end(e)
        return True

    async def __call__(self, name: str, version: int | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, exactly once."""
        if self._routes is None:
            await self._answer(name, version, scope, receive, send)
        else:
            route = self._routes[version is not None]
            await route.serve(scope, send, partial(self._answer, name, version, scope, receive))

    async def _answer(self, name: str, version: int | None, scope: Scope, receive: Receive, send: Send) -> None:
        begin = self.engine.clock()
        headers = Headers(scope["headers"])
        rid = request_id(headers)
        status = 200
        reservation = Reservation(self.budget)
        try:
            reservation.cover(announced_length(headers, self.max_body))
            body = await read_body(receive, self.max_body, reservation.cover)
            spec = self.engine.registry.get(name, version)
            call = Call(self.engine, headers, body, rid, begin, query=scope["query_string"])
            if is_pipeline(spec):
                await self._pipeline(spec, call, receive, send)
            else:
                await self._model(name, version, call, receive, send)
        except asyncio.CancelledError:
            raise
        except Exception as e:
            known = as_known(e, rid)
            status = known.status
            await send_error(send, known, rid)
        finally:
            reservation.release()
        self._log(name, rid, status, begin)

    async def _pipeline(self, spec: ModelSpec, call: Call, receive: Receive, send: Send) -> None:
        from engine.api import pipeline  # its libraries take a part of a server's start that most have no use for

        call.is_gone = disconnect_probe(receive)
        data = await while_connected(pipeline.answer(call, spec), receive)
        if data is not None:
            await send_body(send, 200, [*_JSON_TYPE, (b"x-request-id", call.request_id.encode())], data)

    async def _model(self, name: str, version: int | None, call: Call, receive: Receive, send: Send) -> None:
        headers, rid = call.headers, call.request_id
        entry = await self.engine.ready(name, version, self._deadline(headers, call.begin, None))
        if entry.spec.info.sequences is not None:
            native = native_transcription if entry.spec.info.transcription is not None else native_generation
            await native.answer(call, entry, receive, send)
            return
        request, stream = self._request(entry, call.body, headers, rid, call.begin, disconnect_probe(receive))
        if stream:
            await self._stream(name, version, bytes(call.body), request, receive, send)
            return
        answer = await entry.dispatcher.predict(request)
        content, data = predict_body.answer_body(answer, request, entry.dispatcher, headers)
        content.append((b"x-request-id", rid.encode()))
        await send_body(send, 200, content, data)

    def _deadline(self, headers: Headers, begin: float, entry: Entry | None) -> float:
        return begin + (headers.timeout or self.engine.patience(entry))

    def _request(
        self,
        entry: Entry,
        body: bytes | bytearray,
        headers: Headers,
        rid: str,
        begin: float,
        is_gone: Callable[[], bool] | None,
    ) -> tuple[Request, bool]:
        """The engine's request, and whether its answer is to be streamed. Raises `InvalidRequest`."""
        dispatcher = entry.dispatcher
        loaded = dispatcher.loaded
        assert loaded is not None
        source, parameters, stream = predict_body.parse(
            body, headers, loaded, dispatcher.decoder, dispatcher.policy.max_rows
        )
        if stream and not loaded.info.streams:
            raise InvalidRequest(f"Model {entry.spec.name!r} does not stream.", field="stream")
        request = Request(
            source,
            rid,
            self._deadline(headers, begin, entry),
            predict_body.wants_tensors(headers),
            parameters,
            headers.priority,
            is_gone,
        )
        return request, stream

    def _log(self, name: str, rid: str, status: int, begin: float) -> None:
        if status >= 500 or self._access_log:
            log_request(rid, status, self.engine.clock() - begin, model=name)

    async def _stream(
        self, name: str, version: int | None, body: bytes, request: Request, receive: Receive, send: Send
    ) -> None:
        """A plugin's chunks as server-sent events."""
        chunks = self.engine.stream(name, version, body, request.request_id, request.deadline)
        await send_events(
            _events(chunks), EVENT_STREAM, native_generation.error_event, request.request_id, receive, send
        )


async def _events(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in chunks:
            yield b"data: %s\n\n" % chunk
        yield b"data: [DONE]\n\n"
    finally:
        await chunks.aclose()
