"""The batches of one model from its queue and back: what is done beside the model's own thread, and in which order."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends.base import InvalidInput, Tensors
from engine.codec import Decoded, Form
from engine.model_options import ModelOptions
from engine.tasks.base import TensorTask
from engine.transport import messages
from engine.transport.batchqueue import Slots
from engine.transport.channel import Channel, pair
from engine.transport.messages import BatchDone, StartStream
from engine.transport.packing import pack_batch, unpack_answers
from engine.types import JsonInput, Request, TensorInput
from engine.worker import batch_loop
from engine.worker.batch_loop import BatchLoop
from engine.worker.batch_runner import BatchRunner
from engine.worker.gate import Gate, ModelGate
from tests.engine.worker.backends_for_tests import Numeric

SECONDS = 10.0
LONG = 0.002


class Decoding(TensorTask):
    """Takes its time to decode, and tells when it has."""

    def __init__(self, backend: Numeric, seconds: float) -> None:
        super().__init__(backend.info, ModelOptions())
        self.seconds = seconds
        self.threads: list[str] = []
        """Those that decoded."""
        self.decoded = threading.Semaphore(0)

    def decode(self, form: Form, value: Any) -> Decoded:
        self.threads.append(threading.current_thread().name)
        try:
            time.sleep(self.seconds)
            if value == "bad":
                raise InvalidInput("bad", field="input")
            return Decoded({"x": np.full((1, 3), value, np.float32)}, True)
        finally:
            self.decoded.release()


class Computing(Numeric):
    """Waits while it computes for what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.callers: set[str] = set()
        self.until: threading.Semaphore | None = None

    def compute(self, batch: Tensors) -> Tensors:
        self.callers.add(threading.current_thread().name)
        time.sleep(LONG)
        if self.until is not None and not self.until.acquire(timeout=SECONDS):
            raise TimeoutError
        return super().compute(batch)


class Serving:
    """A loop on a thread of its own, and the server's end of its queue."""

    def __init__(self, backend: Numeric, task: TensorTask) -> None:
        ours, theirs = pair()
        self.queue, self.slots = Channel(ours), Slots.create(2, 1 << 16)
        ours.settimeout(SECONDS)  # a channel blocks for ever
        self.sent = 0
        self.refused: list[StartStream] = []
        runner = BatchRunner(backend, task, self.slots, 8, None, ModelGate(Gate(1)))
        self._channel = Channel(theirs)
        loop = BatchLoop(self._channel, runner, self.refused.append)
        self.thread = threading.Thread(target=loop.run, name="model")
        self.thread.start()

    def send(self, *values: Any) -> list[Request]:
        """Sends a batch of requests."""
        requests = [Request(JsonInput(json.dumps(value).encode()), "id", 0.0) for value in values]
        return self._send(requests)

    def _send(self, requests: list[Request]) -> list[Request]:
        self.sent += 1
        self.queue.send(pack_batch(self.sent, self.sent % 2, self.slots, requests))
        return requests

    def answer(self, requests: list[Request]) -> tuple[int, list[Any]]:
        """The number of the next batch that is done, and its answers: JSON, or codes of errors."""
        done = messages.decode_batch_up(self.queue.receive() or b"")
        assert isinstance(done, BatchDone)
        answers = unpack_answers(done, self.slots, requests)
        return done.id, [getattr(a, "data", None) or getattr(a, "code", None) for a in answers]

    def close(self) -> None:
        """Ends the queue, and waits for the loop's end."""
        self.queue.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        self._channel.close()
        self.slots.close()


@pytest.fixture
def backend() -> Computing:
    return Computing()


@pytest.fixture
def serving(backend: Computing, task: Decoding) -> Iterator[Serving]:
    served = Serving(backend, task)
    yield served
    served.close()


@pytest.fixture
def task(backend: Computing) -> Decoding:
    return Decoding(backend, LONG)


def both_slow(serving: Serving, task: Decoding) -> None:
    """One batch, by which it is known that decoding and computing take long."""
    assert serving.answer(serving.send(0)) == (1, [b"[0.0,0.0,0.0]"])
    assert task.decoded.acquire(timeout=SECONDS)


def test_the_next_batch_is_decoded_while_one_is_computed(serving: Serving, task: Decoding, backend: Computing) -> None:
    both_slow(serving, task)
    first = serving.send(1)
    assert task.decoded.acquire(timeout=SECONDS)
    backend.until = task.decoded  # the first is computed until the second is decoded
    second = serving.send(2, "bad", 3)
    assert serving.answer(first) == (2, [b"[2.0,2.0,2.0]"])
    backend.until = None
    assert serving.answer(second) == (3, [b"[4.0,4.0,4.0]", "invalid_input", b"[6.0,6.0,6.0]"])


def test_the_model_is_called_by_one_thread(serving: Serving, task: Decoding, backend: Computing) -> None:
    for value in range(6):
        serving.answer(serving.send(value))
    assert backend.callers == {"model"}
    assert len(set(task.threads)) == 2, "one of which is the model's"


def test_what_takes_less_than_the_least_is_decoded_by_the_model_s_thread(
    serving: Serving, task: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_loop, "_LEAST", SECONDS)
    for value in range(4):
        serving.answer(serving.send(value))
    assert set(task.threads) == {"model"}


def test_answers_come_in_order_however_many_wait(serving: Serving, task: Decoding) -> None:
    both_slow(serving, task)
    waiting = [serving.send(1)]
    for value in range(2, 12):
        waiting.append(serving.send(value))
        expected = b"[%.1f,%.1f,%.1f]" % ((2 * (value - 1),) * 3)
        assert serving.answer(waiting.pop(0)) == (value, [expected])
    serving.answer(waiting.pop(0))


def test_rows_that_need_no_decoding_are_computed(serving: Serving, task: Decoding) -> None:
    rows = TensorInput({"x": np.ones((2, 3), np.float32)}, 2)
    assert serving.answer(serving._send([Request(rows, "id", 0.0)])) == (1, [b"[[2.0,2.0,2.0],[2.0,2.0,2.0]]"])
    assert not task.threads


def test_a_stream_is_refused_and_the_next_batch_served(serving: Serving) -> None:
    serving.queue.send(messages.encode(StartStream(7, "id", b"{}")))
    assert serving.answer(serving.send(1)) == (1, [b"[2.0,2.0,2.0]"])
    assert [stream.id for stream in serving.refused] == [7]


def test_it_ends_while_a_batch_is_awaited_beside_one_that_is_computed(
    serving: Serving, task: Decoding, backend: Computing
) -> None:
    both_slow(serving, task)
    backend.until = threading.Semaphore(0)
    requests = serving.send(1)
    assert task.decoded.acquire(timeout=SECONDS)
    serving.queue._sock.shutdown(1)  # what the server ends with, once it wants no more
    backend.until.release()
    assert serving.answer(requests) == (2, [b"[2.0,2.0,2.0]"])
    serving.thread.join(SECONDS)
    assert not serving.thread.is_alive()
