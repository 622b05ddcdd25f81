"""A server under test as a child process: started on a free port in a session of its own, measured, stopped whole."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

START_SECONDS = 120.0
STOP_SECONDS = 15.0
ORPHAN_SECONDS = 2.0
"""How long what a server left running gets to end by itself, and to remove its shared memory."""


class StartFailed(Exception):
    """The server ended or was not ready in time. Its text ends with the last lines of its log."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A running server and its descendants."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._stop_signal = stop_signal
        self.started = time.perf_counter()
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=log.parent,
                env={**os.environ, **(env or {})},
            )
        self.pid = self._popen.pid

    def wait_ready(self, port: int, path: str) -> None:
        """Waits until GET `path` answers 200. Raises `StartFailed`."""
        while not answers(port, path):
            self.check_alive()
            time.sleep(0.02)

    def check_alive(self) -> None:
        """Raises `StartFailed` when it has ended, or has had longer than it may take to start."""
        if self._popen.poll() is not None:
            raise StartFailed(f"it ended with exit code {self._popen.returncode}: {self.last_lines()}")
        if time.perf_counter() - self.started > START_SECONDS:
            raise StartFailed(f"it was not ready within {START_SECONDS:.0f} s: {self.last_lines()}")

    def last_lines(self, count: int = 3) -> str:
        """The end of its log."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-count:])

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        return family(self.pid)

    def stop(self) -> None:
        """Ends it and everything it started: first politely, then by force."""
        members = self.family()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_SECONDS)
        _wait_until_ended(members, ORPHAN_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._popen.wait()
        _wait_until_ended(members, STOP_SECONDS)


def family(pid: int) -> list[psutil.Process]:
    """Process `pid` and all its descendants; empty when it has ended."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _wait_until_ended(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while any(map(_lives, processes)) and time.perf_counter() < deadline:
        time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    """Whether it still runs. An orphan that nobody reaps stays a zombie, which holds nothing."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(port: int, path: str) -> bool:
    """Whether GET `path` is answered with 200 now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def resident_mb(processes: Sequence[psutil.Process]) -> float:
    """Sum of their resident memory in MB (10^6 bytes); pages that they share count once for each."""
    return sum(_read(p, lambda p: p.memory_info().rss) for p in processes) / 1e6


def proportional_mb(processes: Sequence[psutil.Process]) -> float:
    """Sum of their proportional memory in MB: shared pages are divided among those who share them."""
    return sum(_read(p, lambda p: p.memory_full_info().pss) for p in processes) / 1e6


def _read(process: psutil.Process, what: Callable[[psutil.Process], int]) -> int:
    try:
        return what(process)
    except psutil.NoSuchProcess:
        return 0
