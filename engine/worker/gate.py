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
from dataclasses import dataclass

from engine.worker.thread_names import RUN, mark_thread, restore_name

OVERDUE = 0.2
"""Seconds after which a turn no longer keeps others out."""
_SLICE = 0.05
"""Seconds that a turn is meant to take: less costs more throughput, by small batches, than a shorter wait is worth."""
_RECENT = 0.05
"""Seconds for which a model that has computed counts as one that will go on."""


@dataclass(slots=True, eq=False)
class Turn:
    """A call with so many permits. To be used in a `with`, once."""

    model: ModelGate
    permits: int
    start: float = 0.0
    """In the time that all models have computed; those who wait are served in its order."""
    begin: float = math.inf
    """In the time of the clock."""
    given: threading.Lock | None = None
    """For one that waits."""
    thread_name: bytes = b""
    """Of its thread, outside of turns."""

    def __enter__(self) -> None:
        self.model.gate.enter(self)
        self.thread_name = mark_thread(RUN)

    def __exit__(self, *error: object) -> None:
        restore_name(self.thread_name)
        self.model.gate.leave(self)


class Gate:
    """Counted permits of a worker."""

    def __init__(self, permits: int) -> None:
        self._lock = threading.Lock()
        self._models: list[ModelGate] = []
        self._permits = permits
        self._free = permits
        self._turns: list[Turn] = []
        """Those that hold their permits, by the time of their beginning. An overdue one may have lost them."""
        self._waiting: list[Turn] = []
        """In the order of arrival."""
        self._start = 0.0
        """Of the last turn that was given."""

    @property
    def models(self) -> int:
        """How many there are."""
        return len(self._models)

    @contextmanager
    def model(self) -> Iterator[ModelGate]:
        """The gate of one model, for as long as it is there."""
        own = ModelGate(self)
        with self._lock:
            self._models.append(own)
        try:
            yield own
        finally:
            with self._lock:
                self._models.remove(own)

    def share(self, model: ModelGate) -> int:
        """Permits for each of the models that compute now, of which `model` is one."""
        recent = time.monotonic() - _RECENT
        with self._lock:
            others = sum(other.active > recent for other in self._models if other is not model)
        return max(1, self._permits // (1 + others))

    def enter(self, turn: Turn) -> None:
        """Waits for the permits of a turn, of which it may have as many as there are."""
        with self._lock:
            turn.permits = min(turn.permits, self._permits)
            turn.model.turns += 1
            turn.start = max(self._start, turn.model.computed)
            if not self._waiting and turn.permits <= self._free:
                self._begin(turn)
                return
            turn.given = given = threading.Lock()
            given.acquire()
            self._waiting.append(turn)
            wait = self._lend()
        while not given.acquire(timeout=wait):
            with self._lock:
                wait = self._lend()

    def leave(self, turn: Turn) -> None:
        """Gives them back."""
        with self._lock:
            now = time.monotonic()
            cost = (now - turn.begin) * turn.permits
            turn.model.computed = max(turn.model.computed, turn.start) + cost
            turn.model.turns -= 1
            turn.model.ended = now
            if turn in self._turns:
                self._turns.remove(turn)
                self._free += turn.permits
                if self._waiting:
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
            self._begin(turn)
            if turn.given is not None:
                turn.given.release()

    def _begin(self, turn: Turn) -> None:
        self._free -= turn.permits
        self._start = turn.start
        turn.begin = time.monotonic()
        self._turns.append(turn)


class ModelGate:
    """What one model sees of the gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.computed = 0.0
        """Where its last turn ended, in the time that all models have computed."""
        self.turns = 0
        """That it computes in, or waits for."""
        self.ended = -math.inf
        """When its last turn did, in the time of the clock."""

    @property
    def active(self) -> float:
        """When it last computed, or waited to; infinity if it does now."""
        return math.inf if self.turns else self.ended

    def share(self) -> int:
        """Permits that it has, if those that compute now share them evenly."""
        return self.gate.share(self)

    def slice(self) -> float:
        """Seconds that a turn should take; infinity for a model that has the worker to itself."""
        return math.inf if self.gate.models < 2 else _SLICE

    def turn(self, permits: int) -> Turn:
        """Computes with so many permits, at most all that there are."""
        return Turn(self, permits)
