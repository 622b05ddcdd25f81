"""Who is blamed when a worker dies on which several models compute: the guilty, and nobody else."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import WorkerDied
from engine.scheduling.queue import Pending
from tests.engine.scheduling.stand_in import ANSWER, StandIn, dispatcher, loaded, request, worker
from tests.engine.scheduling.virtual_time import settle, virtual_time

MODELS = 3

arrivals = st.lists(st.tuples(st.integers(0, MODELS - 1), st.sampled_from([0.0, 0.0, 0.06])), min_size=2, max_size=20)


@settings(max_examples=150)
@given(arrivals, st.sets(st.integers(0, 19), max_size=2), st.randoms(use_true_random=False))
def test_two_poisons_take_nobody_along(
    arrivals: list[tuple[int, float]], poison: set[int], chance: random.Random
) -> None:
    """Pairs of (model, pause before the next). The models of one worker compute side by side, and die together."""

    @virtual_time
    async def scenario() -> None:
        shared = worker()
        dispatchers = [dispatcher(max_rows=4) for _ in range(MODELS)]
        instances: list[StandIn] = []
        items: list[Pending] = []
        endings: list[list[object]] = [[] for _ in arrivals]

        def restart() -> None:
            instances[:] = [StandIn(shared) for _ in dispatchers]
            for d, instance in zip(dispatchers, instances, strict=True):
                d.attach(instance, loaded())

        def compute() -> None:
            """One batch of one model ends, well or badly."""
            busy = [i for i in instances if i.outstanding]
            if not busy:
                return
            instance = chance.choice(busy)
            killers = [n for n in poison if n < len(items) and items[n] in instance.outstanding[0].items]
            if not killers:
                instance.answer()
                return
            for each in chance.sample(instances, len(instances)):  # their sockets end in any order
                each.die()
            restart()

        restart()
        for number, (model, pause) in enumerate(arrivals):
            items.append(dispatchers[model].submit(request(), endings[number].append))
            if pause:
                await asyncio.sleep(pause)
                compute()
            await settle()
        for _ in range(1000):
            if all(d.idle for d in dispatchers):
                break
            compute()
            await asyncio.sleep(0.06)
        guilty = {n for n in poison if n < len(arrivals)}
        assert [[type(e) for e in ending] for ending in endings] == [
            [WorkerDied if n in guilty else type(ANSWER)] for n in range(len(arrivals))
        ]
        assert all(items[n].deaths == 2 for n in guilty)

    scenario()
