"""Looks inside a fitted estimator: its parts, how many threads they start, how large they are."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np


def parts(model: Any) -> Iterator[Any]:
    """`model` and every estimator inside it, fitted or not. Trees of a forest count as one with it."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, list | tuple):
            waiting.extend(thing)
        elif isinstance(thing, dict):
            waiting.extend(thing.values())
        elif isinstance(thing, np.ndarray):
            waiting.extend(thing.flat if thing.dtype == object else ())
        elif hasattr(thing, "get_params") and not isinstance(thing, type):
            yield thing
            waiting.extend(() if is_forest(thing) else vars(thing).values())
        elif type(thing).__module__.startswith("sklearn.") and hasattr(thing, "__dict__"):
            waiting.extend(vars(thing).values())


def is_forest(estimator: Any) -> bool:
    """Whether `estimator` predicts with threads over trees."""
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )

    return isinstance(
        estimator, RandomForestClassifier | RandomForestRegressor | ExtraTreesClassifier | ExtraTreesRegressor
    )


def steps(model: Any) -> list[Any]:
    """The estimators that data passes through one after the other, the deciding one last.

    Opens pipelines and finished parameter searches; steps that only matter while fitting are left out.
    """
    from sklearn.pipeline import Pipeline

    if hasattr(model, "best_estimator_"):
        return steps(model.best_estimator_)
    if not isinstance(model, Pipeline):
        return [model]
    chain = [step for _, step in model.steps if step not in (None, "passthrough")]
    used = [step for step in chain[:-1] if hasattr(step, "transform")] + chain[-1:]
    return [inner for step in used for inner in steps(step)]


def limit_threads(model: Any, threads: int) -> None:
    """Lets `model` keep at most `threads` CPU threads busy, whatever its author had set.

    Forests get the threads. Other parts with ``n_jobs`` would start processes, which costs more than it gains on the
    few rows of a request, and a worker must not: they get 1.
    """
    for part in parts(model):
        if getattr(part, "n_jobs", None) is not None:
            part.n_jobs = threads if is_forest(part) else 1


def size(model: Any) -> int:
    """Bytes that `model` holds: the length of its pickle, without making one."""

    class Counter:
        total = 0

        def write(self, data: bytes) -> int:
            self.total += len(data)
            return len(data)

    counter = Counter()
    buffers: list[pickle.PickleBuffer] = []
    pickle.Pickler(counter, protocol=5, buffer_callback=buffers.append).dump(model)
    return counter.total + sum(buffer.raw().nbytes for buffer in buffers)
