"""The short cut for predictions: whatever way the bytes come, every request gets its own answer, once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httptools
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from engine.api.http import Body, BodyBudget, Headers, RawHeaders, read_body, send_body
from engine.api.native import PredictEndpoint, parse_target
from engine.api.protocol import PredictProtocol, _target, protocol_for
from engine.errors import InvalidRequest, NotFound

MAX_BODY = 2_000_000


class Echo:
    """In the endpoint's place: answers with the body, after a while, or leaves the request to the app."""

    def __init__(self) -> None:
        self.budget = BodyBudget(3_000_000)
        self.loop = asyncio.get_running_loop()
        self.started: list[tuple[str, int | None, int]] = []
        self.cold = 0
        """So many requests are left to the app from now on."""
        self.open: list[Callable[[], bool]] = []
        self.hold: list[Callable[[], None]] | None = None

    def start(
        self,
        name: str,
        version: int | None,
        headers: Headers,
        body: bytes | bytearray,
        is_gone: Callable[[], bool],
        respond: Callable[[int, RawHeaders, Body], None],
    ) -> bool:
        if self.cold:
            self.cold -= 1
            return False
        self.started.append((name, version, len(body)))
        self.open.append(is_gone)
        answer = bytes(body)

        def finish() -> None:
            respond(200, [(b"x-way", b"short")], answer)

        if self.hold is not None:
            self.hold.append(finish)
        else:
            self.loop.call_later(random.choice([0, 0, 0.001]), finish)
        return True

    @property
    def held(self) -> int:
        """Bytes of the budget that are taken."""
        return self.budget._held


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Uvicorn's ordinary way: echoes too."""
    body = await read_body(receive, 10 * MAX_BODY)
    await send_body(send, 200, [(b"x-way", b"app"), (b"x-path", scope["path"].encode())], bytes(body))


class Client:
    """The client's end of one connection."""

    def __init__(self, sock: socket.socket, echo: Echo, protocol: PredictProtocol) -> None:
        self.sock = sock
        self.echo = echo
        self.protocol = protocol
        self.loop = asyncio.get_running_loop()
        self.responses: list[tuple[int, dict[bytes, bytes], bytes]] = []
        self._parser = httptools.HttpResponseParser(self)
        self.eof = False

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def receive(self, count: int) -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """The next responses."""
        async with asyncio.timeout(20):
            while len(self.responses) < count and not self.eof:
                data = await self.loop.sock_recv(self.sock, 1 << 20)
                self.eof = not data
                if data:
                    self._parser.feed_data(data)
        taken, self.responses = self.responses[:count], self.responses[count:]
        return taken

    def on_message_begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.responses.append((self._parser.get_status_code(), self._headers, self._body))


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[Client]:
    echo = Echo()
    cls = protocol_for(cast(PredictEndpoint, echo), MAX_BODY, 100)
    config = uvicorn.Config(app, http=cls, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    made = cast(Any, cls)(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    transport, protocol = await loop.connect_accepted_socket(lambda: made, theirs)
    try:
        yield Client(ours, echo, cast(PredictProtocol, protocol))
    finally:
        transport.close()
        ours.close()
        await asyncio.sleep(0)


def request(body: bytes, *lines: bytes, target: bytes = b"/v1/models/m:predict") -> bytes:
    head = [b"POST %s HTTP/1.1" % target, b"host: x", b"content-length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    chunks = [body[i : i + 1000] for i in range(0, len(body), 1000)]
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks)
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + pieces + b"0\r\n\r\n"


def body_of(size: int, number: int) -> bytes:
    return (b"%d:" % number + b"x" * size)[:size] if size > 3 else b"%d" % number


SIZES = [1, 20, 1000, 65_535, 65_536, 65_537, 70_000, 300_000]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(SIZES), st.sampled_from(["plain", "chunked", "cold", "other"])),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
    st.integers(0, 1000),
)
def test_any_cuts_of_any_requests(wishes: list[tuple[int, str]], pipelined: bool, seed: int) -> None:
    """Pairs of (bytes of body, way). Pipelined, all are sent before the first answer is read."""
    dice = random.Random(seed)

    async def scenario() -> None:
        async with connection() as client:
            bodies = [body_of(size, number) for number, (size, _) in enumerate(wishes)]
            raw = []
            for body, (_, way) in zip(bodies, wishes, strict=True):
                if way == "chunked":
                    raw.append(chunked(body))
                elif way == "other":
                    raw.append(request(body, target=b"/v1/models"))
                else:
                    raw.append(request(body))

            async def write(data: bytes) -> None:
                while data:
                    cut = dice.choice([1, 10, 100, 5000, 65_536, 200_000])
                    await client.send(data[:cut])
                    data = data[cut:]
                    if dice.random() < 0.5:
                        await asyncio.sleep(0)

            if pipelined:
                writing = asyncio.create_task(write(b"".join(raw)))
                responses = await client.receive(len(raw))
                await writing
            else:
                responses = []
                for data, (_, way) in zip(raw, wishes, strict=True):
                    client.echo.cold = way == "cold"
                    writing = asyncio.create_task(write(data))
                    responses += await client.receive(1)
                    await writing
            assert [status for status, _, _ in responses] == [200] * len(raw)
            assert [body for _, _, body in responses] == bodies
            assert client.responses == []
            if not pipelined:
                expected = [b"short" if way == "plain" else b"app" for _, way in wishes]
                assert [headers[b"x-way"] for _, headers, _ in responses] == expected
            assert client.echo.held == 0

    asyncio.run(scenario())


# -- which requests take it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (b"/v1/models/m:predict", ("m", None)),
        (b"/v1/models/a.b-c_1:predict", ("a.b-c_1", None)),
        (b"/v1/models/m/versions/3:predict", ("m", 3)),
        (b"/v1/models/m", None),
        (b"/v1/models/m:load", None),
        (b"/v2/models/m:predict", None),
        (b"/v1/models/m%20n:predict", None),
        (b"/v1/models/m:predict?x=1", None),
        (b"/v1/models/m/versions/0:predict", None),
        (b"/v1/models/m/versions/x:predict", None),
        (b"/v1/models/m/versions/%s:predict" % (b"9" * 5000), None),
        (b"/v1/models/m/version/1:predict", None),
        (b"/v1/models//versions/1:predict", None),
        ("/v1/models/é:predict".encode(), None),
    ],
)
def test_urls(url: bytes, target: tuple[str, int | None] | None) -> None:
    assert _target(url) == target


@pytest.mark.parametrize(
    ("text", "error", "field"),
    [
        ("m/versions/x", InvalidRequest, "version"),
        ("m/versions/-1", InvalidRequest, "version"),
        ("m/versions/²", InvalidRequest, "version"),
        ("m/versions/" + "9" * 5000, InvalidRequest, "version"),
        ("m/versions/" + "9" * 30, InvalidRequest, "version"),
        ("m/version/1", NotFound, None),
        ("/versions/1", NotFound, None),
    ],
)
def test_targets_that_are_none(text: str, error: type[Exception], field: str | None) -> None:
    with pytest.raises(error) as e:
        parse_target(text)
    assert getattr(e.value, "field", None) == field


@pytest.mark.parametrize(
    ("data", "way"),
    [
        (request(b"x"), b"short"),
        (request(b""), b"short"),
        (request(b"x", b"Connection: close"), b"short"),
        (request(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"), b"app"),
        (request(b"x").replace(b"POST", b"PUT"), b"app"),
        (request(b"x" * (MAX_BODY + 1)), b"app"),
    ],
    ids=["plain", "empty", "close", "HTTP/1.0", "PUT", "too large"],
)
async def test_which_requests_take_the_short_way(data: bytes, way: bytes) -> None:
    async with connection() as client:
        sending = asyncio.create_task(client.send(data))
        ((status, headers, _),) = await client.receive(1)
        await sending
        assert (status, headers[b"x-way"]) == (200, way)


async def test_a_client_that_waits_for_leave_to_send_gets_it() -> None:
    async with connection() as client:
        head, end, body = request(b"x", b"expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + end)
        assert [status for status, _, _ in await client.receive(1)] == [100]
        await client.send(body)
        ((_, headers, echoed),) = await client.receive(1)
        assert (headers[b"x-way"], echoed) == (b"app", b"x")


async def test_a_request_to_close_is_obeyed() -> None:
    async with connection() as client:
        await client.send(request(b"x", b"connection: close"))
        ((_, headers, body),) = await client.receive(1)
        assert (headers[b"connection"], body) == (b"close", b"x")
        assert await client.receive(1) == []
        assert client.eof


# -- clients that leave -----------------------------------------------------------------------------------------------


async def settle(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_client_that_leaves_is_known_to_be_gone_and_gets_nothing() -> None:
    async with connection() as client:
        client.echo.hold = []
        await client.send(request(b"x" * 100_000))
        await settle(lambda: len(client.echo.open) == 1)
        assert not client.echo.open[0]()
        assert client.echo.held == 100_000
        client.sock.close()
        await settle(client.echo.open[0])
        client.echo.hold.pop()()
        assert client.echo.held == 0


@pytest.mark.parametrize("sent", [0, 10, 64 * 1024, 99_999])
async def test_a_client_that_leaves_within_its_body_gives_its_memory_back(sent: int) -> None:
    async with connection() as client:
        head, _, _ = request(b"x" * 100_000).partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n" + b"x" * sent)
        await settle(lambda: client.echo.held == 100_000)
        client.sock.close()
        await settle(lambda: client.echo.held == 0)
        assert client.echo.started == []


async def test_large_bodies_beyond_the_budget_are_left_to_the_app() -> None:
    async with connection() as client:
        assert client.echo.budget.reserve(2_900_000)
        sending = asyncio.create_task(client.send(request(b"x" * 200_000)))
        ((_, headers, body),) = await client.receive(1)
        await sending
        assert (headers[b"x-way"], len(body)) == (b"app", 200_000)
        assert client.echo.held == 2_900_000
