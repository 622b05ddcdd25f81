"""The nouns of the engine that are not an HTTP body and do not cross a process."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import ModelInfo


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version of a model. Owned by the registry; never changes once stored."""

    name: str
    version: int
    path: str
    """Absolute path of the file or folder, or ``package.module:Class`` of an installed plugin."""
    sha256: str
    size_bytes: int
    backend: str
    task: str
    """The task in force: what probing found, or what the user chose."""
    config: dict[str, Any]
    """The options as the user gave them, nested; validated by `engine.model_options`."""
    trusted: bool = False
    created: float
    """Seconds since the epoch."""
    info: ModelInfo

    @property
    def key(self) -> str:
        """Unique among all registered versions: ``name@version``."""
        return f"{self.name}@{self.version}"
