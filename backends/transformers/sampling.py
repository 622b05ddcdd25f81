"""Choosing the next token of one sequence from its logits, in NumPy.

The order is that of the GGUF backend: logit bias, penalties, top-k, typical, top-p, min-p, temperature, and a draw.
Greedy choice is one `argmax`. A grammar is asked of what was chosen; only when it does not allow that, what it does
allow is looked for, which takes a hundred times as long.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backends.base import BackendError
from backends.sampling import COLD, DeadEnd, Logits, SamplingDefaults, Tokens, bias_of, penalise, window_of
from backends.transformers.grammar import Follower

_SPREAD = 25.0
"""Tokens whose logit is further below the best one are left out before anything is sorted: all of them together would
be drawn less than once in a million answers. Times the temperature, where that is above 1."""


class Sampler:
    """Chooses the tokens of one sequence, with random numbers of its own."""

    def __init__(
        self,
        settings: SamplingDefaults,
        *,
        seed: int,
        logit_bias: dict[int, float],
        banned: Tokens | None = None,
        grammar: Follower | None = None,
    ) -> None:
        self._settings = settings
        self._random = np.random.default_rng(seed)
        self._biased, self._bias = bias_of(logit_bias, banned)
        self._window = window_of(settings)
        self._greedy = settings.temperature < COLD
        self._grammar = grammar

    def choose(self, logits: Logits, tokens: Tokens) -> int:
        """The next token after `tokens`, all so far, from its `logits`, which it may change. Raises `DeadEnd`."""
        if len(self._biased):
            logits[self._biased] += self._bias
        if self._window:
            penalise(logits, tokens[-self._window :], self._settings)
        token = self._pick(logits)
        if self._grammar is not None:
            if not self._grammar.allows(token):
                self._grammar.restrict(logits)
                token = self._pick(logits)
            self._grammar.accept(token)
        return token

    def _pick(self, logits: Logits) -> int:
        best = int(logits.argmax())  # of numbers that are none, it is the first
        if not logits[best] > -math.inf:
            if math.isnan(logits[best]):
                raise BackendError("The model computes what is not a number; its file may be damaged.")
            raise DeadEnd
        return best if self._greedy else self._draw(logits, float(logits[best]))

    def _draw(self, logits: Logits, highest: float) -> int:
        settings = self._settings
        ids = (logits > highest - _SPREAD * max(1.0, settings.temperature)).nonzero()[0]
        if 0 < settings.top_k < len(ids):
            ids = ids[np.argpartition(-logits[ids], settings.top_k - 1)[: settings.top_k]]
        ids = ids[np.lexsort((ids, -logits[ids]))]  # best first
        values = logits[ids].astype(np.float64)
        if settings.typical_p < 1:
            kept = _typical(values, settings.typical_p)
            ids, values = ids[kept], values[kept]
        if settings.top_p < 1:
            count = int(np.searchsorted(np.cumsum(_softmax(values)), settings.top_p)) + 1
            ids, values = ids[:count], values[:count]
        if settings.min_p > 0:
            count = int(np.count_nonzero(values >= values[0] + math.log(settings.min_p)))
            ids, values = ids[: max(1, count)], values[: max(1, count)]
        chances = np.cumsum(_softmax(values / settings.temperature))
        drawn = int(np.searchsorted(chances, self._random.random() * chances[-1], side="right"))
        return int(ids[min(drawn, len(ids) - 1)])


def _typical(values: NDArray[np.float64], share: float) -> NDArray[np.intp]:
    """Places of the tokens whose surprise is nearest to the expected one, as many as have `share` of all chances."""
    chances = _softmax(values)
    surprise = -np.log(chances, where=chances > 0, out=np.full_like(chances, -math.inf))
    expected = float((chances[chances > 0] * surprise[chances > 0]).sum())
    nearest = np.argsort(np.abs(surprise - expected), kind="stable")
    count = int(np.searchsorted(np.cumsum(chances[nearest]), share)) + 1
    return np.sort(nearest[:count])


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances of values of which the first may not be the highest."""
    powers = np.exp(values - values.max())
    chances: NDArray[np.float64] = powers / powers.sum()
    return chances
