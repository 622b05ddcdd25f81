"""Message channels over ``SOCK_SEQPACKET`` socket pairs. Linux keeps message boundaries and reports EOF the instant
the other process dies. What is Linux-only stays in this package.

A message longer than one packet is cut into pieces. Each packet starts with one byte: 1 when more pieces of the same
message follow, 0 on the last. A message to a worker has at least one byte, since an empty one means the end there::

    packet  = more:u8  piece:bytes[≤ PIECE]
    message = piece … piece
"""

from __future__ import annotations

import array
import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

PIECE = 64 * 1024
"""Bytes of message in one packet; well below the default send buffer, so that a packet always fits once it drains."""

_LAST, _MORE = b"\0", b"\1"
_MAX_FDS = 4


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; the second is for the child."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _packets(message: bytes) -> list[bytes]:
    if len(message) <= PIECE:
        return [_LAST + message]
    pieces = [message[i : i + PIECE] for i in range(0, len(message), PIECE)]
    return [_MORE + p for p in pieces[:-1]] + [_LAST + pieces[-1]]


class Channel:
    """The blocking end, for workers. One thread receives; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._lock = threading.Lock()
        self._last_sent = 0.0

    def send(self, message: bytes) -> None:
        """Raises `OSError` when the other side is gone."""
        with self._lock:
            if len(message) <= PIECE:
                self._sock.send(_LAST + message)
            else:
                for packet in _packets(message):
                    self._sock.send(packet)
        self._last_sent = time.monotonic()

    @property
    def silent_for(self) -> float:
        """Seconds since the last message was sent."""
        return time.monotonic() - self._last_sent

    def receive(self, *, block: bool = True) -> bytes | None:
        """The next message; empty at the end of the channel; `None` when there is none yet and `block` is false."""
        try:
            packet = self._receive_packet(0 if block else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not packet or packet[0] == 0:
            return packet[1:]
        pieces = [packet[1:]]
        while packet and packet[0]:
            packet = self._receive_packet()
            pieces.append(packet[1:])
        return b"".join(pieces) if packet else b""

    def receive_with_fds(self) -> tuple[bytes, list[int]]:
        """Like `receive`, with the descriptors that came along."""
        fds: list[int] = []
        pieces: list[bytes] = []
        while True:
            packet = self._receive_packet(fds=fds)
            if not packet:
                return b"", fds
            pieces.append(packet[1:])
            if packet[0] == 0:
                return b"".join(pieces), fds

    def _receive_packet(self, flags: int = 0, fds: list[int] | None = None) -> bytes:
        """One packet; empty at the end. Appends the descriptors that came with it to `fds`."""
        try:
            if fds is None:
                return self._sock.recv(PIECE + 1, flags)
            packet, ancillary, _, _ = self._sock.recvmsg(PIECE + 1, socket.CMSG_SPACE(_MAX_FDS * 4), flags)
        except ConnectionResetError:
            return b""  # the other side ended and left something unread
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                fds.extend(received)
        return packet

    def close(self) -> None:
        """Closes this end; the other side reads EOF."""
        self._sock.close()


class AsyncChannel:
    """The server's end, on its event loop. `on_message` gets each message, `on_close` runs once, at EOF."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[bytes], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[tuple[bytes, Sequence[int]]] = deque()
        self._pieces: list[bytes] = []
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Sends now, or as soon as the socket drains. The descriptors must stay open until `close`.

        A message to a dead process is dropped: its end is reported through `on_close`.
        """
        if not self._open:
            return
        packets = _packets(message)
        self._outbox.append((packets[0], fds))
        self._outbox.extend((p, ()) for p in packets[1:])
        if len(self._outbox) == len(packets):
            self._writable()

    def _writable(self) -> None:
        while self._outbox:
            packet, fds = self._outbox[0]
            try:
                if fds:
                    socket.send_fds(self._sock, [packet], list(fds))
                else:
                    self._sock.send(packet)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                self._outbox.clear()  # the reader sees EOF and reports it
                break
            self._outbox.popleft()
        if self._open:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        while self._open:
            try:
                packet = self._sock.recv(PIECE + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._ended()
                return
            if packet[0]:
                self._pieces.append(packet[1:])
                continue
            message = packet[1:]
            if self._pieces:
                message = b"".join([*self._pieces, message])
                self._pieces.clear()
            self._on_message(message)

    def _ended(self) -> None:
        if self._open:
            self.close()
            self._on_close()

    def end(self) -> None:
        """Takes the messages that are there, and closes as at EOF."""
        self._readable()
        self._ended()

    def close(self) -> None:
        """Closes without a call of `on_close`. The other side reads EOF after what was sent."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
