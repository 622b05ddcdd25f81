"""Models that take turns."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from engine.worker import gate as gate_module
from engine.worker.gate import Gate, ModelGate

LONG = 1000.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn becomes overdue because the machine is slow."""
    monkeypatch.setattr(gate_module, "OVERDUE", LONG)


@pytest.fixture
def no_patience(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "OVERDUE", 0.0)


class Clock:
    """Stands still but for what a test adds."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gate_module, "time", clock)
    return clock


def compute(gate: ModelGate, clock: Clock, seconds: float) -> None:
    with gate.turn(1):
        clock.now += seconds


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Call:
    """A call in its own thread that computes until it is told to end."""

    def __init__(self, gate: Gate | ModelGate, permits: int) -> None:
        self.inside = threading.Event()
        self._end = threading.Event()
        self._gate = ModelGate(gate) if isinstance(gate, Gate) else gate
        self._permits = permits
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._gate.turn(self._permits):
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
        call.end()
    assert gate._free == gate._permits


def test_turns_come_in_the_order_of_arrival() -> None:
    gate = Gate(2)
    first = Call(gate, 2)
    assert first.inside.wait(10)
    second = Call(gate, 2)
    until(lambda: len(gate._waiting) == 1)
    third = Call(gate, 1)
    until(lambda: len(gate._waiting) == 2)
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
    until(lambda: len(gate._waiting) == 1)
    small = Call(gate, 1)
    until(lambda: len(gate._waiting) == 2)
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


def test_an_overdue_turn_no_longer_keeps_others_out(no_patience: None) -> None:
    gate = Gate(2)
    slow = Call(gate, 2)
    assert slow.inside.wait(10)
    second, third = Call(gate, 2), Call(gate, 2)
    assert second.inside.wait(10), "it computes beside the slow one"
    assert third.inside.wait(10), "the second is overdue as well"
    for call in (slow, second, third):
        call.end()
    assert gate._free == 2


def test_beside_an_overdue_turn_the_others_still_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(2)
    slow = Call(gate, 2)
    assert slow.inside.wait(10)
    monkeypatch.setattr(gate_module, "OVERDUE", 0.0)
    second = Call(gate, 2)
    assert second.inside.wait(10)
    monkeypatch.setattr(gate_module, "OVERDUE", LONG)
    third = Call(gate, 2)
    until(lambda: len(gate._waiting) == 1)
    slow.end()
    assert not third.inside.is_set(), "the slow one's permits were given to the second already"
    second.end()
    assert third.inside.wait(10)
    third.end()


def test_slices_are_short_where_other_models_are() -> None:
    gate = Gate(2)
    with gate.model() as model:
        assert model.slice() == math.inf, "it has the worker to itself"
        with gate.model() as other:
            assert 0 < model.slice() == other.slice() < gate_module.OVERDUE
        assert model.slice() == math.inf


def test_who_has_computed_least_comes_first(clock: Clock) -> None:
    gate = Gate(1)
    heavy, light = ModelGate(gate), ModelGate(gate)
    compute(heavy, clock, 0.02)
    compute(heavy, clock, 0.02)
    compute(light, clock, 0.001)
    now = Call(ModelGate(gate), 1)
    assert now.inside.wait(10)
    first = Call(heavy, 1)
    until(lambda: len(gate._waiting) == 1)
    second = Call(light, 1)
    until(lambda: len(gate._waiting) == 2)
    now.end()
    assert second.inside.wait(10)
    assert not first.inside.is_set()
    second.end()
    assert first.inside.wait(10)
    first.end()


def test_who_was_idle_has_no_claim_to_the_time_it_missed(clock: Clock) -> None:
    gate = Gate(1)
    busy, idle = ModelGate(gate), ModelGate(gate)
    for _ in range(5):
        compute(busy, clock, 0.01)
    compute(idle, clock, 0.02)
    now = Call(ModelGate(gate), 1)
    assert now.inside.wait(10)
    again = Call(idle, 1)
    until(lambda: len(gate._waiting) == 1)
    other = Call(busy, 1)
    until(lambda: len(gate._waiting) == 2)
    now.end()
    assert other.inside.wait(10), "10 ms more since both were there, and not 30 less in all"
    assert not again.inside.is_set()
    other.end()
    assert again.inside.wait(10)
    again.end()


def test_a_failed_call_gives_its_permits_back() -> None:
    gate = Gate(2)
    with pytest.raises(ValueError, match="oh"), ModelGate(gate).turn(2):
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
        own = ModelGate(gate)
        for _ in range(200):
            with own.turn(permits):
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
    assert gate._free == gate._permits
