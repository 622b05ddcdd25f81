"""Memory of the server over a minute at full load: does it grow?"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks import load, models
from benchmarks.dialects import Served
from benchmarks.harness import Metric, Options, Study, interleave
from benchmarks.processes import resident_mb
from benchmarks.servers import Running, System, UniModel, running

CONNECTIONS = 128
SAMPLE_SECONDS = 0.5
WARM_UP_SECONDS = 10.0
FULL_LOAD_SECONDS = 60.0


def run(options: Options) -> Study:
    """Samples the resident memory of the server process, and of all its processes, once (a round takes a minute)."""
    study = Study(
        "memory", f"Memory over {FULL_LOAD_SECONDS:.0f} s at full load: tiny ONNX model, JSON, c={CONNECTIONS}"
    )
    served = [Served(models.iris_onnx(), "json")]

    def measure(system: System, folder: Path) -> None:
        with running(system, served, 1, folder) as server:
            call = server.call(served[0])
            load.wrk(server.port, call, CONNECTIONS, options.seconds(WARM_UP_SECONDS))
            own, everyone = _sample_under_load(server, served[0], options.seconds(FULL_LOAD_SECONDS), study)
        study.series["server process, MB RSS"] = own
        study.series["all processes, MB RSS"] = everyone
        study.add(Metric("growth", "%"), system.name, growth_percent([mb for _, mb in own]))
        study.add(Metric("growth, all processes", "%"), system.name, growth_percent([mb for _, mb in everyone]))

    interleave(study, replace(options, rounds=1), [UniModel()], measure)
    study.notes.append("Growth is the median of the run's last sixth over that of its first sixth, after a warm-up.")
    return study


def growth_percent(values: list[float]) -> float:
    """How much more the last sixth of `values` is than the first, by their medians, in percent."""
    sixth = max(1, len(values) // 6)
    return (statistics.median(values[-sixth:]) / statistics.median(values[:sixth]) - 1) * 100


Curve = list[tuple[float, float]]


def _sample_under_load(server: Running, served: Served, seconds: float, study: Study) -> tuple[Curve, Curve]:
    """The memory of the server process and of all processes, in MB over seconds, while wrk keeps it busy."""
    own: Curve = []
    everyone: Curve = []
    with ThreadPoolExecutor(1) as pool:
        begin = time.perf_counter()
        run = pool.submit(load.wrk, server.port, server.call(served), CONNECTIONS, seconds)
        while not run.done():
            processes = server.process.family()
            now = time.perf_counter() - begin
            own.append((round(now, 2), resident_mb(processes[:1])))
            everyone.append((round(now, 2), resident_mb(processes)))
            time.sleep(SAMPLE_SECONDS)
    result = run.result()
    study.add(Metric("throughput", "requests/s"), UniModel.name, result.throughput)
    study.add(Metric("memory of the server process at the end", "MB RSS"), UniModel.name, own[-1][1])
    return own, everyone
