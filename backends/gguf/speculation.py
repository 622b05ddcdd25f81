"""Guessing the next tokens, so that one decode call checks several: what is guessed, and when it pays.

A guess never changes an answer. Each position is sampled by the sequence's own sampler from the logits that the model
gives there, and guessed tokens count only as far as they are what was sampled.

It pays if the tokens that a call may expect, per second that it takes, are more with the guess than without. Both sides
are measured while the model runs.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

MOST = 16
"""Tokens guessed at once."""
_NGRAM = 3
_RATE = 0.12
"""How far the odds move with each outcome."""
_FIRST_ODDS = 0.5
_MARGIN = 1.1
"""How much faster than without them guesses must promise to be: costs are estimates."""
_DECAY = 0.98
_TRUST = 0.99
"""What a measurement is worth one call later."""
_FIRST_SLOPE = 0.35
"""Cost of another token, as a share of a lone one's, until it is measured."""
_RETURN = 0.005
"""How fast the slope goes back to that when all calls are alike."""


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
    """What a decode call takes, by its number of tokens.

    Each number is measured on its own, as kernels have their favourite ones. What was not measured, or long ago, is
    read off a line through the latest calls; and while these are all alike, its slope goes back to the first guess, so
    that what did not pay in a bad moment is tried again.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._measured: dict[int, tuple[float, int]] = {}
        """Seconds by the number of tokens, and the call that it was measured in last."""
        self._weight = self._n = self._nn = self._t = self._nt = 0.0
        self._slope = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Notes a call. A pause of the machine counts no more than three times the usual."""
        usual = self.at(tokens)
        seconds = min(seconds, 3 * usual) if usual else seconds
        self._calls += 1
        before = self._measured.get(tokens, (seconds, 0))[0]
        self._measured[tokens] = before + _RATE * (seconds - before), self._calls
        self._weight = self._weight * _DECAY + 1
        self._n = self._n * _DECAY + tokens
        self._nn = self._nn * _DECAY + tokens * tokens
        self._t = self._t * _DECAY + seconds
        self._nt = self._nt * _DECAY + tokens * seconds
        mean, time = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - mean * mean
        if spread > 0.25:
            self._slope = max(0.0, (self._nt / self._weight - mean * time) / spread)
        else:
            first = _FIRST_SLOPE * time / mean
            self._slope = self._slope + _RETURN * (first - self._slope) if self._slope else first
        self._slope = min(self._slope, time / mean)

    def at(self, tokens: int) -> float:
        """Seconds that a call of so many tokens takes; 0 when nothing is known."""
        if not self._calls:
            return 0.0
        line = self._t / self._weight + self._slope * (tokens - self._n / self._weight)
        if tokens not in self._measured:
            return line
        seconds, call = self._measured[tokens]
        trust = _TRUST ** (self._calls - call)
        return trust * seconds + (1 - trust) * line


def plan(costs: Costs, odds: float, limit: int, seconds: float = 0.0) -> int:
    """How many tokens to guess for a sequence that decodes alone, at most `limit`.

    `odds` is the chance that a guess is right, and `seconds` what it takes besides its part of the decode call.
    """
    time = costs.at(1)
    if not time:
        return 0
    best, length, tokens, chance = _MARGIN / time, 0, 1.0, 1.0
    for count in range(1, limit + 1):
        chance *= odds
        tokens += chance
        speed = tokens / (costs.at(1 + count) + count * seconds)
        if speed > best:
            best, length = speed, count
    return length
