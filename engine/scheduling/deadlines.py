"""The deadlines of accepted requests. One timer for each tick that has any, not one for each request: arming and
cancelling a timer costs more than everything else that admission does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.scheduling.queue import Pending

TICK = 0.01
"""Seconds by which a deadline may be late."""

_HORIZON = 60.0
"""Seconds after which a later deadline is looked at again, so that ticks (and timers) do not pile up until then."""


class Deadlines:
    """Calls `on_expire(item)` for every item that was not discarded before its deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expire: Callable[[Pending], None]) -> None:
        self._loop = loop
        self._on_expire = on_expire
        self._ticks: dict[int, dict[Pending, float]] = {}
        """By number of the tick: its items, and when they expire."""

    def add(self, item: Pending, seconds_left: float) -> None:
        """Watches an item."""
        now = self._loop.time()
        self._watch(item, now + seconds_left, now)

    def _watch(self, item: Pending, when: float, now: float) -> None:
        tick = item.tick = int(min(when, now + _HORIZON) / TICK) + 1
        items = self._ticks.get(tick)
        if items is None:
            items = self._ticks[tick] = {}
            self._loop.call_at(tick * TICK, self._expire, tick)
        items[item] = when

    def discard(self, item: Pending) -> None:
        """Stops watching an item that ended."""
        items = self._ticks.get(item.tick)
        if items is not None:
            items.pop(item, None)
            if not items:
                items.clear()  # an emptied dict keeps the table of its fullest moment, here until the tick is due

    def _expire(self, tick: int) -> None:
        now = self._loop.time()
        for item, when in self._ticks.pop(tick).items():
            if when > now + TICK:
                self._watch(item, when, now)
            else:
                self._on_expire(item)
