"""The queue of a model, step by step against a naive one: a plain list that is sorted whenever it is asked."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from engine.errors import Cancelled, Overloaded, ServerStopping, UniModelError
from engine.scheduling.batcher import MAX_ITEMS
from engine.scheduling.queue import ModelQueue, Pending, QueueLimits, drop_gone
from engine.types import Answer, JsonAnswer, JsonInput, Request

NO_LIMITS = QueueLimits(10**9, 10**12, math.inf)
ANSWER = JsonAnswer(b"1")


def pending(
    group: str = "g",
    rows: int = 1,
    nbytes: int = 1,
    priority: int = 0,
    deadline: float = math.inf,
    is_gone: Callable[[], bool] | None = None,
    on_end: Callable[[Pending, Answer | UniModelError], None] = lambda item, outcome: item.deliver(outcome),
) -> Pending:
    request = Request(JsonInput(b"0"), "id", deadline, priority=priority, is_gone=is_gone)
    return Pending(request, group, rows, nbytes, lambda outcome: None, on_end, accepted=0.0)


def queue_of(*items: Pending, limits: QueueLimits = NO_LIMITS) -> ModelQueue:
    queue = ModelQueue("m", limits)
    for item in items:
        queue.push(item)
    return queue


def take_all(queue: ModelQueue, max_rows: int = 10**9, max_bytes: int = 10**9) -> list[list[Pending]]:
    batches = []
    while (head := queue.head()) is not None:
        batches.append(queue.take(head, max_rows, max_bytes))
    return batches


# -- order and limits -------------------------------------------------------------------------------------------------


def test_priority_goes_first_and_arrival_within_it() -> None:
    low, first, second, high = pending(priority=-1), pending(), pending(), pending(priority=5)
    queue = queue_of(low, first, second, high)
    assert take_all(queue, max_rows=1) == [[high], [first], [second], [low]]


def test_a_batch_takes_its_group_past_others_and_from_lower_priorities() -> None:
    a1, b, a2, a3 = pending("a", priority=1), pending("b", priority=1), pending("a", priority=1), pending("a")
    assert take_all(queue_of(a1, b, a2, a3)) == [[a1, a2, a3], [b]]


def test_rows_and_bytes_close_a_batch_but_never_keep_one_request_out() -> None:
    sizes = [(3, 1), (2, 1), (9, 1), (1, 50), (1, 60)]
    items = [pending(rows=r, nbytes=n) for r, n in sizes]
    batches = take_all(queue_of(*items), max_rows=5, max_bytes=100)
    assert batches == [items[:2], [items[2]], [items[3]], [items[4]]]


def test_a_batch_has_no_more_requests_than_a_message_holds() -> None:
    items = [pending(rows=0) for _ in range(MAX_ITEMS + 1)]
    assert [len(b) for b in take_all(queue_of(*items))] == [MAX_ITEMS, 1]


def test_a_suspect_is_no_head_while_it_waits_for_its_turn() -> None:
    a1, b, a2 = pending("a"), pending("b"), pending("a")
    queue = queue_of(a1, b, a2)
    for item in reversed(queue.take(a1, 10, 10)):
        item.suspect = True
        queue.put_back(item)
    assert queue.head() is b
    assert queue.waiting_with(b) == (1, 1)
    assert queue.has_suspect()
    assert {id(queue.take_suspect()[0]) for _ in range(2)} == {id(a1), id(a2)}
    assert not queue.has_suspect()
    assert take_all(queue) == [[b]]


def test_what_ended_while_others_were_served_is_not_kept() -> None:
    """Requests that expire behind a steady stream of more important ones hold bodies that nobody will read."""
    queue = queue_of(pending("a"))
    for _ in range(1000):
        item = pending("b")
        queue.push(item)
        queue.remove(item)
        item.end(Cancelled("its deadline passed"))
        busy = pending("c", priority=1)
        queue.push(busy)
        assert queue.take(busy, 1, 1) == [busy]
    waiting = queue.requests
    gc.collect()
    assert sum(type(o) is Pending for o in gc.get_objects()) < waiting + 100


# -- admission --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "nbytes", "predicted", "time_left", "reason"),
    [
        (QueueLimits(2, 10**9, math.inf), 1, 0.0, 60.0, "2 requests wait already"),
        (QueueLimits(10, 4 << 20, math.inf), 3 << 20, 0.0, 60.0, "2 MiB of inputs wait already"),
        (QueueLimits(10, 10**9, 1.5), 1, 2.0, 60.0, "the predicted wait is 2.0 s"),
        (QueueLimits(10, 10**9, math.inf), 1, 2.0, 1.0, "the predicted wait is 2.0 s"),
    ],
)
def test_refusals_say_why_and_when_to_come_back(
    limits: QueueLimits, nbytes: int, predicted: float, time_left: float, reason: str
) -> None:
    queue = queue_of(pending(nbytes=1 << 20), pending(nbytes=1 << 20), limits=limits)
    with pytest.raises(Overloaded) as e:
        queue.admit(nbytes, predicted, time_left)
    assert e.value.message == f"Model 'm' is overloaded: {reason}. Retry later."
    assert e.value.retry_after == predicted


def test_at_the_limit_is_within_it() -> None:
    queue = queue_of(pending(nbytes=10), limits=QueueLimits(2, 20, 1.0))
    queue.admit(10, 1.0, 1.0)


def test_one_request_larger_than_the_bound_fits_an_empty_queue() -> None:
    queue_of(limits=QueueLimits(1, 10, math.inf)).admit(1000, 0.0, 60.0)


# -- the way into a batch ---------------------------------------------------------------------------------------------


def test_only_wanted_requests_are_computed() -> None:
    endings: list[tuple[Pending, Any]] = []

    def on_end(item: Pending, outcome: Answer | UniModelError) -> None:
        endings.append((item, outcome))

    ended = pending(on_end=on_end)
    ended.end(ANSWER)
    gone = pending(is_gone=lambda: True, on_end=on_end)
    late = pending(deadline=5.0, on_end=on_end)
    wanted = pending(deadline=5.1, is_gone=lambda: False, on_end=on_end)
    assert drop_gone([ended, gone, late, wanted], now=5.0) == [wanted]
    assert [(item, type(outcome)) for item, outcome in endings] == [(ended, JsonAnswer), (gone, Cancelled)]


def test_a_request_ends_once() -> None:
    outcomes: list[Any] = []
    item = pending(on_end=lambda _, outcome: outcomes.append(outcome))
    for outcome in (ANSWER, Cancelled("late"), ANSWER):
        item.end(outcome)
    assert outcomes == [ANSWER]


# -- against the naive queue ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Entry:
    """What the naive queue knows of a request."""

    item: Pending
    order: float
    suspect: bool = False


@dataclass
class NaiveQueue:
    """The same rules over one list, which is sorted for every question."""

    waiting: list[Entry] = field(default_factory=list)
    arrivals: int = 0

    def push(self, item: Pending) -> None:
        self.arrivals += 1
        self.waiting.append(Entry(item, self.arrivals))

    def put_back(self, item: Pending) -> None:
        self.arrivals += 1
        self.waiting.append(Entry(item, self.arrivals if item.suspect else -self.arrivals, item.suspect))

    def remove(self, item: Pending) -> None:
        self.waiting = [e for e in self.waiting if e.item is not item]

    def suspects(self) -> list[Pending]:
        return [e.item for e in sorted(self.waiting, key=lambda e: e.order) if e.suspect]

    def in_order(self) -> list[Pending]:
        ordinary = [e for e in self.waiting if not e.suspect]
        return [e.item for e in sorted(ordinary, key=lambda e: (-e.item.request.priority, e.order))]

    def batch(self, max_rows: int, max_bytes: int) -> list[Pending]:
        group = [i for i in self.in_order() if i.group == self.in_order()[0].group]
        batch = group[:1]
        for item in group[1:]:
            rows, nbytes = sum(i.rows for i in batch), sum(i.nbytes for i in batch)
            if rows + item.rows > max_rows or nbytes + item.nbytes > max_bytes:
                break
            batch.append(item)
        return batch


class QueueMachine(RuleBasedStateMachine):
    """Any order of pushes, batches, crashes, removals and drains."""

    known = Bundle("known")
    sent = Bundle("sent")

    @initialize()
    def begin(self) -> None:
        self.queue = ModelQueue("m", NO_LIMITS)
        self.naive = NaiveQueue()
        self.ended: list[Pending] = []

    def _end(self, item: Pending, outcome: Answer | UniModelError) -> None:
        self.ended.append(item)

    @rule(
        target=known,
        group=st.sampled_from("ab"),
        rows=st.integers(1, 5),
        nbytes=st.integers(0, 50),
        priority=st.integers(0, 1),
    )
    def push(self, group: str, rows: int, nbytes: int, priority: int) -> Pending:
        item = pending(group, rows, nbytes, priority, on_end=self._end)
        self.queue.push(item)
        self.naive.push(item)
        return item

    @rule(target=sent, max_rows=st.integers(1, 12), max_bytes=st.integers(0, 120))
    def take(self, max_rows: int, max_bytes: int) -> list[Pending]:
        head = self.queue.head()
        ordered = self.naive.in_order()
        assert head is (ordered[0] if ordered else None)
        if head is None:
            return []
        expected = self.naive.batch(max_rows, max_bytes)
        batch = self.queue.take(head, max_rows, max_bytes)
        assert batch == expected
        for item in batch:
            assert not item.waiting
            self.naive.remove(item)
        return batch

    @rule(target=sent)
    @precondition(lambda self: self.naive.suspects())
    def take_suspect(self) -> list[Pending]:
        assert self.queue.has_suspect()
        batch = self.queue.take_suspect()
        assert batch == self.naive.suspects()[:1]
        self.naive.remove(batch[0])
        return batch

    @rule(batch=consumes(sent), suspect=st.booleans())
    def worker_died(self, batch: list[Pending], suspect: bool) -> None:
        for item in reversed(batch):
            if not item.ended:
                item.suspect = suspect
                self.queue.put_back(item)
                self.naive.put_back(item)

    @rule(item=known)
    def remove(self, item: Pending) -> None:
        self.queue.remove(item)
        self.naive.remove(item)

    @rule(item=known)
    def cancel(self, item: Pending) -> None:
        self.queue.remove(item)
        self.naive.remove(item)
        item.end(Cancelled("gone"))

    @rule()
    def drain(self) -> None:
        waiting = {e.item for e in self.naive.waiting}
        ended = set(self.ended)
        self.queue.drain(lambda: ServerStopping("stop"))
        assert set(self.ended) - ended == {i for i in waiting if i not in ended}
        self.naive.waiting.clear()

    @rule()
    def ask(self) -> None:
        """No invariant: asking for the head tidies the queue, which could hide what only an untidy one gets wrong."""
        assert self.queue.has_suspect() == bool(self.naive.suspects())
        ordered = self.naive.in_order()
        head = self.queue.head()
        assert head is (ordered[0] if ordered else None)
        if head is not None:
            company = [i for i in ordered if i.group == head.group]
            assert self.queue.waiting_with(head) == (len(company), sum(i.rows for i in company))

    @invariant()
    def counters_agree(self) -> None:
        waiting = [e.item for e in self.naive.waiting]
        assert self.queue.requests == len(waiting)
        assert self.queue.rows == sum(i.rows for i in waiting)
        assert self.queue.bytes == sum(i.nbytes for i in waiting)

    @invariant()
    def ended_once(self) -> None:
        assert len(self.ended) == len(set(self.ended))


QueueMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestQueueAgainstNaive = QueueMachine.TestCase
