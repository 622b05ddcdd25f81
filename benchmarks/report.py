"""A study as a table for people, a JSON file, and a plot."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bars import Verdict, judge
from benchmarks.harness import OURS, Options, Spread, Study


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
    return {"bar": str(verdict.bar), "measured": measured, "met": verdict.met, "margin": verdict.margin}


def as_text(study: Study) -> str:
    """The tables of the study: every absolute with its ratio, then the bars, then what is missing."""
    lines = [f"\n{study.title}", ""]
    for metric, systems in study.samples.items():
        lines.append(f"{metric.name} [{metric.unit}]")
        for system, values in systems.items():
            spread = Spread.of(values)
            line = f"  {system:18} {spread.median:12,.2f}   ({spread.least:,.2f} – {spread.greatest:,.2f})"
            if system != OURS and (ratio := study.ratio(metric.name, OURS, system)):
                line += f"   unimodel is {ratio.median:.2f} x ({ratio.least:.2f} – {ratio.greatest:.2f})"
            lines.append(line)
    lines.append("\nbars")
    for verdict in judge(study):
        got = verdict.got
        measured = f"{got.median:.2f} ({got.least:.2f} – {got.greatest:.2f})" if got else ""
        lines.append(f"  {verdict!s:16} {verdict.bar!s:62} {measured}")
    lines += [f"  missing: {name}: {reason}" for name, reason in study.missing.items()]
    lines += [f"  note: {note}" for note in study.notes]
    return "\n".join(lines)


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
