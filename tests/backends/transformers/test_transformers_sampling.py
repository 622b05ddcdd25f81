"""Tests of choosing tokens: those that the library's own processors keep, with the chances that they should have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.base import BackendError
from backends.sampling import DeadEnd, SamplingDefaults
from backends.transformers.sampling import Sampler

NOTHING = np.empty(0, np.int32)
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
LOGITS = np.random.default_rng(5).normal(0, 2, 60).astype(np.float32)


def sampler(**settings: Any) -> Sampler:
    return Sampler(SamplingDefaults(**{**PLAIN, **settings}), seed=1, logit_bias={})


def drawn(count: int = 4000, **settings: Any) -> np.ndarray[Any, Any]:
    chooser = sampler(**settings)
    return np.bincount([chooser.choose(LOGITS.copy(), NOTHING) for _ in range(count)], minlength=len(LOGITS))


@pytest.mark.parametrize(
    ("settings", "warper", "argument"),
    [
        ({"top_k": 7}, "TopKLogitsWarper", 7),
        ({"top_p": 0.8}, "TopPLogitsWarper", 0.8),
        ({"min_p": 0.1}, "MinPLogitsWarper", 0.1),
        ({"typical_p": 0.5}, "TypicalLogitsWarper", 0.5),
    ],
)
def test_the_tokens_that_the_library_keeps(settings: dict[str, Any], warper: str, argument: float) -> None:
    import torch
    import transformers

    process = getattr(transformers.generation.logits_process, warper)(argument)
    scores = process(None, torch.from_numpy(LOGITS.copy())[None])[0]
    chances = scores.softmax(-1).numpy()
    counts = drawn(**settings)
    assert set(counts.nonzero()[0]) <= set(chances.nonzero()[0])
    assert counts / counts.sum() == pytest.approx(chances, abs=0.03)


def test_temperature() -> None:
    powers = np.exp(LOGITS / 2.5 - (LOGITS / 2.5).max())
    assert drawn(temperature=2.5) / 4000 == pytest.approx(powers / powers.sum(), abs=0.03)
    assert drawn(50, temperature=1e-6).argmax() == LOGITS.argmax()


def test_nothing_to_choose_from() -> None:
    with pytest.raises(DeadEnd):
        sampler().choose(np.full(5, -np.inf, np.float32), NOTHING)
    with pytest.raises(BackendError, match="not a number"):
        sampler().choose(np.full(5, np.nan, np.float32), NOTHING)


def test_banned_tokens_and_bias() -> None:
    banned = Sampler(
        SamplingDefaults(**{**PLAIN, "temperature": 0}),
        seed=1,
        logit_bias={3: 100.0, 4: 200.0},
        banned=np.array([4], np.int32),
    )
    assert banned.choose(LOGITS.copy(), NOTHING) == 3
