"""The files of a bulk prediction: where rows are read, where lines are written, and where an earlier run stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engine.errors import InsufficientStorage
from unimodel_cli.errors import UsageError

READ_BYTES = 1 << 16
FAILED_ROW = b'{"error":'
"""How the line of a failed row begins."""


def lines(source: IO[bytes]) -> Iterator[list[bytes]]:
    """The rows of `source`, as many at a time as have arrived. Blank lines are no rows."""
    rest = b""
    while data := os.read(source.fileno(), READ_BYTES):
        *whole, rest = (rest + data).split(b"\n")
        yield [stripped for line in whole if (stripped := line.strip())]
    if rest.strip():
        yield [rest.strip()]


@contextmanager
def source(path: Path | None) -> Iterator[IO[bytes]]:
    """Where the rows come from: a file, or stdin. Raises `UsageError`."""
    if path is None:
        if sys.stdin.isatty():
            raise UsageError("Give a file of JSON lines, or pipe them to stdin.")
        yield sys.stdin.buffer
        return
    try:
        f = path.open("rb")
    except OSError as e:
        raise UsageError(f"Cannot read {path}: {e.strerror}.") from None
    with f:
        yield f


@contextmanager
def sink(path: Path | None, resume: bool) -> Iterator[IO[bytes]]:
    """Where the lines go: stdout, or a file, with `resume` after the lines already there."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        with path.open("ab" if resume else "wb") as f:
            yield f
    except OSError as e:  # also of the close, which writes what is left
        raise storage_error(e, path) from None


def resume_point(path: Path) -> tuple[int, int]:
    """Cuts a torn last line off, and returns how many rows are there and how many of them failed."""
    rows = failed = end = 0
    if not path.exists():
        return 0, 0
    try:
        with path.open("rb+") as f:
            for line in f:
                if line.endswith(b"\n"):
                    end += len(line)
                    rows += 1
                    failed += line.startswith(FAILED_ROW)
            f.truncate(end)
    except OSError as e:
        raise storage_error(e, path) from None
    return rows, failed


def storage_error(error: OSError, path: Path | None) -> Exception:
    """A broken pipe as it is; anything else, such as a full disk, as a typed error."""
    if isinstance(error, BrokenPipeError):
        return error
    return InsufficientStorage(f"Cannot write {path or 'to stdout'}: {error.strerror}.")
