"""What all backends for Hugging Face folders have in common: the library, where it computes, how folders are known."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from backends import pytorch
from backends.base import Backend, Build, Match
from backends.transformers import folder as folders
from backends.transformers.library import Network


class FolderBackend(Backend):
    """A backend whose models `load` reads into a network of the library."""

    package = "transformers"
    extra = "transformers"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    _network: Network | None = None

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By its files and ``config.json``."""
        return folders.sniff(path, cls.name)

    @classmethod
    def build(cls) -> Build:
        """By PyTorch's version."""
        return pytorch.build()
