"""The dispatcher's cases one by one, on virtual time, with an instance that answers when it is told to."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from backends.base import TensorSpec
from engine.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    ResponseTooLarge,
    ServerStopping,
    UniModelError,
    WorkerDied,
)
from engine.scheduling.dispatcher import Dispatcher
from engine.scheduling.queue import Pending, QueueLimits
from engine.types import Answer, Request, TensorInput
from engine.worker.instance import Stream
from tests.engine.scheduling.stand_in import ANSWER, StandIn, dispatcher, loaded, request, worker
from tests.engine.scheduling.virtual_time import settle, virtual_time

Endings = list[Answer | UniModelError]


def submit(d: Dispatcher, *requests: Request) -> tuple[list[Pending], list[Endings]]:
    """The accepted requests and, for each, its endings so far."""
    endings: list[Endings] = [[] for _ in requests]
    return [d.submit(r, e.append) for r, e in zip(requests, endings, strict=True)], endings


def attached(d: Dispatcher, at: Any = None) -> StandIn:
    instance = StandIn(at or worker())
    d.attach(instance, loaded())
    return instance


# -- late binding -----------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_idle_instance_gets_what_arrived_in_one_turn_at_once() -> None:
    d = dispatcher()
    instance = attached(d)
    begin = asyncio.get_running_loop().time()
    items, endings = submit(d, request(), request())
    await settle()
    assert instance.sent == [items]
    assert asyncio.get_running_loop().time() == pytest.approx(begin)
    instance.answer()
    assert endings == [[ANSWER], [ANSWER]]
    assert d.idle


@virtual_time
async def test_a_busy_instance_gets_one_more_batch_when_it_is_full() -> None:
    d = dispatcher(max_rows=2)
    instance = attached(d)
    first, _ = submit(d, request())
    await settle()
    one, _ = submit(d, request())
    await settle()
    assert instance.sent == [first]
    two, _ = submit(d, request())
    more, _ = submit(d, *[request() for _ in range(9)])
    await settle()
    assert instance.sent == [first, one + two]  # and no third one, however much waits
    instance.answer()
    await settle()
    assert instance.sent == [first, one + two, more[:2]]


@virtual_time
async def test_a_busy_instance_gets_one_more_batch_when_it_waited_long_enough() -> None:
    d = dispatcher(max_wait=0.05)
    instance = attached(d)
    submit(d, request())
    await settle()
    items, _ = submit(d, request())
    await asyncio.sleep(0.049)
    assert len(instance.sent) == 1
    await asyncio.sleep(0.002)
    assert instance.sent[1:] == [items]


@virtual_time
async def test_priorities_hold_up_to_the_last_moment() -> None:
    d = dispatcher(max_rows=1)
    instance = attached(d)
    submit(d, request(), request())
    await settle()
    low, _ = submit(d, request(priority=-1))
    high, _ = submit(d, request(priority=1))
    instance.answer()
    await settle()
    instance.answer()
    await settle()
    assert instance.sent[2:] == [high, low]


@virtual_time
async def test_the_least_loaded_instance_goes_first() -> None:
    d = dispatcher(max_rows=1)
    one, two = attached(d), attached(d, worker("cpu:1"))
    submit(d, *[request() for _ in range(3)])
    await settle()
    assert (len(one.outstanding), len(two.outstanding)) == (2, 1)
    two.answer()
    submit(d, request())
    await settle()
    assert len(two.sent) == 2


@virtual_time
async def test_requests_of_a_model_without_an_instance_wait_for_one() -> None:
    d = dispatcher()
    items, endings = submit(d, request())
    await asyncio.sleep(5)
    instance = attached(d)
    await settle()
    assert instance.sent == [items]
    instance.answer()
    assert endings == [[ANSWER]]


# -- groups -----------------------------------------------------------------------------------------------------------


def tensors(*shape: int, dtype: str = "float32", name: str = "x") -> Request:
    deadline = asyncio.get_running_loop().time() + 60
    return Request(TensorInput({name: np.zeros(shape, dtype)}, shape[0]), "id", deadline)


ROW = TensorSpec("x", "float32", ("batch", 4))
SEQUENCE = TensorSpec("x", "float32", ("batch", "length", 4))


@virtual_time
async def test_rows_of_other_shapes_go_apart_unless_they_are_padded() -> None:
    for reason, batches in (("padding is off", 2), (None, 1)):
        d = dispatcher(max_rows=8, max_wait=0.0)
        instance = StandIn(worker())
        d.attach(instance, loaded(SEQUENCE, padding_reason=reason))
        submit(d, tensors(1, 3, 4), tensors(2, 5, 4), tensors(1, 3, 4))
        await settle()
        assert len(instance.sent) == batches
        assert sorted(len(batch) for batch in instance.sent) == ([1, 2] if reason else [3])


@virtual_time
async def test_tensors_and_bodies_that_the_worker_decodes_go_apart() -> None:
    d = dispatcher(max_rows=8, max_wait=0.0)
    instance = StandIn(worker())
    d.attach(instance, loaded(ROW, padding_reason="its rows have a fixed shape"))
    items, _ = submit(d, tensors(1, 4), request(), tensors(2, 4))
    await settle()
    assert instance.sent == [[items[0], items[2]], [items[1]]]


# -- admission --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_request_that_came_too_late_is_refused() -> None:
    d = dispatcher()
    attached(d)
    with pytest.raises(DeadlineExceeded):
        submit(d, request(seconds=0.0))
    assert d.idle
    assert dict(d.metrics.outcomes)["deadline_exceeded"] == 1


@virtual_time
async def test_more_requests_than_may_wait_are_refused() -> None:
    d = dispatcher(limits=QueueLimits(2, 10**9, math.inf))
    submit(d, request(), request())
    with pytest.raises(Overloaded, match="2 requests wait already"):
        submit(d, request())
    assert d.in_flight == 2


@virtual_time
async def test_a_request_that_would_wait_too_long_is_refused() -> None:
    d = dispatcher(max_rows=1)
    instance = attached(d)
    submit(d, request(), request(), request())
    await settle()
    instance.answer(seconds=2.0)  # from now on a row is known to take two seconds
    await settle()
    submit(d, request(seconds=60))
    with pytest.raises(Overloaded) as e:
        submit(d, request(seconds=1.9))
    assert e.value.retry_after == pytest.approx(2.0)
    attached(d)  # which takes the one that waits, and another
    submit(d, request(), request())
    await settle()
    with pytest.raises(Overloaded) as e:
        submit(d, request(seconds=0.9))
    assert e.value.retry_after == pytest.approx(1.0), "two instances share what waits"


@virtual_time
async def test_inputs_that_no_batch_can_hold_are_refused() -> None:
    """They would not fit the shared memory."""
    d = dispatcher(max_bytes=1 << 20)
    instance = attached(d)
    with pytest.raises(UniModelError) as e:
        submit(d, tensors(1, 1 << 20))
    assert (e.value.code, e.value.field) == ("body_too_large", "input")
    assert "engine.max_batch_mb" in e.value.message
    items, _ = submit(d, tensors(1, 1 << 18))
    await settle()
    assert instance.sent == [items]


# -- endings ----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_past_its_deadline_a_request_ends_and_is_not_computed() -> None:
    d = dispatcher(max_rows=1)
    instance = attached(d)
    submit(d, request(), request())
    await settle()
    _, ((ending),) = submit(d, request(seconds=1.0))
    await asyncio.sleep(2.0)
    assert [type(e) for e in ending] == [DeadlineExceeded]
    instance.answer()
    instance.answer()
    await settle()
    assert len(instance.sent) == 2
    assert d.idle


@virtual_time
async def test_past_its_deadline_a_computing_request_ends_once() -> None:
    d = dispatcher()
    instance = attached(d)
    _, (ending,) = submit(d, request(seconds=1.0))
    await asyncio.sleep(2.0)
    assert [type(e) for e in ending] == [DeadlineExceeded]
    instance.answer()
    assert len(ending) == 1
    assert (d.requests, d.errors, d.in_flight) == (1, 1, 0)


@virtual_time
async def test_a_client_that_left_is_not_computed_for() -> None:
    d = dispatcher()
    instance = attached(d)
    items, endings = submit(d, request(is_gone=lambda: True), request(is_gone=lambda: False))
    await settle()
    assert instance.sent == [items[1:]]
    assert [type(e) for e in endings[0]] == [Cancelled]


@virtual_time
async def test_a_caller_that_is_cancelled_takes_its_request_along() -> None:
    d = dispatcher()
    task = asyncio.create_task(d.predict(request()))
    await settle()
    assert d.queue.requests == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (d.queue.requests, d.in_flight, d.idle) == (0, 0, True)


@virtual_time
async def test_predict_returns_the_answer_or_raises_the_error() -> None:
    d = dispatcher(max_rows=1)
    instance = attached(d)
    tasks = [asyncio.create_task(d.predict(request())) for _ in range(2)]
    await settle()
    instance.answer()
    instance.answer(ModelFailed("no"))
    assert await tasks[0] == ANSWER
    with pytest.raises(ModelFailed):
        await tasks[1]


@virtual_time
async def test_idleness_is_told_when_the_last_one_ended() -> None:
    d = dispatcher(max_rows=1)
    instance = attached(d)
    told: list[int] = []
    d.on_idle = lambda: told.append(d.in_flight)
    submit(d, request(), request())
    await settle()
    instance.answer()
    assert told == []
    instance.answer()
    assert told == [0]


@virtual_time
async def test_a_model_that_will_not_come_back_ends_all_that_waits() -> None:
    d = dispatcher()
    _, endings = submit(d, request(), request())
    stream = Stream(1, b"{}", "id")
    d.open_stream(stream)
    d.end_all(lambda: ModelFailed("no"))
    assert [[type(e) for e in ending] for ending in endings] == [[ModelFailed], [ModelFailed]]
    with pytest.raises(ModelFailed):
        await stream.next()
    d.close_stream(stream, "model_failed", 0.0)
    assert d.idle


@virtual_time
async def test_a_stop_ends_what_is_still_being_computed() -> None:
    """The drain was too short for it: its worker is stopped, and its loss is the last thing that is heard of it."""
    d = dispatcher()
    instance = attached(d)
    _, endings = submit(d, request())
    await settle()
    instance.die()
    d.end_all(d.stopping)
    assert [[type(e) for e in ending] for ending in endings] == [[ServerStopping]]


@virtual_time
async def test_a_request_whose_answer_found_no_room_in_its_batch_is_computed_again_alone() -> None:
    """Its company must not decide whether a request succeeds."""
    d = dispatcher(max_rows=3)
    instance = attached(d)
    items, endings = submit(d, request(), request(), request())
    await settle()
    batch = instance.outstanding.popleft()
    assert instance.on_done is not None
    instance.on_done(instance, batch, [ANSWER, ResponseTooLarge("no room"), ResponseTooLarge("no room")], 0.1)
    assert [len(e) for e in endings] == [1, 0, 0]
    await asyncio.sleep(0.1)
    assert instance.sent[1:] == [[items[1]], [items[2]]]
    instance.answer()
    instance.answer(ResponseTooLarge("more than a batch can hold"))
    assert endings[1] == [ANSWER]
    assert [type(e) for e in endings[2]] == [ResponseTooLarge]
    assert d.idle


# -- deaths -----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_what_was_computing_runs_again_alone_and_what_was_queued_goes_first() -> None:
    d = dispatcher(max_rows=2)
    instance = attached(d)
    computing, c_endings = submit(d, request(), request())
    queued, q_endings = submit(d, request(), request())
    waiting, w_endings = submit(d, request())
    await settle()
    lost: list[Any] = []
    d.on_deficit = lost.append
    instance.die()
    assert lost == [instance]
    assert d.instances == []
    again = attached(d, instance.worker)
    while d.in_flight:
        await asyncio.sleep(0.1)
        again.answer()
    assert sorted(map(id, [*again.sent[0], *again.sent[1]])) == sorted(map(id, computing))
    assert again.sent[2:] == [queued, waiting]
    assert c_endings + q_endings + w_endings == [[ANSWER]] * 5
    assert d.metrics.retries == 2


@virtual_time
async def test_a_culprit_fails_at_its_second_death_and_takes_nobody_along() -> None:
    d = dispatcher(max_rows=4)
    instance = attached(d)
    items, endings = submit(d, *[request(name=n) for n in ("a", "b", "poison", "c")])
    await settle()
    for _ in range(10):
        batch = instance.outstanding[0].items
        if any(i.request.request_id == "poison" for i in batch):
            instance.die()
            instance = attached(d, instance.worker)
        else:
            instance.answer()
        await settle()
        if not instance.outstanding:
            break
    kinds = [[type(e) for e in ending] for ending in endings]
    assert kinds[2] == [WorkerDied]
    assert [endings[i] for i in (0, 1, 3)] == [[ANSWER]] * 3
    assert all(i.ended for i in items)
    assert not instance.worker.quarantine.running


@virtual_time
async def test_a_suspect_has_no_company_on_its_worker() -> None:
    """Two models on one worker: what the other one is given while the suspect waits or computes comes after it."""
    shared = worker()
    d, other = dispatcher(), dispatcher()
    instance, company = attached(d, shared), attached(other, shared)
    _, endings = submit(d, request())
    await settle()
    instance.die()
    company.die()
    company = attached(other, shared)
    submit(other, request())
    await settle()
    assert len(company.sent) == 1  # the suspect's model is not back yet
    instance = attached(d, shared)
    submit(other, request())
    await settle()
    assert (len(instance.sent), len(company.sent)) == (0, 1)
    company.answer()
    await settle()
    assert (len(instance.sent), len(company.sent)) == (1, 1)
    instance.die()
    company.die()
    assert [type(e) for e in endings[0]] == [WorkerDied]
    company = attached(other, shared)
    await settle()
    company.answer()
    assert other.idle


@virtual_time
async def test_suspects_of_two_models_on_one_worker_take_turns() -> None:
    shared = worker()
    models = [dispatcher(), dispatcher()]
    for d, instance in [(d, attached(d, shared)) for d in models]:
        submit(d, request())
        await settle()
        instance.die()
    instances = [attached(d, shared) for d in models]
    await settle()
    assert [len(i.sent) for i in instances] == [1, 0]
    submit(models[0], request())
    await settle()
    instances[0].answer()
    await settle()
    assert [len(i.sent) for i in instances] == [1, 1]
    instances[1].answer()
    await settle()
    assert [len(i.sent) for i in instances] == [2, 1]
    instances[0].answer()
    assert all(d.idle for d in models)


@virtual_time
async def test_a_suspect_waits_while_its_worker_loads_a_model() -> None:
    d = dispatcher()
    instance = attached(d)
    submit(d, request())
    await settle()
    instance.die()
    instance.worker.quarantine.loading = True
    again = attached(d, instance.worker)
    await settle()
    assert again.sent == []
    instance.worker.quarantine.loading = False
    again.worker.quarantine.progressed()
    await settle()
    assert len(again.sent) == 1


@virtual_time
async def test_a_suspect_that_ended_before_its_turn_is_not_run() -> None:
    d = dispatcher()
    instance = attached(d)
    _, endings = submit(d, request(seconds=1.0), request(seconds=60.0))
    await settle()
    instance.die()
    await asyncio.sleep(2.0)
    again = attached(d, instance.worker)
    await settle()
    assert [len(b) for b in again.sent] == [1]
    again.answer()
    assert [type(e[0]) for e in endings] == [DeadlineExceeded, type(ANSWER)]
    assert not again.worker.quarantine.running


@virtual_time
async def test_a_model_that_is_unloaded_while_its_expired_suspect_computes_lets_others_go_on() -> None:
    shared = worker()
    one, other = dispatcher(), dispatcher()
    for d in (one, other):
        instance = attached(d, shared)
        submit(d, request(seconds=5.0 if d is one else 600.0))
        await settle()
        instance.die()
    running, waiting = attached(one, shared), attached(other, shared)
    await asyncio.sleep(10.0)
    assert one.idle
    assert waiting.sent == []
    one.detach(running)
    running.close()
    await settle()
    assert len(waiting.sent) == 1


@virtual_time
async def test_what_waits_behind_a_suspect_that_nobody_wants_any_more_goes_on() -> None:
    d = dispatcher(max_rows=1)
    instance = attached(d)
    gone: list[int] = []
    submit(d, request(is_gone=lambda: bool(gone)))
    items, _ = submit(d, request(name="behind"))
    await settle()
    instance.die()
    gone.append(1)
    again = attached(d, instance.worker)
    await settle()
    assert again.sent == [items]
    assert not again.worker.quarantine.held


@virtual_time
async def test_a_model_that_is_dropped_with_its_suspect_lets_others_go_on() -> None:
    """As when a plugin ends its thread: the worker lives."""
    shared = worker()
    d, other = dispatcher(), dispatcher()
    beside = attached(other, shared)
    _, endings = submit(d, request())
    for _ in range(2):
        instance = attached(d, shared)
        await settle()
        assert len(instance.sent) == 1
        instance.lose()
        assert shared.quarantine.held, "the worker may have died"
        shared.quarantine.survive()
    assert [type(e) for e in endings[0]] == [WorkerDied]
    assert not shared.quarantine.held
    submit(other, request())
    await settle()
    assert len(beside.sent) == 1


@virtual_time
async def test_a_worker_that_is_dying_gets_no_suspect_of_another_model() -> None:
    """The sockets of its models end one after the other, and the loop may take turns in between."""
    shared = worker()
    d, other = dispatcher(), dispatcher()
    instance = attached(d, shared)
    _, endings = submit(d, request())
    await settle()
    instance.die()
    culprit = attached(other, shared)
    submit(other, request())
    await settle()
    instance = attached(d, shared)
    culprit.lose()
    await settle()
    assert instance.sent == [], "it would be blamed for this death too"
    instance.die()
    instance = attached(d, shared)
    await settle()
    instance.answer()
    assert endings == [[ANSWER]]


# -- streams ----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_stream_is_tried_again_before_its_first_chunk_once() -> None:
    d = dispatcher()
    instance = attached(d)
    stream = Stream(1, b"{}", "id")
    d.open_stream(stream)
    assert instance.started == [1]
    instance.die()
    again = attached(d, instance.worker)
    assert again.started == [1]
    again.die()
    third = attached(d, instance.worker)
    assert third.started == []
    with pytest.raises(WorkerDied):
        await stream.next()
    assert not d.idle
    d.close_stream(stream, "worker_died", 0.1)
    assert d.idle


@virtual_time
async def test_a_stream_that_began_is_not_tried_again() -> None:
    d = dispatcher()
    instance = attached(d)
    stream = Stream(1, b"{}", "id")
    d.open_stream(stream)
    stream.put(b'{"a":1}')
    instance.die()
    again = attached(d, instance.worker)
    assert again.started == []
    assert await stream.next() == b'{"a":1}'
    with pytest.raises(WorkerDied):
        await stream.next()


@virtual_time
async def test_a_stream_that_lost_its_worker_goes_to_another_instance_at_once() -> None:
    d = dispatcher()
    one, two = attached(d), attached(d, worker("cpu:1"))
    stream = Stream(1, b"{}", "id")
    d.open_stream(stream)
    lost, kept = (one, two) if one.streams else (two, one)
    lost.die()
    assert kept.started == [1]


@virtual_time
async def test_a_stream_waits_for_an_instance_and_goes_to_the_one_with_the_fewest() -> None:
    d = dispatcher()
    early = Stream(1, b"{}", "id")
    d.open_stream(early)
    one = attached(d)
    assert one.started == [1]
    two = attached(d, worker("cpu:1"))
    d.open_stream(Stream(2, b"{}", "id"))
    assert two.started == [2]


@virtual_time
async def test_a_reader_that_leaves_cancels_its_stream() -> None:
    d = dispatcher()
    instance = attached(d)
    streams = [Stream(1, b"{}", "id"), Stream(2, b"{}", "id")]
    for stream in streams:
        d.open_stream(stream)
    d.close_stream(streams[0], "cancelled", 0.1)
    assert instance.cancelled == [1]
    assert not d.idle
    d.close_stream(streams[1], "ok", 0.1)
    assert d.idle
    assert (d.requests, d.errors) == (2, 1)


@virtual_time
async def test_more_streams_than_requests_may_wait_are_refused() -> None:
    d = dispatcher(limits=QueueLimits(1, 10**9, math.inf))
    attached(d)
    d.open_stream(Stream(1, b"{}", "id"))
    with pytest.raises(Overloaded, match="1 streams are open"):
        d.open_stream(Stream(2, b"{}", "id"))
