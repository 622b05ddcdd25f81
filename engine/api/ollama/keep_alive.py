"""``keep_alive``: how long a model stays loaded after its last use."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass

from engine.errors import InvalidInput
from engine.pool import Entry, Pool

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")


def seconds(given: str | float) -> float:
    """A duration: seconds, or a text such as ``1h30m``. Anything negative means for ever, which is `math.inf`.

    Raises `InvalidInput`.
    """
    if isinstance(given, str):
        match = _DURATION.fullmatch(given)
        if match is None and given != "0":
            raise InvalidInput(
                f"keep_alive is a number of seconds or a duration such as '5m', '1h30m' or '0'; got {given[:40]!r}.",
                field="keep_alive",
            )
        value = 0.0 if match is None else sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(match[2]))
        value = -value if match is not None and match[1] == "-" else value
    else:
        value = float(given)
    return math.inf if value < 0 else value


@dataclass(slots=True)
class _Session:
    """How long one loaded model may be idle."""

    entry: Entry
    seconds: float
    timer: asyncio.TimerHandle


class KeepAlive:
    """Unloads models that have been idle for as long as their clients asked for. Owns the timers.

    The last wish counts. A model that no wish was made for stays loaded until it must make room.
    """

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, int], _Session] = {}
        """By `ModelSpec.key`."""

    def used(self, pool: Pool, entry: Entry, wish: float | None) -> None:
        """A request has ended that wished its model to stay for so many seconds, or did not say."""
        if wish is None:
            return
        session = self._sessions.pop(entry.spec.key, None)
        if session is not None:
            session.timer.cancel()
        if wish == 0:
            pool.background(pool.unload(entry.spec))
        elif wish < math.inf:
            self._arm(pool, entry, wish, wish)

    def left(self, pool: Pool, entry: Entry) -> float:
        """Seconds until a model is unloaded, if nobody uses it."""
        session = self._sessions.get(entry.spec.key)
        if session is None or session.entry is not entry:
            return math.inf
        return max(0.0, _left(pool, entry, session.seconds))

    def _arm(self, pool: Pool, entry: Entry, wish: float, delay: float) -> None:
        timer = asyncio.get_running_loop().call_later(delay, self._expire, pool, entry, wish)
        self._sessions[entry.spec.key] = _Session(entry, wish, timer)

    def _expire(self, pool: Pool, entry: Entry, wish: float) -> None:
        del self._sessions[entry.spec.key]
        if pool.entries.get(entry.spec.key) is not entry or entry.state != "ready":
            return  # it was unloaded meanwhile, and may be loaded again
        left = _left(pool, entry, wish)
        if left > 0:
            self._arm(pool, entry, wish, left)
        else:
            pool.background(pool.unload(entry.spec))


def _left(pool: Pool, entry: Entry, wish: float) -> float:
    return wish - (pool.clock() - entry.dispatcher.last_used) if entry.dispatcher.idle else wish
