"""Each family of models: how much of a bare loop in its own library is left when it is served."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks import servers, tables
from benchmarks.families import FAMILIES, QUICK, Family
from benchmarks.harness import OURS, Metric, Options, Study, interleave
from benchmarks.points import NAME
from benchmarks.servers import System, UniModel

BARE = "bare loop"
LIBRARIES = (
    "onnxruntime",
    "torch",
    "ai-edge-litert",
    "tensorflow-cpu",
    "transformers",
    "llama-cpp-python",
    "faster-whisper",
    "ctranslate2",
    "scikit-learn",
    "xgboost-cpu",
    "lightgbm",
    "catboost",
)


class Bare:
    """The libraries themselves."""

    name = BARE

    def versions(self) -> dict[str, str]:
        """Of those that are installed."""
        found = {}
        for name in LIBRARIES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue  # its families are reported as missing
        return found


def run(options: Options) -> Study:
    """Measures each family alone: served, and its library in a process of its own."""
    cores = psutil.cpu_count() or 1
    study = Study("families", f"Every family against a bare loop in its own library, {cores} cores")
    families = _at_hand(study, options)
    for family in families:
        print(f"  {family.name}", file=sys.stderr, flush=True)
        _compare(study, family, options, cores)
    sizes = ", ".join(f"{family.name} {'/'.join(map(str, family.batches))}" for family in families)
    study.notes += [
        f"The loop and the server have the same batch size: {sizes}; and the same number of threads: one for tables, "
        f"for which UniModel computes with no more by itself (it reads JSON of many rows on another), else {cores}. "
        "Requests have one row where nothing is said.",
        "Twice as many rows are in flight, and at least four requests; answers of language models come in one wave, as "
        "those of the loop do. The client runs on the same cores, and the loop has none.",
        f"Tables have {len(tables.COLUMNS)} columns, and their models {tables.TREES} trees. Answers to JSON have the "
        "label and each probability by its name; binary ones the probabilities alone.",
    ]
    return study


def _compare(study: Study, family: Family, options: Options, cores: int) -> None:
    """One family in all rounds: what is compared is measured one right after the other."""

    def measure(system: System, folder: Path) -> None:
        rates = _served(family, folder, options, cores) if system.name == OURS else _bare(family, options, cores)
        for metric, rate in rates.items():
            study.add(metric, system.name, rate)

    interleave(study, options, [UniModel(), Bare()], measure)
    if reason := study.missing.pop(BARE, None):  # the next family has another library
        study.missing[f"{family.name}, {BARE}"] = reason


def _at_hand(study: Study, options: Options) -> list[Family]:
    """The families to measure; the others are told in the study."""
    families = []
    for family in FAMILIES:
        if (wanted := options.parts or (QUICK if options.quick else None)) and family.name not in wanted:
            continue
        if reason := family.lacks():
            study.missing[family.name] = reason
        else:
            families.append(family)
    return families


def _bare(family: Family, options: Options, cores: int) -> dict[Metric, float]:
    rates = family.bare_rates(options, cores)
    return {family.metric(point): rates[point.batch] * point.per_row for point in family.points}


def _served(family: Family, folder: Path, options: Options, cores: int) -> dict[Metric, float]:
    server = UniModel().start_empty(cores, folder)
    rates = {}
    try:
        for batch in family.batches:
            servers.post(server.port, "/v1/models", family.registration(batch))
            for point in family.points:
                if point.batch == batch:
                    rates[family.metric(point)] = point.rate(server, options.seconds(point.seconds))
            servers.delete(server.port, f"/v1/models/{NAME}")
    finally:
        server.process.stop()
    return rates
