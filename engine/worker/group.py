"""The end of a worker's processes, however it comes: the worker itself, and whatever it and its models started.

Python's resource trackers (`multiprocessing.resource_tracker`, and joblib's) are left to end by themselves. Each knows
the names of the shared memory and the semaphores that some processes have made, and unlinks them when the last of those
has ended, in whatever way. Killed along with them, it would leave the memory taken until the machine restarts.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_TRACKER = b".resource_tracker import main"
"""In the command line of each, which runs a line of code."""


def kill_group(leader: int) -> None:
    """Kills the processes of a group, but for resource trackers and the caller's own; they may have ended before.

    A process that is to be killed starts no other any more, so it is enough to look again until there is no new one.
    """
    try:
        killed = {os.getpid()}
        while found := [pid for pid in _members(leader) if pid not in killed and not _is_tracker(pid)]:
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            killed.update(found)
    except OSError:  # such as for want of descriptors
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def _members(leader: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(int(entry.name)) == leader:
                    yield int(entry.name)


def _is_tracker(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return _TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
