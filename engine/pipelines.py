"""The registered pipelines: their graphs, whether these can work, and how many are being run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import BackendError, ModelInfo
from backends.pipeline import PipelineBackend, info_of
from engine import digest
from engine.errors import InvalidInput, ModelFailed, ModelNotFound, Overloaded, from_code
from engine.registry import Registry, split_version
from engine.types import ModelSpec

if TYPE_CHECKING:
    from backends.pipeline.graph import Graph

DEEPEST = 8
"""Pipelines that may be within one another."""


def is_pipeline(spec: ModelSpec) -> bool:
    """Whether a registered version is a pipeline, which has no worker."""
    return spec.backend == PipelineBackend.name


class Pipelines:
    """Owns the graphs."""

    def __init__(self, registry: Registry, most_requests: int) -> None:
        self._registry = registry
        self._most = most_requests
        self._graphs: dict[tuple[str, int], Graph] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0
        """Requests to pipelines that are under way."""

    async def graph(self, spec: ModelSpec) -> Graph:
        """The graph of a registered version. Raises `ModelFailed` when its file is not the one that was registered."""
        known = self._graphs.get(spec.key)
        if known is None:
            known = self._graphs[spec.key] = await asyncio.to_thread(_verified, spec)
        return known

    async def check(self, name: str, path: Path) -> ModelInfo:
        """What is known of a pipeline that is about to be registered, if it can work.

        Raises `ModelFileError` for its file, `ModelNotFound` for a model that is not registered, and `InvalidInput` for
        one that would call itself.
        """
        graph = await asyncio.to_thread(_read, path)
        await self._check(name, graph, (name,))
        return info_of(graph)

    async def _check(self, name: str, graph: Graph, above: tuple[str, ...]) -> None:
        for model in graph.models:
            try:
                spec = self._registry.get(*split_version(model))
            except ModelNotFound as e:
                raise ModelNotFound(f"Pipeline {name!r} calls {model!r}. {e.message}") from None
            if spec.name in above or len(above) > DEEPEST:
                way = " → ".join((*above, spec.name))
                raise InvalidInput(f"The pipeline would call itself: {way}.", field="model_path")
            if is_pipeline(spec):
                await self._check(name, await self.graph(spec), (*above, spec.name))

    def forget(self, key: tuple[str, int]) -> None:
        """A version was unregistered, which may not have been a pipeline."""
        self._graphs.pop(key, None)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """For the time of one request. Raises `Overloaded`."""
        if self.running >= self._most:
            raise Overloaded(f"{self.running} requests to pipelines are under way.", retry_after=1.0)
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def ended(self) -> None:
        """Waits until no request is under way."""
        await self._idle.wait()


def _verified(spec: ModelSpec) -> Graph:
    if digest.of_model(PipelineBackend, spec.path) != (spec.sha256, spec.size_bytes):
        raise ModelFailed(f"{spec.path} has changed since it was registered; register it again as a new version.")
    return _read(Path(spec.path))


def _read(path: Path) -> Graph:
    from backends.pipeline.graph import read  # as late as this, since a server starts without its libraries faster

    try:
        return read(path)
    except BackendError as e:
        raise from_code(e.code, e.message, field=e.field) from None
