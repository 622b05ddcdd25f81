"""An instance without a process: it records what it is given, and answers or dies when it is told to."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from backends.base import Device, ModelInfo, TensorSpec
from engine.errors import UniModelError
from engine.scheduling.batcher import MAX_OUTSTANDING, BatchPolicy
from engine.scheduling.dispatcher import Dispatcher
from engine.scheduling.queue import Pending, QueueLimits
from engine.scheduling.tuner import Speed
from engine.settings import MonitoringSettings
from engine.telemetry.metrics import ModelMetrics
from engine.transport.messages import Loaded
from engine.types import Answer, JsonAnswer, JsonInput, ModelSpec, Request
from engine.worker.instance import Batch, Instance, Stream
from engine.worker.supervisor import Worker

ANSWER = JsonAnswer(b"1")


def worker(name: str = "cpu") -> Worker:
    """A real worker's server side, whose process is never spawned."""
    return Worker(name, Device("cpu"), MonitoringSettings())


class StandIn(Instance):
    """Keeps the rules of an instance: at most two batches, and a suspect alone on its worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.outstanding = deque()
        self.streams: dict[int, Stream] = {}
        self.speed = Speed()
        self.sent: list[list[Pending]] = []
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.closed = False
        self._last_done = -math.inf
        self._last_requests = 0

    @property
    def has_work(self) -> bool:
        return bool(self.outstanding or self.streams)

    def send(self, items: list[Pending]) -> None:
        """Records a batch."""
        assert not self.closed
        assert items, "an empty batch"
        assert len(self.outstanding) < MAX_OUTSTANDING
        assert not any(i.ended or i.waiting for i in items)
        assert all(i.request.deadline > asyncio.get_running_loop().time() for i in items)
        quarantine = self.worker.quarantine
        if any(i.suspect for i in items):
            assert len(items) == 1
            assert not any(i.outstanding for i in self.worker._instances)
            assert quarantine.running
            assert not quarantine.loading
        else:
            assert not quarantine.held
        self.sent.append(items)
        self.outstanding.append(Batch(len(self.sent), 0, items))

    def answer(self, answer: Answer | UniModelError = ANSWER, seconds: float = 0.001) -> list[Pending]:
        """The oldest batch is done."""
        batch = self.outstanding.popleft()
        self._last_done = asyncio.get_running_loop().time()
        self._last_requests = len(batch.items)
        self.speed.record(sum(i.rows for i in batch.items), seconds)
        assert self.on_done is not None
        self.on_done(self, batch, [answer] * len(batch.items), seconds)
        return batch.items

    def die(self) -> None:
        """The worker process dies; its control channel reports it last."""
        self.lose()
        self.worker.quarantine.reset()

    def lose(self) -> None:
        """The socket of its queue ends; why is not known yet."""
        assert self.on_lost is not None
        self.on_lost(self)
        assert self.closed

    def start_stream(self, stream: Stream) -> None:
        """Records a stream."""
        assert not self.closed
        self.streams[stream.id] = stream
        self.started.append(stream.id)

    def cancel_stream(self, stream: Stream) -> None:
        """Records that nobody reads it any more."""
        if self.streams.pop(stream.id, None) is not None:
            self.cancelled.append(stream.id)

    def close(self) -> None:
        """Nothing more will be sent."""
        self.on_lost = None
        self.closed = True


SPEC = ModelSpec(
    name="m",
    version=1,
    path="/m",
    sha256="",
    size_bytes=0,
    backend="python",
    task="custom",
    config={},
    created=0.0,
    info=ModelInfo(task="custom"),
)


def loaded(
    *inputs: TensorSpec, padding_reason: str | None = "the model takes JSON values", decodes_json: bool = False
) -> Loaded:
    """What a worker says of a model with these inputs."""
    return Loaded(
        key="m#1",
        info=ModelInfo(task="tensor" if inputs else "custom", inputs=inputs),
        task="tensor" if inputs else "custom",
        plain_answers=bool(inputs),
        decodes_json=decodes_json,
        accepts_values=not inputs,
        batch_reason=None,
        padding_reason=padding_reason,
        example=b"",
        memory_bytes=0,
        seconds=0.0,
    )


def dispatcher(
    max_rows: int = 4,
    max_wait: float = 0.05,
    limits: QueueLimits | None = None,
    max_bytes: int = 1000,
    clock: Callable[[], float] | None = None,
) -> Dispatcher:
    """A dispatcher on the running loop's time."""
    limits = limits or QueueLimits(10_000, 10**9, math.inf)
    clock = clock or asyncio.get_running_loop().time
    return Dispatcher(SPEC, BatchPolicy(max_rows, max_wait), limits, max_bytes, ModelMetrics(), clock)


def request(
    seconds: float = 60.0, rows: int = 1, priority: int = 0, name: str = "id", is_gone: Callable[[], bool] | None = None
) -> Request:
    """A request whose deadline is that many seconds ahead."""
    deadline = asyncio.get_running_loop().time() + seconds
    return Request(JsonInput(b"0", rows=rows), name, deadline, priority=priority, is_gone=is_gone)
