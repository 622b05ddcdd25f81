"""The share of the machine that a model takes, where its runtime does not tell or bound it, and what is left of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.base import Device, InvalidOption

_MB = 1_000_000
_HELD_TWICE = 1 << 30
"""Bytes of a model up to which it is held twice to spread its rows."""
_SLOW_ROW = 0.001
"""Seconds for a row from which that is worth it."""
_CGROUP = Path("/sys/fs/cgroup")


def cpu_threads(device: Device, wanted: int | None) -> int:
    """Threads for one call: as many as are wanted, and never more than the worker's. Raises `InvalidOption`."""
    if wanted is not None and wanted < 1:
        raise InvalidOption(f"threads must be at least 1; got {wanted}.", field="config.threads")
    return min(wanted or device.threads, device.threads)


def spreads_rows(wanted: bool | None, memory: int, row: Callable[[], object]) -> bool:
    """Whether the rows of a batch are to be spread over the threads, where a runtime has to hold the model of so many
    bytes twice for it: as is `wanted`, else if it is not too large, and slow enough. `row` computes one."""
    if wanted is not None or memory > _HELD_TWICE:
        return bool(wanted)
    begin = time.perf_counter()
    row()
    return time.perf_counter() - begin > _SLOW_ROW


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Processes that begin meanwhile have this variable in their environment."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def resident_bytes() -> int:
    """Bytes of memory that this process has now. Its growth while a model is loaded is about what the model takes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available() -> int:
    """Bytes that this process may still take, by the machine and by its control group."""
    import psutil

    room: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # there is no such file, or no limit in it
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        reclaimable = next(
            int(line.split()[1])
            for line in (_CGROUP / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        room = min(room, limit - used + reclaimable)
    return room


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / _MB:,.0f} MB"
