"""Tests of what the next call computes of prompts: time, memory, padding and what prompts have in common."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends.prefix_cache import Entry, PrefixCache
from backends.transformers.prefixes import Prefixes
from backends.transformers.prompt_queue import CALL, PromptQueue

PLENTY = 10**6


class Prompt(SimpleNamespace):
    """What the queue sees of a sequence."""

    @property
    def pending(self) -> int:
        return int(self.count - self.stored)


def prompt(order: int, length: int, *, begins: tuple[int, ...] = (), stored: int = 0, request: object = None) -> Any:
    """Tokens that no other prompt has, behind those that it begins with."""
    tokens = np.array([*begins, *range(order * 1000, order * 1000 + length - len(begins))], np.int32)
    return Prompt(order=order, tokens=tokens, count=length, stored=stored, request=request)


def queue(*prompts: Any, second: int | None = 1000, **options: Any) -> PromptQueue:
    """A queue of a model that computes so many tokens a second."""
    made = PromptQueue(options.pop("prefixes", None), batched=options.pop("batched", True))
    for each in prompts:
        made.add(each)
    if second is not None:
        made.record([SimpleNamespace(sequence=None, length=1000)], (1000 + CALL) / second)  # type: ignore[list-item]
    return made


def chosen(queue: PromptQueue, seconds: float = 0.4, cells: int = PLENTY, *, must: bool = False) -> dict[int, int]:
    """Lengths of the parts, by the order of their sequences."""
    return {part.sequence.order: part.length for part in queue.next(seconds, cells, must=must)}


def test_prompts_that_wait_share_a_call_in_their_order() -> None:
    assert chosen(queue(prompt(3, 50), prompt(1, 60), prompt(2, 55))) == {1: 60, 2: 55, 3: 50}
    assert list(chosen(queue(prompt(3, 50), prompt(1, 60), prompt(2, 55)))) == [1, 2, 3]


def test_as_many_as_the_time_allows() -> None:
    prompts = [prompt(n, 50) for n in range(1, 9)]
    assert list(chosen(queue(*prompts), 0.4)) == [1, 2, 3, 4, 5, 6, 7]  # 7 x 50 tokens and a call are 382
    assert list(chosen(queue(*prompts), 0.2)) == [1, 2, 3]
    assert list(chosen(queue(*prompts), 0.09)) == [1]
    assert chosen(queue(*prompts), 0.05) == {}
    assert chosen(queue(*prompts), -1.0) == {}


def test_one_that_is_much_shorter_or_longer_waits_for_another_call() -> None:
    assert list(chosen(queue(prompt(1, 100), prompt(2, 10), prompt(3, 95)))) == [1, 3]
    assert list(chosen(queue(prompt(1, 10), prompt(2, 100), prompt(3, 12)))) == [1, 3]


def test_only_what_is_pending_counts() -> None:
    assert chosen(queue(prompt(1, 530, stored=500), prompt(2, 40))) == {1: 30, 2: 40}


def test_keys_and_values_of_a_shared_call_stay_within_their_memory() -> None:
    prompts = [prompt(1, 530, stored=500), prompt(2, 40), prompt(3, 40)]
    assert list(chosen(queue(*prompts), cells=3 * 530)) == [1, 2, 3]
    assert list(chosen(queue(*prompts), cells=3 * 530 - 1)) == [1, 2]
    assert list(chosen(queue(*prompts), cells=-5)) == [1]


def test_long_prompts_come_in_parts_without_crumbs() -> None:
    assert chosen(queue(prompt(1, 900))) == {1: 400 - CALL}
    assert chosen(queue(prompt(1, 390))) == {1: 390}  # a few more than there is time for
    assert chosen(queue(prompt(1, 5000)), 100.0) == {1: 512}
    assert chosen(queue(prompt(1, 5000)), 0.06) == {}
    assert chosen(queue(prompt(1, 5000)), 0.07) == {1: 38}


def test_something_is_computed_however_slow_the_model_is() -> None:
    for second in (1, None):
        assert chosen(queue(prompt(1, 900), prompt(2, 900), second=second), must=True) == {1: 32}
    assert chosen(queue(prompt(1, 20), second=None)) == {}


def test_one_slow_call_is_soon_forgotten() -> None:
    one = queue(prompt(1, 900))
    for _ in range(3):
        one.record([SimpleNamespace(sequence=None, length=68)], 0.1)  # type: ignore[list-item]
    one.record([SimpleNamespace(sequence=None, length=68)], 1.0)  # type: ignore[list-item]
    slow = chosen(one)[1]
    one.record([SimpleNamespace(sequence=None, length=68)], 0.1)  # type: ignore[list-item]
    assert slow < chosen(one)[1] == 400 - CALL


def test_prompts_of_recurrent_models_are_computed_alone_and_whole() -> None:
    one = queue(prompt(1, 900), prompt(2, 5), batched=False)
    assert chosen(one) == {1: 900}
    assert chosen(one, -0.1) == {}
    assert chosen(one, -0.1, must=True) == {1: 900}


def test_requests_leave() -> None:
    request = object()
    one = queue(prompt(1, 50, request=request), prompt(2, 50), prompt(3, 50, request=request))
    one.drop(request)  # type: ignore[arg-type]
    assert [each.order for each in one] == [2]
    one.remove(next(iter(one)))
    assert chosen(one, must=True) == {}


# --- what prompts have in common ------------------------------------------------------------------------------------

HEAD = tuple(range(20))


class Restores:
    """A decoder whose sequences get what is cached."""

    def restore(self, sequence: Any, state: Any, length: int) -> None:
        sequence.stored = length


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(PLENTY)


def prefixes(cache: PrefixCache) -> Prefixes:
    return Prefixes(cache, Restores())  # type: ignore[arg-type]


def test_what_an_earlier_prompt_computes_is_waited_for(cache: PrefixCache) -> None:
    prompts = [prompt(n, 50, begins=HEAD) for n in (1, 2, 3)] + [prompt(4, 50)]
    one = queue(*prompts, prefixes=prefixes(cache))
    assert list(chosen(one)) == [1, 4]
    cache.add(Entry(prompts[0].tokens, None, None, 1))
    one.remove(prompts[0])
    one.remove(prompts[3])
    assert chosen(one) == {2: 30, 3: 30}


def test_what_is_cached_is_not_waited_for(cache: PrefixCache) -> None:
    cache.add(Entry(np.array(HEAD, np.int32), None, None, 1))
    prompts = [prompt(1, 50, begins=HEAD), prompt(2, 50, begins=HEAD), prompt(3, 50, begins=(*HEAD, 7, 8, 9))]
    assert chosen(queue(*prompts, prompt(4, 50, begins=(*HEAD, 7, 8, 9)), prefixes=prefixes(cache))) == {
        1: 30,
        2: 30,
        3: 30,
        4: 30,  # three tokens more are not worth another call
    }


def test_a_prompt_in_parts_is_waited_for_by_those_that_begin_alike(cache: PrefixCache) -> None:
    long = prompt(1, 900, begins=HEAD)
    one = queue(long, prompt(2, 60, begins=HEAD), prefixes=prefixes(cache))
    while (part := one.next(0.3, PLENTY, must=True)[0]).length < long.pending:
        assert part.sequence is long
        long.stored += part.length
    assert part.sequence is long
