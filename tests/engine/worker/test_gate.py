"""Models that take turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from engine.worker.gate import Gate

LONG = 1000.0
"""Seconds that a call says it takes, so that its patience never ends in a test."""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Call:
    """A call in its own thread that computes until it is told to end."""

    def __init__(self, gate: Gate, permits: int, seconds: float = LONG) -> None:
        self.inside = threading.Event()
        self._end = threading.Event()
        self._arguments = (gate, permits, seconds)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        gate, permits, seconds = self._arguments
        with gate.turn(permits, seconds):
            self.inside.set()
            assert self._end.wait(10)

    def end(self) -> None:
        self._end.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_calls_that_fit_compute_side_by_side() -> None:
    gate = Gate(4)
    calls = [Call(gate, 1), Call(gate, 3)]
    assert all(c.inside.wait(10) for c in calls)
    for call in calls:
        assert gate.crowded
        call.end()
    assert not gate.crowded


def test_turns_come_in_the_order_of_arrival() -> None:
    gate = Gate(2)
    first = Call(gate, 2)
    assert first.inside.wait(10)
    second = Call(gate, 2)
    until(lambda: len(gate._waiters) == 1)
    third = Call(gate, 1)
    until(lambda: len(gate._waiters) == 2)
    assert not second.inside.is_set()
    first.end()
    assert second.inside.wait(10)
    assert not third.inside.is_set(), "one permit is too many beside the second's two"
    second.end()
    assert third.inside.wait(10)
    third.end()


def test_a_small_call_does_not_pass_one_that_waits() -> None:
    gate = Gate(2)
    first = Call(gate, 1)
    assert first.inside.wait(10)
    large = Call(gate, 2)
    until(lambda: len(gate._waiters) == 1)
    small = Call(gate, 1)
    until(lambda: len(gate._waiters) == 2)
    assert not small.inside.is_set()
    for call in (first, large, small):
        assert call.inside.wait(10)
        call.end()


def test_more_permits_than_there_are_means_all() -> None:
    gate = Gate(2)
    call = Call(gate, 64)
    assert call.inside.wait(10)
    call.end()
    after = Call(gate, 2)
    assert after.inside.wait(10)
    after.end()


def test_patience_ends_sooner_for_a_short_call() -> None:
    gate = Gate(2)
    slow = Call(gate, 2)
    assert slow.inside.wait(10)
    short = Call(gate, 2, seconds=0.0)
    assert short.inside.wait(10), "it computes beside the slow one"
    patient = Call(gate, 2)
    until(lambda: len(gate._waiters) == 1)
    slow.end()
    assert not patient.inside.is_set(), "the short call still has its permits"
    short.end()
    assert patient.inside.wait(10)
    patient.end()


def test_a_failed_call_gives_its_permits_back() -> None:
    gate = Gate(2)
    with pytest.raises(ValueError, match="oh"), gate.turn(2, LONG):
        raise ValueError("oh")
    call = Call(gate, 2)
    assert call.inside.wait(10)
    call.end()


def test_never_more_permits_than_there_are() -> None:
    gate = Gate(3)
    lock = threading.Lock()
    taken = worst = turns = 0

    def compute(permits: int) -> None:
        nonlocal taken, worst, turns
        for _ in range(200):
            with gate.turn(permits, LONG):
                with lock:
                    taken += permits
                    worst = max(worst, taken)
                time.sleep(0)
                with lock:
                    taken -= permits
                    turns += 1

    threads = [threading.Thread(target=compute, args=(1 + n % 3,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert turns == 1800
    assert worst <= 3
    assert not gate.crowded
