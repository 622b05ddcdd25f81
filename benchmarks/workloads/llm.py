"""W4: a small LLM, greedy, streamed: 1, 4, 8 and 16 clients, a system prompt that all share, and text that repeats.

Each client asks again as soon as it is answered. No prompt comes twice within a run of a server, and every answer has
the same number of tokens, so that all systems do the same work. The *llama.cpp loop* is that work without a server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import llm_servers, prompts
from benchmarks.harness import Metric, Options, Study, interleave
from benchmarks.llm_servers import LOOP, PEERS, UNIMODEL, LlmServer, Loop, Serving, started
from benchmarks.prompts import Conversation

TOKENS = 128
"""Of each answer."""


@dataclass(frozen=True)
class Point:
    """So many clients, each with so many questions of a kind after another."""

    name: str
    make: Callable[[int], Conversation]
    clients: int
    each: int

    def conversations(self, options: Options) -> list[Conversation]:
        """All questions. Their numbers are this point's own."""
        count = self.clients * max(1, round(self.each * options.scale))
        return prompts.several(self.make, POINTS.index(self) * 1000, count)


POINTS = (
    Point("c=1", prompts.distinct, 1, 3),
    Point("c=4", prompts.distinct, 4, 2),
    Point("c=8", prompts.distinct, 8, 2),
    Point("c=16", prompts.distinct, 16, 2),
    Point("shared prompt c=8", prompts.shared, 8, 3),
    Point("repetitive c=1", prompts.repetitive, 1, 3),
    Point("repetitive c=4", prompts.repetitive, 4, 2),
)
SHARES_AT = (1, 4, 8, 16)
"""Numbers of answers under way with which Python's part of a step is measured."""
ONE_BY_ONE = ("c=1", "c=8")
"""The points of a server that answers one request at a time: more clients only wait longer."""


def run(options: Options) -> Study:
    """Measures tokens per second, the time to the first token, and the time between tokens."""
    study = Study("llm", "W4 LLM: SmolLM2-135M Q4_1, greedy, streamed chat")
    threads = psutil.cpu_count() or 1
    tokens = max(16, round(TOKENS * options.scale))

    def measure(system: LlmServer | Loop, folder: Path) -> None:
        if isinstance(system, Loop):
            plain = {point.clients: point.conversations(options) for point in POINTS if point.make is prompts.distinct}
            for clients, speed in system.speeds(plain, tokens, threads).items():
                study.add(Metric(f"c={clients} throughput", "tokens/s"), system.name, speed)
            return
        if system is UNIMODEL:
            for clients, share in llm_servers.step_shares(SHARES_AT, threads).items():
                study.add(Metric(f"c={clients} Python of a step", "%"), system.name, share)
        with started(system, threads, folder) as serving:
            for point in POINTS:
                if point.name in ONE_BY_ONE or not isinstance(system, llm_servers.LlamaCppPython):
                    _measure(study, system.name, serving, point, tokens, options)

    interleave(study, options, [UNIMODEL, *PEERS, LOOP], measure)
    study.notes += [
        f"Answers have {tokens} tokens; prompts have about 64, 530 (shared) and 180 (repetitive).",
        "The time between tokens is that of an answer on average, as several tokens may come at once.",
        "llama-server+ngram is llama-server with its n-gram speculation, which is off as it ships.",
    ]
    return study


def _measure(study: Study, system: str, serving: Serving, point: Point, tokens: int, options: Options) -> None:
    answers = serving.ask(point.conversations(options), tokens, point.clients)
    study.add(Metric(f"{point.name} throughput", "tokens/s"), system, answers.throughput)
    study.add(Metric(f"{point.name} TTFT p50", "ms"), system, answers.first_ms)
    study.add(Metric(f"{point.name} inter-token p50", "ms"), system, answers.token_ms)
