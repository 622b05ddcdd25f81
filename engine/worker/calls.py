"""Calls a backend for the rows of a batch, in the model's turn: in slices where others wait, spread where that is fast.

A runtime that computes one batch with several threads has them wait for one another at each operator. Rows do not
depend on each other, so a batch with a row for each core is mostly faster when each core computes its own rows from
the beginning to the end. Not always: cores that all read the same large weights hinder one another. So both ways are
timed, and the faster one is taken. Beside other models that compute, a model keeps to its share of the cores, for
which spread rows are the only way.

Rows of texts take as long as they are long: they are shared out so that all cores are ready at about the same time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from statistics import median
from typing import Any

import numpy as np

from backends.base import InvalidInput, TensorBackend, Tensors, TensorSpec
from engine.scheduling.tuner import Speed
from engine.worker import padding
from engine.worker.gate import ModelGate

_LEAST = 0.002
"""Seconds of computing below which waking threads costs more than it gives."""
_TRIALS = 5
"""Batches of either way that are compared, by their medians."""
_AGAIN = 100
"""Batches after which the slower way is timed once more."""
_SHORTEST = 8
"""Characters of a text that one which is shorter takes as long as."""

Array = np.ndarray[Any, Any]


class Calls:
    """The calls of one model's backend."""

    def __init__(self, backend: TensorBackend, gate: ModelGate, most: int, outputs: Sequence[TensorSpec]) -> None:
        self._backend = backend
        self._gate = gate
        self._most = most
        """Rows in one call of the backend."""
        self._fills = {spec.name: spec.fill for spec in outputs}
        self._pool: ThreadPoolExecutor | None = None
        """For rows that are spread."""
        row_by_row = all(spec.batch_axis == 0 for spec in outputs)
        if backend.parallel and row_by_row and backend.threads > 1:
            self._pool = ThreadPoolExecutor(backend.threads)
        self._whole = Speed()
        """Of calls that have all threads."""
        self._alone = Speed()
        """Of calls on one thread."""
        self._batches = 0
        """That could be spread."""
        self._times: dict[bool, deque[float]] = {way: deque(maxlen=_TRIALS) for way in (False, True)}
        """Seconds for what the last such batches cost, by whether they were spread."""

    def compute(self, inputs: Tensors, rows: int) -> Tensors:
        """The outputs of rows that do not depend on each other. The inputs may live only until this returns.

        Raises what the backend raises.
        """
        try:
            return self._compute(inputs, rows)
        except InvalidInput:
            if rows == 1:
                raise
            return self.whole(inputs, rows)  # which tells the place of a row among all, not within its part

    def _compute(self, inputs: Tensors, rows: int) -> Tensors:
        if self._pool is None or rows * self._whole.seconds_per_row < _LEAST:
            return self._in_slices(inputs, rows)
        share, costs = self._share(), _costs(inputs, rows)
        if costs.max() * share > costs.sum():  # the longest row would keep the others waiting
            return self._in_slices(inputs, rows)
        if share < self._backend.threads:
            return self._apart(self._pool, inputs, costs, share)
        spread = self._next_way()
        begin = time.perf_counter()
        outputs = self._apart(self._pool, inputs, costs, share) if spread else self._in_slices(inputs, rows)
        if self._batches > 2:  # the first of each way does what is done only once
            self._times[spread].append((time.perf_counter() - begin) / float(costs.sum()))
        return outputs

    def _next_way(self) -> bool:
        """Whether the next batch is to be spread: in turn, until it is known which way is faster."""
        self._batches += 1
        if min(map(len, self._times.values())) < _TRIALS:
            return self._batches % 2 == 0
        faster = median(self._times[True]) < median(self._times[False])
        return faster != (self._batches % _AGAIN == 0)

    def _in_slices(self, inputs: Tensors, rows: int) -> Tensors:
        pieces: list[Tensors] = []
        row = 0
        while row < rows:
            count = min(rows - row, self._slice(self._whole))
            pieces.append(self.whole(_part(inputs, row, row + count, rows), count))
            row += count
        return self._join(pieces)

    def whole(self, inputs: Tensors, rows: int) -> Tensors:
        """The outputs of all rows in one call, in the model's turn."""
        if not self._backend.threads:
            return self._backend.predict(inputs)
        with self._gate.turn(self._backend.threads):
            begin = time.perf_counter()
            outputs = self._backend.predict(inputs)
            self._whole.record(rows, time.perf_counter() - begin)
            return outputs

    def _apart(self, pool: ThreadPoolExecutor, inputs: Tensors, costs: Array, share: int) -> Tensors:
        rows = len(costs)
        most = min(math.ceil(rows / share), self._slice(self._alone))
        parts = _parts(costs, math.ceil(rows / most), self._most)
        calls = [pool.submit(self._call_alone, _taken(inputs, part), len(part)) for part in parts]
        wait(calls)  # even after an error, since they read the inputs
        outputs, order = self._join([call.result() for call in calls]), np.concatenate(parts)
        if (order[1:] > order[:-1]).all():
            return outputs
        back = np.argsort(order)
        return {name: array[back] for name, array in outputs.items()}

    def _call_alone(self, inputs: Tensors, rows: int) -> Tensors:
        with self._gate.turn(1):
            begin = time.perf_counter()
            outputs = self._backend.predict_on_one_thread(inputs)
            self._alone.record(rows, time.perf_counter() - begin)
            return outputs

    def _share(self) -> int:
        """Threads that it may use, if all models that compute now shared them evenly."""
        return min(self._backend.threads, self._gate.share())

    def _slice(self, speed: Speed) -> int:
        """Rows that one turn is long enough for."""
        seconds = self._gate.slice()
        if seconds == math.inf or not self._backend.threads:
            return self._most
        each = speed.seconds_per_row
        return min(self._most, max(1, int(seconds / each))) if each else 1

    def _join(self, pieces: list[Tensors]) -> Tensors:
        if len(pieces) == 1:
            return pieces[0]
        return {name: self._stack(name, [piece[name] for piece in pieces]) for name in pieces[0]}

    def _stack(self, name: str, arrays: list[Array]) -> Array:
        fill = self._fills.get(name)
        if fill is None or len({array.shape[1:] for array in arrays}) == 1:
            return np.concatenate(arrays)
        return padding.fill_up(arrays, np.max([array.shape[1:] for array in arrays], axis=0), fill)


def _costs(inputs: Tensors, rows: int) -> Array:
    """What each row costs beside the others: as much as its texts are long, if it has any."""
    costs = np.zeros(rows)
    for array in inputs.values():
        if array.dtype == object:
            costs += [sum(map(len, row)) for row in array.reshape(rows, -1).tolist()]
    return np.maximum(costs, _SHORTEST)


def _parts(costs: Array, count: int, most: int) -> list[Array]:
    """The rows in so many parts of about the same cost, none of more than `most` rows: neighbours if all rows cost the
    same, else the dearest row goes first, always to the part that is cheapest yet."""
    if costs.min() == costs.max():
        return np.array_split(np.arange(len(costs)), count)
    parts: list[list[int]] = [[] for _ in range(count)]
    totals = [0.0] * count
    for row in np.argsort(-costs, kind="stable").tolist():
        cheapest = min((i for i in range(count) if len(parts[i]) < most), key=totals.__getitem__)
        parts[cheapest].append(row)
        totals[cheapest] += costs[row]
    return [np.array(sorted(part)) for part in parts if part]


def _taken(inputs: Tensors, part: Array) -> Tensors:
    """The rows of a part: without a copy if they are neighbours."""
    first, last = int(part[0]), int(part[-1]) + 1
    rows: Any = slice(first, last) if last - first == len(part) else part
    return {name: array[rows] for name, array in inputs.items()}


def _part(inputs: Tensors, begin: int, end: int, rows: int) -> Tensors:
    return inputs if end - begin == rows else {name: array[begin:end] for name, array in inputs.items()}
