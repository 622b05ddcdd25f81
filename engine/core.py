"""The engine: predict, stream, register. Everything between the dialects and the pool of loaded models."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from backends import discovery
from backends.base import EXAMPLE, BackendError, Finding, ModelInfo
from engine import digest, findings, model_options
from engine.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidOption,
    InvalidRequest,
    ServerStopping,
    UniModelError,
    UntrustedModel,
    from_code,
)
from engine.hub import Hub
from engine.pipelines import Pipelines, is_pipeline
from engine.pool import Entry, Pool
from engine.registry import Registry, check_name, split_version
from engine.reload import Reloader
from engine.schema import RegisterRequest
from engine.settings import Settings
from engine.telemetry import tracing, tracing_calls
from engine.telemetry.metrics import Metrics
from engine.telemetry.tracing_calls import ModelCall
from engine.telemetry.tracing_export import Tracer
from engine.transport import transcription
from engine.transport.generation import Delta, GenerateRequest, decode_deltas, encode_request
from engine.transport.messages import Loaded
from engine.transport.transcription import TranscribeRequest, TranscriptDelta
from engine.types import Answer, ModelSpec, Request
from engine.worker.instance import Stream

log = logging.getLogger("unimodel.engine")


class Engine:
    """Serves the registered models on this machine's workers."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.metrics = metrics
        self.clock = clock
        self.tracer = tracer
        """Makes the spans of requests; `None` when nothing is traced."""
        self.pool = Pool(settings, metrics, clock)
        self.pipelines = Pipelines(registry, settings.engine.max_queue_requests)
        self.reloader = Reloader(self) if settings.engine.reload else None
        self.hub = Hub(registry.home / "models")
        self.started = time.time()
        self.state: Literal["starting", "ready", "draining"] = "starting"
        self._stream_ids = itertools.count(1)

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the workers, and returns when they are up."""
        await self.pool.start()
        self.state = "ready"
        if self.settings.engine.preload:
            self.pool.background(self._preload())
        if self.reloader is not None:
            self.pool.background(self.reloader.run())

    async def stop(self, drain_seconds: float) -> None:
        """Takes no new requests, lets the accepted ones end, and stops the workers."""
        self.state = "draining"
        until = self.clock() + drain_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self.pipelines.ended()
        await self.pool.stop(max(0.0, until - self.clock()))

    # --- requests ----------------------------------------------------------------------------------------------------

    async def predict(self, name: str, version: int | None, request: Request) -> Answer:
        """Answers one request, loading its model first if it is cold.

        Raises `ModelNotFound`, `Overloaded`, `DeadlineExceeded`, `ModelFailed`, or what the model made of the input.
        """
        entry = await self.ready(name, version, request.deadline)
        return await entry.dispatcher.predict(request)

    async def stream(
        self, name: str, version: int | None, body: bytes, request_id: str, deadline: float
    ) -> AsyncGenerator[bytes, None]:
        """The chunks of one streamed request, as JSON. Closing the iterator cancels it in the worker."""
        stream = Stream(next(self._stream_ids), body, request_id)
        begin = self.clock()
        entry = await self.ready(name, version, deadline)  # it was, but may have been unloaded before this step
        stream.call = ModelCall.begin(tracing.current(), entry.spec, "stream", self.clock())
        dispatcher = entry.dispatcher
        dispatcher.open_stream(stream)
        outcome = "cancelled"
        try:
            while True:
                async with asyncio.timeout(max(0.0, deadline - self.clock())):
                    chunk = await stream.next()
                if chunk is None:
                    break
                yield chunk
            outcome = "ok"
        except TimeoutError:
            outcome = DeadlineExceeded.code
            raise DeadlineExceeded("The deadline passed before the stream ended.") from None
        except UniModelError as e:
            outcome = e.code
            raise
        finally:
            dispatcher.close_stream(stream, outcome, self.clock() - begin)

    async def generate(
        self,
        entry: Entry,
        request: GenerateRequest,
        request_id: str,
        begin: float,
        deadline: float | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[list[Delta], None]:
        """The deltas of one generated answer. Closing the iterator cancels it in the worker.

        `deadline` bounds the whole answer, if the client asked for one. Without it, the model's (or the server's)
        default bounds the time until the first token, so that a long answer may take as long as it needs.
        Raises `Overloaded`, `DeadlineExceeded`, or what the model made of the request.
        """
        try:
            body = encode_request(request)
        except OverflowError:
            raise InvalidInput("The request has an integer of more than 64 bits.") from None
        except RecursionError:
            raise InvalidInput("The request is nested too deeply.") from None
        stream = Stream(next(self._stream_ids), body, request_id, priority, max(1, request.choices))
        if (above := tracing.current()) is not None:
            operation, asked = tracing_calls.generation(request)
            stream.call = ModelCall.begin(above, entry.spec, operation, self.clock(), asked)
        metrics = entry.dispatcher.metrics

        def first_token(seconds: float) -> None:
            metrics.first_token(seconds)
            if stream.call is not None:
                stream.call.first_token(seconds)

        answer = self._follow(entry, stream, begin, deadline, "first token was there", first_token)
        async with aclosing(answer) as chunks:
            async for chunk in chunks:
                deltas = decode_deltas(chunk)
                for delta in deltas:
                    if delta.usage is not None:
                        metrics.generated(delta.usage)
                        if stream.call is not None:
                            stream.call.generated(delta.usage, delta.finish)
                yield deltas

    async def transcribe(
        self,
        entry: Entry,
        request: TranscribeRequest,
        request_id: str,
        begin: float,
        deadline: float | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[TranscriptDelta, None]:
        """What there is of one transcription, as it comes. Closing the iterator cancels it in the worker.

        `deadline` is as in `generate`; the default bounds the time until the recording is decoded. Raises the same.
        """
        stream = Stream(next(self._stream_ids), transcription.encode_request(request), request_id, priority)
        stream.call = ModelCall.begin(tracing.current(), entry.spec, "transcribe", self.clock())
        metrics = entry.dispatcher.metrics
        async with aclosing(self._follow(entry, stream, begin, deadline, "recording was decoded")) as chunks:
            async for chunk in chunks:
                for delta in transcription.decode_deltas(chunk):
                    if delta.recording is not None:
                        metrics.transcribed(delta.recording.duration)
                        if stream.call is not None:
                            stream.call.recorded(delta.recording.duration)
                    yield delta

    async def _follow(
        self,
        entry: Entry,
        stream: Stream,
        begin: float,
        deadline: float | None,
        beginning: str,
        on_begun: Callable[[float], None] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The chunks of an answer that takes many steps. `on_begun` hears after how many seconds it had begun."""
        until: float | None = deadline or begin + self.patience(entry)
        dispatcher = entry.dispatcher
        dispatcher.open_stream(stream)
        outcome = "cancelled"
        first = True
        try:
            while True:
                async with asyncio.timeout(None if until is None else max(0.0, until - self.clock())):
                    chunk = await stream.next()
                if chunk is None:
                    break
                if first and on_begun is not None:
                    on_begun(self.clock() - begin)
                first, until = False, deadline
                if chunk:
                    yield chunk
            outcome = "ok"
        except TimeoutError:
            outcome = DeadlineExceeded.code
            what = beginning if first else "answer was whole"
            raise DeadlineExceeded(f"The deadline passed before the {what}.") from None
        except UniModelError as e:
            outcome = e.code
            raise
        finally:
            dispatcher.close_stream(stream, outcome, self.clock() - begin)

    def patience(self, entry: Entry | None = None) -> float:
        """Seconds that a request may take which brings no deadline: the model's, if that is known and has its own."""
        own = entry.options.deadline_ms if entry is not None else None
        return (own or self.settings.server.deadline_ms) / 1000

    def ready_now(self, name: str, version: int | None) -> Entry | None:
        """The entry that serves a name, or `None` when it must be loaded first, or the server is not serving."""
        entry = self.pool.entries.get(self.registry.get(name, version).key)
        return entry if entry is not None and entry.state == "ready" and self.state == "ready" else None

    async def ready(self, name: str, version: int | None, deadline: float, *, accepted: bool = False) -> Entry:
        """The entry that serves a name, loaded. Waits for a load until the deadline.

        `accepted`: for a request that was taken before the server began to stop, such as the next step of a pipeline.
        """
        entry = self.ready_now(name, version)
        if entry is not None:
            return entry
        if self.state == "draining" and not accepted:
            raise ServerStopping("The server is stopping and takes no new requests.")
        spec = self.registry.get(name, version)
        if is_pipeline(spec):
            raise InvalidRequest(
                f"{name!r} is a pipeline, which is called by POST /v1/models/{spec.name}:predict alone.", field="model"
            )
        self.pool.check_recent_failure(spec)
        try:
            async with asyncio.timeout(max(0.0, deadline - self.clock())):
                return await self.pool.load(spec)
        except TimeoutError:
            raise DeadlineExceeded(f"Model {name!r} was still loading when the deadline passed.") from None

    # --- models ------------------------------------------------------------------------------------------------------

    async def register(self, request: RegisterRequest) -> ModelSpec:
        """Registers a new version: find the backend, load and check the model, then store it.

        Nothing is stored when the load fails, and the version that served before goes on serving.
        """
        check_name(request.name)
        path = request.model_path
        backend, match = await asyncio.to_thread(_translated, lambda: discovery.choose(path, request.backend))
        if match.runs_code and not request.trust:
            raise UntrustedModel(
                f'{match.runs_code} Register it with --trust ("trust": true) if you trust its author.', field="trust"
            )
        options, _ = model_options.split(request.config, backend.Options)
        if options.python is not None and not request.trust:
            raise UntrustedModel(
                f"Its process would run {options.python}, and whatever that has installed. "
                'Register it with --trust ("trust": true) if you trust it.',
                field="trust",
            )
        source = backend.source(path)
        sha256, size = await asyncio.to_thread(digest.of_model, backend, path) if source.exists() else ("", 0)
        draft = ModelSpec(
            name=request.name,
            version=0,
            path=str(Path(path).absolute()) if source.exists() else path,
            sha256=sha256,
            size_bytes=size,
            backend=backend.name,
            task=request.task or "",
            config=request.config,
            trusted=request.trust,
            created=time.time(),
            info=ModelInfo(task=""),
        )
        if is_pipeline(draft):
            if draft.config:
                raise InvalidOption("A pipeline has no options; set them at the models that it calls.", field="config")
            info = await self.pipelines.check(draft.name, source)
            spec = self._add(draft, info.task, info)
        else:
            entry, loaded = await self.pool.load_new(draft, options)
            try:
                found = findings.of(request, backend, match, options, loaded)
                spec = self._add(draft, loaded.task, _remembered(loaded, found))
            except BaseException:
                await self.pool.discard(entry)
                raise
            self.pool.adopt(entry, spec)
        self.pool.background(self._retire(spec))
        return spec

    def _add(self, draft: ModelSpec, task: str, info: ModelInfo) -> ModelSpec:
        return self.registry.add(
            name=draft.name,
            path=draft.path,
            sha256=draft.sha256,
            size_bytes=draft.size_bytes,
            backend=draft.backend,
            task=task,
            config=draft.config,
            trusted=draft.trusted,
            info=info,
        )

    async def load(self, spec: ModelSpec) -> None:
        """Loads a registered version; of a pipeline, what it calls."""
        if not is_pipeline(spec):
            await self.pool.load(spec)
            return
        for model in (await self.pipelines.graph(spec)).models:
            await self.load(self.registry.get(*split_version(model)))

    async def _retire(self, newest: ModelSpec) -> None:
        """Unloads the versions that a new one replaced, when they are idle. Asked for by number, they load again."""
        serving = self.registry.get(newest.name)
        for entry in list(self.pool.entries.values()):
            if entry.spec.name == newest.name and entry.spec.version not in (newest.version, serving.version):
                await self.pool.unload(entry.spec)

    async def unregister(self, name: str, version: int | None) -> list[int]:
        """Removes one version, or all of a name, once its accepted requests have ended. Returns their numbers."""
        keys = [self.registry.get(name, v).key for v in ([version] if version else self.registry.versions(name))]
        removed = self.registry.remove(name, version)
        for key in keys:
            self.pipelines.forget(key)
            entry = self.pool.entries.get(key)
            if entry is not None:
                await self.pool.unload(entry.spec)
            self.metrics.remove(*key)
        return removed

    async def _preload(self) -> None:
        """Loads the registered models, the newest first, as many as may be loaded at once."""
        models = [spec for spec in self.registry.list() if not is_pipeline(spec)]
        specs = sorted(models, key=lambda s: s.created, reverse=True)
        for spec in specs[: self.settings.engine.max_models]:
            try:
                await self.pool.load(spec)
            except UniModelError as e:
                log.error("model failed to load", extra={"model": spec.name, "reason": e.message})


T = TypeVar("T")

_LONGEST_EXAMPLE = 1 << 16
"""Bytes of an example that is kept with a registration."""


def _remembered(loaded: Loaded, found: tuple[Finding, ...]) -> ModelInfo:
    """What is stored of a model, to be shown also while it is not loaded."""
    metadata = loaded.info.metadata
    if 0 < len(loaded.example) <= _LONGEST_EXAMPLE:
        metadata = {**metadata, EXAMPLE: loaded.example.decode()}
    return msgspec.structs.replace(loaded.info, findings=found, metadata=metadata)


def _translated(call: Callable[[], T]) -> T:
    """Runs `call`; a backend's error comes out as the engine's own."""
    try:
        return call()
    except BackendError as e:
        raise from_code(e.code, e.message, field=e.field) from None
