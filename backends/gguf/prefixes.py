"""Sparing prompts the part that was computed before: for a sequence that has ended, or for one that runs."""

from __future__ import annotations

from collections.abc import Iterable

from backends.gguf.context import Context
from backends.gguf.sequences import Sequence
from backends.prefix_cache import WORTHWHILE, Entry, PrefixCache, common_prefix

_WORTH_WAITING = 64
"""A prompt waits until another one that is being computed has got through a common beginning of this length."""


class Prefixes:
    """Copies keys and values between the slots of sequences and a cache.

    Unless `cuttable`, what is remembered of a sequence serves only prompts that begin with all of it.
    """

    def __init__(self, cache: PrefixCache, *, cuttable: bool) -> None:
        self._cache = cache
        self._cuttable = cuttable

    def keep(self, sequence: Sequence) -> Entry | None:
        """Caches what was computed for a sequence, unless that is there already. The entry, if it is new."""
        tokens, group = sequence.tokens[: sequence.stored], sequence.request.group
        if sequence.context is None or len(tokens) < WORTHWHILE or not self._cache.admits(tokens, group, 1):
            return None
        state = sequence.context.save(sequence.slot)
        if state is None:
            return None
        entry = Entry(tokens.copy(), group, state, state.size)
        if self._cache.admits(tokens, group, state.size):
            self._cache.add(entry)
        return entry

    def reuse(self, sequence: Sequence, running: Iterable[Sequence], context: Context, slot: int) -> int:
        """Puts what was computed before of a sequence's tokens into its empty slot-to-be. How many tokens these are."""
        source, length = self._known(sequence, running)
        if isinstance(source, Sequence):
            source = self.keep(source)
        if source is None or not context.restore(slot, source.state):
            return 0
        self._cache.touch(source)
        if length < len(source.tokens):
            context.cut(slot, sequence.position(length))
        return length

    def coming(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Whether a running sequence is about to compute much of what this one needs as well."""
        tokens = sequence.tokens[:-1]
        soon = [
            min(common_prefix(other.tokens, tokens), other.count - 1)
            for other in running
            if other.pending > 1 and other.request.group == sequence.request.group
        ]
        return bool(soon) and max(soon) - self._known(sequence, running)[1] >= _WORTH_WAITING

    def _known(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Entry | Sequence | None, int]:
        """Where the longest part of its tokens that was computed before is, and how long that is.

        The last token is always computed: its logits are wanted.
        """
        tokens, group = sequence.tokens[:-1], sequence.request.group
        source: Entry | Sequence | None
        source, length = self._cache.find(tokens, group)
        for other in running:
            if other.request.group == group:
                common = common_prefix(other.tokens[: other.stored], tokens)
                if common > length and (common == other.stored or self._cuttable):
                    source, length = other, common
        whole_images = sequence.bounded(length)
        if whole_images < length and not self._cuttable:
            return None, 0
        length = whole_images
        return (source, length) if length >= WORTHWHILE else (None, 0)
