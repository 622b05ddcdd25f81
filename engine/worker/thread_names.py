"""Names the threads of a worker, for `top -H` and its like: after their model, with a mark of what they do."""

from __future__ import annotations

import contextlib
from pathlib import Path

POOL = "/pool"
"""Marks a runtime's own threads."""
ROWS = "/rows"
"""Marks those on which rows of a batch are computed apart."""
_COMM = Path("/proc/thread-self/comm")
_LONGEST = 15
"""Bytes that Linux has for a name."""


def name_thread(name: str, mark: str = "") -> None:
    """Names this thread. Those that it makes inherit the name."""
    with contextlib.suppress(OSError):
        _COMM.write_bytes(name.encode()[: _LONGEST - len(mark)] + mark.encode())


def mark_thread(mark: str) -> None:
    """Marks this thread, which has the name of the one that made it."""
    with contextlib.suppress(OSError):
        name_thread(_COMM.read_text(errors="ignore").strip(), mark)
