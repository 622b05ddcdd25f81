"""The deadlines of accepted requests. One timer for each tick that has any, not one for each request: arming and
cancelling a timer costs more than everything else that admission does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.scheduling.queue import Pending

TICK = 0.01
"""Seconds by which a deadline may be late."""


class Deadlines:
    """Calls `on_expire(item)` for every item that was not discarded before its deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expire: Callable[[Pending], None]) -> None:
        self._loop = loop
        self._on_expire = on_expire
        self._ticks: dict[int, set[Pending]] = {}

    def add(self, item: Pending, seconds_left: float) -> None:
        """Watches an item."""
        tick = item.tick = int((self._loop.time() + seconds_left) / TICK) + 1
        items = self._ticks.get(tick)
        if items is None:
            items = self._ticks[tick] = set()
            self._loop.call_at(tick * TICK, self._expire, tick)
        items.add(item)

    def discard(self, item: Pending) -> None:
        """Stops watching an item that ended."""
        items = self._ticks.get(item.tick)
        if items is not None:
            items.discard(item)

    def _expire(self, tick: int) -> None:
        for item in self._ticks.pop(tick):
            self._on_expire(item)
