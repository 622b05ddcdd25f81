"""The gate through which the models of a worker compute: together they keep no more threads busy than the worker has.

A model says how many threads one call of it keeps busy, and enters with as many permits; those that find too few wait
their turn. A turn is meant to be short: while others wait, a batch is computed in slices (see `BatchRunner.compute`).
A call cannot be cut below one row, though, and a model whose row takes seconds must not hold up the others. So the
wait has an end, which depends on how long the call itself will take: who computes for a moment waits for a moment,
and then computes beside the slow one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SLICE = 0.025
"""Seconds that a turn is meant to take while others wait."""
_LEAST_PATIENCE = 0.01
_PATIENCE = 4.0
"""Turns of its own length that a call waits before it computes in any case."""


@dataclass(slots=True, eq=False)
class _Waiter:
    permits: int
    turn: threading.Lock = field(default_factory=threading.Lock)


class Gate:
    """Counted permits, given in the order of arrival."""

    def __init__(self, permits: int) -> None:
        self._lock = threading.Lock()
        self._permits = permits
        self._free = permits
        """Negative while somebody whose patience ended computes beside the others."""
        self._waiters: deque[_Waiter] = deque()

    @property
    def crowded(self) -> bool:
        """Whether somebody computes, or waits for a turn. For one that does neither."""
        return self._free < self._permits or bool(self._waiters)

    @contextmanager
    def turn(self, permits: int, seconds: float) -> Iterator[None]:
        """Computes with so many permits, for about so many seconds. More permits than there are means all of them."""
        permits = min(permits, self._permits)
        self._enter(permits, max(_LEAST_PATIENCE, _PATIENCE * seconds))
        try:
            yield
        finally:
            with self._lock:
                self._free += permits
                self._give()

    def _enter(self, permits: int, patience: float) -> None:
        with self._lock:
            if not self._waiters and self._free >= permits:
                self._free -= permits
                return
            waiter = _Waiter(permits)
            waiter.turn.acquire()
            self._waiters.append(waiter)
        if waiter.turn.acquire(timeout=patience):
            return
        with self._lock:
            if waiter in self._waiters:  # else its turn came at this very moment
                self._waiters.remove(waiter)
                self._free -= permits
                self._give()

    def _give(self) -> None:
        while self._waiters and self._free >= self._waiters[0].permits:
            waiter = self._waiters.popleft()
            self._free -= waiter.permits
            waiter.turn.release()
