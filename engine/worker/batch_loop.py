"""The batches of one model that takes tensors, from its queue and back: while one is computed, the next is decoded.

A runtime that computes leaves Python's lock, so a thread beside the model's own can make tensors of the next batch's
JSON or images meanwhile. The backend is called by the model's own thread alone, and batches are answered in order.
Waking a thread costs time as well, so this is done only while decoding and computing both take long against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from engine.transport.channel import Channel
from engine.transport.messages import RunBatch, StartStream, decode_batch_down
from engine.worker.batch_runner import BatchRunner, Prepared

_LEAST = 0.0005
"""Seconds of decoding, and of computing, below which a batch is decoded when the one before is answered."""


class BatchLoop:
    """Serves one model until its queue is closed."""

    def __init__(self, queue: Channel, runner: BatchRunner, refuse: Callable[[StartStream], None]) -> None:
        """`refuse` answers those who want a stream of a model that has none."""
        self._queue = queue
        self._runner = runner
        self._refuse = refuse
        self._ahead = ThreadPoolExecutor(1)
        """Receives and decodes the next batch. Its thread is made when it is first used."""

    def run(self) -> None:
        """Raises `OSError` when the server is gone."""
        try:
            self._run()
        finally:
            self._ahead.shutdown(wait=False)  # its thread ends when it reads the end of the queue

    def _run(self) -> None:
        batch = self._next()
        seconds = 0.0
        """For which the last batch was computed."""
        while batch is not None:
            coming = self._ahead.submit(self._next) if min(batch.seconds, seconds) >= _LEAST else None
            begin = time.perf_counter()
            answers = self._runner.run(batch)
            seconds = time.perf_counter() - begin
            self._queue.send(answers)
            batch = coming.result() if coming is not None else self._next()

    def _next(self) -> Prepared | None:
        """The next batch; `None` at the end of the queue."""
        while data := self._queue.receive():
            message = decode_batch_down(data)
            if isinstance(message, RunBatch):
                return self._runner.prepare(message)
            if isinstance(message, StartStream):
                self._refuse(message)
        return None
