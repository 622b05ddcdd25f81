"""Rounds, medians, ratios: the arithmetic of a comparison, and the order in which its systems run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.environments import PeerMissing
from benchmarks.load import WrongAnswer
from benchmarks.processes import StartFailed

OURS = "unimodel"


@dataclass(frozen=True)
class Options:
    """How long and how often to measure, and whom."""

    rounds: int = 3
    scale: float = 1.0
    """Multiplies every duration; the smoke run uses a small one."""
    settle: float = 0.5
    """Seconds between two systems: what the last one left behind (closing sockets, unmapping) ends in them."""
    only: frozenset[str] | None = None
    """Names of the systems to run; `None` runs all."""
    parts: frozenset[str] | None = None
    """Names of what to measure, in a workload that has parts; `None` measures all."""
    quick: bool = False
    """Whether it is to be seen in a moment that all of it runs."""

    def seconds(self, full: float) -> float:
        """A duration that is `full` seconds in a full run; never under one second."""
        return max(1.0, full * self.scale)


@dataclass(frozen=True)
class Metric:
    """One measured quantity. `unit` also decides which way is better."""

    name: str
    unit: str

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("/s")


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest of what it stands for."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises `statistics.StatisticsError` for no values."""
        return cls(statistics.median(values), min(values), max(values))


class System(Protocol):
    """Something that is compared with others."""

    @property
    def name(self) -> str: ...

    def versions(self) -> dict[str, str]:
        """Its own version and those of what it computes with."""
        ...


@dataclass
class Study:
    """Everything that one workload measured."""

    workload: str
    title: str
    samples: dict[Metric, dict[str, list[float]]] = field(default_factory=dict)
    """Per metric and system, one value a round."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why a system has no numbers, or has none from some round on."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Curves over seconds, for the workloads that have them."""

    def add(self, metric: Metric, system: str, value: float) -> None:
        """Records one round's value."""
        self.samples.setdefault(metric, {}).setdefault(system, []).append(value)
        print(f"    {system:15} {metric.name:34} {value:12,.3f} {metric.unit}", file=sys.stderr, flush=True)

    def values(self, metric_name: str, system: str) -> list[float]:
        """The rounds of one system; empty when it was not measured."""
        for metric, systems in self.samples.items():
            if metric.name == metric_name:
                return systems.get(system, [])
        return []

    def ratio(self, metric_name: str, system: str, against: str) -> Spread | None:
        """`system` / `against`: the ratio of medians, and the least and greatest ratio within a round."""
        ours, theirs = self.values(metric_name, system), self.values(metric_name, against)
        return ratio(ours, theirs)

    def difference(self, metric_name: str, system: str, against: str) -> Spread | None:
        """`system` - `against`: the difference of medians, and the least and greatest within a round."""
        ours, theirs = self.values(metric_name, system), self.values(metric_name, against)
        return difference(ours, theirs)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """The ratio of the medians; its spread is that of the ratios of the rounds. `None` when one side is empty or 0."""
    if not ours or not theirs or not all(theirs):
        return None
    rounds = [a / b for a, b in zip(ours, theirs, strict=False)]
    return Spread(statistics.median(ours) / statistics.median(theirs), min(rounds), max(rounds))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """The difference of the medians; its spread is that of the differences of the rounds. `None` without both."""
    if not ours or not theirs:
        return None
    rounds = [a - b for a, b in zip(ours, theirs, strict=False)]
    return Spread(statistics.median(ours) - statistics.median(theirs), min(rounds), max(rounds))


def interleave(study: Study, options: Options, systems: Iterable[System], measure: Callable[[Any, Path], None]) -> None:
    """Runs `measure` on each system in turn, round after round: A B C, A B C, A B C.

    A peer that fails is reported in `study.missing` and left out from then on. A failure of UniModel itself is raised:
    that run is void.
    """
    chosen = [s for s in systems if options.only is None or s.name in options.only]
    for number in range(options.rounds):
        for system in chosen:
            if system.name in study.missing:
                continue
            print(f"  round {number + 1} of {options.rounds}: {system.name}", file=sys.stderr, flush=True)
            try:
                with tempfile.TemporaryDirectory(prefix="unimodel-bench-", ignore_cleanup_errors=True) as folder:
                    measure(system, Path(folder))
            except (PeerMissing, StartFailed, WrongAnswer, OSError, subprocess.TimeoutExpired) as e:
                if system.name == OURS:
                    raise
                study.missing[system.name] = str(e)
                print(f"    {system.name} is missing from here on: {e}", file=sys.stderr, flush=True)
            else:
                if system.name not in study.versions:
                    study.versions[system.name] = system.versions()
            time.sleep(options.settle)
