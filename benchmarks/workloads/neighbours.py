"""Three models that compute at once on the same cores: what their turns cost, against thread counts set by hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import load, models
from benchmarks.dialects import Served
from benchmarks.harness import OURS, Metric, Options, Study, interleave
from benchmarks.load import Load
from benchmarks.servers import Running, System, UniModel, registrations, running
from engine.worker.thread_names import RUN

SAMPLE_SECONDS = 0.01
CROWD = "samples with more computing threads than cores"
TOGETHER = "together, as shares of what each does alone"


@dataclass(frozen=True)
class HandSet(UniModel):
    """UniModel whose models were each given a number of threads."""

    threads: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"threads={self.threads}"

    def registrations(self, served: Sequence[Served]) -> list[dict[str, Any]]:
        requests = registrations(served)
        for request in requests:
            request["config"]["threads"] = self.threads
        return requests


def run(options: Options) -> Study:
    """Loads three ONNX models at once, of which one has a lone client, and samples the worker's threads."""
    cores = psutil.cpu_count() or 1
    study = Study(
        "neighbours", f"Three models at once on {cores} cores: ResNet-50 c=8, EfficientNet c=8 and c=1, binary"
    )
    clients = {
        Served(models.resnet50(), "binary", 8): 8,
        Served(models.efficientnet("efficientnet"), "binary", 8): 8,
        Served(models.efficientnet("lone-efficientnet"), "binary", 8): 1,
    }

    alone: dict[Served, float] = {}

    def measure(system: System, folder: Path) -> None:
        with running(system, list(clients), cores, folder) as server:
            if system.name == OURS:  # the first of each round; its rates are the measure for all
                for served, count in clients.items():
                    alone[served] = load.wrk(server.port, server.call(served), count, options.seconds(4)).throughput
            results, crowd = _at_once(server, clients, options.seconds(10), cores)
        for served, result in results.items():
            study.add(Metric(f"{served.model.name} throughput", "images/s"), system.name, result.throughput)
            study.add(Metric(f"{served.model.name} p50", "ms"), system.name, result.p50_ms)
        shares = sum(result.throughput / alone[served] for served, result in results.items())
        study.add(Metric(TOGETHER, "models/s"), system.name, shares)
        study.add(Metric(CROWD, "%"), system.name, crowd)

    interleave(study, options, [UniModel(), *(HandSet(n) for n in range(1, cores + 1))], measure)
    study.notes.append(
        "Threads are sampled every 10 ms. Those that compute are the runtime's own that are runnable, and those that "
        "call it, in their turns. Before and after a turn a thread packs and unpacks the batch of one model while "
        "another computes, for which it is not counted. The client runs on the same cores."
    )
    return study


def _at_once(
    server: Running, clients: dict[Served, int], seconds: float, cores: int
) -> tuple[dict[Served, Load], float]:
    """Each model's result, and the share of samples, in percent, with more computing threads than cores."""
    worker = server.process.family()[1].pid
    counts: list[int] = []
    with ThreadPoolExecutor(len(clients)) as pool:
        runs: dict[Served, Future[Load]] = {
            served: pool.submit(load.wrk, server.port, server.call(served), count, seconds)
            for served, count in clients.items()
        }
        while not all(run.done() for run in runs.values()):
            counts.append(computing_threads(worker))
            time.sleep(SAMPLE_SECONDS)
    results = {served: run.result() for served, run in runs.items()}
    return results, statistics.mean(count > cores for count in counts) * 100


def computing_threads(worker: int) -> int:
    """Threads that compute or wait for a core now: a runtime's own, and those that call it."""
    count = 0
    for thread in Path(f"/proc/{worker}/task").iterdir():
        try:
            if (thread / "comm").read_text().strip().endswith(RUN):
                count += (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
        except OSError:
            continue  # it has just ended
    return count
