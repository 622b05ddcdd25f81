"""``:predict`` of the native API, as a raw ASGI endpoint: the hot path of the whole server.

The story of a request: read the body, find the model (loading it if it is cold), parse the body by the model's
signature, let the engine compute it, encode the answer. Each failure is one typed error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from engine.api import predict_body
from engine.api.http import (
    PRIORITIES,
    Headers,
    Receive,
    Scope,
    Send,
    as_known,
    disconnect_probe,
    encode_json,
    error_body,
    read_body,
    request_id,
    send_body,
    send_error,
)
from engine.core import Engine, Entry
from engine.errors import InvalidRequest
from engine.types import Request

log = logging.getLogger("unimodel.http")

_EVENT_STREAM = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class PredictEndpoint:
    """``POST /v1/models/{name}:predict`` and ``POST /v1/models/{name}/versions/{v}:predict``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._max_body = engine.settings.server.max_body_mb << 20
        self._deadline_ms = engine.settings.server.deadline_ms
        self._access_log = engine.settings.monitoring.access_log

    async def __call__(self, name: str, version: int | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, exactly once."""
        headers = Headers(scope["headers"])
        rid = request_id(headers)
        begin = self.engine.clock()
        status = 200
        try:
            body = await read_body(receive, headers, self._max_body)
            given_ms = headers.integer(b"x-request-timeout-ms", 1)
            entry = await self.engine.ready(name, version, begin + (given_ms or self._deadline_ms) / 1000)
            deadline = begin + (given_ms or entry.options.deadline_ms or self._deadline_ms) / 1000
            await self._answer(entry, body, headers, rid, deadline, receive, send)
        except asyncio.CancelledError:
            raise
        except BaseException as e:
            status = as_known(e, rid).status if isinstance(e, Exception) else 500
            await send_error(send, as_known(e, rid) if status != 500 else e, rid)
        if status >= 500 or self._access_log:
            seconds = round(self.engine.clock() - begin, 6)
            log.log(
                logging.WARNING if status >= 500 else logging.INFO,
                "request",
                extra={"request_id": rid, "model": name, "status": status, "seconds": seconds},
            )

    async def _answer(
        self,
        entry: Entry,
        body: bytes | bytearray,
        headers: Headers,
        rid: str,
        deadline: float,
        receive: Receive,
        send: Send,
    ) -> None:
        dispatcher = entry.dispatcher
        loaded = dispatcher.loaded
        assert loaded is not None
        source, parameters, stream = predict_body.parse(body, headers, loaded, dispatcher.policy.max_rows)
        if stream:
            if not loaded.info.streams:
                raise InvalidRequest(f"Model {entry.spec.name!r} does not stream.", field="stream")
            await self._stream(entry, bytes(body), rid, deadline, receive, send)
            return
        accept = predict_body.media_type(headers.get(b"accept"))
        request = Request(
            source,
            rid,
            deadline,
            accept in (predict_body.OCTETS, predict_body.NPY),
            parameters,
            headers.integer(b"x-request-priority", *PRIORITIES) or 0,
            disconnect_probe(receive),
        )
        answer = await dispatcher.predict(request)
        content, data = predict_body.answer_body(answer, source, dispatcher, accept, headers.get(b"x-tensor-output"))
        content.append((b"x-request-id", rid.encode()))
        await send_body(send, 200, content, data)

    async def _stream(self, entry: Entry, body: bytes, rid: str, deadline: float, receive: Receive, send: Send) -> None:
        """Server-sent events. The status line goes out with the first chunk, so that an early error has its own."""
        chunks = self.engine.stream(entry, body, rid, deadline)
        gone = asyncio.create_task(_disconnected(receive))
        started = False
        try:
            while True:
                step = asyncio.ensure_future(anext(chunks, None))
                await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await step
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
        except Exception as e:
            if not started:
                raise
            data = encode_json(error_body(as_known(e, rid), rid))
            await send({"type": "http.response.body", "body": b"event: error\ndata: %s\n\n" % data})
        finally:
            gone.cancel()
            await chunks.aclose()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
