"""Messages over real socket pairs: every size, both ways, descriptors, backpressure, and both kinds of end."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.transport.channel import PIECE, AsyncChannel, Channel, pair

SIZES = [1, 2, 1000, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 1_000_000, 5_000_000]
LONG = 5_000_000
"""Bytes that no socket buffer holds."""


def message(size: int) -> bytes:
    return bytes(i % 251 for i in range(1000)) * (size // 1000) + b"x" * (size % 1000)


class Server:
    """The server's end, and what it heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.received: list[bytes] = []
        self.closed = 0
        self.news = asyncio.Event()
        self.channel = AsyncChannel(sock, self._on_message, self._on_close)

    def _on_message(self, data: bytes) -> None:
        self.received.append(data)
        self.news.set()

    def _on_close(self) -> None:
        self.closed += 1
        self.news.set()

    async def heard(self, messages: int, closed: int = 0) -> None:
        async with asyncio.timeout(20):
            while len(self.received) < messages or self.closed < closed:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = pair()
    yield ours, theirs
    ours.close()
    theirs.close()


# -- between the server's loop and a worker's thread ------------------------------------------------------------------


async def test_messages_of_every_size_there_and_back(sockets: tuple[socket.socket, socket.socket]) -> None:
    server, worker = Server(sockets[0]), Channel(sockets[1])

    def echo() -> None:
        while data := worker.receive():
            worker.send(data)

    thread = asyncio.create_task(asyncio.to_thread(echo))
    sent = [message(size) for size in SIZES]
    for data in sent:
        server.channel.send(data)
    await server.heard(len(sent))
    assert server.received == sent
    server.channel.close()
    await thread
    assert server.closed == 0, "we closed it ourselves"


async def test_a_slow_reader_gets_everything_in_order(sockets: tuple[socket.socket, socket.socket]) -> None:
    """What the socket does not take waits in the server, whose loop goes on."""
    server, worker = Server(sockets[0]), Channel(sockets[1])
    sent = [b"%d:" % i + message(size) for i, size in enumerate([10, LONG, 20, LONG, PIECE])]
    for data in sent:
        server.channel.send(data)
    await asyncio.sleep(0)
    assert await asyncio.to_thread(lambda: [worker.receive() for _ in sent]) == sent
    server.channel.close()
    assert await asyncio.to_thread(worker.receive) == b""


async def test_a_busy_loop_holds_the_sender_back_and_loses_nothing(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    server, worker = Server(sockets[0]), Channel(sockets[1])
    sent = [message(LONG), b"end"]

    def send() -> None:
        for data in sent:
            worker.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    assert thread.is_alive(), "nobody reads yet: the loop has not run"
    await server.heard(2)
    thread.join()
    assert server.received == sent
    server.channel.close()


async def test_two_threads_that_send_do_not_mix_their_messages(sockets: tuple[socket.socket, socket.socket]) -> None:
    server, worker = Server(sockets[0]), Channel(sockets[1])
    sent = [bytes([i]) * (3 * PIECE) for i in range(12)]
    with ThreadPoolExecutor(4) as threads:
        done = [asyncio.wrap_future(threads.submit(worker.send, data)) for data in sent]
        await server.heard(len(sent))
        await asyncio.gather(*done)
    assert sorted(server.received) == sent
    server.channel.close()


async def test_an_empty_message_reaches_the_loop(sockets: tuple[socket.socket, socket.socket]) -> None:
    server, worker = Server(sockets[0]), Channel(sockets[1])
    worker.send(b"")
    worker.send(b"x")
    await server.heard(2)
    assert server.received == [b"", b"x"]
    server.channel.close()


# -- receiving without waiting ----------------------------------------------------------------------------------------


def test_receiving_without_waiting(sockets: tuple[socket.socket, socket.socket]) -> None:
    worker, other = Channel(sockets[1]), Channel(sockets[0])
    assert worker.receive(block=False) is None
    other.send(b"one")
    assert worker.receive(block=False) == b"one"
    assert worker.receive(block=False) is None
    other.send(message(2 * PIECE + 5))  # the rest of a message that began is waited for
    assert worker.receive(block=False) == message(2 * PIECE + 5)
    other.close()
    assert worker.receive(block=False) == b""


# -- descriptors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 3 * PIECE])
async def test_descriptors_travel_with_their_message(sockets: tuple[socket.socket, socket.socket], size: int) -> None:
    server, worker = Server(sockets[0]), Channel(sockets[1])
    ours, theirs = pair()
    memory = os.memfd_create("test")
    os.write(memory, b"shared")
    server.channel.send(b"before")
    server.channel.send(message(size), [theirs.fileno(), memory])
    server.channel.send(b"after")
    assert await asyncio.to_thread(worker.receive_with_fds) == (b"before", [])
    data, fds = await asyncio.to_thread(worker.receive_with_fds)
    assert data == message(size)
    assert await asyncio.to_thread(worker.receive_with_fds) == (b"after", [])
    theirs.close()
    os.close(memory)
    with socket.socket(fileno=fds[0]) as received:
        received.send(b"hello")
        assert ours.recv(10) == b"hello"
    assert os.pread(fds[1], 10, 0) == b"shared"
    os.close(fds[1])
    ours.close()
    server.channel.close()
    assert await asyncio.to_thread(worker.receive_with_fds) == (b"", [])


# -- ends -------------------------------------------------------------------------------------------------------------


async def test_what_was_sent_before_the_end_arrives(sockets: tuple[socket.socket, socket.socket]) -> None:
    server, worker = Server(sockets[0]), Channel(sockets[1])
    worker.send(b"last words")
    worker.close()
    await server.heard(1, closed=1)
    assert server.received == [b"last words"]
    assert server.closed == 1
    server.channel.send(b"nobody there")  # dropped
    server.channel.close()
    assert server.closed == 1


async def test_half_a_message_is_none(sockets: tuple[socket.socket, socket.socket]) -> None:
    server = Server(sockets[0])
    sockets[1].send(b"\1" + b"first piece")
    sockets[1].close()
    await server.heard(0, closed=1)
    assert server.received == []


@pytest.mark.parametrize("fds", [False, True])
def test_half_a_message_is_the_end_for_a_worker(sockets: tuple[socket.socket, socket.socket], fds: bool) -> None:
    worker = Channel(sockets[1])
    sockets[0].send(b"\1" + b"first piece")
    sockets[0].close()
    assert worker.receive_with_fds() == (b"", []) if fds else worker.receive() == b""


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fds", [False, True])
def test_a_server_that_dies_with_unread_mail_is_an_end_as_any_other(
    sockets: tuple[socket.socket, socket.socket], fds: bool, begun: bool
) -> None:
    """Linux then says ECONNRESET, once, in place of EOF."""
    worker = Channel(sockets[1])
    if begun:
        sockets[0].send(b"\1" + b"first piece")
    worker.send(b"unread")
    sockets[0].close()
    assert worker.receive_with_fds() == (b"", []) if fds else worker.receive() == b""


@pytest.mark.parametrize("fds", [False, True])
def test_a_server_that_dies_in_the_middle_of_a_message(sockets: tuple[socket.socket, socket.socket], fds: bool) -> None:
    worker = Channel(sockets[1])
    worker.send(b"unread")
    sockets[0].send(b"\1" + b"first piece")
    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(worker.receive_with_fds if fds else worker.receive)
        while select.select([sockets[1]], [], [], 0)[0]:
            time.sleep(0.001)  # the first piece is still there
        sockets[0].close()
        assert received.result() == ((b"", []) if fds else b"")


async def test_the_loop_takes_a_reset_for_an_end(sockets: tuple[socket.socket, socket.socket]) -> None:
    server = Server(sockets[0])
    server.channel.send(b"unread")
    sockets[1].close()
    await server.heard(0, closed=1)
    assert server.closed == 1


async def test_a_message_to_a_dead_worker_is_dropped_and_its_end_reported_once(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    server = Server(sockets[0])
    server.channel.send(message(LONG))  # most of it still waits here
    sockets[1].close()
    server.channel.send(b"more")
    server.channel.send(message(LONG))
    await server.heard(0, closed=1)
    await asyncio.sleep(0)
    assert server.closed == 1


def test_a_worker_notices_a_dead_server_when_it_sends(sockets: tuple[socket.socket, socket.socket]) -> None:
    worker = Channel(sockets[1])
    sockets[0].close()
    with pytest.raises(BrokenPipeError):
        worker.send(b"hello")


async def test_the_death_of_a_process_is_noticed_at_once(sockets: tuple[socket.socket, socket.socket]) -> None:
    server = Server(sockets[0])
    with sockets[1] as theirs:
        command = f"import os, socket, time; socket.socket(fileno={theirs.fileno()}).send(b'\\0up'); time.sleep(600)"
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", command, pass_fds=[theirs.fileno()])
    await server.heard(1)
    child.kill()
    await server.heard(1, closed=1)
    await child.wait()
    assert server.received == [b"up"]


async def test_closing_from_within_a_message_stops_the_reading(sockets: tuple[socket.socket, socket.socket]) -> None:
    heard: list[bytes] = []

    def on_message(data: bytes) -> None:
        heard.append(data)
        channel.close()

    channel = AsyncChannel(sockets[0], on_message, lambda: heard.append(b"closed"))
    worker = Channel(sockets[1])
    worker.send(b"one")
    worker.send(b"two")
    await asyncio.sleep(0.01)
    assert heard == [b"one"]
