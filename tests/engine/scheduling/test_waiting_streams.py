"""Generated answers wait in the server for a sequence of the model, and start in the right order."""

from __future__ import annotations

import msgspec
import pytest

from backends.base import GenerationInfo
from engine.errors import ServerStopping, WorkerDied
from engine.scheduling.dispatcher import Dispatcher
from engine.worker.instance import Stream
from engine.worker.supervisor import Worker
from tests.engine.scheduling.stand_in import StandIn, dispatcher, loaded, request, worker
from tests.engine.scheduling.virtual_time import settle, virtual_time


def attached(d: Dispatcher, sequences: int, on: Worker | None = None) -> StandIn:
    """An instance that generates so many answers at once."""
    instance = StandIn(on or worker())
    plain = loaded()
    generation = GenerationInfo(context_length=64, sequences=sequences)
    info = msgspec.structs.replace(plain.info, generation=generation)
    d.attach(instance, msgspec.structs.replace(plain, info=info))
    return instance


def opened(d: Dispatcher, number: int, priority: int = 0, choices: int = 1) -> Stream:
    stream = Stream(number, b"", "id", priority, choices)
    d.open_stream(stream)
    return stream


def end(instance: StandIn, stream: Stream) -> None:
    """The worker has sent the last of an answer."""
    del instance.streams[stream.id]
    assert instance.on_stream_end is not None
    instance.on_stream_end()


@virtual_time
async def test_an_instance_takes_as_many_as_it_has_sequences() -> None:
    d = dispatcher()
    instance = attached(d, 2)
    streams = [opened(d, n) for n in (1, 2, 3, 4)]
    assert instance.started == [1, 2]
    assert d.streams.waiting == 2
    end(instance, streams[0])
    assert instance.started == [1, 2, 3]
    d.close_stream(streams[1], "cancelled", 0.0)
    assert instance.cancelled == [2]
    assert instance.started == [1, 2, 3, 4]
    assert d.streams.waiting == 0


@virtual_time
async def test_higher_priority_starts_first_and_equals_in_their_order() -> None:
    d = dispatcher()
    instance = attached(d, 1)
    first = opened(d, 1)
    for number, priority in ((2, 0), (3, 5), (4, -1), (5, 5), (6, 0)):
        opened(d, number, priority)
    current = first
    while instance.streams:
        (current,) = instance.streams.values()
        end(instance, current)
    assert instance.started == [1, 3, 5, 2, 6, 4]


@virtual_time
async def test_several_choices_wait_until_all_of_them_have_room() -> None:
    d = dispatcher()
    instance = attached(d, 4)
    one, two = opened(d, 1, choices=2), opened(d, 2)
    opened(d, 3, choices=3)
    opened(d, 4)
    assert instance.started == [1, 2], "nothing passes the one that waits"
    end(instance, one)
    assert instance.started == [1, 2, 3]
    end(instance, two)
    assert instance.started == [1, 2, 3, 4]


@virtual_time
async def test_more_choices_than_sequences_start_on_an_idle_instance() -> None:
    d = dispatcher()
    instance = attached(d, 2)
    one = opened(d, 1)
    opened(d, 2, choices=8)
    assert instance.started == [1]
    end(instance, one)
    assert instance.started == [1, 2]


@virtual_time
async def test_the_instance_with_the_most_room_is_next() -> None:
    d = dispatcher()
    small, large = attached(d, 2), attached(d, 3, worker("cpu:1"))
    for number in range(1, 7):
        opened(d, number)
    assert len(small.started) == 2
    assert len(large.started) == 3
    assert d.streams.waiting == 1


@virtual_time
async def test_one_that_waits_and_is_closed_never_starts() -> None:
    d = dispatcher()
    instance = attached(d, 1)
    first, second = opened(d, 1), opened(d, 2)
    d.close_stream(second, "cancelled", 0.0)
    end(instance, first)
    assert instance.started == [1]
    assert instance.cancelled == []
    d.close_stream(first, "ok", 0.0)
    assert d.idle


@virtual_time
async def test_an_answer_of_which_nothing_was_seen_is_tried_once_more_before_those_that_came_later() -> None:
    d = dispatcher()
    instance = attached(d, 2)
    begun, silent = opened(d, 1), opened(d, 2)
    opened(d, 3)
    begun.put(b"text")
    silent.put(b"")  # its first token is there, but its answer comes whole
    instance.die()
    assert await begun.next() == b"text"
    with pytest.raises(WorkerDied):
        await begun.next()
    again = attached(d, 1)
    assert again.started == [2]
    again.die()
    attached(d, 1)
    assert await silent.next() == b""
    with pytest.raises(WorkerDied):
        await silent.next()


@virtual_time
async def test_one_that_is_tried_again_starts_after_the_suspects_of_its_worker() -> None:
    shared = worker()
    d, other = dispatcher(), dispatcher()
    instance, beside = attached(d, 2, shared), StandIn(shared)
    other.attach(beside, loaded())
    other.submit(request(), lambda _: None)
    opened(d, 1)
    await settle()
    instance.die()
    beside.die()
    shared.quarantine.loads = 1  # the model of the suspect is not back yet
    instance = attached(d, 2, shared)
    opened(d, 2)
    await settle()
    assert instance.started == [2], "who does not wait for the suspects passes the one that does"
    beside = StandIn(shared)
    other.attach(beside, loaded())
    shared.quarantine.loads = 0
    shared.quarantine.progressed()
    await settle()
    opened(d, 3)
    assert (instance.started, len(beside.sent)) == ([2], 1)
    beside.answer()
    await settle()
    assert instance.started == [2, 1], "it is the next one all the same"


@virtual_time
async def test_one_that_waits_for_any_of_several_workers_starts_where_there_is_room_first() -> None:
    d = dispatcher()
    attached(d, 1)
    held = attached(d, 1, worker("cpu:1"))
    quarantine = held.worker.quarantine
    assert quarantine.claim(held.close)
    opened(d, 1)
    opened(d, 2)
    assert held.started == []
    quarantine.withdraw(held.close)
    await settle()
    assert held.started == [2]


@virtual_time
async def test_a_model_that_will_not_come_back_ends_those_that_wait() -> None:
    d = dispatcher()
    stream = opened(d, 1)
    d.end_all(lambda: ServerStopping("The server is stopping."))
    with pytest.raises(ServerStopping):
        await stream.next()
    assert d.streams.waiting == 0
    d.close_stream(stream, "server_stopping", 0.0)
    assert d.idle
