"""Connections whose clients stall: real sockets on a real uvicorn that is hardly patient."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from engine.api.connection import Connection
from engine.api.http import BodyBudget, Receive, Scope, Send, read_body, send_body
from engine.api.protocol import protocol_for

PATIENCE = 0.4


async def slow_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, long after the connection would count as idle."""
    body = await read_body(receive, 1 << 20)
    await asyncio.sleep(2 * PATIENCE)
    await send_body(send, 200, [], bytes(body))


@contextlib.asynccontextmanager
async def served(protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    """The port of a server of `slow_echo`."""
    config = uvicorn.Config(slow_echo, port=0, http=protocol, log_config=None, lifespan="off", ws="none")
    config.timeout_keep_alive = PATIENCE  # type: ignore[assignment]
    server = uvicorn.Server(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "capture_signals", contextlib.nullcontext)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        await running


async def until_closed(port: int, data: bytes) -> bytes:
    """What a client receives that sends `data` and no more, until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(20):
        received = await reader.read()
    writer.close()
    return received


HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize(
    "data", [b"", HEAD[:30], HEAD, HEAD + b"hal"], ids=["silent", "half-a-head", "no-body", "half-a-body"]
)
async def test_a_client_that_stalls_loses_its_connection(data: bytes) -> None:
    async with served(Connection) as port:
        assert await until_closed(port, data) == b""


async def test_a_client_that_waits_for_its_answer_does_not_stall() -> None:
    async with served(Connection) as port:
        received = await until_closed(port, (HEAD + b"hello") * 2)
        assert received.count(b"200 OK") == 2
        assert received.endswith(b"hello"), "and is idle only after the second answer"


async def test_a_large_body_that_never_ends_gives_its_memory_back() -> None:
    budget = BodyBudget(1 << 20)
    endpoint: Any = SimpleNamespace(budget=budget)
    head = HEAD.replace(b": 5", b": 1000000")
    async with served(protocol_for(endpoint, 1 << 20, 10)) as port:
        for begin in (b"", b"x" * 100_000):
            assert await until_closed(port, head + begin) == b""
    assert budget.reserve(1)
    assert budget.reserve((1 << 20) - 1), "nothing else is held"


async def test_a_body_that_comes_slowly_is_no_stall() -> None:
    async with served(Connection) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (HEAD, b"h", b"e", b"l", b"l", b"o"):
            writer.write(piece)
            await asyncio.sleep(PATIENCE / 4)
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"hello")
        writer.close()
