"""Sparing prompts the part that was computed before, for a sequence that has ended or one that runs."""

from __future__ import annotations

from collections.abc import Iterable

from backends.prefix_cache import WORTHWHILE, Entry, PrefixCache, common_prefix
from backends.transformers.decoder import Decoder
from backends.transformers.sequences import Sequence


class Prefixes:
    """Copies keys and values between sequences and a cache."""

    def __init__(self, cache: PrefixCache, decoder: Decoder) -> None:
        self._cache = cache
        self._decoder = decoder

    def keep(self, sequence: Sequence) -> None:
        """Caches what was computed for a sequence, unless that is there already."""
        tokens = sequence.tokens[: sequence.stored]
        if len(tokens) < WORTHWHILE or not self._cache.admits(tokens, None, self._decoder.nbytes_of(sequence)):
            return
        state = self._decoder.state(sequence)
        self._cache.add(Entry(tokens.copy(), None, state, state.nbytes))

    def reuse(self, sequence: Sequence) -> None:
        """Gives a sequence for which nothing is computed what was computed of its tokens, but for the last one."""
        entry, length = self._cache.find(sequence.tokens[:-1], None)
        if entry is not None and length >= WORTHWHILE:
            self._cache.touch(entry)
            self._decoder.restore(sequence, entry.state, length)

    def coming(self, sequence: Sequence, others: Iterable[Sequence]) -> bool:
        """Whether more of the tokens of a sequence will be cached when the prompts of `others` are computed."""
        tokens = sequence.tokens[:-1]
        shared = max((common_prefix(tokens, other.tokens) for other in others), default=0)
        return shared >= WORTHWHILE and shared >= self._cache.find(tokens, None)[1] + WORTHWHILE
