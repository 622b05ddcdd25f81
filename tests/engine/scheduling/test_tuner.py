"""The moving averages of a model's speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.tuner import Speed


def test_takes_the_first_batch_as_it_is() -> None:
    speed = Speed()
    speed.record(8, 0.4)
    assert (speed.compute_seconds, speed.seconds_per_row, speed.rows_per_batch) == (0.4, 0.05, 8.0)


def test_follows_a_change() -> None:
    speed = Speed()
    speed.record(1, 1.0)
    for _ in range(50):
        speed.record(10, 0.1)
    assert speed.compute_seconds == pytest.approx(0.1, rel=1e-3)
    assert speed.seconds_per_row == pytest.approx(0.01, rel=1e-2)
    assert speed.rows_per_batch == pytest.approx(10, rel=1e-3)


@given(st.lists(st.tuples(st.integers(0, 4096), st.floats(0, 1e3)), min_size=1))
def test_averages_stay_between_the_extremes(batches: list[tuple[int, float]]) -> None:
    speed = Speed()
    for rows, seconds in batches:
        speed.record(rows, seconds)
    lowest, highest = min(s for _, s in batches), max(s for _, s in batches)
    assert lowest - 1e-9 <= speed.compute_seconds <= highest + 1e-9
    per_row = [s / max(1, r) for r, s in batches]
    assert min(per_row) - 1e-9 <= speed.seconds_per_row <= max(per_row) + 1e-9
