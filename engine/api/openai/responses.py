"""``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from engine.api.dialect import Call, EventStream, Reply
from engine.api.openai.common import RESPONSE_NAMES, Head, naming, wrong_model
from engine.api.openai.response_events import ResponseEvents
from engine.api.openai.response_object import begun, completed
from engine.api.openai.response_request import ResponseRequest, translate_response
from engine.transport.generation import Delta


async def create_response(call: Call) -> Reply | EventStream:
    """Answers a conversation."""
    body = call.decode(ResponseRequest)
    request = translate_response(body)
    entry = await call.entry(body.model)
    if entry.spec.info.generation is None:
        raise wrong_model(entry, "responses")
    head = Head.of("resp_", body.model, entry.spec)
    with naming(RESPONSE_NAMES):
        if body.stream:
            return EventStream(_events(await call.generate(entry, request), ResponseEvents(begun(head, body))))
        (completion,) = await call.complete(entry, request)
        return Reply(completed(head, body, completion))


async def _events(deltas: AsyncGenerator[list[Delta], None], events: ResponseEvents) -> AsyncGenerator[bytes, None]:
    async with aclosing(deltas):
        yield events.begin()
        async for group in deltas:
            data = events.of(group)
            if data:
                yield data
