"""Responses in pieces, and work that ends when its client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from engine.api.http import RawHeaders, Receive, Send, as_known
from engine.errors import ServerStopping, UniModelError

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"
NDJSON = "application/x-ndjson"


async def while_connected(work: Awaitable[T], receive: Receive) -> T | None:
    """The result of `work`, or `None`, having cancelled it, when the client goes away. The body has been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def send_events(
    events: AsyncGenerator[bytes, None],
    media_type: str,
    error_event: Callable[[UniModelError, str], bytes],
    rid: str,
    receive: Receive,
    send: Send,
    more_headers: RawHeaders | None = None,
) -> None:
    """Writes pieces as they come, until the last, an error, or the end of the connection.

    The status goes out with the first piece, so that an error before it is raised, and can have a status of its own. A
    later one is written as `error_event` puts it.
    """
    started = False

    async def start() -> None:
        nonlocal started
        headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-store")]
        headers += [(b"x-request-id", rid.encode()), *(more_headers or ())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        started = True

    async def write() -> None:
        async for piece in events:
            if not started:
                await start()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not started:
            await start()
        await send({"type": "http.response.body", "body": b""})

    writing = asyncio.create_task(write())
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
    except (Exception, asyncio.CancelledError) as e:
        await _end(writing)
        if not started:
            raise
        error = ServerStopping("The server is stopping.") if isinstance(e, asyncio.CancelledError) else e
        await send({"type": "http.response.body", "body": error_event(as_known(error, rid), rid)})
    finally:
        gone.cancel()
        await _end(writing)
        await events.aclose()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
