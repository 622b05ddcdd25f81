"""Several prompts in one request: their answers are generated side by side, and come as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from engine.api.dialect import Call
from engine.generation.completion import Completion
from engine.pool import Entry
from engine.transport.generation import Delta, GenerateRequest

_AT_ONCE = 64
"""Prompts of one request that are with the model together, so that a long list does not fill its queue."""

Deltas = AsyncGenerator[list[Delta], None]
Begin = Callable[[GenerateRequest], Awaitable[Deltas]]


async def complete_all(call: Call, entry: Entry, requests: list[GenerateRequest]) -> list[list[Completion]]:
    """The whole choices of every request. The first that fails ends all."""
    if len(requests) == 1:
        return [await call.complete(entry, requests[0])]
    room = asyncio.Semaphore(_AT_ONCE)

    async def complete(request: GenerateRequest) -> list[Completion]:
        async with room:
            return await call.complete(entry, request)

    tasks = [asyncio.create_task(complete(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def merged(
    first: Deltas, others: list[GenerateRequest], begin: Begin
) -> AsyncGenerator[tuple[int, list[Delta]], None]:
    """The deltas of several requests as they come, each group with the number of its request.

    The `first` has begun already. One that fails ends all.
    """
    if not others:
        async with aclosing(first):
            async for group in first:
                yield 0, group
        return
    # A reader that is slow fills this queue, then the streams behind it, whose bytes are bounded.
    groups: asyncio.Queue[tuple[int, list[Delta]] | Exception | None] = asyncio.Queue(maxsize=16)
    room = asyncio.Semaphore(_AT_ONCE)

    async def forward(number: int, deltas: Deltas) -> None:
        async with aclosing(deltas):
            async for group in deltas:
                await groups.put((number, group))

    async def pump(number: int, request: GenerateRequest | None) -> None:
        try:
            async with room:
                await forward(number, first if request is None else await begin(request))
        except Exception as e:
            await groups.put(e)
        else:
            await groups.put(None)

    tasks = [asyncio.create_task(pump(i, request)) for i, request in enumerate([None, *others])]
    left = len(tasks)
    try:
        while left:
            item = await groups.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        await _end(tasks)


async def _end(tasks: list[asyncio.Task[list[Completion]]] | list[asyncio.Task[None]]) -> None:
    """Cancels what still runs, and waits until it is over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
