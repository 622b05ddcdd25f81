"""Calls of a backend whose rows may be computed apart: which way is taken, and that the answers are the same."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from backends.base import InvalidInput, Tensors, TensorSpec
from engine.worker.calls import Calls
from engine.worker.gate import Gate
from tests.engine.worker.backends_for_tests import Numeric

OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)),)
SECONDS = 0.004
"""That a row takes on one thread."""


class Spreading(Numeric):
    """Two threads make a batch `gain` times as fast, in one call of all rows."""

    threads = 2
    parallel = True

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.alone: list[Tensors] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def compute(self, batch: Tensors) -> Tensors:
        time.sleep(SECONDS * len(batch["x"]) / self.gain)
        return super().compute(batch)

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        with self._lock:
            self.alone.append({name: np.array(array) for name, array in batch.items()})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if (batch["x"] == 13).any():
                raise InvalidInput("bad luck", field="x")
            time.sleep(SECONDS * len(batch["x"]))
            return {"y": batch["x"] * 2}
        finally:
            with self._lock:
                self.at_once -= 1


def rows(count: int) -> Tensors:
    return {"x": np.arange(count * 3, dtype=np.float32).reshape(count, 3) + 100}


def run(calls: Calls, count: int, times: int) -> None:
    for _ in range(times):
        inputs = rows(count)
        np.testing.assert_array_equal(calls.compute(inputs, count)["y"], inputs["x"] * 2)


def test_the_way_that_is_faster_is_taken() -> None:
    for gain, spread in ((1.0, True), (8.0, False)):
        backend = Spreading(gain)
        with Gate(2).model() as gate:
            calls = Calls(backend, gate, 64, OUTPUTS)
            run(calls, 8, 14)
            backend.alone.clear()
            run(calls, 8, 6)
        assert [len(call["x"]) for call in backend.alone] == ([4] * 12 if spread else [])


def test_rows_are_computed_on_as_many_threads_as_the_model_has() -> None:
    backend = Spreading()
    with Gate(4).model() as gate:
        run(Calls(backend, gate, 64, OUTPUTS), 7, 6)
    assert backend.most_at_once == 2
    assert {len(call["x"]) for call in backend.alone} == {3, 4}


def test_a_row_alone_gets_all_threads() -> None:
    backend = Spreading()
    with Gate(2).model() as gate:
        run(Calls(backend, gate, 64, OUTPUTS), 1, 6)
    assert not backend.alone


@pytest.mark.parametrize("count", [1, 8])
def test_beside_another_model_that_computes_a_model_takes_its_share(count: int) -> None:
    backend = Spreading()
    gate = Gate(2)
    stop, inside = threading.Event(), threading.Event()
    with gate.model() as own, gate.model() as other:

        def compute() -> None:
            while not stop.is_set():
                with other.turn(1):
                    inside.set()
                    time.sleep(0.001)

        calls = Calls(backend, own, 64, OUTPUTS)
        run(calls, count, 2)  # its speed is known
        thread = threading.Thread(target=compute)
        thread.start()
        try:
            assert inside.wait(10)
            backend.calls.clear()
            backend.alone.clear()
            run(calls, count, 4)
        finally:
            stop.set()
            thread.join(10)
    assert not backend.calls
    assert sum(len(call["x"]) for call in backend.alone) == 4 * count


def test_an_error_waits_for_all_that_read_the_inputs() -> None:
    backend = Spreading()
    with Gate(2).model() as gate:
        calls = Calls(backend, gate, 64, OUTPUTS)
        run(calls, 8, 14)
        bad = rows(8)
        bad["x"][0] = 13
        with pytest.raises(InvalidInput, match="bad luck"):
            for _ in range(12):
                calls.compute(bad, 8)
        assert backend.at_once == 0
        assert gate.gate._free == 2


def test_outputs_that_are_not_made_row_by_row_are_computed_whole() -> None:
    backend = Spreading()
    with Gate(2).model() as gate:
        run(Calls(backend, gate, 64, (TensorSpec("y", "float32", (3, "batch"), batch_axis=1),)), 8, 6)
    assert not backend.alone
