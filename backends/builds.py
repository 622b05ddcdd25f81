"""What installed runtimes were built for, by the files of their packages: nothing is imported."""

from __future__ import annotations

import importlib.util
import mmap
import re
from pathlib import Path

from backends.base import InvalidOption


def folder(package: str) -> Path:
    """Where an importable package lies. Raises `FileNotFoundError` when there is none."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(package)
    return Path(next(iter(found.submodule_search_locations)))


def constant(path: Path, name: str) -> str | None:
    """What a module sets a name to, as it is written there, without quotes; `None` when it does not."""
    try:
        found = re.search(rf"^{name}\b[^=\n]*=\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip("'\"") if found else None


def mentions(path: Path, text: bytes) -> bool:
    """Whether a file has these bytes, such as the name of a library that it opens."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def no_gpu(runtime: str, remedy: str) -> InvalidOption:
    """The error for a model that is to run on a GPU with a runtime that was built without."""
    return InvalidOption(
        f"The installed {runtime} computes on the CPU only. Register the model with --set device=cpu, or install a "
        f"build for CUDA: {remedy}",
        field="config.device",
    )
