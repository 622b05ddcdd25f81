"""Tests of the cache of prefixes: the longest match, what goes first, what replaces what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backends.prefix_cache import Entry, PrefixCache, Tokens, common_prefix


def tokens(*values: int) -> Tokens:
    return np.array(values, np.int32)


def put(cache: PrefixCache, values: Tokens, size: int = 1, group: object = ()) -> bool:
    if not cache.admits(values, group, size):  # type: ignore[arg-type]
        return False
    cache.add(Entry(values, group, None, size))  # type: ignore[arg-type]
    return True


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [((), (), 0), ((1,), (), 0), ((1, 2), (1, 2), 2), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2), ((2,), (1,), 0)],
)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...], length: int) -> None:
    assert common_prefix(tokens(*a), tokens(*b)) == length
    assert common_prefix(tokens(*b), tokens(*a)) == length


def test_the_longest_match_is_found() -> None:
    cache = PrefixCache(10)
    for values in (tokens(1, 2, 9), tokens(1, 2, 3, 8), tokens(7, 7, 7, 7, 7)):
        put(cache, values)
    entry, length = cache.find(tokens(1, 2, 3, 4), ())
    assert entry is not None
    assert entry.tokens.tolist() == [1, 2, 3, 8]
    assert length == 3


def test_nothing_in_common_is_no_match() -> None:
    cache = PrefixCache(10)
    put(cache, tokens(1, 2))
    assert cache.find(tokens(2, 1), ()) == (None, 0)


def test_groups_do_not_mix() -> None:
    cache = PrefixCache(10)
    put(cache, tokens(1, 2, 3), group="a")
    assert cache.find(tokens(1, 2, 3), "b") == (None, 0)
    assert cache.find(tokens(1, 2, 3), "a")[1] == 3


def test_an_entry_that_goes_on_replaces_what_it_continues() -> None:
    cache = PrefixCache(10)
    put(cache, tokens(1, 2), group="a")
    put(cache, tokens(1, 2), group="b")
    put(cache, tokens(1, 2, 3), group="a")
    assert len(cache) == 2
    assert cache.size == 2


def test_what_an_entry_has_already_is_not_let_in_but_counts_as_a_use() -> None:
    cache = PrefixCache(2)
    put(cache, tokens(1, 2, 3))
    put(cache, tokens(5, 6))
    assert not put(cache, tokens(1, 2))
    put(cache, tokens(8, 9))
    assert cache.find(tokens(1, 2, 3), ())[1] == 3
    assert cache.find(tokens(5, 6), ()) == (None, 0)


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(3)
    for first in (1, 2, 3):
        put(cache, tokens(first, 0))
    entry, _ = cache.find(tokens(1, 0), ())
    assert entry is not None
    cache.touch(entry)
    put(cache, tokens(4, 0), size=2)
    assert cache.size == 3
    assert [cache.find(tokens(first, 0), ())[1] for first in (1, 2, 3, 4)] == [2, 0, 0, 2]


def test_what_is_too_large_is_not_let_in() -> None:
    cache = PrefixCache(3)
    assert not put(cache, tokens(1), size=4)
    assert not put(cache, tokens(1), size=0)


def test_whole_states_serve_only_prompts_that_begin_with_all_of_them() -> None:
    cache = PrefixCache(10, whole=True)
    put(cache, tokens(1, 2, 3))
    assert cache.find(tokens(1, 2, 9), ()) == (None, 0)
    assert cache.find(tokens(1, 2, 3, 4), ())[1] == 3


def test_whole_states_do_not_replace_each_other() -> None:
    cache = PrefixCache(10, whole=True)
    assert put(cache, tokens(1, 2, 3))
    assert put(cache, tokens(1, 2))
    assert put(cache, tokens(1, 2, 3, 4))
    assert len(cache) == 3
    assert not put(cache, tokens(1, 2))
    assert cache.find(tokens(1, 2, 9), ())[1] == 2


def test_clear() -> None:
    cache = PrefixCache(10)
    put(cache, tokens(1, 2))
    cache.clear()
    assert len(cache) == cache.size == 0
    assert cache.find(tokens(1, 2), ()) == (None, 0)


class AgainstAModel(RuleBasedStateMachine):
    """Any uses: within its capacity, and as good as a search through everything that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(12)
        self.last: Tokens | None = None

    @rule(values=st.lists(st.integers(0, 1), min_size=1, max_size=6), size=st.integers(1, 6))
    def put(self, values: list[int], size: int) -> None:
        put(self.cache, tokens(*values), size)
        self.last = tokens(*values)

    @rule(values=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def find(self, values: list[int]) -> None:
        entry, length = self.cache.find(tokens(*values), ())
        assert length == max([common_prefix(e.tokens, tokens(*values)) for e in self.cache._entries], default=0)
        assert entry is None or common_prefix(entry.tokens, tokens(*values)) == length

    @invariant()
    def what_came_last_is_there(self) -> None:
        if self.last is not None:
            assert self.cache.find(self.last, ())[1] == len(self.last)

    @invariant()
    def within_its_capacity(self) -> None:
        assert self.cache.size == sum(e.size for e in self.cache._entries) <= 12

    @invariant()
    def none_is_the_beginning_of_another(self) -> None:
        for a in self.cache._entries:
            for b in self.cache._entries:
                assert a is b or common_prefix(a.tokens, b.tokens) < len(a.tokens)


TestAgainstAModel = AgainstAModel.TestCase


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix_is_common_and_ends_there(a: list[int], b: list[int]) -> None:
    length = common_prefix(tokens(*a), tokens(*b))
    assert a[:length] == b[:length]
    assert a[length : length + 1] != b[length : length + 1] or length == min(len(a), len(b))
