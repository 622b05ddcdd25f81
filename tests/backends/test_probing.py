"""What the probing of signatures tries, where that shows in no backend's answers."""

from __future__ import annotations

import math

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
