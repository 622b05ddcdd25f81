"""Loads one model in a worker: backend, task, warm-up, self-check. The story of `Load` becoming `Loaded`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backends import discovery
from backends.base import Backend, InvalidOption, ModelInfo, TensorBackend, ValueBackend
from engine import model_options, tasks
from engine.model_options import ModelOptions
from engine.tasks.base import TensorTask
from engine.transport.batchqueue import Slots
from engine.transport.messages import Load, Loaded
from engine.worker import self_check
from engine.worker.batch_runner import BatchRunner
from engine.worker.gate import Gate
from engine.worker.padding import Padding


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to compute."""

    backend: TensorBackend | ValueBackend
    runner: BatchRunner
    reply: Loaded


def load(message: Load, slots: Slots, gate: Gate) -> LoadedModel:
    """Loads, warms up and checks a model. Raises what the backend raises; a failed warm-up fails the load."""
    begin = time.perf_counter()
    backend, info, options = _create(message)
    name = message.task or info.task
    task = tasks.create(name, info, options)
    info = msgspec.structs.replace(info, notes=(*info.notes, *task.notes))
    if isinstance(backend, ValueBackend):
        return _values(message, backend, info, task, slots, gate, begin)
    pad = Padding(info, options.batching.padding)
    unknown = set(options.batching.padding) - {s.name for s in info.inputs}
    if unknown:
        raise InvalidOption(
            f"batching.padding names {sorted(unknown)}, which are no inputs of this model.", field="config"
        )
    example = backend.example()
    backend.predict(example)  # the warm-up
    batch_reason, padding_reason = _check(message, backend, info, options, pad)
    if batch_reason is not None and info.batchable:
        info = msgspec.structs.replace(info, batchable=False, unbatched_reason=batch_reason)
        task.info = info
    used_pad = None if padding_reason else pad
    runner = BatchRunner(backend, task, slots, message.batch_rows, used_pad, gate, message.device.threads)
    numeric = all(s.dtype != "string" for s in info.inputs)
    reply = Loaded(
        key=message.key,
        info=info,
        task=name,
        plain_answers=task.plain_answers,
        decodes_json=numeric and name in ("tensor", "tabular"),
        accepts_values=False,
        batch_reason=batch_reason,
        padding_reason=padding_reason,
        example=msgspec.json.encode({"input": task.example(example)}),
        memory_bytes=backend.memory(),
        seconds=time.perf_counter() - begin,
    )
    return LoadedModel(backend, runner, reply)


def _create(message: Load) -> tuple[TensorBackend | ValueBackend, ModelInfo, ModelOptions]:
    cls: type[Backend] = discovery.available()[message.backend]
    options, own = model_options.split(message.config, cls.Options)
    backend = cls()
    if not isinstance(backend, TensorBackend | ValueBackend):
        raise TypeError(f"backend {message.backend!r} must subclass TensorBackend or ValueBackend")
    backend.trusted = message.trusted
    info = backend.load(Path(message.path), message.device, own)
    return backend, info, options


def _check(
    message: Load, backend: TensorBackend, info: ModelInfo, options: ModelOptions, pad: Padding
) -> tuple[str | None, str | None]:
    """Why the model is not batched, and why it is not padded; `None` when it is."""
    if message.batch_rows == 1:
        return "batching.max_batch_size is 1", "the model is served unbatched"
    if not info.batchable:
        return info.unbatched_reason or "the model does not take batches", "the model is served unbatched"
    if options.batching.self_check:
        reason = self_check.batch_reason(backend, info, message.batch_rows)
        if reason is not None:
            return reason, "the model is served unbatched"
    if not message.dynamic_padding:
        return None, "dynamic_padding is off"
    return None, self_check.padding_reason(backend, info, pad)


def _values(
    message: Load, backend: ValueBackend, info: ModelInfo, task: TensorTask, slots: Slots, gate: Gate, begin: float
) -> LoadedModel:
    """A model that takes whole JSON bodies: there are no tensors to check, only an example to try."""
    example: dict[str, Any] | None = backend.example()
    if example is not None:
        result = backend.predict_values([example])[0]
        if isinstance(result, Exception):
            raise result
    reason = None if info.batchable else info.unbatched_reason or "the model does not take batches"
    if message.batch_rows == 1:
        reason = "batching.max_batch_size is 1"
    reply = Loaded(
        key=message.key,
        info=info,
        task=message.task or info.task,
        plain_answers=False,
        decodes_json=False,
        accepts_values=True,
        batch_reason=reason,
        padding_reason="the model takes JSON values",
        example=msgspec.json.encode(example) if example is not None else b"",
        memory_bytes=backend.memory(),
        seconds=time.perf_counter() - begin,
    )
    return LoadedModel(backend, BatchRunner(backend, task, slots, message.batch_rows, None, gate), reply)
