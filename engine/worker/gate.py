"""The gate through which the models of a worker compute: together they keep no more threads busy than the worker has.

A model says how many threads one call of it keeps busy, and enters with as many permits; those that find too few wait
their turn. Turns are given out by start-time fair queueing (Goyal, Vin, Cheng, 1996): of those who wait, the model that
has computed least comes first, so a short call waits for one turn of others and not for one of each.

A turn is meant to be short, so batches are computed in slices where a worker has several models (see
`BatchRunner.compute`). A call cannot be cut below one row or one step, though, and a model whose row takes seconds must
not hold up the others: a turn that has become `OVERDUE` no longer keeps its permits from those who wait. Only then do
more threads compute than the worker has.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

OVERDUE = 0.2
"""Seconds after which a turn no longer keeps others out."""
_SLICE = 0.05
"""Seconds that a turn is meant to take: less costs more throughput, by small batches, than a shorter wait is worth."""


@dataclass(slots=True, eq=False)
class _Turn:
    permits: int
    start: float
    """In the time that all models have computed; those who wait are served in its order."""
    given: threading.Lock = field(default_factory=threading.Lock)
    begin: float = math.inf
    """In the time of the clock."""


class Gate:
    """Counted permits of a worker."""

    def __init__(self, permits: int) -> None:
        self._lock = threading.Lock()
        self._models = 0
        self._permits = permits
        self._free = permits
        self._turns: list[_Turn] = []
        """Those that hold their permits, by the time of their beginning. An overdue one may have lost them."""
        self._waiting: list[_Turn] = []
        """In the order of arrival."""
        self._start = 0.0
        """Of the last turn that was given."""

    @contextmanager
    def model(self) -> Iterator[ModelGate]:
        """The gate of one model, for as long as it is there."""
        with self._lock:
            self._models += 1
        try:
            yield ModelGate(self)
        finally:
            with self._lock:
                self._models -= 1

    def _enter(self, turn: _Turn, computed: float) -> None:
        turn.given.acquire()
        with self._lock:
            turn.start = max(self._start, computed)
            self._waiting.append(turn)
            self._give()
            wait = self._lend()
        while not turn.given.acquire(timeout=wait):
            with self._lock:
                wait = self._lend()

    def _leave(self, turn: _Turn) -> None:
        with self._lock:
            if turn in self._turns:
                self._turns.remove(turn)
                self._free += turn.permits
                self._give()

    def _lend(self) -> float:
        """Gives the permits of overdue turns to those who wait. Seconds until the next turn becomes overdue."""
        now = time.monotonic()
        while self._waiting and self._turns and now - self._turns[0].begin >= OVERDUE:
            self._free += self._turns.pop(0).permits
            self._give()
        return max(0.0, self._turns[0].begin + OVERDUE - now) if self._turns else OVERDUE

    def _give(self) -> None:
        while self._waiting:
            turn = min(self._waiting, key=lambda each: each.start)
            if turn.permits > self._free:
                return
            self._waiting.remove(turn)
            self._free -= turn.permits
            self._start = turn.start
            turn.begin = time.monotonic()
            self._turns.append(turn)
            turn.given.release()


class ModelGate:
    """What one model sees of the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._computed = 0.0
        """Where its last turn ended, in the time that all models have computed."""

    def slice(self) -> float:
        """Seconds that a turn should take; infinity for a model that has the worker to itself."""
        return math.inf if self._gate._models < 2 else _SLICE

    @contextmanager
    def turn(self, permits: int) -> Iterator[None]:
        """Computes with so many permits, at most all that there are."""
        gate = self._gate
        turn = _Turn(min(permits, gate._permits), 0.0)
        gate._enter(turn, self._computed)
        try:
            yield
        finally:
            gate._leave(turn)
            seconds = time.monotonic() - turn.begin
            self._computed = max(self._computed, turn.start) + seconds * turn.permits
