"""Streamed answers under load: many connections from one loop that only keeps what arrives and when.

The bytes are read after the run, so that the client takes next to nothing from the cores that it shares with the
server.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import h11
import uvloop

from benchmarks.load import WrongAnswer

SECONDS = 900.0
"""After this, a run is given up."""


@dataclass(frozen=True)
class Answer:
    """One streamed answer."""

    text: str
    tokens: int
    """Generated, by the server's count."""
    prompt_tokens: int | None
    """`None` when the server does not say."""
    begin: float
    first: float
    """When its first text came."""
    last: float
    """When its last text came. All three are of the same clock, in seconds."""

    @property
    def first_ms(self) -> float:
        """From the request to its first text."""
        return (self.first - self.begin) * 1000

    @property
    def token_ms(self) -> float:
        """Between a token and the next, on average: several may come at once."""
        return (self.last - self.first) * 1000 / max(1, self.tokens - 1)


@dataclass(frozen=True)
class Answers:
    """What a run measured."""

    each: tuple[Answer, ...]

    @property
    def throughput(self) -> float:
        """Generated tokens per second, from the first request to the last text."""
        took = max(a.last for a in self.each) - min(a.begin for a in self.each)
        return sum(a.tokens for a in self.each) / took

    @property
    def first_ms(self) -> float:
        """The median time to the first text."""
        return statistics.median(a.first_ms for a in self.each)

    @property
    def token_ms(self) -> float:
        """The median of the answers' times between tokens."""
        return statistics.median(a.token_ms for a in self.each)


def stream(port: int, path: str, bodies: Sequence[dict[str, Any]], connections: int) -> Answers:
    """Sends the requests, `connections` at a time, the next when one is answered. Raises `WrongAnswer`."""
    waiting = iter(bodies)

    async def one_after_another() -> list[Exchange]:
        return [await _exchange(port, path, body) for body in waiting]

    async def all_together() -> list[list[Exchange]]:
        async with asyncio.timeout(SECONDS):
            return await asyncio.gather(*(one_after_another() for _ in range(connections)))

    try:
        exchanges = uvloop.run(all_together())
    except TimeoutError:
        raise WrongAnswer(f"POST {path} was not answered in {SECONDS:.0f} s") from None
    return Answers(tuple(read(exchange) for several in exchanges for exchange in several))


@dataclass(frozen=True)
class Exchange:
    """A request, and all that came for it."""

    http: h11.Connection
    """Has sent the request."""
    max_tokens: int
    begin: float
    arrivals: list[tuple[float, bytes]]
    """What came, and when."""


async def _exchange(port: int, path: str, body: dict[str, Any]) -> Exchange:
    http = h11.Connection(h11.CLIENT)
    request = _encode(http, path, body)
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    _, client = await loop.create_connection(lambda: _Client(request), "127.0.0.1", port)
    return Exchange(http, body["max_tokens"], begin, await client.done)


def _encode(http: h11.Connection, path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    headers = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(data))}
    request = h11.Request(method="POST", target=path, headers=[*headers.items(), ("connection", "close")])
    return b"".join(http.send(event) or b"" for event in (request, h11.Data(data), h11.EndOfMessage()))


class _Client(asyncio.Protocol):
    """Sends a request, and keeps what comes until the server closes the connection."""

    def __init__(self, request: bytes) -> None:
        self.done: asyncio.Future[list[tuple[float, bytes]]] = asyncio.get_running_loop().create_future()
        self._request = request
        self._arrivals: list[tuple[float, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._arrivals.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.done.set_result(self._arrivals)  # whether it is whole, its reader finds out


def read(exchange: Exchange) -> Answer:
    """The answer in what came. Raises `WrongAnswer` when it is none."""
    parts: list[tuple[float, str]] = []
    usage: dict[str, Any] = {}
    finish = None
    for when, line in _lines(exchange):
        if not line.startswith(b"data:") or line.endswith(b"[DONE]"):
            continue
        event = json.loads(line.removeprefix(b"data:"))
        if "choices" not in event:
            raise WrongAnswer(f"a stream brought {line[:300]!r}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            finish = choice.get("finish_reason") or finish
            if text := choice["delta"].get("content"):
                parts.append((when, text))
    if not parts or finish is None:
        raise WrongAnswer("a stream ended without an answer")
    # A server that does not count has made as many as it was asked for, when that is why it ended.
    tokens = usage.get("completion_tokens") or (exchange.max_tokens if finish == "length" else len(parts))
    text = "".join(part for _, part in parts)
    return Answer(text, tokens, usage.get("prompt_tokens"), exchange.begin, parts[0][0], parts[-1][0])


def _lines(exchange: Exchange) -> Iterator[tuple[float, bytes]]:
    """The lines of the response's body, and when the last byte of each came. Raises `WrongAnswer` for an error."""
    status, pending = 0, b""
    for when, data in [*exchange.arrivals, (0.0, b"")]:  # nothing more comes
        exchange.http.receive_data(data)
        for event in _events(exchange.http):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                *whole, pending = (pending + event.data).split(b"\n")
                if status == 200:
                    yield from ((when, line.rstrip()) for line in whole)
    if status != 200:
        raise WrongAnswer(f"a request was answered with {status or 'nothing'}: {pending[:300]!r}")


def _events(http: h11.Connection) -> Iterator[h11.Event]:
    try:
        while not isinstance(event := http.next_event(), type) and not isinstance(event, h11.ConnectionClosed):
            yield event
            if isinstance(event, h11.EndOfMessage):
                return
    except h11.RemoteProtocolError as e:
        raise WrongAnswer(f"a response broke off: {e}") from None
