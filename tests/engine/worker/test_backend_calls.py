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
        if (batch["x"] == 13).any():
            raise InvalidInput("bad luck", field="x")
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


class Texts(Spreading):
    """A text → how many characters it has, and each of them. Takes as long as it has; none may be empty."""

    outputs = (
        TensorSpec("length", "int64", ("batch",)),
        TensorSpec("letters", "string", ("batch", "letters"), fill=""),
        TensorSpec("codes", "int32", ("batch", "letters"), fill=-1),
    )

    def example(self) -> Tensors:
        return texts("example")

    def compute(self, batch: Tensors) -> Tensors:
        found = batch["text"].tolist()
        for i, text in enumerate(found):
            if not text:
                raise InvalidInput(f"Text {i} is empty.", field="input")
        time.sleep(SECONDS / 20 * sum(map(len, found)))
        letters = np.full((len(found), max(map(len, found))), "", object)
        codes = np.full(letters.shape, -1, np.int32)
        for i, text in enumerate(found):
            letters[i, : len(text)] = list(text)
            codes[i, : len(text)] = list(map(ord, text))
        return {"length": np.array(list(map(len, found))), "letters": letters, "codes": codes}

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        with self._lock:
            self.alone.append({name: np.array(array) for name, array in batch.items()})
        return self.compute(batch)


def texts(*of: str) -> Tensors:
    return {"text": np.array(of, object)}


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


def test_texts_are_shared_out_by_their_length_and_answered_in_their_order() -> None:
    backend = Texts()
    asked = ["a" * 60, "b", "cc", "d" * 20, "e" * 30, "f" * 12, "g" * 50]
    with Gate(2).model() as gate:
        calls = Calls(backend, gate, 64, backend.outputs)
        for _ in range(8):
            found = calls.compute(texts(*asked), len(asked))
            assert found["length"].tolist() == list(map(len, asked))
            assert ["".join(letters) for letters in found["letters"].tolist()] == asked
            assert found["letters"].shape == found["codes"].shape == (len(asked), 60)
            assert [sum(code >= 0 for code in row) for row in found["codes"].tolist()] == list(map(len, asked))
    shares = {tuple(sorted(len(text) for text in call["text"].tolist())) for call in backend.alone}
    assert shares == {(12, 20, 60), (1, 2, 30, 50)}


def test_a_text_that_is_longer_than_the_others_together_gets_all_threads() -> None:
    backend = Texts()
    with Gate(2).model() as gate:
        calls = Calls(backend, gate, 64, backend.outputs)
        for _ in range(6):
            calls.compute(texts("a" * 90, "b", "c" * 20), 3)
    assert not backend.alone


def test_an_error_names_the_place_of_a_text_among_all() -> None:
    backend = Texts()
    asked = ["a" * 60, "b" * 50, "c" * 40, "d" * 30, "", "f" * 20]
    with Gate(2).model() as gate:
        calls = Calls(backend, gate, 64, backend.outputs)
        calls.compute(texts(*(text or "e" for text in asked)), 6)  # its speed is known
        for _ in range(4):
            with pytest.raises(InvalidInput, match="Text 4 is empty"):
                calls.compute(texts(*asked), 6)
    assert backend.alone


@pytest.mark.parametrize("most", [2, 3])
def test_no_call_has_more_rows_than_it_may(most: int) -> None:
    backend = Texts()
    with Gate(2).model() as gate:
        calls = Calls(backend, gate, most, backend.outputs)
        for _ in range(6):
            calls.compute(texts("a" * 30, "b", "c", "d", "e", "f", "g", "h" * 25), 8)
    assert backend.alone
    assert all(len(call["text"]) <= most for call in backend.alone)
