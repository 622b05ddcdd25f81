"""What the documents say of the benchmarks: the results that are committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.docs.markdown import table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def benchmarks() -> str:
    """The results that are committed."""
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        return "No results are committed yet: `make bench` writes them to `benchmarks/results/`, and the tables here."
    return "\n\n".join(_study(json.loads(file.read_text()), file) for file in files)


def _study(study: dict[str, Any], file: Path) -> str:
    machine = study["machine"]
    blocks = [
        f"### {study['title']}",
        f"`python -m benchmarks {study['workload']}`, {study['date'][:10]}, {study['rounds']} rounds; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}. "
        f"{_versions(study['versions'])}",
    ]
    if study["bars"]:
        rows = ([bar["bar"], _spread(bar["measured"]), _verdict(bar)] for bar in study["bars"])
        blocks.append(table(["bar", "measured: median (least – greatest)", ""], rows))
    for unit in dict.fromkeys(m["unit"] for m in study["metrics"]):
        blocks.append(_measured(study, unit))
    blocks += [f"- Not measured: {name}: {reason}" for name, reason in study["missing"].items()]
    blocks += [f"- {note}" for note in study["notes"]]
    if file.with_suffix(".png").exists():
        blocks.append(f"![{study['title']}](../benchmarks/results/{file.stem}.png)")
    return "\n\n".join(blocks)


def _versions(of_systems: dict[str, dict[str, str]]) -> str:
    """The version of each system: that of the first package in its list, which is its own. A bound has none."""
    own = ([f"{n} {v}" for n, v in packages.items() if n != "python"][:1] for packages in of_systems.values())
    names = (name for first in own for name in first)
    return f"Versions: {', '.join(dict.fromkeys(names))}." if of_systems else ""


def _measured(study: dict[str, Any], unit: str) -> str:
    """The medians of all metrics in one unit, a system a column."""
    chosen = [m for m in study["metrics"] if m["unit"] == unit]
    systems = list(dict.fromkeys(system for m in chosen for system in m["systems"]))
    rows = ([m["name"], *(_median(m["systems"].get(system)) for system in systems)] for m in chosen)
    return table([f"median, {unit}", *systems], rows)


def _median(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    ratio = row.get("unimodel_ratio")
    return f"{row['median']:,.2f}" + (f" ({ratio['of_medians']:.2f} ×)" if ratio else "")


def _spread(got: dict[str, float] | None) -> str:
    return f"{got['median']:.2f} ({got['least']:.2f} – {got['greatest']:.2f})" if got else "not measured"


def _verdict(bar: dict[str, Any]) -> str:
    if bar["met"] is None:
        return ""
    text = f"{'met' if bar['met'] else 'missed'} by {abs(bar['margin']):.0%}"
    return f"{text}: {bar['reason']}" if "reason" in bar else text
