"""One loaded model: its waiting requests, its instances, and who gets what when.

Owns the requests from admission to their one ending. A request is bound to an instance only when that instance has
room (`pump`), so priorities, deadlines and cancellation hold up to the last moment.

When a worker dies, what was only queued there goes back to the front of the queue. What was computing becomes a
*suspect*: it is tried once more, alone on its worker (`Quarantine`), so that a second death names its culprit and takes
no other request along.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from engine.errors import (
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    ResponseTooLarge,
    ServerStopping,
    UniModelError,
)
from engine.plain_decoder import PlainDecoder
from engine.scheduling import queue
from engine.scheduling.batcher import BatchPolicy, due_in
from engine.scheduling.deadlines import Deadlines
from engine.scheduling.queue import Group, ModelQueue, Pending, QueueLimits
from engine.scheduling.streams import DIED_TWICE, Streams
from engine.telemetry import tracing
from engine.telemetry.metrics import ModelMetrics
from engine.telemetry.tracing import Span
from engine.telemetry.tracing_calls import OPERATIONS, ModelCall
from engine.transport.messages import Loaded
from engine.types import Answer, ModelSpec, Request, TensorInput
from engine.worker.instance import Batch, Instance, Stream
from engine.worker.padding import free_dims

log = logging.getLogger("unimodel.dispatcher")


class Dispatcher:
    """Routes the requests of one loaded model to its instances."""

    def __init__(
        self,
        spec: ModelSpec,
        policy: BatchPolicy,
        limits: QueueLimits,
        max_batch_bytes: int,
        metrics: ModelMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.rename(spec)
        self.policy = policy
        self.queue = ModelQueue(spec.name, limits)
        self.instances: list[Instance] = []
        self.requests = 0
        """Requests that ended."""
        self.errors = 0
        self.in_flight = 0
        """Accepted requests that have not ended."""
        self.last_used = clock()
        self._max_batch_bytes = max_batch_bytes
        self.metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, self._expire)
        self._seconds_per_row = 0.0
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self.streams = Streams(self.instances)
        self.queue.on_suspects_gone = self._withdraw_claims
        self._padded: dict[str, list[int]] = {}
        self.loaded: Loaded | None = None
        self._fixed_group: Group = None
        self.decoder: PlainDecoder | None = None
        """For the bodies of most requests, if the model's signature is simple."""
        self.on_idle: Callable[[], None] | None = None
        """Runs when nothing waits or computes any more."""
        self.on_deficit: Callable[[Instance], None] | None = None
        """Runs when an instance was lost and must be replaced."""

    # --- requests ----------------------------------------------------------------------------------------------------

    async def predict(self, request: Request) -> Answer:
        """Admits a request and waits for its answer. Raises `Overloaded`, or the error that ended it."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        item = self.submit(request, lambda outcome: _settle(future, outcome), tracing.current())
        try:
            return await future
        except asyncio.CancelledError:
            self.queue.remove(item)
            item.end(Cancelled("The client went away."))
            raise

    def submit(
        self, request: Request, on_end: Callable[[Answer | UniModelError], None], span: Span | None = None
    ) -> Pending:
        """Admits a request, whose one ending goes to `on_end`, and which is a part of `span` if that is traced.

        Raises `Overloaded`, `DeadlineExceeded`, or `BodyTooLarge` when no batch can hold its inputs.
        """
        now = self._clock()
        rows, nbytes = request.input.rows, request.input.nbytes
        time_left = request.deadline - now
        if time_left <= 0:
            raise self._refused(DeadlineExceeded("The deadline had passed when the request arrived."))
        if nbytes > self._max_batch_bytes:
            raise self._refused(self._too_large(nbytes))
        if self.queue.requests:
            try:
                self.queue.admit(nbytes, self._predicted_wait(), time_left)
            except UniModelError as e:
                raise self._refused(e) from None
        item = Pending(request, self._group(request), rows, nbytes, on_end, self._ended, now)
        if span is not None:
            item.call = ModelCall.begin(span, self.spec, OPERATIONS.get(self.spec.task, "predict"), now)
        self._deadlines.add(item, time_left)
        self.queue.push(item)
        self.in_flight += 1
        self._schedule_pump()
        return item

    def _too_large(self, nbytes: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"The inputs take {nbytes / (1 << 20):.1f} MiB as tensors, and a batch holds "
            f"{self._max_batch_bytes >> 20} (half of engine.max_batch_mb). Send fewer rows at once, or raise it.",
            field="input",
        )

    def _refused(self, error: UniModelError) -> UniModelError:
        self.metrics.ended(error.code, 0.0)
        return error

    def _ended(self, item: Pending, outcome: Answer | UniModelError) -> None:
        self._deadlines.discard(item)
        now = self._clock()
        self.in_flight -= 1
        self.requests += 1
        self.last_used = now
        seconds = now - item.accepted
        if isinstance(outcome, UniModelError):
            self.errors += 1
            self.metrics.ended(outcome.code, seconds, item.nbytes)
        else:
            self.metrics.ended("ok", seconds, item.nbytes, outcome.nbytes)
        if item.call is not None:
            item.call.end(outcome.code if isinstance(outcome, UniModelError) else "ok", now)
        item.deliver(outcome)
        if self.idle and self.on_idle is not None:
            self.on_idle()

    def _predicted_wait(self) -> float:
        """Seconds until a request that joins now would start, going by the speed so far."""
        return self.queue.rows * self._seconds_per_row / (len(self.instances) or 1)

    def _group(self, request: Request) -> Group:
        """Requests of one group can share a batch."""
        if not isinstance(request.input, TensorInput):
            return "values"
        tensors = request.input.tensors
        if self._fixed_group is not None:
            return self._fixed_group
        if self._padded:
            return tuple(
                (a.dtype, tuple(n for i, n in enumerate(a.shape) if i and i not in self._padded[name]))
                for name, a in tensors.items()
            )
        return tuple((a.dtype, a.shape[1:]) for a in tensors.values())

    def _expire(self, item: Pending) -> None:
        self.queue.remove(item)
        waited = self._clock() - item.accepted
        item.end(DeadlineExceeded(f"The deadline passed after {waited:.3f} s; the request was dropped."))

    # --- instances ---------------------------------------------------------------------------------------------------

    def attach(self, instance: Instance, loaded: Loaded) -> None:
        """Adds an instance that is ready."""
        self.loaded = loaded
        if loaded.decodes_json and PlainDecoder.suits(loaded.info.inputs):
            self.decoder = PlainDecoder(loaded.info.inputs[0])
        if not any(free_dims(s) for s in loaded.info.inputs):
            self._fixed_group = "rows"  # the signature allows one shape alone
        instance.loaded = loaded
        if loaded.padding_reason is None:
            self._padded = {s.name: [axis for axis, _ in free_dims(s)] for s in loaded.info.inputs}
        instance.on_done = self._done
        instance.on_lost = self._lost
        instance.on_stream_end = self.streams.start
        self.instances.append(instance)
        instance.worker.settled(instance)
        self._pump()  # at once: the next load on this worker waits for the suspects
        self.streams.start()

    def rename(self, spec: ModelSpec) -> None:
        """Takes the identity that the model has been given."""
        self.spec = spec
        self.answer_head = b'{"model":"%s","version":%d,' % (spec.name.encode(), spec.version)

    def detach(self, instance: Instance) -> None:
        """Removes an instance. All that may be outstanding there are batches whose requests have ended."""
        self.instances.remove(instance)
        instance.worker.left(instance)
        quarantine = instance.worker.quarantine
        if instance.outstanding and instance.outstanding[0].items[0].suspect:
            quarantine.end()  # nobody will hear of its end
        quarantine.withdraw(self._schedule_pump)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing computes."""
        return not self.in_flight and not self.streams.open

    def end_all(self, error: Callable[[], UniModelError]) -> None:
        """Ends everything that waits: the model will not come back."""
        self.queue.drain(error)
        self.streams.end_all(error)

    def _schedule_pump(self) -> None:
        """Pumps once in this turn of the loop, after all requests that arrived in it."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Gives batches to instances, as long as one is due."""
        self._pumping = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = math.inf
        for instance in (
            sorted(self.instances, key=lambda i: len(i.outstanding)) if len(self.instances) > 1 else self.instances
        ):
            wake = min(wake, self._feed(instance))
        if wake < math.inf:
            self._timer = self._loop.call_later(wake, self._pump)

    def _feed(self, instance: Instance) -> float:
        """Sends what is due to one instance. Returns the seconds until something else will be."""
        quarantine = instance.worker.quarantine
        if self.queue.has_suspect() and quarantine.claim(self._schedule_pump):
            self._send_suspect(instance)
            return math.inf
        if quarantine.held:
            quarantine.when_over(self._schedule_pump)
            return math.inf
        while True:
            head = self.queue.head()
            if head is None:
                return math.inf
            now = self._clock()
            requests, rows = self.queue.waiting_with(head)
            due = due_in(self.policy, requests, rows, now - head.accepted, instance.load(now))
            if due > 0:
                return due
            batch = self.queue.take(head, self.policy.max_rows, self._max_batch_bytes)
            self._send(instance, queue.drop_gone(batch, now), now)

    def _send_suspect(self, instance: Instance) -> None:
        """Gives a suspect to an instance whose worker has nothing else to do."""
        quarantine = instance.worker.quarantine
        quarantine.begin(self._schedule_pump)
        now = self._clock()
        batch = queue.drop_gone(self.queue.take_suspect(), now)
        if batch:
            self.metrics.retried()
            self._send(instance, batch, now)
        else:
            quarantine.end()
            self._schedule_pump()  # for what waits behind it

    def _withdraw_claims(self) -> None:
        for instance in self.instances:
            instance.worker.quarantine.withdraw(self._schedule_pump)

    def _send(self, instance: Instance, batch: list[Pending], now: float) -> None:
        if not batch:
            return
        for item in batch:
            self.metrics.queued(now - item.accepted)
            if item.call is not None:
                item.call.sent(instance.worker.name, str(instance.worker.device), now)
        instance.send(batch)

    def _done(self, instance: Instance, batch: Batch, answers: list[Answer | UniModelError], seconds: float) -> None:
        rows = sum(i.rows for i in batch.items)
        calls = [item.call for item in batch.items if item.call is not None]
        if calls:
            now = self._clock()
            about = {"unimodel.batch.requests": len(batch.items), "unimodel.batch.rows": rows}
            ModelCall.computed(calls, about, now - seconds, now)
        crowded = []
        for item, answer in zip(batch.items, answers, strict=True):
            if isinstance(answer, ResponseTooLarge) and len(batch.items) > 1 and not item.ended:
                crowded.append(item)
            else:
                item.end(answer)
        if crowded:
            self._compute_apart(crowded)
        if batch.items[0].suspect:
            instance.worker.quarantine.end()
        else:
            instance.worker.quarantine.progressed()
        self._seconds_per_row = max(i.speed.seconds_per_row for i in self.instances)
        self.metrics.batch(rows, len(batch.items), seconds, batch.prompt_tokens)
        if self.queue.requests:
            self._schedule_pump()

    def _compute_apart(self, items: list[Pending]) -> None:
        """The answers of these requests found no room beside those of their batch: each gets a batch to itself."""
        log.warning(
            "outputs of a batch exceed engine.max_batch_mb, requests are computed again one by one",
            extra={"model": self.spec.name, "requests": len(items)},
        )
        for item in reversed(items):
            item.group = item
            if item.call is not None:
                item.call.waits_again("outputs of the batch too large")
            self.queue.put_back(item)

    def _lost(self, instance: Instance) -> None:
        """A worker died, or dropped the model: what it had is tried again, or fails if it was the cause."""
        self.instances.remove(instance)
        instance.worker.lost(instance)
        instance.worker.quarantine.withdraw(self._schedule_pump)
        for position, batch in reversed(list(enumerate(instance.outstanding))):
            for item in reversed(batch.items):
                if position == 0:
                    item.deaths += 1
                self._put_back(item, instance)
        instance.outstanding.clear()
        self.streams.lost(instance, self.spec.name)
        instance.close()
        self.streams.start()
        if self.on_deficit is not None:
            self.on_deficit(instance)
        if self.instances and self.queue.requests:
            self._schedule_pump()

    def _put_back(self, item: Pending, instance: Instance) -> None:
        """Puts a request of a lost instance back into the queue, unless it was tried again already."""
        if item.ended:
            return
        if item.call is not None:
            item.call.waits_again("worker died")
        if item.suspect:
            log.error("worker died twice while it computed a request", extra={"request_id": item.request.request_id})
            item.end(instance.worker.died(self.spec.name, *DIED_TWICE))
            return
        item.suspect = item.deaths > 0
        self.queue.put_back(item)

    # --- streams -----------------------------------------------------------------------------------------------------

    def open_stream(self, stream: Stream) -> None:
        """Starts a streamed or generated request as soon as an instance has room. Raises `Overloaded`."""
        if self.streams.open >= self.queue.limits.max_requests:
            raise self._refused(self.queue.overloaded(f"{self.streams.open} streams are open", 1.0))
        self.streams.add(stream)
        self.streams.start()

    def close_stream(self, stream: Stream, outcome: str, seconds: float) -> None:
        """The reader has all it will take."""
        self.requests += 1
        self.errors += outcome != "ok"
        self.last_used = self._clock()
        self.metrics.ended(outcome, seconds)
        if stream.call is not None:
            stream.call.end(outcome)
        self.streams.close(stream)
        if self.idle and self.on_idle is not None:
            self.on_idle()

    def stopping(self) -> UniModelError:
        """The error of requests that a stop leaves behind."""
        return ServerStopping("The server is stopping; the request was not computed.")


def _settle(future: asyncio.Future[Answer], outcome: Answer | UniModelError) -> None:
    if future.done():
        return
    if isinstance(outcome, UniModelError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
