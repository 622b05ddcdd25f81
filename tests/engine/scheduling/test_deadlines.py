"""Deadlines are met within a tick, once, and never for what ended before."""

from __future__ import annotations

import asyncio
import gc
import math

from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.deadlines import TICK, Deadlines
from engine.scheduling.queue import Pending
from engine.types import JsonInput, Request
from tests.engine.scheduling.virtual_time import virtual_time


def pending() -> Pending:
    return Pending(Request(JsonInput(b""), "id", math.inf), "g", 1, 1, lambda _: None, lambda *_: None, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1.0), st.floats(0, 10.0)), max_size=30))
def test_each_is_told_once_and_in_time(arrivals: list[tuple[float, float]]) -> None:
    """Pairs of (seconds after the one before, seconds left)."""

    @virtual_time
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        expired: dict[Pending, float] = {}
        due: dict[Pending, float] = {}

        def on_expire(item: Pending) -> None:
            assert item not in expired
            expired[item] = loop.time()

        deadlines = Deadlines(loop, on_expire)
        for pause, left in arrivals:
            await asyncio.sleep(pause)
            item = pending()
            due[item] = loop.time() + left
            deadlines.add(item, left)
        await asyncio.sleep(11)
        assert expired.keys() == due.keys()
        for item, when in due.items():
            assert when - 1e-6 <= expired[item] <= when + TICK + 1e-6

    scenario()


@virtual_time
async def test_what_ended_is_forgotten() -> None:
    loop = asyncio.get_running_loop()
    expired: list[Pending] = []
    deadlines = Deadlines(loop, expired.append)
    kept, ended = pending(), pending()
    deadlines.add(kept, 0.5)
    deadlines.add(ended, 0.5)
    deadlines.discard(ended)
    deadlines.discard(ended)
    await asyncio.sleep(1)
    assert expired == [kept]
    deadlines.discard(kept)


@virtual_time
async def test_a_deadline_that_ends_another_of_the_same_tick() -> None:
    loop = asyncio.get_running_loop()
    first, second = pending(), pending()

    def on_expire(item: Pending) -> None:
        expired.append(item)
        deadlines.discard(first)
        deadlines.discard(second)

    expired: list[Pending] = []
    deadlines = Deadlines(loop, on_expire)
    deadlines.add(first, 0.5)
    deadlines.add(second, 0.5)
    await asyncio.sleep(1)
    assert set(expired) == {first, second}


@virtual_time
async def test_distant_deadlines_are_met_too() -> None:
    loop = asyncio.get_running_loop()
    expired: dict[Pending, float] = {}
    deadlines = Deadlines(loop, lambda item: expired.update({item: loop.time()}))
    begin = loop.time()
    items = {pending(): left for left in (59.99, 60.0, 60.01, 3600.0, 86_400.0)}
    for item, left in items.items():
        deadlines.add(item, left)
    await asyncio.sleep(100_000)
    assert expired.keys() == items.keys()
    for item, left in items.items():
        assert left - 1e-6 <= expired[item] - begin <= left + TICK + 1e-6


@virtual_time
async def test_requests_that_ended_long_before_their_deadline_leave_nothing_behind() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, lambda item: None)
    for _ in range(10_000):
        await asyncio.sleep(0.05)
        item = pending()
        deadlines.add(item, 7 * 86_400.0)
        deadlines.discard(item)
    timers = sum(issubclass(type(o), asyncio.TimerHandle) and not o.cancelled() for o in gc.get_objects())
    assert timers < 2000
