"""What the engine holds, as the structs of `engine.schema`. Reads, never changes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import psutil

from backends.base import EXAMPLE, Finding, GenerationInfo, TensorSpec, TranscriptionInfo
from engine import model_options, schema
from engine.core import Engine
from engine.pipelines import is_pipeline
from engine.pool import Entry
from engine.settings import TABLE, Provenance
from engine.types import ModelSpec
from engine.version import __version__


def model_view(engine: Engine, spec: ModelSpec, *, with_example: bool = True) -> schema.ModelView:
    """One registered version. A list goes without the examples, which can be large."""
    entry = engine.pool.entries.get(spec.key)
    aliases = [a.alias for a in engine.registry.aliases() if a.model == spec.name and a.version in (None, spec.version)]
    example: bytes | str = b""
    if with_example:
        loaded = entry.dispatcher.loaded if entry is not None else None
        example = loaded.example if loaded is not None else spec.info.metadata.get(EXAMPLE, "")
    return schema.ModelView(
        id=spec.name if engine.registry.get(spec.name) is spec else f"{spec.name}@{spec.version}",
        created=int(spec.created),
        name=spec.name,
        version=spec.version,
        versions=engine.registry.versions(spec.name),
        aliases=aliases,
        backend=spec.backend,
        task=spec.task,
        state=_state(spec, entry),
        error=entry.error.message if entry is not None and entry.error is not None else None,
        reload_error=reload_error(engine, spec),
        path=spec.path,
        sha256=spec.sha256,
        size_bytes=spec.size_bytes,
        config=spec.config,
        trusted=spec.trusted,
        runtime=spec.info.runtime,
        device=spec.info.device,
        inputs=[tensor_view(t) for t in spec.info.inputs],
        outputs=[tensor_view(t) for t in spec.info.outputs],
        labels=len(spec.info.labels or ()),
        streams=spec.info.streams,
        generation=generation_view(spec.info.generation),
        transcription=transcription_view(spec.info.transcription),
        batching=batching_view(engine, spec, entry),
        findings=[finding_view(found) for found in spec.info.findings],
        notes=list(spec.info.notes),
        example=msgspec.json.decode(example) if example else None,
    )


def _state(spec: ModelSpec, entry: Entry | None) -> schema.ModelState:
    if entry is None:
        return "ready" if is_pipeline(spec) else "unloaded"
    return entry.state


def reload_error(engine: Engine, spec: ModelSpec) -> str | None:
    """Why the changed files of a version could not be loaded in its place."""
    return engine.reloader.error(spec) if engine.reloader is not None else None


def tensor_view(spec: TensorSpec) -> schema.TensorView:
    """One input or output."""
    return schema.TensorView(name=spec.name, dtype=spec.dtype, shape=list(spec.shape), batch_axis=spec.batch_axis)


def finding_view(found: Finding) -> schema.FindingView:
    """One thing that was found out."""
    return schema.FindingView(
        subject=found.subject, value=found.value, sure=found.sure, source=found.source, option=found.option
    )


def generation_view(info: GenerationInfo | None) -> schema.GenerationView | None:
    """What is known of a model that generates text; `None` for another."""
    if info is None:
        return None
    return schema.GenerationView(
        context_length=info.context_length,
        sequences=info.sequences,
        chat_template=info.chat_template is not None,
        images=info.images,
        infill=info.infill,
        adapters=list(info.adapters),
        parameters=info.parameters,
        quantization=info.quantization,
        architecture=info.architecture,
    )


def transcription_view(info: TranscriptionInfo | None) -> schema.TranscriptionView | None:
    """What is known of a model that writes down speech; `None` for another."""
    if info is None:
        return None
    return schema.TranscriptionView(
        sequences=info.sequences, languages=list(info.languages), translates=info.translates
    )


def batching_view(engine: Engine, spec: ModelSpec, entry: Entry | None) -> schema.BatchingView:
    """How a version is, or would be, batched."""
    defaults = engine.settings.engine
    if entry is not None:
        options = entry.options.batching
    else:
        options = model_options.split(spec.config, engine.pool.backend(spec.backend).Options)[0].batching
    wait = defaults.max_batch_wait_ms if options.max_batch_wait_ms is None else options.max_batch_wait_ms
    loaded = entry.dispatcher.loaded if entry is not None else None
    reason = loaded.batch_reason if loaded is not None else spec.info.unbatched_reason
    padding_reason = loaded.padding_reason if loaded is not None else None
    return schema.BatchingView(
        enabled=reason is None,
        reason=reason,
        max_batch_size=1 if reason else options.max_batch_size or defaults.default_batch_size,
        max_batch_wait_ms=wait,
        dynamic_padding=loaded is not None and padding_reason is None,
        padding_reason=padding_reason,
    )


def status_view(engine: Engine, spec: ModelSpec) -> schema.StatusView:
    """How one version is doing."""
    entry = engine.pool.entries.get(spec.key)
    if entry is None:
        return schema.StatusView(
            name=spec.name,
            version=spec.version,
            state=_state(spec, None),
            reload_error=reload_error(engine, spec),
            instances=[],
            batching=batching_view(engine, spec, None),
            queue_requests=0,
            queue_bytes=0,
            in_flight=0,
            requests=0,
            errors=0,
            mean_batch_rows=0.0,
            compute_ms_per_batch=0.0,
            last_used=None,
        )
    d = entry.dispatcher
    speeds = [i.speed for i in d.instances]
    count = max(1, len(speeds))
    return schema.StatusView(
        name=spec.name,
        version=spec.version,
        state=entry.state,
        error=entry.error.message if entry.error is not None else None,
        reload_error=reload_error(engine, spec),
        instances=[_instance_view(entry, w) for w in entry.workers],
        batching=batching_view(engine, spec, entry),
        queue_requests=d.queue.requests + d.streams.waiting,
        queue_bytes=d.queue.bytes,
        in_flight=d.in_flight + d.streams.open,
        requests=d.requests,
        errors=d.errors,
        mean_batch_rows=round(sum(s.rows_per_batch for s in speeds) / count, 3),
        compute_ms_per_batch=round(sum(s.compute_seconds for s in speeds) / count * 1000, 4),
        last_used=time.time() - (engine.clock() - d.last_used) if d.requests else None,
    )


def _instance_view(entry: Entry, worker: Any) -> schema.InstanceView:
    instance = next((i for i in entry.dispatcher.instances if i.worker is worker), None)
    loaded = instance.loaded if instance is not None else None
    return schema.InstanceView(
        worker=worker.name,
        device=str(worker.device),
        pid=worker.pid,
        state="ready" if loaded is not None else "loading",
        memory_bytes=loaded.memory_bytes if loaded is not None else 0,
        load_seconds=round(loaded.seconds, 4) if loaded is not None else 0.0,
    )


def server_view(engine: Engine) -> schema.ServerView:
    """The server as a whole."""
    workers = []
    for w in engine.pool.all_workers():
        models = [e.spec.name for e in engine.pool.entries.values() if w in e.workers]
        workers.append(
            schema.WorkerView(
                name=w.name,
                device=str(w.device),
                pid=w.pid,
                state=w.state,
                restarts=w.restarts,
                rss_bytes=rss(w.pid),
                models=sorted(models),
            )
        )
    entries = list(engine.pool.entries.values())
    return schema.ServerView(
        version=__version__,
        pid=os.getpid(),
        uptime_seconds=round(time.time() - engine.started, 3),
        state=engine.state,
        workers=workers,
        models=[status_view(engine, e.spec) for e in entries if e.spec.version],
        registered=len(engine.registry.names()),
        in_flight=sum(e.dispatcher.in_flight + e.dispatcher.streams.open for e in entries),
        rss_bytes=rss(os.getpid()),
    )


def rss(pid: int | None) -> int:
    """Resident bytes of a process; 0 when it is gone."""
    with contextlib.suppress(psutil.Error):
        if pid is not None:
            return int(psutil.Process(pid).memory_info().rss)
    return 0


def config_view(values: Mapping[str, Provenance]) -> schema.ConfigView:
    """The settings in force."""
    return schema.ConfigView(
        settings=[
            schema.SettingView(key=key, value=p.value, source=p.source, env=TABLE[key].env, help=TABLE[key].help)
            for key, p in values.items()
        ]
    )


def refresh_gauges(engine: Engine) -> None:
    """Sets the gauges, just before they are rendered."""
    engine.metrics.clear_gauges()
    for entry in engine.pool.entries.values():
        m, d = entry.dispatcher.metrics, entry.dispatcher
        m.queue_requests = d.queue.requests + d.streams.waiting
        m.in_flight_requests = d.in_flight + d.streams.open
        m.loaded = len(d.instances)
        m.memory_bytes = sum(i.loaded.memory_bytes for i in d.instances if i.loaded is not None)
    for worker in engine.pool.all_workers():
        numbers = engine.metrics.worker(worker.name)
        numbers.up = worker.state == "ready"
        numbers.restarts = worker.restarts
