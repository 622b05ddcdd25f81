"""The SHA-256 digest that identifies a model's file or folder in the registry."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from backends.base import Backend
from engine.errors import ModelFileError

_BLOCK = 1 << 20


def of_model(backend: type[Backend], target: str) -> tuple[str, int]:
    """The digest and the size of all that a model is loaded from; see `digest`."""
    source = backend.source(target)
    return digest(source, backend.parts(source))


def digest(path: Path, parts: Sequence[Path] = ()) -> tuple[str, int]:
    """The SHA-256 of a file or folder as hexadecimal digits, and its size in bytes.

    The digest of a file with `parts` is that of a folder of just those.

    A folder's digest is that of its files' digests and names, as sha256sum prints them, in the order of the names'
    bytes, so that this shows it too: ``find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum |
    sha256sum``. (Python writes ``__pycache__`` folders when it loads a plugin, so they do not count.) Symbolic links
    are followed. Reads everything: call it in a thread; hashing and reading release the GIL.

    Raises `ModelFileError` that names what is missing, unreadable, neither file nor folder, or a link to itself.
    """
    try:
        if not path.is_dir() and not parts:
            return _file(path)
        files = [(os.fsencode(f.name), f) for f in parts] or [
            (os.fsencode(f.relative_to(path)), f) for f in _files(path, ())
        ]
        whole = hashlib.sha256()
        size = 0
        for name, file in sorted(files):
            file_digest, file_size = _file(file)
            whole.update(_sum_line(file_digest, name))
            size += file_size
        return whole.hexdigest(), size
    except OSError as e:
        raise ModelFileError(f"Cannot read {e.filename or path}: {e.strerror}.", field="model_path") from None


def _file(path: Path) -> tuple[str, int]:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
        raise ModelFileError(f"{path} is neither a file nor a folder.", field="model_path")
    sha = hashlib.sha256()
    size = 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as f:
        while count := f.readinto(block):
            sha.update(block[:count])
            size += count
    return sha.hexdigest(), size


def _files(folder: Path, parents: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """All files below `folder`; `parents` are the (device, inode) pairs of the folders that led to it."""
    info = folder.stat()
    here = (info.st_dev, info.st_ino)
    if here in parents:
        raise ModelFileError(f"{folder} is a link to a folder that contains it. Remove the link.", field="model_path")
    for entry in folder.iterdir():
        if not entry.is_dir():
            yield entry
        elif entry.name != "__pycache__":
            yield from _files(entry, (*parents, here))


def _sum_line(digest: str, name: bytes) -> bytes:
    """A line of sha256sum, which escapes names so that no name can look like two lines."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + digest.encode() + b"  " + escaped + b"\n"
