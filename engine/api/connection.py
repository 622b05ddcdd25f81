"""uvicorn's HTTP protocol, made fit for open ground.

What it adds: every refusal has an error body and a request id; the head of a request is bounded; a client that stalls
in the middle of a request loses its connection; a wish to change to another protocol is declined without losing the
request that bears it; and a stop does not close a connection on which a request may be arriving.
"""

from __future__ import annotations

import asyncio
import logging
import math

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from engine.api.http import (
    Body,
    Headers,
    RawHeaders,
    Receive,
    Scope,
    Send,
    encode_json,
    error_body,
    error_headers,
    request_id,
    send_error,
)
from engine.errors import InvalidRequest, Unavailable, UniModelError

log = logging.getLogger("unimodel.http")

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""

_LAST_CALL = 0.25
"""Seconds that an idle connection stays open after a stop was asked for."""


class Connection(HttpToolsProtocol):
    """One connection."""

    max_connections: float = math.inf
    """Open ones, beyond which requests are refused. Set on a subclass, since uvicorn makes the instances."""

    _active = 0.0
    """When something was last heard from the client, or said to it, on the loop's clock."""
    _in_head = False
    _head_bytes = 0
    """Of a head that came in pieces, without the first."""
    _upgrade = False
    """Whether the client wishes for another protocol; the parser then skips the body."""
    _closing = False
    """Whether the next response is the last."""

    # --- asyncio's callbacks -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here."""
        super().connection_made(transport)
        self._active = self.loop.time()
        self._watch(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self._active = self.loop.time()
        head = self.headers if self._in_head else None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrade:
                self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(InvalidRequest("This is not a valid HTTP request."))
            return
        if head is not None and self._in_head and self.headers is head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(InvalidRequest(f"The head of the request has more than {MAX_HEAD >> 10} KiB."))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    # --- the parser's callbacks --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins. Its scope is built when it is known to need one."""
        self.url = b""
        self.headers = []
        self._in_head = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._in_head = False
        self._upgrade = self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)
        if not self._upgrade:
            self.begin_request()

    def on_message_complete(self) -> None:
        """The whole request is here."""
        if not self._upgrade:
            self.end_request()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Serves the request as if it had not asked, as HTTP lets a server do.

        Some clients ask for HTTP/2 in their first request, whatever it is; the parser stops at its body.
        """
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%s %s HTTP/1.1\r\n%s\r\n" % (self.parser.get_method(), self.url, b"".join(lines))
        self.new_parser()
        self.data_received(head + rest)

    def new_parser(self) -> None:
        """Begins with the next request, where the parser did not see the end of the last one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    # --- requests, uvicorn's way -------------------------------------------------------------------------------------

    def begin_request(self) -> None:
        """Gives a request to the app, whose body is yet to come."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        if self.over_limit:
            self.app = _refuse_connection
        super().on_headers_complete()
        if self.over_limit or self._closing:
            self.cycle.keep_alive = False

    def end_request(self) -> None:
        """The body of the request is whole."""
        super().on_message_complete()

    @property
    def over_limit(self) -> bool:
        """Whether there are more connections than there may be."""
        return len(self.connections) > self.max_connections

    @property
    def awaits_client(self) -> bool:
        """Whether nothing can happen before the client sends something."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def write_response(self, status: int, headers: RawHeaders, data: Body, *, close: bool) -> None:
        """Writes a whole response at once. A large body is not copied."""
        lines = b"".join([b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)])
        end = b"connection: close\r\n" if close else b""
        head = b"%s%s%scontent-length: %d\r\n\r\n" % (STATUS_LINE[status], lines, end, len(data))
        if len(data) < MAX_HEAD:
            self.transport.write(head + data)
        else:
            self.transport.writelines((head, data))
        if close:
            self.transport.close()

    def _refuse(self, error: UniModelError) -> None:
        """Answers what is no request, after which nothing on this connection can be understood."""
        rid = request_id(Headers())
        log.warning("request refused", extra={"request_id": rid, "reason": error.message})
        self.write_response(error.status, error_headers(error, rid), encode_json(error_body(error, rid)), close=True)

    # --- time --------------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something came from the client by another way."""
        self._active = self.loop.time()

    def _unset_keepalive_if_required(self) -> None:
        """The timer, if there is one, looks at the time itself."""

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one timer that looks at the time, instead of one that is armed for each response."""
        self._active = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def _watch(self, delay: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay, self._look_at_silence)

    def _look_at_silence(self) -> None:
        """Closes a connection whose client is idle, or stalls in the middle of a request, for too long."""
        self.timeout_keep_alive_task = None
        left = float(self.timeout_keep_alive)
        if self.awaits_client:
            left += self._active - self.loop.time()
        if self.transport.is_closing():
            return
        if left <= 0:
            self.transport.close()
        else:
            self._watch(left)

    def shutdown(self) -> None:
        """The server stops. An idle connection stays open for a moment, lest a request that is arriving be lost."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        self._closing = True
        self.loop.call_later(_LAST_CALL, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


async def _refuse_connection(scope: Scope, _: Receive, send: Send) -> None:
    """The app of a connection too many."""
    error = Unavailable("Too many connections are open (server.max_connections); retry later.", retry_after=1.0)
    await send_error(send, error, request_id(Headers(scope["headers"])))
