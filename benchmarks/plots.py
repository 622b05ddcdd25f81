"""Plots of a study: a panel a unit, a group of bars a metric, a bar a system; or curves, where a study has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import Metric, Spread, Study

COLOURS = {
    "unimodel": "#1f6feb",
    "unimodel unbatched": "#9ec3f7",
    "mosec": "#e8912d",
    "mosec+msgspec": "#f6c998",
    "triton": "#76b900",
    "litserve": "#8250df",
    "mlserver": "#d1495b",
    "llama-server": "#e8912d",
    "llama-server+ngram": "#f6c998",
    "llama-cpp-python": "#8250df",
}
GREYS = ("#57606a", "#8c959f", "#c1c7cd")


def draw(study: Study, path: Path) -> None:
    """Writes the picture of `study` to `path` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_unit: dict[str, list[Metric]] = {}
    if not study.series:  # curves say it all
        for metric in study.samples:
            by_unit.setdefault(metric.unit, []).append(metric)
    panels = len(by_unit) or 1
    width = max(12.0, 0.6 * max(map(len, by_unit.values()), default=0))
    figure, axes = pyplot.subplots(panels, 1, figsize=(width, 3.8 * panels + 0.6), squeeze=False, layout="constrained")
    figure.suptitle(study.title)
    for axis, (unit, metrics) in zip(axes[:, 0], by_unit.items(), strict=False):
        _bars(axis, study, unit, metrics)
    if study.series:
        _curves(axes[0, 0], study.series)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axis: Any, study: Study, unit: str, metrics: list[Metric]) -> None:
    systems = list(dict.fromkeys(s for m in metrics for s in study.samples[m]))
    colours = _colours(systems)
    width = 0.84 / len(systems)
    everything = [v for m in metrics for values in study.samples[m].values() for v in values]
    for place, system in enumerate(systems):
        spreads = {i: Spread.of(study.samples[m][system]) for i, m in enumerate(metrics) if system in study.samples[m]}
        heights = [s.median for s in spreads.values()]
        low = [s.median - s.least for s in spreads.values()]
        high = [s.greatest - s.median for s in spreads.values()]
        positions = [i + (place - (len(systems) - 1) / 2) * width for i in spreads]
        axis.bar(positions, heights, width, yerr=[low, high], label=system, color=colours[system], error_kw={"lw": 0.8})
    if min(everything) > 0 and max(everything) > 20 * min(everything):
        axis.set_yscale("log")
    better = "higher" if metrics[0].higher_is_better else "lower"
    axis.set_ylabel(f"{unit} ({better} is better)")
    axis.set_xticks(range(len(metrics)), [m.name for m in metrics], fontsize=8)
    if len(metrics) >= 5:  # side by side they would not fit
        axis.tick_params("x", rotation=15 if len(metrics) < 9 else 30)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _curves(axis: Any, series: dict[str, list[tuple[float, float]]]) -> None:
    for name, points in series.items():
        axis.plot([x for x, _ in points], [y for _, y in points], label=name)
    axis.set_xlabel("seconds")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _colours(systems: list[str]) -> dict[str, str]:
    greys = iter(GREYS * len(systems))
    return {s: COLOURS.get(s) or next(greys) for s in systems}
