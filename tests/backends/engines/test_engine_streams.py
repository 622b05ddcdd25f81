"""Tests of what waits between an engine's event loop and a model's steps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator

import pytest

from backends.engines.streams import Output, Streams


@pytest.fixture
def streams() -> Iterator[Streams]:
    running = Streams()
    yield running
    running.close()
    assert "engine" not in {thread.name for thread in threading.enumerate()}


async def count(most: int) -> AsyncGenerator[Output, None]:
    for i in range(most):
        await asyncio.sleep(0)
        yield Output([i], finished=i == most - 1)


def collect(streams: Streams, most: int) -> list[tuple[tuple[int, int], Output | Exception]]:
    found: list[tuple[tuple[int, int], Output | Exception]] = []
    deadline = time.monotonic() + 10
    while len(found) < most and time.monotonic() < deadline:
        if streams.wait(0.1):
            found += streams.take()
    return found


def test_outputs_come_in_their_order(streams: Streams) -> None:
    for request in range(3):
        streams.open((request, 0), lambda: count(5))
    found = collect(streams, 15)
    for request in range(3):
        assert [what.tokens for key, what in found if key == (request, 0)] == [[i] for i in range(5)]  # type: ignore[union-attr]


def test_nothing_is_waited_for_in_vain(streams: Streams) -> None:
    assert not streams.wait(0.0)
    assert streams.take() == []
    streams.open((0, 0), lambda: count(1))
    assert streams.wait(10.0)
    assert streams.wait(10.0)  # until it is taken
    assert len(streams.take()) == 1


def test_a_cancelled_choice_ends_in_the_engine(streams: Streams) -> None:
    ended = threading.Event()

    async def endless() -> AsyncGenerator[Output, None]:
        try:
            while True:
                yield Output([1])
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    streams.open((0, 0), endless)
    assert streams.wait(10.0)
    streams.cancel((0, 0))
    assert ended.wait(10.0)
    streams.cancel((0, 0))  # ended
    streams.cancel((7, 0))  # unknown
    streams.take()
    assert streams.run(asyncio.sleep(0, "alive")) == "alive"
    assert streams.take() == []


def test_an_error_is_the_end(streams: Streams) -> None:
    async def failing() -> AsyncGenerator[Output, None]:
        yield Output([1])
        raise ValueError("no more")

    streams.open((0, 1), failing)
    (_, first), (key, error) = collect(streams, 2)
    assert first == Output([1])
    assert key == (0, 1)
    assert isinstance(error, ValueError)


def test_closing_ends_what_is_under_way() -> None:
    ended = threading.Event()

    async def patient() -> AsyncGenerator[Output, None]:
        try:
            await asyncio.sleep(3600)
            yield Output([1])
        finally:
            ended.set()

    streams = Streams()
    streams.open((0, 0), patient)
    streams.run(asyncio.sleep(0.01))
    streams.close()
    assert ended.is_set()
    streams.close()


def test_an_engine_is_alive_as_long_as_it_answers(streams: Streams) -> None:
    answering = threading.Event()
    answering.set()

    async def answer() -> None:
        while not answering.is_set():
            await asyncio.sleep(0.01)

    async def silent() -> AsyncGenerator[Output, None]:
        await asyncio.sleep(600)
        yield Output([1])

    streams.watch(answer)
    assert not streams.wait(1.0), "nothing is under way"
    streams.open((0, 0), silent)
    for _ in range(2):
        assert streams.wait(10.0)
        assert streams.take() == []
    answering.clear()
    streams.wait(1.0)  # for an answer that was on its way
    streams.take()
    assert not streams.wait(1.0)
    answering.set()
    assert streams.wait(10.0)
