"""Loads one model in a worker: backend, task, warm-up, self-check. The story of `Load` becoming `Loaded`."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from backends import discovery
from backends.base import Backend, InvalidOption, ModelInfo, StepBackend, TensorBackend, Tensors, ValueBackend
from backends.generation import GenerationBackend
from backends.transcription import TranscriptionBackend
from engine import model_options, tasks
from engine.errors import ModelFailed
from engine.model_options import ModelOptions
from engine.tasks.base import TensorTask
from engine.transport.batchqueue import Slots
from engine.transport.channel import Channel
from engine.transport.messages import Load, Loaded
from engine.worker import self_check
from engine.worker.batch_runner import BatchRunner
from engine.worker.gate import ModelGate
from engine.worker.padding import Padding
from engine.worker.self_check import Predict
from engine.worker.stream_runner import StreamRunner

if TYPE_CHECKING:
    from engine.worker.step_runner import StepRunner


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to compute."""

    backend: Backend
    reply: Loaded
    runner: BatchRunner | None
    """For batches; `None` for a model that answers step by step."""
    streams: Callable[[Channel], StreamRunner | StepRunner[Any, Any]]
    """Makes what runs its streams, given where the chunks go."""


def load(message: Load, slots: Slots, gate: ModelGate) -> LoadedModel:
    """Loads, warms up and checks a model. Raises what the backend raises; a failed warm-up fails the load."""
    begin = time.perf_counter()
    backend, info, options = _create(message)
    if isinstance(backend, GenerationBackend):
        return _generation(message, backend, info, gate, begin)
    if isinstance(backend, TranscriptionBackend):
        return _transcription(message, backend, info, options.max_audio_s, gate, begin)
    name = message.task or tasks.recognise(info, options)
    task = tasks.create(name, info, options)
    info = msgspec.structs.replace(info, findings=(*info.findings, *task.findings), notes=(*info.notes, *task.notes))
    if isinstance(backend, ValueBackend):
        return _values(message, backend, info, task, slots, gate, begin)
    pad = Padding(info, options.batching.padding)
    unknown = set(options.batching.padding) - {s.name for s in info.inputs}
    if unknown:
        raise InvalidOption(
            f"batching.padding names {sorted(unknown)}, which are no inputs of this model.", field="config"
        )
    predict = _in_turn(backend, gate)
    example = backend.example()
    predict(example)  # the warm-up
    batch_reason, padding_reason = _check(message, example, predict, info, options, pad)
    if batch_reason is not None and info.batchable:
        info = msgspec.structs.replace(info, batchable=False, unbatched_reason=batch_reason)
        task.info = info
    used_pad = None if padding_reason else pad
    most = message.batch_rows
    if options.batching.max_batch_size is None and batch_reason is None:
        most = max(most, backend.rows_at_once)
    runner = BatchRunner(backend, task, slots, most, used_pad, gate, message.device.threads)
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
    return LoadedModel(backend, reply, runner, lambda channel: StreamRunner(backend, channel))


Served = TensorBackend | ValueBackend | GenerationBackend | TranscriptionBackend
"""The kinds of backends that there are; each model is of one."""


def _create(message: Load) -> tuple[Served, ModelInfo, ModelOptions]:
    found = discovery.discover()
    if message.backend not in found.backends:  # the server has it, an environment of the model's own may not
        problem = found.problems.get(message.backend, "it is not installed")
        raise ModelFailed(f"Backend {message.backend!r} cannot be used on {sys.executable}: {problem}.")
    cls: type[Backend] = found.backends[message.backend]
    options, own = model_options.split(message.config, cls.Options)
    backend = cls()
    if not isinstance(backend, Served):
        kinds = "TensorBackend, ValueBackend, GenerationBackend or TranscriptionBackend"
        raise TypeError(f"backend {message.backend!r} must subclass {kinds}")
    backend.trusted = message.trusted
    info = backend.load(Path(message.path), message.device, own)
    return backend, info, options


def _in_turn(backend: TensorBackend, gate: ModelGate) -> Predict:
    def predict(inputs: Tensors) -> Tensors:
        with gate.turn(backend.threads):
            return backend.predict(inputs)

    return predict if backend.threads else backend.predict


def _check(
    message: Load, example: Tensors, predict: Predict, info: ModelInfo, options: ModelOptions, pad: Padding
) -> tuple[str | None, str | None]:
    """Why the model is not batched, and why it is not padded; `None` when it is."""
    if message.batch_rows == 1:
        return "batching.max_batch_size is 1", "the model is served unbatched"
    if not info.batchable:
        return info.unbatched_reason or "the model does not take batches", "the model is served unbatched"
    if options.batching.self_check:
        reason = self_check.batch_reason(predict, example, info, message.batch_rows)
        if reason is not None:
            return reason, "the model is served unbatched"
    if not message.dynamic_padding:
        return None, "dynamic_padding is off"
    return None, self_check.padding_reason(predict, example, info, pad)


def _values(
    message: Load, backend: ValueBackend, info: ModelInfo, task: TensorTask, slots: Slots, gate: ModelGate, begin: float
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
    runner = BatchRunner(backend, task, slots, message.batch_rows, None, gate)
    return LoadedModel(backend, reply, runner, lambda channel: StreamRunner(backend, channel))


def _generation(
    message: Load, backend: GenerationBackend, info: ModelInfo, gate: ModelGate, begin: float
) -> LoadedModel:
    """A model that generates text. Its warm-up is a short answer; batches are its own affair."""
    from engine.generation.template import ChatTemplate  # needs Jinja, which comes with the runtimes that generate
    from engine.worker.generation_runner import GenerationRunner

    generation = info.generation
    if generation is None:
        raise TypeError(f"backend {message.backend!r} must return a ModelInfo with generation")
    if message.task not in (None, info.task, "completion"):
        raise InvalidOption(
            f"The task {message.task} does not fit a model that generates text; it can be {info.task} or completion.",
            field="task",
        )
    if message.task == "completion":  # of a chat model too, whose template then stays out of use
        generation = msgspec.structs.replace(generation, chat_template=None)
        info = msgspec.structs.replace(info, task="completion", generation=generation)
    template = None
    if generation.chat_template is not None:
        template = ChatTemplate(generation.chat_template, generation.bos, generation.eos)
    example = {"input": "What is artificial intelligence?", "max_tokens": 64}
    reply = _warmed_up(message, backend, info, "answers are generated token by token", example, begin)
    return LoadedModel(
        backend, reply, None, lambda channel: GenerationRunner(backend, generation, template, channel, gate)
    )


def _transcription(
    message: Load, backend: TranscriptionBackend, info: ModelInfo, longest: float, gate: ModelGate, begin: float
) -> LoadedModel:
    """A model that writes down speech, of recordings of at most `longest` seconds."""
    from engine import audio
    from engine.worker.transcription_runner import TranscriptionRunner

    if info.transcription is None:
        raise TypeError(f"backend {message.backend!r} must return a ModelInfo with transcription")
    if message.task not in (None, info.task):
        raise InvalidOption(
            f"The task {message.task} does not fit a model that writes down speech; it is {info.task}.", field="task"
        )
    example = {"input": base64.b64encode(audio.silence()).decode()}
    reply = _warmed_up(message, backend, info, "recordings are cut into windows of one length", example, begin)
    return LoadedModel(backend, reply, None, lambda channel: TranscriptionRunner(backend, longest, channel, gate))


def _warmed_up(
    message: Load, backend: StepBackend[Any, Any], info: ModelInfo, no_padding: str, example: Any, begin: float
) -> Loaded:
    """Has a model that answers step by step answer its example; batches are its own affair."""
    backend.add(0, backend.example())
    while backend.busy:
        if backend.wait(1.0):
            for piece in backend.step():
                if piece.error is not None:
                    raise piece.error
    return Loaded(
        key=message.key,
        info=info,
        task=info.task,
        plain_answers=False,
        decodes_json=False,
        accepts_values=False,
        batch_reason=info.unbatched_reason,
        padding_reason=no_padding,
        example=msgspec.json.encode(example),
        memory_bytes=backend.memory(),
        seconds=time.perf_counter() - begin,
    )
