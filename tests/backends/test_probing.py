"""What the probing of signatures tries, where that shows in no backend's answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backends.base import InvalidInput, ModelFileError, Tensors
from backends.probing import Input, probe


def test_no_made_up_row_is_very_large() -> None:
    """However many dimensions are free."""
    tried: list[tuple[int, ...]] = []

    def refuse(batch: Tensors) -> Tensors:
        tried.append(batch["x"].shape)
        raise InvalidInput("No.")

    with pytest.raises(ModelFileError, match="does not run on any example"):
        probe([Input("x", "float32", [-1, -1, -1, "width"])], refuse, {})
    assert len(tried) > 5
    assert max(map(math.prod, tried)) <= 1 << 24


def test_sizes_that_follow_the_values_of_a_row_are_free_and_rows_stay_apart() -> None:
    """A row would be filled up to what is in others of its batch."""

    def split(batch: Tensors) -> Tensors:
        rows = [text.split() for text in batch["text"].tolist()]
        width = max(map(len, rows))
        return {
            "words": np.array([row + [""] * (width - len(row)) for row in rows], object),
            "count": np.array([len(row) for row in rows]),
        }

    found = probe([Input("text", "string", [-1])], split, {})
    assert [(s.name, s.shape) for s in found.outputs] == [("words", ("batch", "words_1")), ("count", ("batch",))]
    assert found.unbatched_reason == "The size of the output 'words' depends on what is in a row."
    assert probe([Input("text", "string", [-1])], split, {}, filled=True).unbatched_reason is None


def test_other_values_that_are_refused_tell_nothing() -> None:
    def picky(batch: Tensors) -> Tensors:
        if batch["text"].tolist() != ["example"] * len(batch["text"]) or (batch["x"] < 0).any():
            raise InvalidInput("No.")
        return {"y": batch["x"]}

    found = probe([Input("text", "string", [-1]), Input("x", "float32", [-1, 2])], picky, {})
    assert found.unbatched_reason is None
    assert found.outputs[0].shape == ("batch", 2)
