"""Pipelines: a graph of registered models in a YAML file. The server itself runs them, so none is ever in a worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from backends.base import EXAMPLE, NO_MATCH, Backend, Device, Match, ModelInfo

if TYPE_CHECKING:
    from backends.pipeline.graph import Graph

_STEPS = re.compile(rb"^steps\s*:", re.MULTILINE)
_HEAD = 1 << 16


class PipelineBackend(Backend):
    """Recognises and checks the files. What runs them is `engine.pipelines`."""

    name = "pipeline"
    summary = "Graphs of registered models (.yaml)"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the name, and the steps in it."""
        try:
            if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
                return NO_MATCH
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except (OSError, ValueError):
            return NO_MATCH
        return Match(0.9, task="pipeline") if _STEPS.search(head) else NO_MATCH

    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:  # noqa: ARG002
        """Reads and checks the file; whether its models exist is for the server to say."""
        from backends.pipeline.graph import read

        return info_of(read(path))


def info_of(graph: Graph) -> ModelInfo:
    """What is known of a pipeline."""
    return ModelInfo(
        task="pipeline",
        batchable=False,
        unbatched_reason="Each of its models makes batches of its own.",
        runtime="the server",
        metadata={} if graph.example is None else {EXAMPLE: msgspec.json.encode({"input": graph.example}).decode()},
        notes=(f"It calls {', '.join(graph.models)}.",),
    )
