"""W2: a model that keeps the cores busy. How much of a bare onnxruntime loop's throughput is left, how much latency is
added to one call."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from benchmarks import load, models
from benchmarks.dialects import Served
from benchmarks.harness import OURS, Metric, Options, Study, interleave
from benchmarks.peers import compute
from benchmarks.servers import PEERS, Running, System, UniModel, running

BATCH_SIZES = (1, 2, 4, 8)
CONNECTIONS = 8
BARE, CALL = "bare onnxruntime", "in-process call"
THROUGHPUT = "images/s"
PAUSE = 0.1
"""Seconds between single calls: after one, onnxruntime's threads spin for up to 50 ms on cores that the next needs."""


def run(options: Options) -> Study:
    """Measures ResNet-50 with binary and with base64 JPEG input against the bare loop, and one call at a time."""
    study = Study("compute", "W2 compute: ResNet-50 (random weights), binary and base64-JPEG input")
    threads = psutil.cpu_count() or 1
    model = compute.Model(str(models.resnet50().path), threads)
    best = _best_batch_size(model, options)
    batch = max(best, 2)  # some peers stop batching, and change what they call the model with, at 1
    study.notes.append(
        f"{threads} threads. The bare loop is fastest at batch size {best}; every system has max_batch_size {batch}."
    )
    served = [Served(models.resnet50(), "binary", batch), Served(models.resnet50(), "image", batch)]

    def measure(system: System, folder: Path) -> None:
        if system.name == OURS:
            _bare_loop(study, model, best, options)
        with running(system, served, threads, folder) as server:
            for each in served:
                load.one_by_one(server.port, server.call(each), 0, 2)  # warm-up
                result = load.wrk(server.port, server.call(each), CONNECTIONS, options.seconds(6))
                study.add(Metric(f"{each.kind} throughput", THROUGHPUT), system.name, result.throughput)
            if system.name == OURS:
                _single_calls(study, model, server, served[0], options)

    # mosec's JSON codec is not what this workload measures: one mosec will do.
    peers = [p for p in PEERS if p.name != "mosec+msgspec"]
    interleave(study, options, [UniModel(), *peers], measure)
    return study


def _best_batch_size(model: compute.Model, options: Options) -> int:
    rates: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    for _ in range(options.rounds):
        for size in BATCH_SIZES:
            rates[size].append(_rate(model, size, options.seconds(2)))
    medians = {size: statistics.median(values) for size, values in rates.items()}
    listed = ", ".join(f"{size}: {rate:.1f}" for size, rate in medians.items())
    print(f"  bare loop, images/s by batch size: {listed}", file=sys.stderr, flush=True)
    return max(medians, key=lambda size: medians[size])


def _rate(model: compute.Model, size: int, seconds: float) -> float:
    batch = np.repeat(models.resnet50().row(), size, axis=0)
    model.predict(batch)
    begin, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        model.predict(batch)
        images += size
    return images / elapsed


def _bare_loop(study: Study, model: compute.Model, size: int, options: Options) -> None:
    """The bound: nothing but the runtime, on tensors that are already there. Images are not even decoded."""
    rate = _rate(model, size, options.seconds(6))
    for kind in ("binary", "image"):
        study.add(Metric(f"{kind} throughput", THROUGHPUT), BARE, rate)


def _single_calls(study: Study, model: compute.Model, server: Running, served: Served, options: Options) -> None:
    """One call through HTTP, one in this process, in turn, so that both see the same machine."""
    row = served.model.row()
    connection = load.Connection(server.port)
    request = load.encode(server.call(served))
    through_http: list[float] = []
    in_process: list[float] = []
    try:
        begin = time.perf_counter()
        while time.perf_counter() - begin < options.seconds(12) or len(in_process) < 10:
            through_http.append(_timed(lambda: connection.exchange(request)))
            in_process.append(_timed(lambda: model.predict(row)))
    finally:
        connection.close()
    for system, times in ((OURS, through_http), (CALL, in_process)):
        study.add(Metric("binary c=1 p50", "ms"), system, statistics.median(times[2:]) * 1000)


def _timed(action: Callable[[], object]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
