"""The deadlines of accepted requests. One timer for each tick that has any, not one for each request: arming and
cancelling a timer costs more than everything else that admission does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.scheduling.queue import Pending

TICK = 0.01
"""Seconds by which a deadline may be late."""

_HORIZON = 60.0
"""Seconds after which a later deadline is looked at again, so that ticks (and timers) do not pile up until then."""


@dataclass(slots=True)
class _Tick:
    """What is due together."""

    timer: asyncio.TimerHandle
    items: dict[Pending, float] = field(default_factory=dict)
    """And when each expires."""


class Deadlines:
    """Calls `on_expire(item)` for every item that was not discarded before its deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expire: Callable[[Pending], None]) -> None:
        self._loop = loop
        self._on_expire = on_expire
        self._ticks: dict[int, _Tick] = {}
        """By their numbers."""

    def add(self, item: Pending, seconds_left: float) -> None:
        """Watches an item."""
        now = self._loop.time()
        self._watch(item, now + seconds_left, now)

    def _watch(self, item: Pending, when: float, now: float) -> None:
        tick = item.tick = int(min(when, now + _HORIZON) / TICK) + 1
        watched = self._ticks.get(tick)
        if watched is None:
            watched = self._ticks[tick] = _Tick(self._loop.call_at(tick * TICK, self._expire, tick))
        watched.items[item] = when

    def discard(self, item: Pending) -> None:
        """Stops watching an item that ended."""
        watched = self._ticks.get(item.tick)
        if watched is not None and watched.items.pop(item, None) is not None and not watched.items:
            watched.timer.cancel()  # or a minute's worth of empty ticks would be kept
            del self._ticks[item.tick]

    def _expire(self, tick: int) -> None:
        now = self._loop.time()
        for item, when in self._ticks.pop(tick).items.items():
            if when > now + TICK:
                self._watch(item, when, now)
            else:
                self._on_expire(item)
