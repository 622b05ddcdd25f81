"""``:predict`` of the native API: the hot path of the whole server.

The story of a request: read the body, find the model (loading it if it is cold), parse the body by the model's
signature, let the engine compute it, encode the answer. Each failure is one typed error.

A request takes one of two ways, which share all but the waiting. `PredictEndpoint.start` serves what needs no wait: the
model is loaded, and the answer goes out from the worker's reply. `PredictEndpoint.__call__` is the ASGI way, for cold
models and streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine.api import predict_body
from engine.api.http import (
    PRIORITIES,
    TIMEOUTS_MS,
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
    parse_version,
    read_body,
    request_id,
    send_body,
    send_error,
)
from engine.core import Engine
from engine.errors import InvalidRequest, NotFound, ServerStopping, UniModelError
from engine.pool import Entry
from engine.types import Answer, Request

log = logging.getLogger("unimodel.http")

MODELS = "/v1/models/"
PREDICT = ":predict"

Respond = Callable[[int, RawHeaders, Body], None]
"""Writes a whole response: status, headers but for ``content-length``, body."""

_EVENT_STREAM = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


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
        self._deadline_ms = engine.settings.server.deadline_ms
        self._access_log = engine.settings.monitoring.access_log

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

        Returns false, having done nothing, when the model must be loaded first or the answer is a stream.
        """
        begin = self.engine.clock()
        rid = request_id(headers)

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
            if status >= 500 or self._access_log:
                self._log(name, rid, status, begin)

        try:
            entry = self.engine.ready_now(name, version)
            if entry is None:
                return False
            dispatcher = entry.dispatcher
            request, stream = self._request(entry, body, headers, rid, begin, is_gone)
            if stream:
                return False
            dispatcher.submit(request, finish)
        except Exception as e:
            finish(e)
        return True

    async def __call__(self, name: str, version: int | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, exactly once."""
        begin = self.engine.clock()
        headers = Headers(scope["headers"])
        rid = request_id(headers)
        status = 200
        reservation = Reservation(self.budget)
        try:
            reservation.cover(announced_length(headers, self.max_body))
            body = await read_body(receive, self.max_body, reservation.cover)
            entry = await self.engine.ready(name, version, self._deadline(headers, begin, None))
            request, stream = self._request(entry, body, headers, rid, begin, disconnect_probe(receive))
            if stream:
                await self._stream(name, version, bytes(body), request, receive, send)
            else:
                answer = await entry.dispatcher.predict(request)
                content, data = predict_body.answer_body(answer, request, entry.dispatcher, headers)
                content.append((b"x-request-id", rid.encode()))
                await send_body(send, 200, content, data)
        except asyncio.CancelledError:
            raise
        except Exception as e:
            known = as_known(e, rid)
            status = known.status
            await send_error(send, known, rid)
        finally:
            reservation.release()
        if status >= 500 or self._access_log:
            self._log(name, rid, status, begin)

    def _deadline(self, headers: Headers, begin: float, entry: Entry | None) -> float:
        own = entry.options.deadline_ms if entry is not None else None
        if b"x-request-timeout-ms" in headers:
            own = headers.integer(b"x-request-timeout-ms", *TIMEOUTS_MS)
        return begin + (own or self._deadline_ms) / 1000

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
            (headers.integer(b"x-request-priority", *PRIORITIES) or 0) if b"x-request-priority" in headers else 0,
            is_gone,
        )
        return request, stream

    def _log(self, name: str, rid: str, status: int, begin: float) -> None:
        level = logging.WARNING if status >= 500 else logging.INFO
        seconds = round(self.engine.clock() - begin, 6)
        log.log(level, "request", extra={"request_id": rid, "model": name, "status": status, "seconds": seconds})

    async def _stream(
        self, name: str, version: int | None, body: bytes, request: Request, receive: Receive, send: Send
    ) -> None:
        """Server-sent events. The status line goes out with the first chunk, so that an early error has its own."""
        rid = request.request_id
        chunks = self.engine.stream(name, version, body, rid, request.deadline)
        gone = asyncio.create_task(_disconnected(receive))
        step: asyncio.Future[bytes | None] = asyncio.Future()
        started = False
        try:
            while True:
                step = asyncio.ensure_future(anext(chunks, None))
                await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    return
                chunk = step.result()
                if not started:
                    headers = [*_EVENT_STREAM, (b"x-request-id", rid.encode())]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                event = b"data: [DONE]\n\n" if chunk is None else b"data: %s\n\n" % chunk
                await send({"type": "http.response.body", "body": event, "more_body": chunk is not None})
                if chunk is None:
                    return
        except (UniModelError, asyncio.CancelledError) as e:
            if not started:
                raise
            error = ServerStopping("The server is stopping.") if isinstance(e, asyncio.CancelledError) else e
            await send({"type": "http.response.body", "body": _error_event(error, rid)})
        finally:
            gone.cancel()
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
            await chunks.aclose()


def _error_event(error: UniModelError, rid: str) -> bytes:
    return b"event: error\ndata: %s\n\n" % encode_json(error_body(error, rid))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
