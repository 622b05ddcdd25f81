"""What Ollama's API changes: models that are copied, pulled and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from engine import digest
from engine.api.ollama import names
from engine.api.ollama.bodies import OllamaPullRequest, OllamaStatus
from engine.core import Engine
from engine.errors import InvalidInput, ModelNotFound
from engine.schema import Progress, RegisterRequest

T = TypeVar("T")


def target(model: str, name: str) -> str:
    """The model that a request names, by either of two fields. Raises `InvalidInput`."""
    if not (model or name):
        raise InvalidInput("The request must name a model.", field="model")
    return model or name


async def copy(engine: Engine, source: str, destination: str) -> None:
    """Registers a model under another name, too, without loading it: its file was proved when it was registered."""
    spec = engine.registry.get(*names.parse(source))
    name = names.new(destination, "destination")
    served = engine.registry.get(name) if name in engine.registry.names() else None
    engine.registry.add(
        name=name,
        path=spec.path,
        sha256=spec.sha256,
        size_bytes=spec.size_bytes,
        backend=spec.backend,
        task=spec.task,
        config=spec.config,
        trusted=spec.trusted,
        info=spec.info,
    )
    if served is not None and engine.registry.get(name).key != served.key:
        engine.pool.background(engine.pool.unload(served))


async def delete(engine: Engine, given: str) -> None:
    """Removes a model, one version of it, or an alias."""
    name, version = names.parse(given)
    spec = engine.registry.get(name, version)
    if spec.name == name:
        await uninterrupted(engine.unregister(name, version))
    elif version is None:
        engine.registry.remove_alias(name)
    else:
        raise ModelNotFound(
            f"{name!r} is an alias; delete it by its name alone, or {spec.name}:{version}.", field="model"
        )


async def pull(engine: Engine, body: OllamaPullRequest) -> AsyncGenerator[OllamaStatus, None]:
    """Downloads a model, and registers it under a name that is made of its source. Says how far it is."""
    given = target(body.model, body.name)
    source = names.hub_source(given)
    if source is None:
        raise InvalidInput(
            f"{given[:140]!r} is in no library that this server knows. Name a repository of the Hugging Face hub: "
            "hf.co/ORG/REPO, or hf.co/ORG/REPO:FILE.",
            field="model",
        )
    if body.insecure:
        raise InvalidInput("insecure is not supported; the hub is spoken to as HF_ENDPOINT says.", field="insecure")
    path = ""
    begun = False
    async with aclosing(engine.hub.pull(source)) as steps:
        async for step in steps:
            if step.status == "resolving":
                continue  # until it is known that there is such a file, nothing is said: an error has a status then
            if not begun:
                yield OllamaStatus(status="pulling manifest")
                begun = True
            if step.note:
                yield OllamaStatus(status=step.note)
            yield _status(step)
            path = step.path or path
    yield OllamaStatus(status="registering")
    await uninterrupted(_register(engine, names.parse(given)[0], path))
    yield OllamaStatus(status="success")


def _status(step: Progress) -> OllamaStatus:
    status = "verifying sha256 digest" if step.status == "verifying" else f"pulling {step.file}"
    return OllamaStatus(status=status, digest=step.digest, total=step.total, completed=step.completed)


async def _register(engine: Engine, name: str, path: str) -> None:
    """Registers a pulled model, unless it is what the name stands for already."""
    if name in engine.registry.names():
        spec = engine.registry.get(name)
        backend = engine.pool.backend(spec.backend)
        known = (spec.sha256, spec.size_bytes)
        if spec.path == path and await asyncio.to_thread(digest.of_model, backend, path) == known:
            return
    await engine.register(RegisterRequest(name=name, model_path=path))


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that goes on to its end, also when its client goes away."""
    return await asyncio.shield(asyncio.ensure_future(work))
