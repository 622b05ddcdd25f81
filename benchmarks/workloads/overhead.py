"""W1: what a server costs around a model whose own compute is next to nothing. JSON, 1, 32 and 128 connections."""

from __future__ import annotations

from pathlib import Path

from benchmarks import load, models
from benchmarks.dialects import Served
from benchmarks.harness import Metric, Options, Study, interleave
from benchmarks.servers import PEERS, Echo, System, UniModel, running

CONNECTIONS = (1, 32, 128)
THREADS = 1
"""A model this small gains nothing from a second thread, so every system gets one."""


def run(options: Options) -> Study:
    """Measures throughput and latency of a tiny ONNX and a tiny scikit-learn model."""
    study = Study("overhead", "W1 overhead: tiny models, JSON, one row a request")
    served = [Served(models.iris_onnx(), "json"), Served(models.iris_sklearn(), "json")]

    def measure(system: System, folder: Path) -> None:
        with running(system, served, THREADS, folder) as server:
            for each in served:
                call = server.call(each)
                load.wrk(server.port, call, 32, options.seconds(1))  # warm-up
                for connections in CONNECTIONS:
                    result = load.wrk(server.port, call, connections, options.seconds(2))
                    point = f"{each.model.name} c={connections}"
                    study.add(Metric(f"{point} throughput", "requests/s"), system.name, result.throughput)
                    study.add(Metric(f"{point} p50", "ms"), system.name, result.p50_ms)

    interleave(study, options, [UniModel(), *PEERS, Echo()], measure)
    study.notes.append("mosec is as it ships; mosec+msgspec has its JSON codec overridden by hand.")
    return study
