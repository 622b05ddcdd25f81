"""Finds the installed backends, and the one that a model file is for. Imports no runtime."""

from __future__ import annotations

import difflib
import errno
import importlib.metadata
import os
import stat
from pathlib import Path
from typing import NamedTuple

from backends.base import NO_MATCH, Backend, BackendError, InvalidOption, Match, ModelFileError

GROUP = "unimodel.backends"
"""The entry-point group of backends, the built-in ones and others."""

_IN_FOLDERS = (".gguf", ".onnx", ".tflite", ".pt", ".pt2", ".keras", ".joblib", ".skops", ".py")
"""How files end that people give the folder of."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_MOST_OF_POINTER = 1024
"""Bytes that a pointer of Git LFS has."""
MARGIN = 0.2
"""Two backends whose confidence differs by no more than this are both candidates."""


class AmbiguousBackend(BackendError):
    """Several backends could load the file; the user must say which."""

    code = "ambiguous_backend"


class Discovery(NamedTuple):
    """What is installed."""

    backends: dict[str, type[Backend]]
    """By name."""
    problems: dict[str, str]
    """Entry points that could not be used, by name, and why: a broken one must not take the others down."""


def discover() -> Discovery:
    """The backends behind the entry points."""
    backends: dict[str, type[Backend]] = {}
    problems: dict[str, str] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        package = entry.dist.name if entry.dist else "an unknown package"
        try:
            found = entry.load()
        except (Exception, SystemExit) as e:
            problems[entry.name] = f"{entry.value} of {package} cannot be imported: {type(e).__name__}: {e}"
            continue
        if not isinstance(found, type) or not issubclass(found, Backend):
            problems[entry.name] = f"{entry.value} of {package} is not a subclass of backends.base.Backend"
        elif getattr(found, "name", None) != entry.name:
            problems[entry.name] = f"{entry.value} of {package} calls itself {getattr(found, 'name', None)!r}"
        elif backends.setdefault(entry.name, found) is not found:
            problems[entry.name] = f"{entry.value} of {package} has the name of another backend, which is used"
    return Discovery(backends, problems)


def available() -> dict[str, type[Backend]]:
    """The installed backends by name, whether their runtimes are there or not."""
    return discover().backends


def choose(path: Path | str, wanted: str | None = None) -> tuple[type[Backend], Match]:
    """The backend for the model at `path`: the `wanted` one, or the one that recognises it.

    Raises `InvalidOption` for an unknown name, `ModelFileError` when there is no such file or no backend recognises
    it, and `AmbiguousBackend` when several do.
    """
    backends, problems = discover()
    if wanted in problems and wanted not in backends:
        raise InvalidOption(f"Backend {wanted!r} cannot be used: {problems[wanted]}.", field="backend")
    return choose_from(backends, Path(path), wanted)


def choose_from(backends: dict[str, type[Backend]], path: Path, wanted: str | None) -> tuple[type[Backend], Match]:
    """As `choose`, among these backends."""
    if wanted is not None and wanted not in backends:
        close = difflib.get_close_matches(wanted, backends, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else f"Choose one of {', '.join(backends)}."
        raise InvalidOption(f"There is no backend {wanted!r}. {hint}", field="backend")
    problem = _problem(path)
    if problem and _is_there(path):  # a socket, a device or a named pipe must not even be opened
        raise ModelFileError(problem)
    if not problem and (instead := _instead_of_a_model(path)):
        raise ModelFileError(instead)
    candidates = backends if wanted is None else {wanted: backends[wanted]}
    matches = {name: _sniff(backend, path) for name, backend in candidates.items()}
    if wanted is not None:
        if matches[wanted].confidence == 0 and problem:
            raise ModelFileError(problem)
        return backends[wanted], matches[wanted]
    best = max(matches.values(), key=lambda match: match.confidence, default=NO_MATCH)
    if best.confidence == 0:
        raise ModelFileError(problem or _unrecognised(path, backends))
    least = max(best.confidence - MARGIN - 1e-9, 1e-9)
    rivals = [name for name, match in matches.items() if match.confidence >= least]
    if len(rivals) > 1:
        flags = " or ".join(f"--backend {name}" for name in rivals)
        raise AmbiguousBackend(f"{path.name} could be a model of several backends; choose {flags}.", field="backend")
    return backends[rivals[0]], best


def _sniff(backend: type[Backend], path: Path) -> Match:
    try:
        return backend.sniff(path)
    except Exception as e:  # a third party's defect: the other backends can still answer, and it is not called safe
        return Match(0.0, f"The {backend.name} backend could not examine {path.name} ({type(e).__name__}).")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def _problem(path: Path) -> str | None:
    """Why nothing can be read from `path`, in a sentence; `None` when something can."""
    try:
        status = path.stat()
    except ValueError:
        return f"{str(path)!r} is not a valid path."
    except OSError as e:
        if e.errno == errno.ENOENT and path.is_symlink():
            return f"{path} is a link to nothing."
        if e.errno == errno.ENOENT:
            return f"There is no file, folder or installed model {path}."
        if e.errno == errno.ELOOP:
            return f"{path} is a link that leads back to itself."
        return f"{path} cannot be read: {e.strerror}."
    if stat.S_ISDIR(status.st_mode):
        return None if any(path.iterdir()) else f"The folder {path} is empty."
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is neither a file nor a folder."
    if status.st_size == 0:
        return f"The file {path} is empty."
    return None if os.access(path, os.R_OK) else f"{path} cannot be read: permission denied."


def _instead_of_a_model(path: Path) -> str | None:
    """What was downloaded in place of a model, in a sentence: the pointer to it that Git keeps, or a web page."""
    try:
        files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file() and _is_small(p)]
        heads = {file: _head(file) for file in files}
    except OSError:
        return None
    for file, head in heads.items():
        if head.startswith(_POINTER):
            return (
                f"{file.name} is a pointer of Git LFS, not the file that it stands for: fetch that with git lfs pull."
            )
    if path in heads and heads[path].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"{path.name} is a web page, and not a model: what was downloaded is an error or a login page."
    return None


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= _MOST_OF_POINTER


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_OF_POINTER)


def _unrecognised(path: Path, backends: dict[str, type[Backend]]) -> str:
    runtime = _runtime_of(path)
    if runtime is not None:
        known = ", ".join(backends)
        return f"{path.name} is a model for {runtime}, for which no backend is installed. There are {known}."
    if path.suffix == ".safetensors" and (path.parent / "config.json").is_file():
        return f"{path.name} is a part of the model in its folder; give the path of that: {path.parent}."
    inside = sorted(p.name for s in _IN_FOLDERS for p in path.glob(f"*{s}")) if path.is_dir() else []
    if inside:
        return f"{path.name} is a folder; give the path of the file in it, such as {path / inside[0]}."
    served = "; ".join(f"{name}: {backend.summary}" for name, backend in backends.items())
    return f"No backend recognises {path.name}. Served are {served}. If it is one of these, name it with --backend."


def _runtime_of(path: Path) -> str | None:
    """What else could serve a model, by its files."""
    for runtime, *needed in (("CTranslate2", "config.json", "model.bin"),):
        if path.is_dir() and all(any(path.glob(pattern)) for pattern in needed):
            return runtime
    return None
