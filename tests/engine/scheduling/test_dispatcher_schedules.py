"""Under any schedule of answers, deaths, deadlines and cancellations, every accepted request ends exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import Overloaded, UniModelError, WorkerDied
from engine.scheduling.dispatcher import Dispatcher
from engine.scheduling.queue import Pending
from engine.types import Answer
from engine.worker.supervisor import Worker
from tests.engine.scheduling.stand_in import ANSWER, StandIn, dispatcher, loaded, request, worker
from tests.engine.scheduling.virtual_time import settle, virtual_time


@dataclass(frozen=True)
class Submit:
    """A client sends a request."""

    rows: int
    priority: int
    seconds: float


@dataclass(frozen=True)
class Leave:
    """The client of the n-th request goes away: its connection closes, or its task is cancelled."""

    nth: int
    cancel: bool


@dataclass(frozen=True)
class Finish:
    """An instance finishes its oldest batch."""

    instance: int


@dataclass(frozen=True)
class Die:
    """A worker dies, with all its instances."""

    worker: int


@dataclass(frozen=True)
class Restart:
    """A worker that died is back, and has loaded its models again."""

    worker: int


@dataclass(frozen=True)
class Wait:
    """Time passes."""

    seconds: float


Step = Submit | Leave | Finish | Die | Restart | Wait

WORKERS = 2
workers = st.integers(0, WORKERS - 1)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Submit, st.integers(1, 5), st.integers(-1, 1), st.sampled_from([0.03, 1.0, 600.0])),
    st.builds(Leave, st.integers(0, 30), st.booleans()),
    st.builds(Finish, workers),
    st.builds(Die, workers),
    st.builds(Restart, workers),
    st.builds(Wait, st.sampled_from([0.0, 0.001, 0.05, 1.5])),
)


@dataclass
class World:
    """One model on two workers, and what became of its requests."""

    dispatcher: Dispatcher
    workers: list[Worker] = field(default_factory=lambda: [worker(f"cpu:{i}") for i in range(WORKERS)])
    instances: list[StandIn | None] = field(default_factory=lambda: [None] * WORKERS)
    items: list[Pending] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    endings: Counter[int] = field(default_factory=Counter)
    outcomes: dict[int, Answer | UniModelError] = field(default_factory=dict)

    def restart(self, number: int) -> None:
        if self.instances[number] is None:
            self.instances[number] = instance = StandIn(self.workers[number])
            self.dispatcher.attach(instance, loaded())

    def die(self, number: int) -> None:
        instance = self.instances[number]
        if instance is not None:
            self.instances[number] = None
            instance.die()

    def submit(self, step: Submit) -> None:
        number = len(self.items)

        def on_end(outcome: Answer | UniModelError) -> None:
            self.endings[number] += 1
            self.outcomes[number] = outcome

        r = request(step.seconds, step.rows, step.priority, is_gone=lambda: number in self.left)
        try:
            self.items.append(self.dispatcher.submit(r, on_end))
        except Overloaded:
            assert self.dispatcher.queue.requests

    def leave(self, step: Leave) -> None:
        if not self.items:
            return
        number = step.nth % len(self.items)
        self.left.add(number)
        if step.cancel:  # as `Dispatcher.predict` does
            item = self.items[number]
            self.dispatcher.queue.remove(item)
            item.end(UniModelError("cancelled"))

    async def run(self, step: Step) -> None:
        if isinstance(step, Submit):
            self.submit(step)
        elif isinstance(step, Leave):
            self.leave(step)
        elif isinstance(step, Finish):
            instance = self.instances[step.instance]
            if instance is not None and instance.outstanding:
                instance.answer()
        elif isinstance(step, Die):
            self.die(step.worker)
        elif isinstance(step, Restart):
            self.restart(step.worker)
        else:
            await asyncio.sleep(step.seconds)
        await settle()
        self.check()

    def check(self) -> None:
        d = self.dispatcher
        assert set(self.endings.values()) <= {1}
        assert d.in_flight == sum(not i.ended for i in self.items)
        assert d.requests == len(self.endings)
        waiting = [i for i in self.items if i.waiting]
        assert d.queue.requests == len(waiting)
        assert not any(i.ended for i in waiting)
        computing = {id(i) for s in self.instances if s is not None for b in s.outstanding for i in b.items}
        assert all(i.ended or i.waiting or id(i) in computing for i in self.items), "a request got lost"
        for number, instance in enumerate(self.instances):
            running = instance is not None and bool(instance.outstanding) and instance.outstanding[0].items[0].suspect
            assert self.workers[number].quarantine.running == running

    async def finish(self) -> None:
        """From here on nothing dies any more."""
        for number in range(WORKERS):
            self.restart(number)
        for _ in range(1000):
            await asyncio.sleep(0.06)
            for instance in self.instances:
                if instance is not None and instance.outstanding:
                    instance.answer()
            if self.dispatcher.idle:
                return
        raise AssertionError("requests are stuck")


@settings(max_examples=250)
@given(st.lists(steps, max_size=60))
def test_every_request_ends_exactly_once(schedule: list[Step]) -> None:
    @virtual_time
    async def scenario() -> None:
        world = World(dispatcher(max_rows=4))
        world.restart(0)
        for step in schedule:
            await world.run(step)
        await world.finish()
        assert len(world.endings) == len(world.items)
        world.check()
        assert (world.dispatcher.queue.requests, world.dispatcher.queue.rows, world.dispatcher.queue.bytes) == (0, 0, 0)

    scenario()


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from([0.0, 0.001, 0.06])), max_size=25))
def test_poison_dies_twice_and_alone(arrivals: list[tuple[bool, int, float]]) -> None:
    """Triples of (kills its worker, rows, pause before it). Who kills fails; all others get their answers."""

    @virtual_time
    async def scenario() -> None:
        world = World(dispatcher(max_rows=4))
        poison = {n for n, (kills, _, _) in enumerate(arrivals) if kills}
        deaths: Counter[int] = Counter()

        def compute() -> None:
            for number, instance in enumerate(world.instances):
                if instance is None:
                    world.restart(number)
                elif instance.outstanding:
                    killers = [
                        n for n, i in enumerate(world.items) if n in poison and i in instance.outstanding[0].items
                    ]
                    deaths.update(killers)
                    world.die(number) if killers else instance.answer()

        for _, rows, pause in arrivals:
            await world.run(Submit(rows, 0, 600.0))
            await asyncio.sleep(pause)
            if pause:
                compute()
        for _ in range(1000):
            if world.dispatcher.idle:
                break
            compute()
            await asyncio.sleep(0.06)
            world.check()
        kinds = {n: type(o) for n, o in world.outcomes.items()}
        assert kinds == {n: WorkerDied if n in poison else type(ANSWER) for n in range(len(arrivals))}
        assert deaths == Counter(dict.fromkeys(poison, 2))

    scenario()
