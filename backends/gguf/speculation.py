"""Guessing the next tokens, so that one decode call checks several: what is guessed, and when it pays.

A guess never changes an answer. Each position is sampled by the sequence's own sampler from the logits that the model
gives there, and guessed tokens count only as far as they are what was sampled.

It pays by this rule: a step yields some tokens for sure and takes some time; a guessed token adds its odds to the
first and its cost to the second, so that it is worth its place if odds / cost beats the step's tokens / time without
it. Both sides are measured while the model runs. On a CPU that many sequences keep busy, no odds are good enough, and
nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

MOST = 16
"""Tokens guessed at once for one sequence."""
_NGRAM = 3
_RATE = 0.12
"""How far the odds move with each outcome."""
_FIRST_ODDS = 0.5
_MARGIN = 1.1
"""How much better than without it a guess must promise to be: costs are estimates."""
_DECAY = 0.98
_FIRST_SLOPE = 0.35
"""Cost of another token, as a share of a lone one's, until it is measured."""


class Guessing(Protocol):
    """What guesses for one sequence."""

    odds: float
    """The chance that its next token is right."""

    @property
    def seconds(self) -> float:
        """What a guessed token takes, before it is checked."""

    def look(self, tokens: Tokens) -> bool:
        """Takes in the tokens that were added to `tokens`, which holds all so far. Whether there is a guess."""

    def guess(self, tokens: Tokens, count: int) -> Tokens:
        """The next `count` tokens or fewer, after a `look` that found something."""

    def close(self) -> None:
        """Frees what it holds."""


class Guesser:
    """Guesses that text repeats itself: what followed the last three tokens where they occurred before, comes again.

    `odds` is the chance that a guess is right, followed even while nothing is guessed.
    """

    seconds = 0.0
    """Looking back takes next to nothing."""

    def __init__(self) -> None:
        self.odds = _FIRST_ODDS
        self._source = -1
        """Where the next token is expected to have occurred before; -1 when nothing is expected."""
        self._seen = 0
        """Tokens that there were at the last look."""

    def look(self, tokens: Tokens) -> bool:
        """Takes in the tokens that were added to `tokens`, which holds all so far. Whether there is a guess."""
        if self._source >= 0:
            for at in range(self._seen, len(tokens)):
                right = bool(tokens[self._source] == tokens[at])
                self.odds += _RATE * (right - self.odds)
                if not right:
                    self._source = -1
                    break
                self._source += 1
        if self._source < 0:
            self._source = _repetition(tokens)
        self._seen = len(tokens)
        return self._source >= 0

    def guess(self, tokens: Tokens, count: int) -> Tokens:
        """The next `count` tokens, after a `look` that found something."""
        known = tokens[self._source : self._source + count]
        if len(known) == count:
            return known
        return np.resize(tokens[self._source :], count)  # the text goes round in circles

    def close(self) -> None:
        """Has nothing to free."""


def _repetition(tokens: Tokens) -> int:
    """Where the text goes on after the latest earlier occurrence of its last tokens; -1 if there is none."""
    if len(tokens) <= _NGRAM:
        return -1
    found = tokens[_NGRAM - 1 : -1] == tokens[-1]
    for back in range(1, _NGRAM):
        found &= tokens[_NGRAM - 1 - back : -1 - back] == tokens[-1 - back]
    places = found.nonzero()[0]
    return int(places[-1]) + _NGRAM if len(places) else -1


class Costs:
    """What a decode call takes, as a line over its number of tokens, fitted to the latest calls."""

    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._t = self._nt = 0.0
        self._slope = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Notes a call. A pause of the machine counts no more than three times the usual."""
        usual = self.at(tokens)
        seconds = min(seconds, 3 * usual) if usual else seconds
        self._weight = self._weight * _DECAY + 1
        self._n = self._n * _DECAY + tokens
        self._nn = self._nn * _DECAY + tokens * tokens
        self._t = self._t * _DECAY + seconds
        self._nt = self._nt * _DECAY + tokens * seconds
        mean, time = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - mean * mean
        if spread > 0.25:
            self._slope = max(0.0, (self._nt / self._weight - mean * time) / spread)
        elif not self._slope:
            self._slope = _FIRST_SLOPE * time / mean
        self._slope = min(self._slope, time / mean)

    @property
    def slope(self) -> float:
        """Seconds that another token takes."""
        return self._slope

    def at(self, tokens: int) -> float:
        """Seconds that a call of so many tokens takes; 0 when nothing is known."""
        if not self._weight:
            return 0.0
        return self._t / self._weight + self._slope * (tokens - self._n / self._weight)


def plan(
    costs: Costs, sequences: int, odds: Sequence[float], limits: Sequence[int], most: int, seconds: float = 0.0
) -> list[int]:
    """How many tokens to guess for each of those that have a guess, at most `limits` each and `most` together.

    `sequences` decode in this step, guesses or not; `odds` are the chances that a guess is right, and `seconds` is what
    a guess takes besides its part of the decode call.
    """
    counts = [0] * len(odds)
    slope = (costs.slope + seconds) * _MARGIN
    time = costs.at(sequences)
    if not time:
        return counts
    tokens = float(sequences)
    chances = [chance if limit else 0.0 for chance, limit in zip(odds, limits, strict=True)]
    for _ in range(most):
        best = max(range(len(chances)), key=chances.__getitem__, default=-1)
        if best < 0 or chances[best] * time <= tokens * slope:
            break
        tokens += chances[best]
        time += slope
        counts[best] += 1
        chances[best] = chances[best] * odds[best] if counts[best] < limits[best] else 0.0
    return counts
