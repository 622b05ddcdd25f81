"""What the path of a plugin names, found without importing or running any of it."""

from __future__ import annotations

import keyword
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal, NamedTuple

from backends.base import NO_MATCH, Match

ENTRY_POINTS = "unimodel.plugins"
"""The entry-point group through which a package offers plugins by name."""

_LARGEST_SOURCE = 1 << 20


class Target(NamedTuple):
    """Where the code of a plugin is: its kind, the path or dotted name, and the class if one is named."""

    kind: Literal["file", "package", "module", "entry point"]
    where: str
    class_name: str | None


def split_target(path: str) -> tuple[str, str | None]:
    """``file.py:Class`` as (``file.py``, ``Class``); a path without a class as (itself, `None`).

    A colon that is part of an existing file's name does not split it.
    """
    head, colon, tail = path.rpartition(":")
    if not colon or not head or not _is_name(tail) or _exists(path):
        return path, None
    return head, tail


def find(path: Path | str) -> Target | None:
    """What `path` names, or `None` when nothing of that name is there."""
    where, class_name = split_target(str(path))
    file = Path(where)
    if _exists(where):
        if file.is_file():
            return Target("file", where, class_name)
        if (file / "__init__.py").is_file():
            return Target("package", where, class_name)
        return None
    if class_name is None and entry_point(where):
        return Target("entry point", where, None)
    if class_name and all(_is_name(part) for part in where.split(".")) and PathFinder.find_spec(where.split(".")[0]):
        return Target("module", where, class_name)
    return None


def entry_point(name: str) -> EntryPoint | None:
    """The installed plugin of that name."""
    return next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)


def sniff(path: Path | str) -> Match:
    """How sure it is that `path` names a plugin. Reads the source of a file, imports nothing."""
    target = find(path)
    if target is None:
        return NO_MATCH
    if target.kind == "entry point":
        confidence = 1.0
    elif target.kind == "module":
        confidence = 0.9
    else:
        file = Path(target.where)
        confidence = _looks_like_plugin(file if target.kind == "file" else file / "__init__.py")
        if confidence < 0.9 and target.kind == "package":
            confidence = 0.9 if target.class_name else confidence
    if not confidence:
        return NO_MATCH
    return Match(confidence, f"A plugin is Python code: loading it runs {target.where}.", "custom")


def _looks_like_plugin(file: Path) -> float:
    """0.9 for Python source that speaks of plugins, 0.5 for a ``.py`` file that does not."""
    try:
        if file.stat().st_size > _LARGEST_SOURCE:
            return 0.0
        source = file.read_bytes()
    except OSError:
        return 0.0
    if b"BasePlugin" in source and b"import" in source and b"\0" not in source:
        return 0.9
    return 0.5 if file.suffix == ".py" else 0.0


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that is too long, or that holds a NUL
        return False
