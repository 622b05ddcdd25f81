"""ONE table of every bar: what is compared with what, and the limit. A missed bar is a result, not an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.harness import OURS, Spread, Study


@dataclass(frozen=True)
class Bar:
    """UniModel's `metric`, as a ratio to (or a difference from) another system's, must keep to `limit`."""

    workload: str
    metric: str
    relation: Literal[">=", "<="]
    limit: float
    against: str | None = None
    """The system that it is divided by; `None` compares the value itself."""
    difference: bool = False
    """Subtracts `against` instead of dividing by it."""
    reason: str = ""
    """Why it is missed, where that is known."""

    def __str__(self) -> str:
        if self.against is None:
            return f"{self.metric} {self.relation} {self.limit:g}"
        if self.difference:
            return f"{self.metric} - {self.against} {self.relation} {self.limit:g}"
        return f"{self.metric} {self.relation} {self.limit:g} x {self.against}"


@dataclass(frozen=True)
class Verdict:
    """How UniModel stands to one bar. `got` is `None` when one side was not measured."""

    bar: Bar
    got: Spread | None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; `None` when it could not be judged."""
        if self.got is None:
            return None
        return self.got.median >= self.bar.limit if self.bar.relation == ">=" else self.got.median <= self.bar.limit

    @property
    def margin(self) -> float | None:
        """By how much: the share of the limit that is left over; negative when missed."""
        if self.got is None:
            return None
        gap = self.got.median - self.bar.limit
        return (gap if self.bar.relation == ">=" else -gap) / self.bar.limit

    def __str__(self) -> str:
        if self.got is None or self.margin is None:
            return "not measured"
        word = "met" if self.met else "MISSED"
        return f"{word} by {abs(self.margin):.0%}"

    @property
    def reason(self) -> str:
        """Why it is missed; empty when it is met, or that is not known."""
        return self.bar.reason if self.met is False else ""


def judge(study: Study) -> list[Verdict]:
    """Every bar of the study's workload, judged."""
    return [Verdict(bar, _measured(study, bar)) for bar in BARS if bar.workload == study.workload]


def _measured(study: Study, bar: Bar) -> Spread | None:
    if bar.against is None:
        values = study.values(bar.metric, OURS)
        return Spread.of(values) if values else None
    if bar.difference:
        return study.difference(bar.metric, OURS, bar.against)
    return study.ratio(bar.metric, OURS, bar.against)


def _overhead() -> list[Bar]:
    bars = []
    for model in ("iris", "iris-sklearn"):
        bars.append(Bar("overhead", f"{model} c=1 p50", "<=", 0.35, "mosec"))
        for connections in (32, 128):
            metric = f"{model} c={connections} throughput"
            bars.append(Bar("overhead", metric, ">=", 1.1, "mosec"))
            bars.append(Bar("overhead", metric, ">=", 4, "triton"))
            bars.append(Bar("overhead", metric, ">=", 10, "litserve"))
            bars.append(Bar("overhead", metric, ">=", 10, "mlserver"))
            bars.append(Bar("overhead", metric, ">=", 0.55, "uvicorn echo"))
    return bars


def _large_tensors() -> list[Bar]:
    return [
        Bar("large-tensors", f"{model} {megabytes} MB binary", ">=", 0.6, "memcpy bound")
        for model in ("mean", "echo")
        for megabytes in (1, 6, 24)
    ]


def _llm() -> list[Bar]:
    bars = []
    for clients in (1, 4, 8, 16):
        bars.append(Bar("llm", f"c={clients} throughput", ">=", 0.97, "llama-server"))
        bars.append(Bar("llm", f"c={clients} throughput", ">=", 0.97, "llama.cpp loop"))
        bars.append(Bar("llm", f"c={clients} TTFT p50", "<=", 1.0, "llama-server"))
        bars.append(Bar("llm", f"c={clients} Python of a step", "<=", 3))
    return [
        *bars,
        Bar("llm", "shared prompt c=8 throughput", ">=", 1.5, "llama-server"),
        Bar("llm", "repetitive c=1 throughput", ">=", 1.5, "llama-server"),
        Bar("llm", "c=8 throughput", ">=", 3, "llama-cpp-python"),
    ]


def _ragged() -> list[Bar]:
    metric = "c=64 throughput"
    peers = ("mosec", "mosec+msgspec", "litserve", "mlserver")
    return [
        Bar("ragged", metric, ">=", 1.5, "unimodel unbatched"),
        *(Bar("ragged", metric, ">=", 1.0, peer) for peer in peers),
    ]


def _families() -> list[Bar]:
    one = "a request costs several times what the library takes for its row"
    few = "what a request costs is not little against 64 rows"
    text = "30 numbers in JSON cost 1.5 µs a row; they are read while the trees compute, by a core that others use, too"
    alone = "a text costs the library 0.11 ms, and the worker's thread 0.02 ms more when it comes and is answered alone"
    shared = "the loop has both cores; the served model shares them with the server and the client"
    tables = ("sklearn forest", "xgboost", "lightgbm", "catboost")
    reasons = dict.fromkeys(("onnx", "torch", "transformers-embedding", "sklearn texts, 32 a request", "whisper"), "")
    reasons |= dict.fromkeys(("tflite", "tensorflow", "tensorflow, 16 a request"), shared)
    reasons["sklearn texts"] = alone
    reasons |= {f"{name}, c={clients}": "" for name in ("transformers", "gguf") for clients in (1, 8)}
    for name in tables:
        reasons[f"{name}, 1 row"] = one
        reasons |= {f"{name}, 64 rows as {form}": few for form in ("JSON", "binary")}
        reasons |= {f"{name}, 1024 rows as {form}": text for form in ("JSON", "JSON columns")}
        reasons[f"{name}, 1024 rows as binary"] = ""
    return [Bar("families", name, ">=", 0.9, "bare loop", reason=reason) for name, reason in reasons.items()]


def _cold_start() -> list[Bar]:
    peers = ("mosec", "triton", "litserve", "mlserver")
    return [
        Bar("cold-start", "unimodel --help", "<=", 0.3),
        Bar("cold-start", "start to ready", "<=", 1.0),
        Bar("cold-start", "register to first answer", "<=", 2.0),
        Bar("cold-start", "idle memory of the server process", "<=", 90),
        *(Bar("cold-start", "start to first answer", "<=", 1.0, peer) for peer in peers),
    ]


BARS: tuple[Bar, ...] = (
    *_overhead(),
    Bar("compute", "binary throughput", ">=", 0.95, "bare onnxruntime"),
    Bar("compute", "image throughput", ">=", 0.95, "bare onnxruntime"),
    Bar("compute", "binary c=1 p50", "<=", 1.0, "in-process call", difference=True),
    *_large_tensors(),
    *_llm(),
    *_cold_start(),
    Bar("memory", "growth", "<=", 2.0),
    Bar("neighbours", "together, as shares of what each does alone", ">=", 0.9, "threads=1"),
    *_families(),
    *_ragged(),
    Bar("neighbours", "samples with more computing threads than cores", "<=", 1.0),
)
