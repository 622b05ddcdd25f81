"""What is told of a model when it is registered: what it is, how sure that is, and the flag that says otherwise.

The backend and the task tell what they found; here is what the engine itself decides.
"""

from __future__ import annotations

from backends.base import Backend, Finding, Match
from engine.model_options import ModelOptions
from engine.schema import RegisterRequest
from engine.transport.messages import Loaded

_CERTAIN = 0.9
_LIKELY = 0.6
"""From which confidence of `Backend.sniff` on its answer is called so."""


def of(
    request: RegisterRequest, backend: type[Backend], match: Match, options: ModelOptions, loaded: Loaded
) -> tuple[Finding, ...]:
    """All findings of a model that has been loaded to be registered, the most important first."""
    info = loaded.info
    task = next((found for found in info.findings if found.subject == "task"), None)
    rest = [found for found in info.findings if found.subject != "task"]
    found = [_backend(request, backend.name, match), _task(request, task, loaded)]
    if info.generation is not None:
        found += _template(request, loaded)
    elif info.transcription is None:
        found += _batching(options, loaded)
    return (*found, *rest, _device(backend, options, loaded))


def _backend(request: RegisterRequest, backend: str, match: Match) -> Finding:
    option = "--backend NAME"
    if request.backend is not None:
        return Finding("backend", backend, "given", "your options", option)
    if match.confidence >= _CERTAIN:
        return Finding("backend", backend, "certain", "its contents", option)
    if match.confidence >= _LIKELY:
        return Finding("backend", backend, "likely", "its contents", option)
    return Finding("backend", backend, "guess", "its name", option)


def _task(request: RegisterRequest, told: Finding | None, loaded: Loaded) -> Finding:
    option = "--task TASK"
    if request.task is not None:
        return Finding("task", loaded.task, "given", "your options", option)
    if told is not None and told.value == loaded.task:
        return told
    if loaded.task == "tensor":
        from engine.tasks import segment_layouts

        if segment_layouts.may_be_mask(loaded.info):
            return Finding("task", loaded.task, "guess", "its output may be a mask", "--task image-segmentation")
        return Finding("task", loaded.task, "guess", "nothing tells what its tensors mean", option)
    return Finding("task", loaded.task, "certain", "its files", option)


def _template(request: RegisterRequest, loaded: Loaded) -> list[Finding]:
    """Where the template of conversations is from."""
    generation = loaded.info.generation
    option = "--chat-template FILE"
    if generation is None or generation.chat_template is None:
        return []
    if "chat_template" in request.config:
        return [Finding("chat template", "yours", "given", "your options", option)]
    return [Finding("chat template", "the model's", "certain", "its files", option)]


def _device(backend: type[Backend], options: ModelOptions, loaded: Loaded) -> Finding:
    if options.device != "auto":
        return Finding("device", loaded.info.device, "given", "your options", "--set device=auto")
    if len(backend.devices) == 1:
        return Finding("device", loaded.info.device, "certain", "its backend")
    kinds = "|".join(("auto", *backend.devices))
    return Finding("device", loaded.info.device, "certain", "this machine", f"--set device={kinds}")


def _batching(options: ModelOptions, loaded: Loaded) -> list[Finding]:
    """Whether rows of several requests share a call, and along which axis."""
    option = "--set batching.max_batch_size=N"
    chosen = options.batching.max_batch_size
    if loaded.batch_reason is not None:
        if chosen == 1:
            return [Finding("batching", "off", "given", "your options", option)]
        return [Finding("batching", "off", "certain", "a note tells why")]
    axes = {spec.batch_axis for spec in loaded.info.inputs if spec.batch_axis is not None}
    value = f"on, along axis {min(axes)}" if axes else "on"
    source = "tried" if options.batching.self_check else "the signature"
    if not loaded.info.inputs:
        source = "the plugin has predict_batch"
    found = [Finding("batching", value, "certain", source, "--set batching.max_batch_size=1")]
    if loaded.info.inputs and loaded.padding_reason is None:
        option = "--set batching.dynamic_padding=false"
        found.append(Finding("padding", "rows of different lengths are padded", "certain", "tried", option))
    return found
