"""What the dialects of other servers' clients share: reading a request, answering it, streaming.

A dialect is a table of operations with a handler each. A handler gets a `Call` and returns a `Reply` or an
`EventStream`; whatever it raises is answered in the dialect's own shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from engine.api.http import (
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
    error_headers,
    log_request,
    read_body,
    read_pieces,
    request_id,
    send_body,
)
from engine.api.predict_body import decode_json
from engine.api.streaming import EVENT_STREAM, send_events, while_connected
from engine.core import Engine
from engine.errors import InvalidRequest, UniModelError
from engine.generation.completion import Completion, collect
from engine.operations import Operation
from engine.pool import Entry
from engine.transport.generation import Delta, GenerateRequest
from engine.transport.transcription import TranscribeRequest, TranscriptDelta
from engine.types import Answer, Input, Request

T = TypeVar("T")


@dataclass(slots=True)
class Reply:
    """A whole response. The body is encoded as JSON unless it is bytes."""

    body: Any
    status: int = 200
    media_type: str = "application/json"


@dataclass(slots=True)
class EventStream:
    """A response in pieces, each of which is written as it is. The status goes out with the first."""

    events: AsyncGenerator[bytes, None]
    media_type: str = EVENT_STREAM


Handler = Callable[["Call"], Awaitable["Reply | EventStream"]]


@dataclass(frozen=True)
class Dialect:
    """How one kind of client is spoken to."""

    name: str
    operations: tuple[Operation, ...]
    handlers: Mapping[str, Handler]
    """By `Operation.operation_id`."""
    error_body: Callable[[UniModelError, str], Any]
    """An error and the request's id as the JSON body of a response."""
    error_event: Callable[[UniModelError, str], bytes]
    """The same as the last piece of a stream, ready to be written."""
    id_header: bytes | None = None
    """A header in which its clients look for the request's id, besides ``x-request-id``."""


@dataclass(slots=True)
class Call:
    """One request, as a handler sees it."""

    engine: Engine
    headers: Headers
    body: bytes | bytearray
    """Empty when it is a file, which comes in `pieces`."""
    request_id: str
    begin: float
    """When it arrived, on the engine's clock."""
    path: Mapping[str, str] = field(default_factory=dict)
    """The path's parameters."""
    query: bytes = b""
    is_gone: Callable[[], bool] | None = None
    pieces: AsyncIterator[bytes] | None = None
    """Of a file, as they come. Raises `Cancelled` when the client goes away."""

    def decode(self, kind: type[T]) -> T:
        """The body as a struct. Raises `InvalidJSON`, or `InvalidInput` that names the field."""
        value: T = decode_json(msgspec.json.Decoder(kind).decode, self.body or b"{}")
        return value

    @property
    def asked_deadline(self) -> float | None:
        """The deadline that the client itself asked for, on the engine's clock."""
        timeout = self.headers.timeout
        return None if timeout is None else self.begin + timeout

    def deadline(self, entry: Entry | None = None) -> float:
        """The deadline of the whole request, on the engine's clock: the client's, the model's or the server's."""
        return self.asked_deadline or self.begin + self.engine.patience(entry)

    async def entry(self, name: str, version: int | None = None) -> Entry:
        """The loaded model that serves a name. Raises `ModelNotFound`, `ModelFailed`, `DeadlineExceeded`."""
        return await self.engine.ready(name, version, self.deadline())

    async def predict(self, entry: Entry, source: Input, parameters: bytes = b"") -> Answer:
        """The answer of a model that computes all at once. Raises what the model makes of it."""
        request = Request(
            source, self.request_id, self.deadline(entry), False, parameters, self.headers.priority, self.is_gone
        )
        return await entry.dispatcher.predict(request)

    async def generate(self, entry: Entry, request: GenerateRequest) -> AsyncGenerator[list[Delta], None]:
        """The deltas of a generated answer. Close the generator to cancel the rest.

        The first deltas are here when this returns, so what is wrong with the request is raised now, and not in the
        middle of a stream.

        Raises `InvalidRequest` when the model does not generate text.
        """
        if entry.spec.info.generation is None:
            raise InvalidRequest(
                f"Model {entry.spec.name!r} is for the task {entry.spec.task}, and does not generate text.",
                field="model",
            )
        return await _begun(
            self.engine.generate(
                entry, request, self.request_id, self.begin, self.asked_deadline, self.headers.priority
            )
        )

    async def complete(self, entry: Entry, request: GenerateRequest) -> list[Completion]:
        """The whole choices of a generated answer."""
        return await collect(await self.generate(entry, request), request.choices)

    async def transcribe(self, entry: Entry, request: TranscribeRequest) -> AsyncGenerator[TranscriptDelta, None]:
        """What there is of a transcription, as it comes. Close the generator to cancel the rest.

        As with `generate`, what is wrong with the request is raised now. Raises `InvalidRequest` when the model is for
        something else.
        """
        if entry.spec.info.transcription is None:
            raise InvalidRequest(
                f"Model {entry.spec.name!r} is for the task {entry.spec.task}, and does not write down speech.",
                field="model",
            )
        return await _begun(
            self.engine.transcribe(
                entry, request, self.request_id, self.begin, self.asked_deadline, self.headers.priority
            )
        )

    async def transcript(self, entry: Entry, request: TranscribeRequest) -> TranscriptDelta:
        """A whole transcription."""
        whole = TranscriptDelta()
        async for delta in await self.transcribe(entry, request):
            whole.add(delta)
        return whole


async def _begun(answer: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """An answer whose first piece is here."""
    first = [piece] if (piece := await anext(answer, None)) is not None else []

    async def all_of_it() -> AsyncGenerator[T, None]:
        async with aclosing(answer):
            for piece in first:
                yield piece
            async for piece in answer:
                yield piece

    return all_of_it()


class Endpoint:
    """An operation of a dialect as an ASGI application."""

    def __init__(self, engine: Engine, budget: BodyBudget, dialect: Dialect, operation: Operation) -> None:
        self._engine = engine
        self._budget = budget
        self._dialect = dialect
        self._handler = dialect.handlers[operation.operation_id]
        self._takes_file = operation.takes_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, exactly once."""
        begin = self._engine.clock()
        headers = Headers(scope["headers"])
        rid = request_id(headers)
        status = 200
        reservation = Reservation(self._budget)
        path, query = scope.get("path_params", {}), scope.get("query_string", b"")
        call = Call(self._engine, headers, b"", rid, begin, path, query, disconnect_probe(receive))
        try:
            if self._takes_file:
                call.pieces = read_pieces(receive)
                reply: Reply | EventStream | None = await self._handler(call)
            else:
                limit = self._engine.settings.server.max_body_mb << 20
                reservation.cover(announced_length(headers, limit))
                call.body = await read_body(receive, limit, reservation.cover)
                reply = await while_connected(self._handler(call), receive)
            if reply is None:
                return
            if isinstance(reply, EventStream):
                error_event = self._dialect.error_event
                await send_events(reply.events, reply.media_type, error_event, rid, receive, send, self._extra_id(rid))
            else:
                status = reply.status
                data = reply.body if isinstance(reply.body, bytes) else encode_json(reply.body)
                content = (b"content-type", reply.media_type.encode())
                await send_body(send, status, [content, (b"x-request-id", rid.encode()), *self._extra_id(rid)], data)
        except asyncio.CancelledError:
            raise
        except Exception as e:
            known = as_known(e, rid)
            status = known.status
            head = [*error_headers(known, rid), *self._extra_id(rid)]
            await send_body(send, status, head, encode_json(self._dialect.error_body(known, rid)))
        finally:
            reservation.release()
        if status >= 500 or self._engine.settings.monitoring.access_log:
            log_request(rid, status, self._engine.clock() - begin, path=scope["path"])

    def _extra_id(self, rid: str) -> RawHeaders:
        return [] if self._dialect.id_header is None else [(self._dialect.id_header, rid.encode())]
