"""What TensorRT-LLM's folders say of themselves: built engines, and checkpoints that engines are built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.base import NO_MATCH, Match, ModelFileError, UntrustedFile
from backends.transformers import folder as folders
from backends.transformers import weights
from backends.transformers.folder import Folder

Kind = Literal["engine", "checkpoint", "huggingface"]

_COMPILED = (
    "{name} holds an engine (rank0.engine): compiled code for a GPU, which runs when it is loaded. The checkpoint that "
    "it was built from needs no trust."
)


@dataclass(frozen=True)
class TrtFolder:
    """A folder, of one of three kinds."""

    folder: Folder
    kind: Kind

    @property
    def name(self) -> str:
        """For messages."""
        return self.folder.name

    @property
    def network(self) -> dict[str, Any]:
        """What describes the network."""
        inner = self.folder.config.get("pretrained_config") if self.kind == "engine" else self.folder.config
        return inner if isinstance(inner, dict) else {}

    @property
    def build(self) -> dict[str, Any]:
        """What an engine was built for; nothing of others."""
        inner = self.folder.config.get("build_config") if self.kind == "engine" else None
        return inner if isinstance(inner, dict) else {}

    def number(self, source: dict[str, Any], name: str) -> int:
        """A positive number that a file must give. Raises `ModelFileError`."""
        value = source.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelFileError(f"{self.name} is corrupt: {name} in {folders.CONFIG} is {value!r}, and no number.")
        return value

    @property
    def gpus(self) -> int:
        """How many the model is split over."""
        mapping = self.network.get("mapping")
        size = mapping.get("world_size", 1) if isinstance(mapping, dict) else 1
        return size if isinstance(size, int) else 1

    def check(self, trusted: bool) -> None:
        """Raises `ModelFileError` for what cannot be loaded, `UntrustedFile` for what must not."""
        if self.kind == "engine" and not trusted:
            raise UntrustedFile(
                f"{_COMPILED.format(name=self.name)} If you trust its author, register it with --trust."
            )
        if self.gpus > 1:
            raise ModelFileError(
                f"{self.name} is split over {self.gpus} GPUs, and a worker has one. Convert it with tp_size and "
                "pp_size 1."
            )
        if self.kind == "checkpoint":
            weights.read_header(self.folder.path / "rank0.safetensors")


def read(path: Path) -> TrtFolder:
    """A folder that TensorRT-LLM can serve. Raises `ModelFileError`."""
    folder = folders.read(path)
    kind = _kind(folder)
    if kind is None:
        raise ModelFileError(
            f"{folder.name} is neither an engine of TensorRT-LLM (rank0.engine) nor a checkpoint (rank0.safetensors) "
            "nor a Hugging Face folder with a language model."
        )
    return TrtFolder(folder, kind)


def sniff(path: Path) -> Match:
    """Sure of engines and checkpoints; a Hugging Face folder is served when this backend is asked for by name."""
    try:
        if not path.is_dir() or not (path / folders.CONFIG).is_file():
            return NO_MATCH
        folder = folders.read(path)
        kind = _kind(folder)
    except (OSError, ValueError, ModelFileError):
        return NO_MATCH
    if kind == "huggingface":
        return Match(0.1, folders.sniff(path, "transformers").runs_code)
    if kind is None:
        return NO_MATCH
    return Match(0.95, _COMPILED.format(name=folder.name) if kind == "engine" else None, "generation")


def _kind(folder: Folder) -> Kind | None:
    config, path = folder.config, folder.path
    if {"pretrained_config", "build_config"} <= config.keys() and (path / "rank0.engine").is_file():
        return "engine"
    described = "architecture" in config and bool({"mapping", "quantization"} & config.keys())
    if described and (path / "rank0.safetensors").is_file():
        return "checkpoint"
    return "huggingface" if folder.task == "generation" else None
