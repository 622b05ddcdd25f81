"""The home folder of a server on this machine: where its files are, and whether a server runs there.

The server holds an exclusive lock on ``server.lock`` for life, so a free lock means that no server runs, whatever
``server.json`` says.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ServerRecord:
    """What a running server writes into ``server.json``."""

    pid: int
    url: str
    version: str
    started: float
    argv: list[str] = field(default_factory=list)
    """The arguments it was started with, after ``python -m engine``."""


@dataclass(frozen=True)
class Home:
    """The paths under one home folder."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the running server."""
        return self.path / "server.lock"

    @property
    def record_path(self) -> Path:
        """Written by the server once it listens."""
        return self.path / "server.json"

    @property
    def log(self) -> Path:
        """Output of a server in the background."""
        return self.path / "logs" / "server.log"

    def locked(self) -> bool:
        """Whether a server runs (or is starting) with this home. Never creates anything."""
        try:
            fd = os.open(self.lock, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def record(self) -> ServerRecord | None:
        """The record as it stands on disk, which may be left over from a server that crashed."""
        try:
            raw = json.loads(self.record_path.read_text())
            return ServerRecord(
                int(raw["pid"]), str(raw["url"]), str(raw["version"]), float(raw["started"]), list(raw.get("argv", []))
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def running(self) -> ServerRecord | None:
        """The record of the server that runs now; `None` when none runs or it does not listen yet."""
        return self.record() if self.locked() else None


def default_home() -> Path:
    """``UNIMODEL_HOME``, else ``~/.unimodel``."""
    return Path(os.environ.get("UNIMODEL_HOME") or "~/.unimodel").expanduser().absolute()
