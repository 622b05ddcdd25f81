"""The check made when a model is loaded: batching must be exact, padding must change nothing, or else it says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from backends.base import ModelInfo, Tensors, TensorSpec
from engine.model_options import PaddingOptions
from engine.worker import self_check
from engine.worker.padding import Padding
from tests.engine.worker.backends_for_tests import Numeric, Ragged


def batch_reason(backend: Numeric, rows: int = 32) -> str | None:
    return self_check.batch_reason(backend.predict, backend.example(), backend.info, rows)


def padding_reason(backend: Numeric, **options: PaddingOptions) -> str | None:
    return self_check.padding_reason(backend.predict, backend.example(), backend.info, Padding(backend.info, options))


# -- batches ----------------------------------------------------------------------------------------------------------


def noisy(batch: Tensors) -> Tensors:
    """Another order of summation: a difference in the last bits."""
    return {"y": batch["x"] * np.float32(2 + 1e-7 * (len(batch["x"]) - 1))}


def test_a_model_that_computes_row_by_row_is_batched() -> None:
    backend = Numeric()
    assert batch_reason(backend) is None
    together = backend.calls[-1]["x"]
    assert len(together) == self_check.ROWS
    assert len(np.unique(together, axis=0)) == self_check.ROWS, "rows that are all equal prove nothing"


def test_noise_of_the_last_bits_is_let_pass() -> None:
    assert batch_reason(Numeric(noisy)) is None


def test_a_batch_in_the_check_is_no_larger_than_batches_will_be() -> None:
    backend = Numeric()
    assert batch_reason(backend, rows=3) is None
    assert max(len(call["x"]) for call in backend.calls) == 3


def over_the_batch(batch: Tensors) -> Tensors:
    return {"y": batch["x"] - batch["x"].mean(axis=0)}


def mixes_rows_up(batch: Tensors) -> Tensors:
    return {"y": batch["x"][::-1]}


def one_answer_for_all(batch: Tensors) -> Tensors:
    return {"y": batch["x"].mean(axis=0, keepdims=True)}


def only_one_row(batch: Tensors) -> Tensors:
    if len(batch["x"]) > 1:
        raise ValueError("Got invalid dimensions for input: x\n index: 0 Got: 4 Expected: 1")
    return {"y": batch["x"]}


def last_state(batch: Tensors) -> Tensors:
    return {"y": np.cumsum(batch["x"], axis=0)}


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (over_the_batch, "a row computed in a batch differs from the same row computed alone: output 'y' is off by"),
        (mixes_rows_up, "a row computed in a batch differs from the same row computed alone: output 'y' is off by"),
        (last_state, "a row computed in a batch differs from the same row computed alone: output 'y' is off by"),
        (one_answer_for_all, "output 'y' does not have one row for each input row"),
        (only_one_row, "a batch of 4 rows failed: Got invalid dimensions for input: x"),
    ],
)
def test_a_model_that_depends_on_its_batch_is_not(compute: Callable[[Tensors], Tensors], reason: str) -> None:
    found = batch_reason(Numeric(compute))
    assert found is not None
    assert found.startswith(reason)
    assert "\n" not in found


def test_a_model_that_takes_no_rows_but_its_example_is_checked_with_that() -> None:
    """Such as categories that a table stores as numbers: a value between two of them is unknown."""

    def known_values(batch: Tensors) -> Tensors:
        if not np.isin(batch["x"], [1, 2, 3]).all():
            raise ValueError("Found unknown categories")
        return {"y": batch["x"]}

    backend = Numeric(known_values)
    assert batch_reason(backend) is None
    assert len(backend.calls[-1]["x"]) == self_check.ROWS


def test_a_model_that_takes_no_rows_but_its_example_must_batch_that() -> None:
    def picky(batch: Tensors) -> Tensors:
        if not np.isin(batch["x"], [1, 2, 3]).all():
            raise ValueError("Found unknown categories")
        return {"y": batch["x"] * len(batch["x"])}

    reason = batch_reason(Numeric(picky))
    assert reason is not None
    assert "differs" in reason


class Labels(Numeric):
    outputs = (TensorSpec("label", "string", ("batch",)), TensorSpec("n", "int64", ("batch",)))


def test_labels_and_counts_must_be_equal() -> None:
    def label(batch: Tensors) -> Tensors:
        sums = batch["x"].sum(axis=1).astype(np.int64)
        return {"label": np.array([str(s) for s in sums], object), "n": sums}

    def unsure(batch: Tensors) -> Tensors:
        out = label(batch)
        return {**out, "n": out["n"] + (len(batch["x"]) > 1)}

    assert batch_reason(Labels(label)) is None
    reason = batch_reason(Labels(unsure))
    assert reason is not None
    assert reason.endswith("output 'n' is not equal")


def test_nan_and_infinity_in_the_same_places_are_equal() -> None:
    def extreme(batch: Tensors) -> Tensors:
        return {"y": np.where(batch["x"] > 2, np.nan, np.where(batch["x"] > 1, -np.inf, batch["x"]))}

    def in_a_batch_elsewhere(batch: Tensors) -> Tensors:
        y = extreme(batch)["y"]
        return {"y": np.roll(y, len(y) // 4, axis=1)}

    assert batch_reason(Numeric(extreme)) is None
    reason = batch_reason(Numeric(in_a_batch_elsewhere))
    assert reason is not None
    assert reason.endswith("output 'y' is NaN in other places")
    told = self_check.difference({"y": np.array([[np.inf, 1.0]])}, {"y": np.array([[np.inf, 2.0]])})
    assert told == "output 'y' is off by 1"


def test_an_output_that_goes_missing_in_a_batch_is_told() -> None:
    def sometimes(batch: Tensors) -> Tensors:
        return {"y": batch["x"], "z": batch["x"]} if len(batch["x"]) == 1 else {"y": batch["x"]}

    reason = batch_reason(Numeric(sometimes))
    assert reason is not None
    assert "output 'z' is missing" in reason


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-2), ("float32", 1e-3), ("float64", 5e-7)])
def test_the_tolerance_suits_the_dtype(dtype: str, error: float) -> None:
    one: Tensors = {"y": np.ones((1, 4), dtype)}
    for factor, passes in ((0.5, True), (10.0, False)):
        other: Tensors = {"y": (np.ones((1, 4)) + error * factor).astype(dtype)}
        assert (self_check.difference(one, other) is None) == passes


def test_a_difference_of_shape_is_told() -> None:
    told = self_check.difference({"y": np.ones((1, 4))}, {"y": np.ones((1, 3))})
    assert told == "output 'y' has shape [1, 3] instead of [1, 4]"


# -- padding ----------------------------------------------------------------------------------------------------------


def test_a_model_whose_rows_are_padded_without_a_trace_is_padded() -> None:
    backend = Ragged()
    assert padding_reason(backend) is None
    shapes = [call["tokens"].shape for call in backend.calls]
    assert shapes == [(1, 4), (1, 2), (2, 4)]


def test_a_row_of_length_one_is_doubled_instead_of_halved() -> None:
    class Short(Ragged):
        def example(self) -> Tensors:
            return {"tokens": np.array([[5]])}

    backend = Short()
    assert padding_reason(backend) is None
    assert [call["tokens"].shape for call in backend.calls] == [(1, 2), (1, 1), (2, 2)]


def test_the_padding_value_decides() -> None:
    class Product(Ragged):
        outputs = (TensorSpec("product", "int64", ("batch",)),)

        def compute(self, batch: Tensors) -> Tensors:
            return {"product": batch["tokens"].prod(axis=1)}

    assert padding_reason(Product(), tokens=PaddingOptions(value=1)) is None
    reason = padding_reason(Product())
    assert reason == "padding changes the result: output 'product' is not equal"


def test_a_mean_over_the_row_is_changed_by_padding() -> None:
    class Mean(Ragged):
        outputs = (TensorSpec("mean", "float64", ("batch",)),)

        def compute(self, batch: Tensors) -> Tensors:
            return {"mean": batch["tokens"].mean(axis=1)}

    reason = padding_reason(Mean())
    assert reason is not None
    assert reason.startswith("padding changes the result: output 'mean' is off by")


def test_a_model_that_takes_one_length_only_says_so() -> None:
    class Fixed(Ragged):
        def compute(self, batch: Tensors) -> Tensors:
            if batch["tokens"].shape[1] != 4:
                raise ValueError("expected 4 tokens")
            return super().compute(batch)

    assert padding_reason(Fixed()) == "rows of different lengths failed: expected 4 tokens"


def test_what_the_signature_rules_out_is_not_tried() -> None:
    backend = Numeric()
    assert padding_reason(backend) == "its rows have a fixed shape"
    assert backend.calls == []


def test_inputs_of_several_lengths_are_padded_each_by_its_own() -> None:
    class Pair(Numeric):
        inputs = (
            TensorSpec("question", "int64", ("batch", "q")),
            TensorSpec("answer", "int64", ("batch", "a")),
        )
        outputs = (TensorSpec("q", "int64", ("batch", "q")), TensorSpec("a", "int64", ("batch", "a")))

        def example(self) -> Tensors:
            return {"question": np.ones((1, 6), np.int64), "answer": np.ones((1, 4), np.int64)}

        def compute(self, batch: Tensors) -> Tensors:
            return {"q": batch["question"] + 0, "a": batch["answer"] + 0}

    backend = Pair()
    assert padding_reason(backend) is None
    assert [c["question"].shape for c in backend.calls] == [(1, 6), (1, 3), (2, 6)]
    assert [c["answer"].shape for c in backend.calls] == [(1, 4), (1, 2), (2, 4)]


def test_the_info_says_the_batch_axis_of_the_output() -> None:
    info = ModelInfo(task="tensor", inputs=Numeric.inputs, outputs=Numeric.outputs)
    backend = Numeric()
    assert self_check.batch_reason(backend.predict, backend.example(), info, 2) is None
