"""Which prompts the next call computes: several short ones, or a part of a long one.

A call reads all weights, however few tokens it computes, so prompts share one as far as its time allows. The oldest is
always among them. They are padded to the longest, so one that is much shorter waits for another call; and one that
begins as an earlier one does waits until that part is cached.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

from backends.transformers.prefixes import Prefixes
from backends.transformers.sequences import Part, Request, Sequence

CALL = 32
"""What a call costs by itself, in tokens: reading the weights takes about as long as computing so many on a CPU."""
_LEAST, _MOST = 32, 512
"""Tokens of a call. Shorter parts of a prompt are not made of it."""


class PromptQueue:
    """Owns the sequences that were let in and whose prompts are not computed, by `Sequence.order`.

    Those of a model that is not `batched` are computed alone and whole.
    """

    def __init__(self, prefixes: Prefixes | None, *, batched: bool) -> None:
        self._prefixes = prefixes
        self._batched = batched
        self._sequences: list[Sequence] = []
        self._token_seconds = math.inf
        """Of a token of a call; infinity before the first."""

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Adds one in its place."""
        bisect.insort(self._sequences, sequence, key=lambda each: each.order)

    def remove(self, sequence: Sequence) -> None:
        """Takes out one whose prompt is computed."""
        self._sequences.remove(sequence)

    def drop(self, request: Request) -> None:
        """Takes out those of a request."""
        self._sequences = [each for each in self._sequences if each.request is not request]

    def next(self, seconds: float, cells: int, *, must: bool) -> list[Part]:
        """The parts of a call that takes so many seconds, and memory for so many tokens if there are several.

        Nothing if the time is too short, unless something `must` be computed.
        """
        room = self._room(seconds)
        group: list[Part] = []
        for place, sequence in enumerate(self._sequences):
            if not sequence.stored and self._prefixes is not None:
                if self._prefixes.coming(sequence, self._sequences[:place]):
                    continue
                self._prefixes.reuse(sequence)
            if not group:
                count = self._part(sequence.pending, max(room, _LEAST) if must else room)
                if not count:
                    break
                group.append(Part(sequence, count))
            elif self._joins(sequence, group, room, cells):
                group.append(Part(sequence, sequence.pending))
            if not self._batched or _cost([*group, group[0]]) > room:
                break
        return group

    def record(self, parts: list[Part], seconds: float) -> None:
        """Notes what a call took."""
        found = seconds / (_cost(parts) + CALL)
        self._token_seconds = min(found, 0.8 * self._token_seconds + 0.2 * found)  # a slow one may be an accident

    def _room(self, seconds: float) -> int:
        """The tokens of a call that takes so long."""
        return min(_MOST, int(seconds / self._token_seconds) - CALL)

    def _part(self, pending: int, room: int) -> int:
        """How much of a prompt to compute. No crumbs are left of it."""
        if pending <= room or (room > 0 and not self._batched):
            return pending
        if room < _LEAST:
            return 0
        return pending if pending < room + _LEAST else room

    @staticmethod
    def _joins(sequence: Sequence, group: list[Part], room: int, cells: int) -> bool:
        """Whether a prompt costs less in the call of others than in one of its own, and they have room for it."""
        wider = [*group, Part(sequence, sequence.pending)]
        longest = max(each.stored + length for each, length in wider)
        cost = _cost(wider)
        return cost <= room and cost - _cost(group) <= sequence.pending + CALL and len(wider) * longest <= cells


def _cost(parts: list[Part]) -> int:
    """Tokens that a call computes, with those that fill up the shorter parts."""
    return len(parts) * max(part.length for part in parts)
