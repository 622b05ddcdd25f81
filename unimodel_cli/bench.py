"""Closed-loop load on one model: each of N connections sends its next request when its last one is answered."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unimodel_cli.connection import Address, Connection, ConnectionBroke, request

if TYPE_CHECKING:
    from unimodel_cli.client import Client

WARM_UP_SHARE = 0.2
"""Of a level's duration, before it; at most `WARM_UP_SECONDS`."""
WARM_UP_SECONDS = 1.0
REFUSED_PAUSE = 0.01
"""Seconds that a refused connection waits, so that refusals are not what is measured."""
BUSY_CLIENT = 0.9
"""Share of one core from which on the load generator may be what limits the numbers."""


@dataclass
class Measured:
    """What is measured of any model at one concurrency. Times are in seconds."""

    concurrency: int
    seconds: float = 0.0
    """Until the last answer was whole."""
    latencies: list[float] = field(default_factory=list)
    """Of successful requests, until the answer was whole; sorted."""
    refused: int = 0
    """Answered with 429."""
    errors: int = 0
    client_cpu: float = 0.0
    """Share of one core that the load generator used."""

    @property
    def throughput(self) -> float:
        """Successful requests a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


@dataclass
class Level(Measured):
    """Of a model whose answers come at once."""

    rows_per_batch: float | None = None

    def percentile(self, percent: float) -> float | None:
        """A latency in milliseconds; `None` without any success."""
        return percentile_ms(self.latencies, percent)

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "concurrency": self.concurrency,
            "seconds": round(self.seconds, 3),
            "requests": len(self.latencies),
            "requests_per_second": round(self.throughput, 2),
            "latency_ms": {f"p{p}": rounded(self.percentile(p)) for p in (50, 90, 99, 100)},
            "refused": self.refused,
            "errors": self.errors,
            "rows_per_batch": rounded(self.rows_per_batch),
            "client_cpu": rounded(self.client_cpu),
        }


@dataclass(frozen=True)
class Target:
    """One model version, and the request that is sent to it."""

    client: Client
    api_key: str | None
    path: str
    """Of its ``:predict``."""
    model: str
    version: int
    body: bytes
    content_type: str


def measure(target: Target, concurrency: int, duration: float) -> Level:
    """Loads `target` with `concurrency` requests in flight for `duration` seconds, after a warm-up."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(target, concurrency, duration))


async def _measure(target: Target, concurrency: int, duration: float) -> Level:
    address = Address.of(target.client.url, target.api_key)
    data = request(address.head(target.path, {"content-type": target.content_type}), target.body)
    connections = [Connection(address) for _ in range(concurrency)]
    try:
        await _drive(connections, data, min(WARM_UP_SECONDS, duration * WARM_UP_SHARE), Level(concurrency))
        level = Level(concurrency)
        rows_before, batches_before = batch_totals(target)
        cpu, begun = time.process_time(), time.perf_counter()
        await _drive(connections, data, duration, level)
        level.seconds = time.perf_counter() - begun
        level.client_cpu = (time.process_time() - cpu) / level.seconds
        rows, batches = batch_totals(target)
        if batches > batches_before:
            level.rows_per_batch = (rows - rows_before) / (batches - batches_before)
    finally:
        for connection in connections:
            connection.close()
    level.latencies.sort()
    return level


async def _drive(connections: list[Connection], data: bytes, seconds: float, level: Level) -> None:
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_one(c, data, end, level) for c in connections))


async def _one(connection: Connection, data: bytes, end: float, level: Level) -> None:
    clock = time.perf_counter
    while (sent := clock()) < end:
        try:
            response = await connection.send(data)
        except ConnectionBroke:
            level.errors += 1
            await asyncio.sleep(REFUSED_PAUSE)
            continue
        if response.status == 200:
            level.latencies.append(clock() - sent)
            continue
        if response.status == 429:
            level.refused += 1
        else:
            level.errors += 1
        await asyncio.sleep(REFUSED_PAUSE)


def batch_totals(target: Target) -> tuple[float, float]:
    """Rows and batches that the model has computed so far, from the server's metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    text = target.client.send("GET", "/metrics").text
    totals = {"unimodel_batch_rows_sum": 0.0, "unimodel_batch_rows_count": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            mine = labels.get("model") == target.model and labels.get("version") == str(target.version)
            if sample.name in totals and mine:
                totals[sample.name] += sample.value
    return totals["unimodel_batch_rows_sum"], totals["unimodel_batch_rows_count"]


def plot(levels: list[Level], title: str, path: str) -> None:
    """Draws throughput and latency over concurrency into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [level for level in levels if level.latencies]
    x = [level.concurrency for level in shown]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(x, [level.throughput for level in shown], marker="o")
    left.set(title="Throughput", xlabel="requests in flight", ylabel="requests a second", ylim=(0, None))
    for percent in (50, 90, 99):
        right.plot(x, [level.percentile(percent) for level in shown], marker="o", label=f"p{percent}")
    right.set(title="Latency", xlabel="requests in flight", ylabel="milliseconds", ylim=(0, None))
    right.legend()
    finish_plot(figure, (left, right), x, title, path)


def finish_plot(figure: Any, both: tuple[Any, Any], x: list[int], title: str, path: str) -> None:
    """What the plots of all models have in common, and the file."""
    from matplotlib import pyplot

    for axes in both:
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(c) for c in x])
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def percentile_ms(seconds: list[float], percent: float) -> float | None:
    """Of sorted times, in milliseconds, by the nearest rank; `None` when there are none."""
    rank = math.ceil(percent / 100 * len(seconds))
    return seconds[max(0, rank - 1)] * 1000 if seconds else None


def rounded(value: float | None) -> float | None:
    """As many digits as a measurement has."""
    return None if value is None else round(value, 3)
