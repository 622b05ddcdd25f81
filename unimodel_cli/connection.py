"""A keep-alive HTTP/1.1 connection for many small requests: an asyncio protocol around httptools' parser.

For bulk work only. Against an echo server that answers 15,000 requests a second to wrk, httpx's asynchronous client got
fewer than 200 with 32 requests in flight (its pool is quadratic in them), which would have measured the client and not
the server. Everything else uses httpx.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httptools

CONNECT_SECONDS = 5.0


class Response(NamedTuple):
    """A response that has arrived in whole. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class ConnectionBroke(Exception):
    """The connection ended, or could not be made, before the response was there."""


class Address(NamedTuple):
    """Where to send, and what every request says."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    prefix: str
    """Path of the base URL."""
    common: bytes
    """Header lines of every request."""

    @classmethod
    def of(cls, url: str, api_key: str | None) -> Address:
        """The address of a server's base URL, as `unimodel_cli.client.normalize_url` returns it."""
        parts = urlsplit(url)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        lines = [f"host: {parts.netloc.rpartition('@')[2]}", "user-agent: unimodel", "accept: application/json"]
        if api_key:
            lines.append(f"authorization: Bearer {api_key}")
        elif parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(f"authorization: Basic {base64.b64encode(pair.encode()).decode()}")
        common = "".join(f"{line}\r\n" for line in lines).encode()
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls, parts.path, common)

    def head(self, path: str, headers: dict[str, str]) -> bytes:
        """The beginning of a POST request to `path`; `request` completes it with a body."""
        own = "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode()
        return b"POST " + f"{self.prefix}{path}".encode() + b" HTTP/1.1\r\n" + self.common + own


def request(head: bytes, body: bytes) -> bytes:
    """The bytes of one request."""
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


class Connection(asyncio.Protocol):
    """Sends one request at a time, and is opened anew when the server has closed it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._on_piece: Callable[[bytes], None] | None = None

    async def send(self, data: bytes, on_piece: Callable[[bytes], None] | None = None) -> Response:
        """Sends a whole request and waits for its response. Raises `ConnectionBroke`.

        `on_piece` hears every piece of the body when it comes, too.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await self._open()
        assert self._transport is not None
        self._answer = loop.create_future()
        self._on_piece = on_piece
        self._begin()
        self._transport.write(data)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # its late response must not be taken for the next one's
            raise
        finally:
            self._answer = None

    def close(self) -> None:
        """Ends the connection; the next `send` opens another."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        a = self._address
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: self, a.host, a.port, ssl=a.tls)
        except (OSError, TimeoutError) as e:
            raise ConnectionBroke(str(e)) from None

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._begin()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._end(ConnectionBroke(f"not an HTTP response: {e}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(ConnectionBroke(str(exc or "the server closed the connection")))

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        if self._on_piece is not None:
            self._on_piece(data)

    def on_message_complete(self) -> None:
        response = Response(self._parser.get_status_code(), self._headers, b"".join(self._body))
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def _end(self, error: ConnectionBroke) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
