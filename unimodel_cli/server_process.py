"""The server's process on this machine: start it in the background, wait until it is ready, stop it.

``HOME/server.lock`` is the truth about whether a server runs; ``HOME/server.json`` says where it listens.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BY_CODE, Conflict, DeadlineExceeded, ExitCode, InsufficientStorage, UniModelError, from_code
from unimodel_cli.home import Home, ServerRecord

POLL_SECONDS = 0.02
KEPT_LOGS = 3
TAIL_LINES = 15


class StartFailed(UniModelError):
    """The server ended before it was ready. `details["log"]` has the last lines of its log."""

    code = "unavailable"
    status = 503


@dataclass(frozen=True)
class Started:
    """A running server, and whether it ran already."""

    record: ServerRecord
    already: bool
    seconds: float


def command_line(home: Home, arguments: Sequence[str]) -> list[str]:
    """The server's command line. ``-P`` keeps a folder named ``engine`` in the working directory from being run."""
    return [sys.executable, "-P", "-m", "engine", "--home", str(home.path), *arguments]


def start(home: Home, arguments: Sequence[str], timeout: float) -> Started:
    """Starts a server in the background and waits until it is ready, unless one runs already.

    Raises `StartFailed` or the typed error that the server named if it ends, and `DeadlineExceeded` if it is not ready
    after `timeout` seconds; then it is left running.
    """
    begun = time.monotonic()
    deadline = begun + timeout
    with _turn(home, deadline):
        already = home.locked()
        record = _wait_ready(home, deadline, alive=home.locked) if already else _spawn(home, arguments, deadline)
    return Started(record, already, time.monotonic() - begun)


def stop(home: Home, timeout: float, force: bool) -> ServerRecord | None:
    """Stops the server and waits until it is gone. Returns its record, `None` when none ran.

    Raises `DeadlineExceeded` when it still drains after `timeout` seconds, unless `force` kills it then.
    """
    if not home.locked():
        home.record_path.unlink(missing_ok=True)
        return None
    record = _running_record(home)
    os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while home.locked():
        if time.monotonic() > deadline:
            if not force:
                raise DeadlineExceeded(
                    f"The server (pid {record.pid}) still drains after {timeout:g} s. Wait longer with --timeout, "
                    "or end it with --force, which loses the requests in flight."
                )
            os.kill(record.pid, signal.SIGKILL)
            force = False
            deadline = time.monotonic() + 10
        time.sleep(POLL_SECONDS)
    home.record_path.unlink(missing_ok=True)
    return record


def tail(path: Path, lines: int, end: int | None = None) -> list[str]:
    """The last `lines` lines of a file, or of its first `end` bytes, read from the end."""
    with path.open("rb") as f:
        position = f.seek(0, os.SEEK_END) if end is None else end
        data = b""
        while position > 0 and data.count(b"\n") <= lines:
            step = min(position, 64 * 1024)
            position = f.seek(position - step)
            data = f.read(step) + data
    return data.decode("utf-8", "replace").splitlines()[-lines:] if lines else []


@contextmanager
def _turn(home: Home, deadline: float) -> Iterator[None]:
    """Lets one start at a time work on the home folder. A second one waits, and finds the server of the first."""
    try:
        home.log.parent.mkdir(parents=True, exist_ok=True)
        lock = (home.path / "start.lock").open("w")
    except OSError as e:
        raise _not_writable(home, e) from None
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded("Another 'unimodel start' is still at it; wait for it to end.") from None
                time.sleep(POLL_SECONDS)
        yield


def _spawn(home: Home, arguments: Sequence[str], deadline: float) -> ServerRecord:
    """A new server process, once it is ready."""
    _prepare(home)
    with home.log.open("ab") as log:
        process = subprocess.Popen(
            command_line(home, arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        return _wait_ready(home, deadline, alive=lambda: process.poll() is None, pid=process.pid)
    except StartFailed:
        raise _why_it_ended(home, process.returncode) from None


def _prepare(home: Home) -> None:
    """Moves old logs aside and removes what a crashed server left."""
    try:
        _rotate(home.log)
        home.record_path.unlink(missing_ok=True)
    except OSError as e:
        raise _not_writable(home, e) from None


def _not_writable(home: Home, error: OSError) -> InsufficientStorage:
    return InsufficientStorage(
        f"Cannot write in {home.path}: {error.strerror}. Choose a writable folder with --home.", field="home"
    )


def _rotate(log: Path) -> None:
    if not log.exists() or log.stat().st_size == 0:
        return
    for i in range(KEPT_LOGS - 1, 0, -1):
        older = log.with_name(f"{log.name}.{i}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{i + 1}"))
    log.replace(log.with_name(f"{log.name}.1"))


def _wait_ready(home: Home, deadline: float, alive: Callable[[], bool], pid: int | None = None) -> ServerRecord:
    """Waits for ``/readyz`` of the server with this home (and `pid`, if given)."""
    while alive():
        record = home.record()
        if record and (pid is None or record.pid == pid) and _ready(record.url):
            return record
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                "The server is still starting. Look at 'unimodel logs', or wait longer with --timeout."
            )
        time.sleep(POLL_SECONDS)
    raise StartFailed("The server ended before it was ready.")


def _ready(url: str) -> bool:
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=1) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _why_it_ended(home: Home, returncode: int) -> UniModelError:
    """The reason that the server printed as ``error: CODE: message``, else what its exit status tells."""
    lines = tail(home.log, TAIL_LINES)
    details = {"log": lines}
    for line in reversed(lines):
        if line.startswith("error: "):
            code, _, message = line.removeprefix("error: ").partition(": ")
            if code in BY_CODE:
                error = from_code(code, message, details=details)
                error.exit_code = ExitCode.USAGE if returncode == ExitCode.USAGE else ExitCode.FAILED  # type: ignore[misc]
                return error
    if returncode < 0:
        name = signal.Signals(-returncode).name
        reason = "out of memory, most likely" if name == "SIGKILL" else "a crash in native code, most likely"
        return StartFailed(f"The server was ended by {name} while it started: {reason}.", details=details)
    return StartFailed(f"The server ended with exit code {returncode} while it started.", details=details)


def _running_record(home: Home) -> ServerRecord:
    """The record of the process that holds the lock. A server that just starts gets a moment to write it."""
    deadline = time.monotonic() + 5
    while home.locked() and time.monotonic() < deadline:
        record = home.record()
        if record and _is_server(record.pid):
            return record
        time.sleep(POLL_SECONDS)
    raise Conflict(
        f"A server holds {home.lock} but has not said who it is: it is still starting, or hangs. "
        f"Find it with: fuser {home.lock}"
    )


def _is_server(pid: int) -> bool:
    """Whether `pid` is a server, and not a process that took the number of one that crashed."""
    import psutil

    try:
        return "engine" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
