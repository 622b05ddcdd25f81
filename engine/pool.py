"""The pool of loaded models: load, unload, replace after a crash, make room. Owns the workers and the entries, one for
each version that is loaded, loading, or failed to load.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from backends import discovery
from backends.base import Backend, Device
from engine import digest, installed, model_options
from engine.errors import InsufficientMemory, ModelFailed, ModelFileError, UniModelError, WorkerDied
from engine.model_options import ModelOptions
from engine.scheduling.batcher import MAX_OUTSTANDING, BatchPolicy
from engine.scheduling.dispatcher import Dispatcher
from engine.scheduling.placement import Resident, Seat, choose_victim, choose_workers
from engine.scheduling.queue import QueueLimits
from engine.schema import ModelState
from engine.settings import Settings
from engine.telemetry import gpu, tracing
from engine.telemetry.metrics import Metrics, ModelMetrics
from engine.transport.messages import Load, Loaded
from engine.types import ModelSpec
from engine.worker import interpreter
from engine.worker.instance import Instance
from engine.worker.memory import MemoryLimit
from engine.worker.supervisor import Worker

log = logging.getLogger("unimodel.pool")

_MIB = 1 << 20
_DEADLY_LOADS = 3
"""Deaths of workers that only the load of a model can have caused, before it counts as failed."""
_INTERRUPTED_LOADS = 10
"""Deaths during a load, whatever caused them."""
_BUSY_PATIENCE = 0.5
"""Seconds that a load waits for an idle model to make room, before a busy one must."""
_FAILURE_MEMORY = 10.0
"""Seconds during which requests to a model that failed to load are answered without another try."""
_HOUSEKEEPING = 5.0
"""Seconds between two looks for hung models, missing instances, and idle slots whose memory can go back."""
_RETRY_INSTANCE = 30.0
"""Seconds after which an instance that could not be replaced is tried again, while others of its model serve."""


@dataclass(eq=False)
class Entry:
    """One version that is loaded, loading, or failed to load."""

    spec: ModelSpec
    options: ModelOptions
    dispatcher: Dispatcher
    state: ModelState = "loading"
    error: UniModelError | None = None
    failed_at: float = 0.0
    loading: asyncio.Task[None] | None = None
    awaited: int = 0
    """How many wait for the load."""
    has_room: bool = False
    """Whether it counts among the models that are loaded at once; one that waits for room does not yet."""
    workers: list[Worker] = field(default_factory=list)
    """Of its instances, also while one is being replaced."""
    replacing: set[Worker] = field(default_factory=set)
    """Those on which its instance is being replaced."""
    replace_after: float = 0.0
    """The time before which no missing instance is tried again."""

    @property
    def missing(self) -> list[Worker]:
        """Workers that have no instance, and are about to have none."""
        served = {instance.worker for instance in self.dispatcher.instances}
        return [w for w in self.workers if w not in served and w not in self.replacing]

    @property
    def wants_instances(self) -> bool:
        """Whether there is, or may be, something for an instance to do."""
        return self.state in ("loading", "ready") or (self.state == "unloading" and not self.dispatcher.idle)


class Pool:
    """Owns the workers and what is loaded on them."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.workers: dict[str, Worker] = {}
        """The workers of the devices, by name."""
        self.entries: dict[tuple[str, int], Entry] = {}
        """By `ModelSpec.key`."""
        self._counter = 0
        self._stopping = False
        self._room = asyncio.Lock()
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts a worker for each device, and returns when they are up."""
        for name, device in self._devices():
            self.workers[name] = Worker(name, device, self.settings.monitoring)
            self.workers[name].spawn()
        for worker in self.workers.values():
            await worker.ready()
        self.background(self._keep_house())

    def _devices(self) -> list[tuple[str, Device]]:
        settings = self.settings
        cores = len(os.sched_getaffinity(0))
        threads = settings.engine.cpu_threads or cores
        devices = []
        for g in gpu.select(gpu.find_gpus(), settings.gpu.device_ids):
            limit = int(g.memory_bytes * settings.gpu.memory_fraction)
            devices.append((f"cuda:{g.index}", Device("cuda", g.index, threads, limit)))
        count = settings.engine.cpu_workers
        for i in range(count):
            name = "cpu" if count == 1 else f"cpu:{i}"
            devices.append((name, Device("cpu", 0, max(1, threads // count))))
        return devices

    async def stop(self, drain_seconds: float) -> None:
        """Lets the accepted requests end, within a time, and stops the workers."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                while any(not e.dispatcher.idle for e in self.entries.values()):
                    await asyncio.sleep(0.02)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(w.stop() for w in self.all_workers()))
        for entry in self.entries.values():
            entry.dispatcher.end_all(entry.dispatcher.stopping)  # what the drain left behind

    def all_workers(self) -> list[Worker]:
        """The workers of the devices and of the isolated models."""
        isolated = {w.name: w for e in self.entries.values() for w in e.workers}
        return list({**isolated, **self.workers}.values())

    # --- models ------------------------------------------------------------------------------------------------------

    async def load(self, spec: ModelSpec) -> Entry:
        """Loads a registered version, or joins a load that is under way. Raises the error of the load.

        The entry is ready when this returns, and until its caller waits for something.
        """
        while True:
            entry = self.entries.get(spec.key)
            if entry is None or entry.state == "failed":
                entry = self._begin_load(spec)
            if entry.state == "ready":
                return entry
            if entry.loading is None:  # it is being unloaded
                await asyncio.sleep(0.005)
                continue
            entry.awaited += 1
            about: tracing.Attributes = {"unimodel.model.name": spec.name, "unimodel.model.version": spec.version}
            try:
                with tracing.part(f"load {spec.name}", about):
                    await asyncio.shield(entry.loading)
            finally:
                entry.awaited -= 1

    def _begin_load(self, spec: ModelSpec) -> Entry:
        options, _ = model_options.split(spec.config, self.backend(spec.backend).Options)
        entry = self._entry(spec, options)
        self.entries[spec.key] = entry
        entry.loading = asyncio.create_task(self._load_registered(entry))
        entry.loading.add_done_callback(_retrieve)
        return entry

    async def unload(self, spec: ModelSpec) -> None:
        """Takes a version off its workers when its accepted requests have ended. It stays registered."""
        entry = self.entries.get(spec.key)
        if entry is None or entry.state == "unloading":
            return
        if entry.loading is not None:
            with contextlib.suppress(UniModelError):
                await asyncio.shield(entry.loading)
        while entry.awaited:  # who waited for the load has yet to see that it is done
            await asyncio.sleep(0)
        entry.state = "unloading"
        while not entry.dispatcher.idle:
            await asyncio.sleep(0.005)
        await self._drop_instances(entry)
        if self.entries.get(spec.key) is entry:
            del self.entries[spec.key]
        self._idle.set()

    async def load_new(self, draft: ModelSpec, options: ModelOptions) -> tuple[Entry, Loaded]:
        """Loads a version that is about to be registered. It counts among the loaded models from now on.

        Follow with `adopt` when it is registered, or with `discard`.
        """
        entry = self._entry(draft, options)
        self._counter += 1
        key = (f"{draft.name}/{self._counter}", 0)
        self.entries[key] = entry
        try:
            return entry, await self._load_entry(entry)
        finally:
            del self.entries[key]

    def adopt(self, entry: Entry, spec: ModelSpec) -> None:
        """Gives a newly loaded version the identity under which it was registered."""
        entry.spec = spec
        entry.dispatcher.rename(spec)
        entry.dispatcher.metrics = self.metrics.model(spec.name, spec.version)
        self.entries[spec.key] = entry

    async def discard(self, entry: Entry) -> None:
        """Drops a newly loaded version that could not be registered."""
        await self._drop_instances(entry)

    @functools.cached_property
    def _backends(self) -> dict[str, type[Backend]]:
        return discovery.available()  # at the first model: a start need not wait for their modules

    def backend(self, name: str) -> type[Backend]:
        """A backend by name. Raises `ModelFailed` when it was there at registration and no longer is."""
        backend = self._backends.get(name)
        if backend is None:
            raise ModelFailed(f"The backend {name!r} is not installed any more.")
        return backend

    def check_recent_failure(self, spec: ModelSpec) -> None:
        """Raises `ModelFailed` when a version failed to load a moment ago: requests are no reason to try at once."""
        entry = self.entries.get(spec.key)
        if entry is not None and entry.error is not None and self.clock() - entry.failed_at < _FAILURE_MEMORY:
            reason = f"Model {spec.name!r} failed to load: {entry.error.message}"
            raise ModelFailed(reason, retry_after=_FAILURE_MEMORY)

    # --- loading -----------------------------------------------------------------------------------------------------

    def _entry(self, spec: ModelSpec, options: ModelOptions) -> Entry:
        engine = self.settings.engine
        batching, limits = options.batching, options.queue
        wait = engine.max_batch_wait_ms if batching.max_batch_wait_ms is None else batching.max_batch_wait_ms
        policy = BatchPolicy(batching.max_batch_size or engine.default_batch_size, wait / 1000)
        dispatcher = Dispatcher(
            spec,
            policy,
            QueueLimits(
                limits.max_requests or engine.max_queue_requests,
                (limits.max_mb or engine.max_queue_mb) * _MIB,
                math.inf if limits.max_wait_ms is None else limits.max_wait_ms / 1000,
            ),
            engine.max_batch_mb * _MIB // 2,  # the other half of a slot is for the outputs
            self.metrics.model(spec.name, spec.version) if spec.version else ModelMetrics(),
            self.clock,
        )
        entry = Entry(spec, options, dispatcher)
        dispatcher.on_idle = self._idle.set
        dispatcher.on_deficit = lambda lost: self.background(self._replace(entry, lost.worker))
        return entry

    async def _load_registered(self, entry: Entry) -> None:
        try:
            await self._verify(entry.spec)
            await self._load_entry(entry)
        except UniModelError as e:
            entry.state, entry.error, entry.failed_at = "failed", e, self.clock()
            raise ModelFailed(f"Model {entry.spec.name!r} failed to load: {e.message}", details={"code": e.code}) from e
        finally:
            entry.loading = None

    async def _verify(self, spec: ModelSpec) -> None:
        """Raises `ModelFileError` when the file is not the one that was registered."""
        if not spec.sha256:
            return  # an installed plugin, whose version is its package's
        backend = self.backend(spec.backend)
        if await asyncio.to_thread(digest.of_model, backend, spec.path) != (spec.sha256, spec.size_bytes):
            source = backend.source(spec.path)
            raise ModelFileError(f"{source} has changed since it was registered; register it again as a new version.")

    async def _load_entry(self, entry: Entry) -> Loaded:
        """Makes room, chooses workers and loads an instance on each."""
        async with self._room:
            await self._make_room()
            entry.has_room = True
        try:
            entry.workers.extend(
                await self._place(entry)
            )  # all at once: those that a failed load never reached end too
            for worker in entry.workers:
                loaded = await self._load_instance(entry, worker)
        except BaseException:
            await self._drop_instances(entry)
            raise
        entry.state = "ready"
        log.info("model loaded", extra={"model": entry.spec.name, "seconds": round(loaded.seconds, 3)})
        if loaded.batch_reason and loaded.info.sequences is None:
            log.warning("model is served unbatched", extra={"model": entry.spec.name, "reason": loaded.batch_reason})
        return loaded

    async def _place(self, entry: Entry) -> list[Worker]:
        """The workers for its instances. Those of an isolated model are started."""
        options = entry.options
        python = await asyncio.to_thread(interpreter.find, options.python)
        backend = self.backend(entry.spec.backend)
        seats = [
            Seat(w.name, str(w.device), sum(w in e.workers for e in self.entries.values()))
            for w in self.workers.values()
        ]
        replicas = 1 if options.isolated else options.replicas
        kinds = backend.devices
        if options.device == "auto" and options.python is None and any(seat.device != "cpu" for seat in seats):
            kinds = await asyncio.to_thread(installed.kinds, backend)
        names = choose_workers(seats, options.device, replicas, kinds)
        if not options.isolated:
            return [self.workers[n] for n in names]
        size = options.memory_bytes
        limit = None if size is None else MemoryLimit(entry.spec.name, size)
        workers = []
        for i in range(options.replicas):
            self._counter += 1
            device = self.workers[names[0]].device
            name = f"{names[0]}/{entry.spec.name}-{self._counter}.{i}"
            worker = Worker(name, device, self.settings.monitoring, python, limit)
            worker.spawn()
            workers.append(worker)
        return workers

    async def _load_instance(self, entry: Entry, worker: Worker) -> Loaded:
        """One instance on one worker; tried again when the worker dies meanwhile, most of all of something else."""
        engine = self.settings.engine
        deaths = 0
        for interruptions in range(1, _INTERRUPTED_LOADS + 1):
            self._counter += 1
            try:
                instance = Instance(worker, f"{entry.spec.name}#{self._counter}", engine.max_batch_mb * _MIB)
            except OSError as e:
                raise InsufficientMemory(f"No shared memory for the batch queue: {e.strerror}.") from None
            message = Load(
                key=instance.key,
                path=entry.spec.path,
                backend=entry.spec.backend,
                task=entry.spec.task or None,
                config=entry.spec.config,
                device=worker.device,
                slots=MAX_OUTSTANDING,
                slot_bytes=instance.slots.slot_bytes,
                batch_rows=entry.options.batching.max_batch_size or engine.default_batch_size,
                trusted=entry.spec.trusted,
                dynamic_padding=_first(entry.options.batching.dynamic_padding, engine.dynamic_padding),
            )
            try:
                loaded = await worker.load(message, instance, engine.load_timeout_s)
            except WorkerDied:
                instance.close()
                deaths += worker.load_is_the_cause
                if deaths == _DEADLY_LOADS or interruptions == _INTERRUPTED_LOADS:
                    raise
            except BaseException:
                instance.close()
                raise
            else:
                if not entry.wants_instances:  # any more
                    await worker.unload(instance)
                    return loaded
                if loaded.batch_reason is not None:
                    entry.dispatcher.policy = BatchPolicy(1, 0.0)
                entry.dispatcher.attach(instance, loaded)
                return loaded
        raise AssertionError("unreachable")

    async def _replace(self, entry: Entry, worker: Worker) -> None:
        """A worker died with an instance: load it again, or give up on the model."""
        if entry.state == "loading" or not entry.wants_instances or self._stopping:
            return  # what is missing when a load ends is found by `_keep_house`
        entry.replacing.add(worker)
        try:
            await self._verify(entry.spec)  # its replicas would else be of different files
            await self._load_instance(entry, worker)
        except UniModelError as e:
            log.error("model could not be loaded again", extra={"model": entry.spec.name, "reason": e.message})
            entry.replace_after = self.clock() + _RETRY_INSTANCE
            if not entry.dispatcher.instances:
                entry.state, entry.error, entry.failed_at = "failed", e, self.clock()
                reason = f"Model {entry.spec.name!r} failed to load again: {e.message}"
                entry.dispatcher.end_all(lambda: ModelFailed(reason))
        finally:
            entry.replacing.discard(worker)

    async def _drop_instances(self, entry: Entry) -> None:
        for instance in list(entry.dispatcher.instances):
            entry.dispatcher.detach(instance)
            await instance.worker.unload(instance)
        for worker in entry.workers:
            if worker.name not in self.workers:
                await worker.stop()
        entry.workers.clear()

    async def _make_room(self) -> None:
        """Waits until one more model may be loaded; the least recently used one goes when there is no room."""
        limit = self.settings.engine.max_models
        impatient = self.clock() + _BUSY_PATIENCE
        while True:
            held = [e for e in self.entries.values() if e.has_room and e.state != "failed"]
            if len(held) < limit:
                return
            if not self.settings.gpu.enable_pooling:
                raise InsufficientMemory(
                    f"{len(held)} models are loaded, and engine.max_models is {limit}; unload one or raise the limit."
                )
            ready = [
                Resident(e.spec.key, e.dispatcher.idle and not e.awaited, e.dispatcher.last_used)
                for e in held
                if e.state == "ready"
            ]
            victim = choose_victim(ready)
            if victim is not None and (victim.idle or self.clock() > impatient):
                log.info("model makes room", extra={"model": victim.key[0]})
                await self.unload(self.entries[victim.key].spec)
                continue
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._idle.wait()

    async def _keep_house(self) -> None:
        """Replaces workers that hang and instances that are missing, and gives the memory of idle slots back."""
        patience = self.settings.engine.hang_timeout_s
        while True:
            await asyncio.sleep(min(_HOUSEKEEPING, patience / 2))
            for entry in self.entries.values():
                self._look_after(entry, patience)

    def _look_after(self, entry: Entry, patience: float) -> None:
        for instance in entry.dispatcher.instances:
            instance.trim(_HOUSEKEEPING)
            if instance.silent_for > patience:
                log.error("model hangs, its worker is replaced", extra={"model": entry.spec.name})
                instance.worker.kill()
        if entry.state == "ready" and self.clock() >= entry.replace_after:
            for worker in entry.missing:
                self.background(self._replace(entry, worker))

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work that nobody waits for; what it raises is logged."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_crash)


def _first(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _retrieve(task: asyncio.Task[None]) -> None:
    """Marks a load's error as seen: whoever waits gets it too, but nobody may be waiting any more."""
    if not task.cancelled():
        task.exception()


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background task failed", exc_info=task.exception())
