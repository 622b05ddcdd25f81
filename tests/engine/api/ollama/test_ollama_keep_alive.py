"""Durations as Ollama's clients write them."""

from __future__ import annotations

import math

import pytest

from engine.api.ollama.keep_alive import seconds
from engine.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (0, 0),
        (2.5, 2.5),
        ("0", 0),
        ("0s", 0),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("+1m.5s", 60.5),
        (-1, math.inf),
        ("-1m", math.inf),
    ],
)
def test_a_duration_is_seconds(given: str | float, value: float) -> None:
    assert seconds(given) == pytest.approx(value)


@pytest.mark.parametrize("given", ["", "5", "-1", "5 m", "m", "1d", "five", "1h-5m"])
def test_anything_else_is_an_error_that_shows_how(given: str) -> None:
    with pytest.raises(InvalidInput, match="'5m'") as e:
        seconds(given)
    assert e.value.field == "keep_alive"
