"""Shared memory with a name, which models make and the system keeps: it is gone soon after their process, however that
ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from serving import Server, wait_until

PLUGIN = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from unimodel.plugins import BasePlugin

class Model(BasePlugin):
    def load_model(self, config):
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        theirs = self.pool.submit(SharedMemory, None, True, 4 << 20).result()
        self.segments = [SharedMemory(None, True, 1 << 20), theirs]

    def predict(self, body):
        kept = b"x" * (body.get("mb", 0) << 20)
        time.sleep(body.get("sleep", 0))
        return {"pid": os.getpid(), "names": [segment.name for segment in self.segments], "kept": len(kept)}
"""


def kill_worker(server: Server, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_server(server: Server, pid: int) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()


def stop_server(server: Server, pid: int) -> None:
    assert server.process is not None
    server.process.terminate()
    server.process.wait()


def unload(server: Server, pid: int) -> None:
    server.http.post("/v1/models/sharer:unload").raise_for_status()


def take_too_much(server: Server, pid: int) -> None:
    server.predict("sharer", {"mb": 500, "sleep": 20}, 507)


def hang(server: Server, pid: int) -> None:
    with pytest.raises(httpx.ReadTimeout):  # it is tried once more, which need not be waited for
        server.http.post("/v1/models/sharer:predict", json={"sleep": 600}, timeout=0.5)


@pytest.mark.parametrize("end", [kill_worker, kill_server, stop_server, unload, take_too_much, hang])
def test_it_goes_with_the_process(
    start: Callable[..., Server], tmp_path: Path, end: Callable[[Server, int], None]
) -> None:
    (tmp_path / "sharer.py").write_text(PLUGIN)
    server = start("--hang-timeout-s", "1" if end is hang else "300")
    config: dict[str, Any] = {"isolated": True, "memory_limit": "300MiB"}
    server.register("sharer", f"{tmp_path / 'sharer.py'}:Model", trust=True, config=config)
    answer = server.predict("sharer", {})
    segments = [Path("/dev/shm") / name for name in answer["names"]]
    processes = [psutil.Process(answer["pid"]), *psutil.Process(answer["pid"]).children(recursive=True)]
    assert [segment.stat().st_size for segment in segments] == [1 << 20, 4 << 20]
    assert any("resource_tracker" in " ".join(process.cmdline()) for process in processes)
    assert len(processes) == 3
    end(server, answer["pid"])
    wait_until(lambda: not any(segment.exists() for segment in segments))
    wait_until(lambda: not any(lives(process) for process in processes))


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
