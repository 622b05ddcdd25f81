"""Which beginnings of prompts are computed already: token sequences whose keys and values were kept.

Pure bookkeeping. What is kept of an entry (its `state`) is the owner's business, which gives its size.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

WORTHWHILE = 8
"""Shorter beginnings of prompts are computed again. Those that chat templates alone give are longer."""


@dataclass(slots=True, eq=False)
class Entry:
    """Kept keys and values of `tokens`, computed under the adapters of `group`."""

    tokens: Tokens
    group: Hashable
    state: Any
    size: int
    """Bytes of `state`."""
    used: int = 0
    """When it was last of use, on a clock that ticks with each use."""


class PrefixCache:
    """Entries up to `capacity` bytes; the least recently used ones go first.

    With `whole`, an entry serves only prompts that begin with all of it: the state of recurrent models cannot be cut.
    """

    def __init__(self, capacity: int, *, whole: bool = False) -> None:
        self.capacity = capacity
        self.size = 0
        """Bytes of all entries."""
        self._whole = whole
        self._entries: list[Entry] = []
        self._clock = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tokens: Tokens, group: Hashable) -> tuple[Entry | None, int]:
        """The entry that shares the longest beginning with `tokens`, and the length of that."""
        best, longest = None, 0
        for entry in self._entries:
            if entry.group != group:
                continue
            length = common_prefix(entry.tokens, tokens)
            if length > longest and (length == len(entry.tokens) or not self._whole):
                best, longest = entry, length
        return best, longest

    def touch(self, entry: Entry) -> None:
        """Notes a use of `entry`."""
        self._clock += 1
        entry.used = self._clock

    def admits(self, tokens: Tokens, group: Hashable, size: int) -> bool:
        """Whether an entry for `tokens` would add anything: it fits, and no entry begins with all of them."""
        if not 0 < size <= self.capacity:
            return False
        entry, length = self.find(tokens, group)
        if entry is None or length < len(tokens) or (self._whole and length < len(entry.tokens)):
            return True
        self.touch(entry)
        return False

    def add(self, entry: Entry) -> None:
        """Keeps `entry`, which `admits` let in, in place of those that it continues and of the least recently used."""
        for other in [o for o in self._entries if o.group == entry.group and self._replaces(entry, o)]:
            self._drop(other)
        while self._entries and self.size + entry.size > self.capacity:
            self._drop(min(self._entries, key=lambda e: e.used))
        self.touch(entry)
        self._entries.append(entry)
        self.size += entry.size

    def clear(self) -> None:
        """Drops all entries."""
        self._entries.clear()
        self.size = 0

    def _replaces(self, entry: Entry, other: Entry) -> bool:
        # A whole state cannot be cut back to where `other` ends, so that `other` stays of use on its own.
        return not self._whole and common_prefix(entry.tokens, other.tokens) == len(other.tokens)

    def _drop(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self.size -= entry.size


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens `a` and `b` begin with in common."""
    shorter = min(len(a), len(b))
    different = a[:shorter] != b[:shorter]
    first = int(different.argmax()) if shorter else 0
    return first if shorter and different[first] else shorter
