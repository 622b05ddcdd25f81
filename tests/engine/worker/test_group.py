"""Tests of the end of a group of real processes."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.worker.group import kill_group

FAMILY = """
import subprocess
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

segment = SharedMemory(None, True, 4096)
child = subprocess.Popen(["sleep", "600"])
print(segment.name, child.pid, resource_tracker._resource_tracker._pid, flush=True)
child.wait()
"""
BREEDER = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(os.getpid(), flush=True)
while True:
    if os.fork() == 0:
        time.sleep(600)
    time.sleep(0.001)
"""


@pytest.fixture
def start() -> Callable[[str], tuple[subprocess.Popen[str], list[str]]]:
    """Runs a script in a session of its own, and says what it printed first."""

    def run(script: str) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout:
            return process, process.stdout.readline().split()

    return run


def members(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


Start = Callable[[str], tuple[subprocess.Popen[str], list[str]]]


@pytest.mark.parametrize("leader_first", [False, True])
def test_a_tracker_unlinks_what_the_group_leaves(start: Start, leader_first: bool) -> None:
    process, (name, child, tracker) = start(FAMILY)
    assert {process.pid, int(child), int(tracker)} == set(members(process.pid))
    assert Path(f"/dev/shm/{name}").exists()
    if leader_first:
        process.kill()
        process.wait()
    kill_group(process.pid)
    until(lambda: not members(process.pid))
    assert not Path(f"/dev/shm/{name}").exists()
    assert process.wait() == -signal.SIGKILL


def test_a_group_that_grows_ends_too(start: Start) -> None:
    process, _ = start(BREEDER)
    until(lambda: len(members(process.pid)) > 10)
    kill_group(process.pid)
    until(lambda: not members(process.pid))
    process.wait()


def test_a_group_that_has_ended_is_none(start: Start) -> None:
    process, _ = start("")
    process.wait()
    kill_group(process.pid)


def test_without_descriptors_all_are_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    process, (name, *_) = start(FAMILY)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", fail)
        kill_group(process.pid)
    until(lambda: not members(process.pid))
    Path(f"/dev/shm/{name}").unlink()
    assert process.wait() == -signal.SIGKILL


def test_the_caller_lives_on() -> None:
    """As the leader that ends all others before itself."""
    script = (
        "import os, subprocess\nfrom engine.worker.group import kill_group\n"
        "child = subprocess.Popen(['sleep', '600'])\nkill_group(os.getpid())\nprint(child.wait())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert done.stdout.strip() == str(-signal.SIGKILL)
