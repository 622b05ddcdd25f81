"""Receives one large body, without the parser's and the event loop's copies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.api.connection import Connection


class BodyReceiver(asyncio.BufferedProtocol):
    """Receives the rest of one large body: the kernel writes it into its place, without a copy in between."""

    def __init__(
        self,
        connection: Connection,
        length: int,
        begin: bytes,
        on_body: Callable[[bytearray], None],
    ) -> None:
        self._connection = connection
        self._length = length
        self._on_body = on_body
        self._body = bytearray(length)
        self._body[: len(begin)] = begin
        self._view = memoryview(self._body)
        self._got = len(begin)
        self._switch(self)

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Reading is restarted, since the event loop decides then how it reads."""
        transport = self._connection.transport
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - never beyond this body, whatever the hint
        """Where the next bytes go."""
        return self._view[self._got :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes are there; after the last one the connection goes on as before."""
        self._connection.touch()
        self._got += nbytes
        if self._got == self._length:
            self._view.release()
            self._switch(self._connection)
            self._on_body(self._body)

    def eof_received(self) -> None:
        """The client will not send the rest."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; nothing was computed."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """An earlier answer is still on its way."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The earlier answer is out."""
        self._connection.resume_writing()
