"""A study as a table for people, a JSON file, and a plot."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bars import Verdict, judge
from benchmarks.harness import OURS, Metric, Options, Spread, Study


def as_json(study: Study, options: Options, seconds: float, where: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, its ratios and the verdicts."""
    metrics = []
    for metric, systems in study.samples.items():
        rows = {}
        for system, values in systems.items():
            spread = Spread.of(values)
            row: dict[str, Any] = {"median": spread.median, "rounds": values}
            if system != OURS and (ratio := study.ratio(metric.name, OURS, system)):
                row["unimodel_ratio"] = {"of_medians": ratio.median, "least": ratio.least, "greatest": ratio.greatest}
            rows[system] = row
        metrics.append({"name": metric.name, "unit": metric.unit, "systems": rows})
    return {
        "workload": study.workload,
        "title": study.title,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_seconds": round(seconds),
        "rounds": options.rounds,
        "duration_scale": options.scale,
        "machine": where,
        "versions": study.versions,
        "missing": study.missing,
        "bars": [_verdict(v) for v in judge(study)],
        "metrics": metrics,
        "series": study.series,
        "notes": study.notes,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    got = verdict.got
    measured = {"median": got.median, "least": got.least, "greatest": got.greatest} if got else None
    told = {"bar": str(verdict.bar), "measured": measured, "met": verdict.met, "margin": verdict.margin}
    return {**told, "reason": verdict.reason} if verdict.reason else told


def as_text(study: Study) -> str:
    """The tables of the study: medians with UniModel's ratio to each, the bars, and what is missing."""
    lines = [f"\n{study.title}"]
    for unit in dict.fromkeys(metric.unit for metric in study.samples):
        lines += _table(study, [metric for metric in study.samples if metric.unit == unit], unit)
    lines.append("\nbars: UniModel's median (least and greatest of the rounds)")
    for verdict in judge(study):
        got = verdict.got
        measured = f"{got.median:.2f} ({got.least:.2f} – {got.greatest:.2f})" if got else ""
        lines.append(f"  {verdict!s:16} {verdict.bar!s:62} {measured}")
    reasons = dict.fromkeys(verdict.reason for verdict in judge(study) if verdict.reason)
    for reason in reasons:
        metrics = ", ".join(v.bar.metric for v in judge(study) if v.reason == reason)
        lines.append(f"  missed, as {reason}: {metrics}")
    lines += [f"  missing: {name}: {reason}" for name, reason in study.missing.items()]
    lines += [f"  note: {note}" for note in study.notes]
    return "\n".join(lines)


def _table(study: Study, metrics: list[Metric], unit: str) -> list[str]:
    systems = list(dict.fromkeys(system for metric in metrics for system in study.samples[metric]))
    name_width = max(len(metric.name) for metric in metrics)
    lines = [f"\n{unit}, median (UniModel's is so many times it)"]
    lines.append("  " + " " * name_width + "".join(f"{system:>19}" for system in systems))
    for metric in metrics:
        cells = (_cell(study, metric, system) for system in systems)
        lines.append(f"  {metric.name:{name_width}}" + "".join(f"{cell:>19}" for cell in cells))
    return lines


def _cell(study: Study, metric: Metric, system: str) -> str:
    values = study.samples[metric].get(system)
    if not values:
        return "–"
    ratio = study.ratio(metric.name, OURS, system) if system != OURS else None
    return f"{Spread.of(values).median:,.2f}" + (f" ({ratio.median:.2f} x)" if ratio else "")


def write(study: Study, options: Options, seconds: float, where: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes ``NAME.json`` and ``NAME.png`` into `folder`; returns both paths."""
    from benchmarks import plots

    folder.mkdir(parents=True, exist_ok=True)
    data, picture = folder / f"{study.workload}.json", folder / f"{study.workload}.png"
    data.write_text(json.dumps(as_json(study, options, seconds, where), indent=1, ensure_ascii=False) + "\n")
    plots.draw(study, picture)
    return data, picture


def machine_before() -> dict[str, Any]:
    """The machine, described before any load."""
    return dict(machine.describe())
