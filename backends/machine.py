"""How much memory the machine has left for this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

_MB = 1_000_000
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that this process may still take, by the machine and by its control group."""
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
