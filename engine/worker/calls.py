"""Calls a backend for the rows of a batch, in the model's turn: in slices where others wait, spread where that is fast.

A runtime that computes one batch with several threads has them wait for one another at each operator. Rows do not
depend on each other, so a batch with a row for each core is mostly faster when each core computes its own rows from
the beginning to the end. Not always: cores that all read the same large weights hinder one another. So both ways are
timed, and the faster one is taken. Beside other models that compute, a model keeps to its share of the cores, for
which spread rows are the only way.
"""

from __future__ import annotations

import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from statistics import median

from backends.base import TensorBackend, Tensors
from engine.scheduling.tuner import Speed
from engine.worker import padding
from engine.worker.gate import ModelGate

_LEAST = 0.002
"""Seconds of computing below which waking threads costs more than it gives."""
_TRIALS = 5
"""Batches of either way that are compared, by their medians."""
_AGAIN = 100
"""Batches after which the slower way is timed once more."""


class Calls:
    """The calls of one model's backend."""

    def __init__(self, backend: TensorBackend, gate: ModelGate, most: int, *, row_by_row: bool) -> None:
        self._backend = backend
        self._gate = gate
        self._most = most
        """Rows in one call of the backend."""
        self._pool: ThreadPoolExecutor | None = None
        """For rows that are spread."""
        if backend.parallel and row_by_row and backend.threads > 1:
            self._pool = ThreadPoolExecutor(backend.threads)
        self._whole = Speed()
        """Of calls that have all threads."""
        self._alone = Speed()
        """Of calls on one thread."""
        self._batches = 0
        """That could be spread."""
        self._times: dict[bool, deque[float]] = {way: deque(maxlen=_TRIALS) for way in (False, True)}
        """Seconds per row of the last such batches, by whether they were spread."""

    def compute(self, inputs: Tensors, rows: int) -> Tensors:
        """The outputs of rows that do not depend on each other. The inputs may live only until this returns.

        Raises what the backend raises.
        """
        if self._pool is None or rows * self._whole.seconds_per_row < _LEAST:
            return self._in_slices(inputs, rows)
        share = self._share()
        if rows < share:
            return self._in_slices(inputs, rows)
        if share < self._backend.threads:
            return self._apart(self._pool, inputs, rows, share)
        spread = self._next_way()
        begin = time.perf_counter()
        outputs = self._apart(self._pool, inputs, rows, share) if spread else self._in_slices(inputs, rows)
        if self._batches > 2:  # the first of each way does what is done only once
            self._times[spread].append((time.perf_counter() - begin) / rows)
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
        return _join(pieces)

    def whole(self, inputs: Tensors, rows: int) -> Tensors:
        """The outputs of all rows in one call, in the model's turn."""
        if not self._backend.threads:
            return self._backend.predict(inputs)
        with self._gate.turn(self._backend.threads):
            begin = time.perf_counter()
            outputs = self._backend.predict(inputs)
            self._whole.record(rows, time.perf_counter() - begin)
            return outputs

    def _apart(self, pool: ThreadPoolExecutor, inputs: Tensors, rows: int, share: int) -> Tensors:
        most = min(math.ceil(rows / share), self._slice(self._alone))
        count = math.ceil(rows / most)
        ends = [rows * i // count for i in range(count + 1)]
        calls = [pool.submit(self._call_alone, _part(inputs, a, b, rows), b - a) for a, b in pairwise(ends)]
        wait(calls)  # even after an error, since they read the inputs
        return _join([call.result() for call in calls])

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


def _part(inputs: Tensors, begin: int, end: int, rows: int) -> Tensors:
    return inputs if end - begin == rows else {name: array[begin:end] for name, array in inputs.items()}


def _join(pieces: list[Tensors]) -> Tensors:
    return pieces[0] if len(pieces) == 1 else padding.concatenate(pieces)
