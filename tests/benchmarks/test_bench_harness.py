"""The arithmetic of a comparison and the order of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.bars import BARS, Bar, Verdict, judge
from benchmarks.dialects import Served
from benchmarks.environments import PeerMissing, unmet
from benchmarks.harness import Metric, Options, Spread, Study, difference, interleave, ratio
from benchmarks.report import as_json, as_text
from benchmarks.servers import Running
from benchmarks.workloads.memory import growth_percent

RATE = Metric("throughput", "requests/s")


class Named:
    """A system that is only ever named: `interleave` leaves starting it to the workload."""

    def __init__(self, name: str) -> None:
        self.name = name

    def versions(self) -> dict[str, str]:
        return {self.name: "1.0"}

    def start(self, served: Sequence[Served], threads: int, folder: Path) -> Running:
        raise NotImplementedError


def study_of(**rounds: list[float]) -> Study:
    study = Study("w", "title")
    for system, values in rounds.items():
        for value in values:
            study.add(RATE, system, value)
    return study


def test_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    assert ratio([10, 20, 30], [5, 4, 60]) == Spread(4.0, 0.5, 5.0)


def test_ratio_needs_both_sides() -> None:
    assert ratio([], [1.0]) is None
    assert ratio([1.0], []) is None
    assert ratio([1.0], [0.0]) is None


def test_ratio_of_a_peer_that_broke_midway_uses_the_rounds_it_has() -> None:
    assert ratio([10, 20, 30], [5]) == Spread(4.0, 2.0, 2.0)


def test_difference_is_of_medians() -> None:
    assert difference([3.0, 5.0, 9.0], [1.0, 4.0, 4.0]) == Spread(1.0, 1.0, 5.0)
    assert difference([], [1.0]) is None


@pytest.mark.parametrize(
    ("relation", "limit", "met", "margin"),
    [(">=", 1.6, True, 0.25), (">=", 2.5, False, -0.2), ("<=", 4.0, True, 0.5), ("<=", 1.6, False, -0.25)],
)
def test_verdict(relation: str, limit: float, met: bool, margin: float) -> None:
    verdict = Verdict(Bar("w", "throughput", relation, limit, "peer"), Spread(2.0, 1.0, 3.0))  # type: ignore[arg-type]
    assert verdict.met is met
    assert verdict.margin == pytest.approx(margin)
    assert str(verdict).startswith("met by" if met else "MISSED by")


def test_verdict_on_a_missing_peer_is_neither_met_nor_missed() -> None:
    verdict = Verdict(Bar("w", "throughput", ">=", 1.0, "peer"), None)
    assert verdict.met is None
    assert str(verdict) == "not measured"


def test_judge_compares_ratios_differences_and_values() -> None:
    study = Study("compute", "title")
    for ours, bare in ((90.0, 100.0), (99.0, 100.0), (98.0, 99.0)):
        study.add(Metric("binary throughput", "images/s"), "unimodel", ours)
        study.add(Metric("binary throughput", "images/s"), "bare onnxruntime", bare)
    study.add(Metric("binary c=1 p50", "ms"), "unimodel", 51.5)
    study.add(Metric("binary c=1 p50", "ms"), "in-process call", 50.0)
    met = {v.bar.metric: v.met for v in judge(study)}
    assert met == {"binary throughput": True, "binary c=1 p50": False, "image throughput": None}


def test_judge_compares_a_value_with_its_limit() -> None:
    study = Study("memory", "title")
    study.add(Metric("growth", "%"), "unimodel", 1.5)
    (verdict,) = judge(study)
    assert verdict.met is True


def test_a_reason_is_told_where_a_bar_is_missed() -> None:
    missed, met = (Verdict(Bar("w", "m", ">=", 1, reason="it is far"), Spread(v, v, v)) for v in (0.5, 2.0))
    assert missed.reason == "it is far"
    assert met.reason == ""
    assert Verdict(missed.bar, None).reason == ""


def test_no_bar_is_listed_twice() -> None:
    assert len({(b.workload, str(b)) for b in BARS}) == len(BARS)


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    study = Study("w", "title")
    systems = [Named("unimodel"), Named("peer")]
    interleave(study, Options(rounds=3, settle=0), systems, lambda system, _: order.append(system.name))
    assert order == ["unimodel", "peer"] * 3
    assert study.versions == {"unimodel": {"unimodel": "1.0"}, "peer": {"peer": "1.0"}}


def test_only_the_chosen_systems_run() -> None:
    order: list[str] = []
    systems = [Named("unimodel"), Named("peer")]
    options = Options(rounds=1, settle=0, only=frozenset({"peer"}))
    interleave(Study("w", "title"), options, systems, lambda system, _: order.append(system.name))
    assert order == ["peer"]


def test_a_peer_that_fails_is_missing_with_its_reason_and_not_asked_again() -> None:
    order: list[str] = []

    def measure(system: object, _: Path) -> None:
        assert isinstance(system, Named)
        order.append(system.name)
        if system.name == "peer":
            raise PeerMissing("no such package")

    study = Study("w", "title")
    interleave(study, Options(rounds=2, settle=0), [Named("unimodel"), Named("peer")], measure)
    assert order == ["unimodel", "peer", "unimodel"]
    assert study.missing == {"peer": "no such package"}
    assert "peer" not in study.versions


def test_a_failure_of_our_own_voids_the_run() -> None:
    def measure(system: object, _: Path) -> None:
        raise PeerMissing("broken")

    with pytest.raises(PeerMissing):
        interleave(Study("w", "title"), Options(rounds=1), [Named("unimodel")], measure)


def test_reports_hold_absolutes_ratios_and_what_is_missing() -> None:
    study = study_of(unimodel=[100, 110, 90], peer=[50, 50, 60])
    study.missing["other"] = "not installable"
    text = as_text(study)
    assert "50.00 (2.00 x)" in text
    assert "missing: other: not installable" in text
    data = as_json(study, Options(), 1.0, {"cpu": "x"})
    peer = data["metrics"][0]["systems"]["peer"]
    assert peer["median"] == 50
    assert peer["unimodel_ratio"] == {"of_medians": 2.0, "least": 1.5, "greatest": 2.2}
    assert data["missing"] == {"other": "not installable"}


def test_growth_compares_the_last_sixth_with_the_first() -> None:
    assert growth_percent([100.0] * 6) == 0
    assert growth_percent([100, 100, 300, 300, 300, 300, 300, 300, 300, 300, 110, 110]) == pytest.approx(10)


def test_unmet_requirements() -> None:
    installed = {"mosec": "0.9.8", "uvloop": "0.21.0"}
    assert unmet(["mosec==0.9.8", "uvloop<0.22", "mosec[server]==0.9.8"], installed) == []
    assert unmet(["torch==2.13.0"], {"torch": "2.13.0+cpu"}) == []
    assert unmet(["mosec==0.9.9", "pillow==13.0.0", "python-multipart"], installed) == [
        "mosec==0.9.9",
        "pillow==13.0.0",
        "python-multipart",
    ]
