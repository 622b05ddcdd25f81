"""Whether a file is a GGUF model, and which of the three backends serves it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from backends.base import NO_MATCH, Match, ModelFileError
from backends.gguf import file
from backends.gguf.file import Kind


def sniff(path: Path, wanted: Kind) -> Match:
    """A match for a GGUF file whose header says that it is of the `wanted` kind."""
    try:
        if not file.looks_like(path):
            return NO_MATCH
        found = _kind(path, tuple(_stamp(part) for part in file.parts(path) or (path,)))
    except OSError:
        return NO_MATCH
    if found == "broken":  # it is one, and the backend for generating models says what is wrong
        return Match(0.9 if wanted == "generation" else 0.1)
    if found != wanted:
        return NO_MATCH
    return Match(1.0, task=None if wanted == "generation" else wanted)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes when the file does."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=1)  # each of the backends is asked in turn, and a vocabulary takes a while to go over
def _kind(path: Path, _stamps: tuple[tuple[int, int, int], ...]) -> Kind | Literal["broken"]:
    try:
        return file.kind(file.read_header(path))
    except ModelFileError:
        return "broken"
