"""Tests of what counts as memory that a process holds, and of the watch."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.worker.memory import MemoryLimit, MemoryWatch, held

_MIB = 1 << 20


@contextmanager
def process(code: str) -> Iterator[int]:
    """The pid of a Python that has run `code`, and waits."""
    code += "\nimport sys\nprint(flush=True)\nsys.stdin.read()\n"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running.pid
        running.communicate()


def test_what_is_written_counts_and_what_is_only_reserved_or_mapped_does_not(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * (64 * _MIB))
    mapped = (
        "import mmap; reserved = mmap.mmap(-1, 8 << 30)\n"
        f"weights = mmap.mmap(open({str(file)!r}, 'rb').fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(weights[i] for i in range(0, len(weights), 4096))"
    )
    with process("") as bare, process(mapped) as reserving, process(f"kept = b'x' * {64 * _MIB}") as writing:
        assert 1 * _MIB < held(bare) < 30 * _MIB
        assert held(reserving) < held(bare) + 5 * _MIB
        assert 64 * _MIB <= held(writing) - held(bare) + _MIB < 70 * _MIB


def test_the_processes_that_it_started_count() -> None:
    with process("") as bare:
        alone = held(bare)
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'kept = b\"x\" * {64 * _MIB}; print(flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()"
    )
    with process(parent) as pid:
        assert held(pid) > alone + 64 * _MIB


def test_a_process_that_is_gone_holds_nothing() -> None:
    assert held(1 << 22) == 0


async def test_the_watch_tells_once() -> None:
    told: list[int] = []
    with process(f"kept = b'x' * {64 * _MIB}") as pid:
        small = MemoryWatch(pid, MemoryLimit("m", 50 * _MIB), told.append)
        large = MemoryWatch(pid, MemoryLimit("m", 500 * _MIB), told.append)
        async with asyncio.timeout(20):
            while not told:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        small.stop()
        large.stop()
    (size,) = told
    assert size > 64 * _MIB
    message = MemoryLimit("m", 50 * _MIB).exceeded_by(size).message
    assert message.startswith(f"Model 'm' took {size / _MIB:.0f} MiB, more than its memory_limit of 50 MiB; ")
