"""W6: from nothing to the first answer, and what an idle server holds.

UniModel is started as its user does it, with ``unimodel start``, then a model is registered over HTTP and called. A
peer is started with the same model file. *start to first answer* is the whole way for each: for UniModel with an empty
home, registration included; *restart to first answer* is UniModel with the model registered before.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import load, models
from benchmarks.dialects import Served, expected, unimodel
from benchmarks.harness import OURS, Metric, Options, Study, interleave
from benchmarks.processes import Process, StartFailed, family, free_port, proportional_mb, resident_mb
from benchmarks.servers import PEERS, Peer, System, UniModel, post, registrations, wait_answering

SETTLE_SECONDS = 2.0
THREADS = 1

FIRST_ANSWER = Metric("start to first answer", "s")
FAMILY = Metric("memory with the model, all processes", "MB RSS")
FAMILY_PSS = Metric("memory with the model, all processes, shared once", "MB PSS")


def run(options: Options) -> Study:
    """Measures start, first answer and idle memory with the tiny ONNX model."""
    study = Study("cold-start", "W6 cold start: tiny ONNX model")
    served = [Served(models.iris_onnx(), "json")]

    def measure(system: System, folder: Path) -> None:
        if isinstance(system, Peer):
            _measure_peer(study, system, served, folder)
        else:
            _measure_unimodel(study, served, folder)

    interleave(study, options, [UniModel(), *(p for p in PEERS if p.name != "mosec+msgspec")], measure)
    study.notes.append("RSS counts shared pages once for each process, PSS divides them.")
    return study


def _measure_unimodel(study: Study, served: list[Served], folder: Path) -> None:
    home, port = folder / "home", free_port()
    study.add(Metric("unimodel --help", "s"), OURS, statistics.median(_timed_help(home) for _ in range(5)))
    try:
        begin = time.perf_counter()
        _unimodel(home, "start", "--port", str(port), "--cpu-threads", str(THREADS))
        ready = time.perf_counter()
        study.add(Metric("start to ready", "s"), OURS, ready - begin)
        pid = int(json.loads((home / "server.json").read_text())["pid"])
        time.sleep(SETTLE_SECONDS)
        _add_idle(study, pid)

        registering = time.perf_counter()
        post(port, "/v1/models", registrations(served)[0])
        load.check(port, unimodel(served[0]), expected(served[0]))
        took = time.perf_counter() - registering
        study.add(Metric("register to first answer", "s"), OURS, took)
        study.add(FIRST_ANSWER, OURS, ready - begin + took)
        time.sleep(SETTLE_SECONDS)
        _add_family(study, OURS, pid)

        _unimodel(home, "stop")
        begin = time.perf_counter()
        _unimodel(home, "start", "--port", str(port), "--cpu-threads", str(THREADS))
        load.check(port, unimodel(served[0]), expected(served[0]))
        study.add(Metric("restart to first answer", "s"), OURS, time.perf_counter() - begin)
    finally:
        _unimodel(home, "stop")


def _timed_help(home: Path) -> float:
    begin = time.perf_counter()
    _unimodel(home, "--help")
    return time.perf_counter() - begin


def _unimodel(home: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("unimodel")), *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UNIMODEL_")} | {"UNIMODEL_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode:
        raise StartFailed(f"`unimodel {' '.join(arguments)}` failed with {done.returncode}: {done.stderr[-500:]}")


def _add_idle(study: Study, pid: int) -> None:
    processes = family(pid)
    study.add(Metric("idle memory of the server process", "MB RSS"), OURS, resident_mb(processes[:1]))
    study.add(Metric("idle memory of all processes", "MB RSS"), OURS, resident_mb(processes))


def _add_family(study: Study, system: str, pid: int) -> None:
    processes = family(pid)
    study.add(FAMILY, system, resident_mb(processes))
    study.add(FAMILY_PSS, system, proportional_mb(processes))


def _measure_peer(study: Study, peer: Peer, served: list[Served], folder: Path) -> None:
    server = peer.spawn(served, THREADS, folder)
    process: Process = server.process
    wait_answering(server, served)
    took = time.perf_counter() - process.started
    try:
        load.check(server.port, server.call(served[0]), expected(served[0]))
        time.sleep(SETTLE_SECONDS)
        study.add(FIRST_ANSWER, peer.name, took)
        _add_family(study, peer.name, process.pid)
    finally:
        process.stop()
