"""The registered and the loaded models, as Ollama's clients see them. Reads, never changes."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.api import thinking
from engine.api.http import encode_json
from engine.api.ollama import names
from engine.api.ollama.bodies import (
    OllamaDescription,
    OllamaDetails,
    OllamaModel,
    OllamaModels,
    OllamaRunningModel,
    OllamaRunningModels,
)
from engine.api.ollama.keep_alive import KeepAlive
from engine.core import Engine
from engine.pool import Entry
from engine.types import ModelSpec

COMPATIBLE_VERSION = "0.12.11"
"""The version of Ollama whose API this is like. Clients look at it before they use what is new."""

_LONG = 1000
"""Characters of metadata that are shown unasked."""
_EMBEDDING = "embedding"
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)


def registered(engine: Engine) -> OllamaModels:
    """The models and aliases that text can be sent to."""
    serving = {spec.name: spec for spec in engine.registry.list()}
    serving |= {a.alias: engine.registry.get(a.alias) for a in engine.registry.aliases()}
    return OllamaModels(models=[_model(name, spec) for name, spec in sorted(serving.items()) if capabilities(spec)])


def _model(name: str, spec: ModelSpec) -> OllamaModel:
    return OllamaModel(
        name=names.display(name),
        model=names.display(name),
        modified_at=_time(spec),
        size=spec.size_bytes,
        digest=spec.sha256,
        details=details(spec),
    )


def running(engine: Engine, keep_alive: KeepAlive) -> OllamaRunningModels:
    """The models that are loaded."""
    entries = [e for e in engine.pool.entries.values() if e.state == "ready" and capabilities(e.spec)]
    return OllamaRunningModels(models=[_running_model(engine, e, keep_alive) for e in entries])


def _running_model(engine: Engine, entry: Entry, keep_alive: KeepAlive) -> OllamaRunningModel:
    spec = entry.spec
    serves = engine.registry.get(spec.name).version == spec.version
    name = names.display(spec.name) if serves else f"{spec.name}:{spec.version}"
    memory = [i.loaded.memory_bytes if i.loaded is not None else 0 for i in entry.dispatcher.instances]
    on_gpu = [m for m, i in zip(memory, entry.dispatcher.instances, strict=True) if i.worker.device.kind == "cuda"]
    left = keep_alive.left(engine.pool, entry)
    return OllamaRunningModel(
        name=name,
        model=name,
        size=sum(memory),
        digest=spec.sha256,
        details=details(spec),
        expires_at=_NEVER if math.isinf(left) else datetime.now(UTC) + timedelta(seconds=min(left, 1e10)),
        size_vram=sum(on_gpu),
        context_length=spec.info.generation.context_length if spec.info.generation is not None else 0,
    )


def describe(spec: ModelSpec, verbose: bool) -> OllamaDescription:
    """All about one model; its longest metadata only if `verbose`."""
    info = spec.info.generation
    sampling = spec.config.get("sampling") or {}
    parameters = dict(sampling) if isinstance(sampling, dict) else {}
    if "max_context_length" in spec.config:
        parameters["num_ctx"] = spec.config["max_context_length"]
    lines = [f"{name:<30} {encode_json(value).decode()}" for name, value in parameters.items()]
    modelfile = [f"FROM {spec.path}", *(f"PARAMETER {name} {value}" for name, value in parameters.items())]
    return OllamaDescription(
        modelfile="\n".join(modelfile) + "\n",
        parameters="\n".join(lines),
        template=(info.chat_template if info is not None else None) or "",
        details=details(spec),
        model_info=_model_info(spec, verbose),
        capabilities=capabilities(spec),
        modified_at=_time(spec),
    )


def _model_info(spec: ModelSpec, verbose: bool) -> dict[str, Any]:
    """Facts under the names that GGUF files have for them."""
    facts: dict[str, Any] = {k: v for k, v in spec.info.metadata.items() if verbose or len(v) <= _LONG}
    info = spec.info.generation
    if info is not None:
        facts |= {
            "general.architecture": info.architecture,
            "general.parameter_count": info.parameters,
            f"{info.architecture}.context_length": info.context_length,
        }
    return facts


def details(spec: ModelSpec) -> OllamaDetails:
    """What kind of model it is."""
    info = spec.info.generation
    family = info.architecture if info is not None else spec.info.metadata.get("general.architecture", spec.task)
    return OllamaDetails(
        format=spec.backend,
        family=family,
        families=[family],
        parameter_size=human(info.parameters) if info is not None else "",
        quantization_level=info.quantization if info is not None else "",
    )


def capabilities(spec: ModelSpec) -> list[str]:
    """What Ollama's API can do with a model; nothing with one that is not for text."""
    info = spec.info.generation
    if info is None:
        return [_EMBEDDING] if spec.task == _EMBEDDING else []
    having = {
        "completion": True,
        "tools": info.chat_template is not None,
        "insert": info.infill,
        "vision": info.images,
        "thinking": thinking.thinks(info.chat_template),
    }
    return [name for name, has in having.items() if has]


def human(parameters: int) -> str:
    """A number of weights, such as ``134.52M`` or ``8.0B``; nothing when it is not known."""
    if parameters >= 10**9:
        return f"{parameters / 10**9:.1f}B"
    if parameters >= 10**6:
        return f"{parameters / 10**6:.2f}M"
    return str(parameters) if parameters else ""


def _time(spec: ModelSpec) -> datetime:
    return datetime.fromtimestamp(spec.created, UTC)
