"""The server's folder: the lock that makes it one server's, and the file that says where that one listens.

``server.lock`` is held (flock) for the server's whole life, so a free lock means that no server runs here, whatever a
left-over ``server.json`` says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import IO

import msgspec

from engine.errors import Conflict, InsufficientStorage
from engine.version import __version__

_LOCK_TRIES = 5


class Home:
    """An opened home folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = path / "registry.db"
        self._runtime = path / "server.json"
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Claims the folder. Raises `Conflict` when a server runs here, `InsufficientStorage` when it is read-only."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self.path / "server.lock").open("a+")
        except OSError as e:
            raise InsufficientStorage(
                f"The home folder {self.path} cannot be used ({e.strerror}); choose another with --home."
            ) from None
        for attempt in range(_LOCK_TRIES):
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if attempt + 1 < _LOCK_TRIES:
                time.sleep(0.05)  # a command that looks whether a server runs holds the lock for a moment
        raise Conflict(
            f"A server runs already with the home folder {self.path}; stop it, or choose another with --home."
        )

    def announce(self, host: str, port: int) -> str:
        """Writes ``server.json``, at once and whole, and returns the URL for clients on this machine.

        Raises `InsufficientStorage` when it cannot be written.
        """
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        shown = f"[{reachable}]" if ":" in reachable else reachable
        url = f"http://{shown}:{port}"
        state = {
            "pid": os.getpid(),
            "host": host,
            "port": port,
            "url": url,
            "started": time.time(),
            "version": __version__,
            "argv": sys.argv[1:],
        }
        draft = self._runtime.with_suffix(".tmp")
        try:
            draft.write_bytes(msgspec.json.encode(state))
            draft.replace(self._runtime)
        except OSError as e:
            raise InsufficientStorage(f"Cannot write to the home folder {self.path}: {e.strerror}.") from None
        return url

    def release(self) -> None:
        """Removes ``server.json`` and gives the folder up."""
        with contextlib.suppress(OSError):
            self._runtime.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
