"""The limit of what the process of an isolated model may hold, and the watch that finds when it holds more.

A limit of address space (``RLIMIT_AS``, ``RLIMIT_DATA``) would not do: runtimes reserve much more than they use. So
what the process really holds is looked at ten times a second: its own pages and those that were swapped out, and the
same of the processes that it started. Not counted are files that it maps, such as weights, whose pages the kernel takes
back when it needs them, and the batch queue, which belongs to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine.errors import InsufficientMemory

_INTERVAL = 0.1
"""Seconds between two looks: what a process can take in that time may exceed the limit."""
_FIELDS = ("RssAnon:", "VmSwap:")


class MemoryLimit(NamedTuple):
    """How many bytes a model may hold."""

    model: str
    size: int

    def exceeded_by(self, held: int) -> InsufficientMemory:
        """The error of what a model was doing when it held too much."""
        return InsufficientMemory(
            f"Model {self.model!r} took {_mebibytes(held)}, more than its memory_limit of {_mebibytes(self.size)}; its "
            "process was replaced. Raise the limit if it needs that much."
        )


class MemoryWatch:
    """Looks at a process until it ends, and calls `on_excess` once, with what it holds, when that is too much."""

    def __init__(self, pid: int, limit: MemoryLimit, on_excess: Callable[[int], None]) -> None:
        self._pid = pid
        self._limit = limit
        self._on_excess = on_excess
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._look)

    def _look(self) -> None:
        size = held(self._pid)
        if size > self._limit.size:
            self._on_excess(size)
        else:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._look)

    def stop(self) -> None:
        """Looks no more."""
        self._timer.cancel()


def held(pid: int) -> int:
    """Bytes that a process and its descendants hold; 0 when it is gone."""
    return sum(_own(each) for each in _with_descendants(pid))


def _own(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_FIELDS))
    return 0


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _with_descendants(int(child))


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
