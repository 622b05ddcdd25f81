"""W5: 1, 6 and 24 MB float32 tensors, one request at a time, binary and JSON.

Two models: ``mean`` takes the tensor and answers one number; ``echo`` takes it and answers all of it.

The *memcpy bound* is `peers/floor_server.py`: the same bytes from the same client over loopback TCP, received into
memory that is already there, copied once, run through the same model with the same threads, and its output sent from
where it lies. No server that keeps a request apart from a batch can do with less. *Bare transport* leaves out the
model: it tells how much of the bound is the model's own time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks import load, models
from benchmarks.dialects import Kind, Served
from benchmarks.harness import OURS, Metric, Options, Study, interleave
from benchmarks.models import Array, Model
from benchmarks.servers import FLOORS, PEERS, Floor, Running, System, UniModel, started

MEGABYTES = (1, 6, 24)
MOST_JSON_OF_PEERS = 6
"""MB of the largest tensor that peers get as JSON: beyond it some take a minute a request."""

MODELS: dict[str, Callable[[int], Model]] = {"mean": models.row_mean, "echo": models.echo}


@dataclass(frozen=True)
class Point:
    """One model, one encoding, one size."""

    model: str
    kind: Kind
    megabytes: int

    @property
    def served(self) -> Served:
        """The model, with a row of that size."""
        return Served(MODELS[self.model](self.megabytes * 250_000), self.kind)

    @property
    def metric(self) -> Metric:
        """MB of tensor sent per second, whatever its encoding makes of them."""
        return Metric(f"{self.model} {self.megabytes} MB {self.kind}", "MB/s")


def run(options: Options) -> Study:
    """Measures the MB of tensor per second of a lone client, from the median time of a request."""
    study = Study("large-tensors", "W5 large tensors: one request at a time")
    threads = psutil.cpu_count() or 1

    def measure(system: System, folder: Path) -> None:
        points = _points(system.name)
        if isinstance(system, Floor):  # it serves one size at a time, and with no model its answers mean nothing
            for point in points:
                with started(system, [point.served], threads, folder) as server:
                    _measure(study, system, server, point, options)
            return
        # A model takes rows of any size, so that each needs to be served once.
        served = {point.served.route: point.served for point in points}
        with started(system, list(served.values()), threads, folder) as server:
            for point in points:
                load.check(server.port, server.call(point.served), _expected(point.served))
                _measure(study, system, server, point, options)

    peers = [p for p in PEERS if p.name != "mosec+msgspec"]
    interleave(study, options, [UniModel(), *FLOORS, *peers], measure)
    study.notes.append("MB are of the tensor, not of its JSON. MLServer has no raw tensors over REST: it gets base64.")
    return study


def _points(system: str) -> list[Point]:
    """What a system is asked: binary in every size, JSON where it can be told from waiting."""
    points = [Point(model, "binary", megabytes) for model in MODELS for megabytes in MEGABYTES]
    if system == OURS:
        return points + [Point("mean", "json", megabytes) for megabytes in MEGABYTES]
    if system in {floor.name for floor in FLOORS}:
        return points
    return points + [Point("mean", "json", megabytes) for megabytes in MEGABYTES if megabytes <= MOST_JSON_OF_PEERS]


def _expected(served: Served) -> Array:
    row = served.model.row()
    return row[0] if served.model.name == "echo" else np.asarray(row.mean(axis=1))


def _measure(study: Study, system: System, server: Running, point: Point, options: Options) -> None:
    result = load.one_by_one(server.port, server.call(point.served), options.seconds(1.5), least=2)
    study.add(point.metric, system.name, point.megabytes * 1000 / result.p50_ms)
