"""Why a worker process ended, as far as the system tells."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Exit:
    """The end of a process."""

    code: int
    """As `subprocess` gives it: negative for a signal."""
    out_of_memory: bool = False
    """Whether the kernel killed processes for want of memory while it lived."""

    @property
    def from_outside(self) -> bool:
        """Whether somebody killed it. Nothing that it computed or loaded is the cause, then."""
        return self.code == -signal.SIGKILL and not self.out_of_memory

    def __str__(self) -> str:
        """``SIGSEGV``, ``SIGKILL, killed from outside``, ``exit code 3``."""
        if self.code >= 0:
            return f"exit code {self.code}"
        if self.code == -signal.SIGKILL:
            return "SIGKILL, the system is out of memory" if self.out_of_memory else "SIGKILL, killed from outside"
        with contextlib.suppress(ValueError):
            return signal.Signals(-self.code).name
        return f"signal {-self.code}"


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Processes that the kernel has killed for want of memory, of the machine or of a group, since the start."""
    with contextlib.suppress(OSError, ValueError):
        for line in vmstat.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
