"""The loads that the workload ``families`` puts on a served model, each beside a loop that computes as much at once.

Twice as many rows are in flight as one batch takes, and at least four requests, so that the next batch waits when one
is done. Answers that are generated come in one wave instead, as those of the loop do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from benchmarks import bare_loops, load, prompts, speech
from benchmarks.dialects import JSON, OCTETS, Call, unread
from benchmarks.llm_servers import ENDLESS, Serving
from benchmarks.models import Array
from benchmarks.servers import Running

NAME = "model"
PATH = f"/v1/models/{NAME}:predict"


class Point(Protocol):
    """A load on a served model."""

    @property
    def name(self) -> str:
        """What tells it from the family's others."""
        ...

    @property
    def batch(self) -> int:
        """Rows that are computed at once."""
        ...

    @property
    def unit(self) -> str:
        """Of what is measured."""
        ...

    @property
    def per_row(self) -> float:
        """How much of that a row is."""
        ...

    @property
    def seconds(self) -> float:
        """How long it is measured in a full run, if not until all is answered."""
        ...

    def rate(self, server: Running, seconds: float) -> float:
        """What is answered a second."""
        ...


@dataclass(frozen=True)
class Rows:
    """Requests of so many rows."""

    call: Call
    batch: int
    rows: int = 1
    name: str = ""
    slow: bool = False
    """Whether a batch takes so long that one more or less would make a difference."""
    seconds: float = 2.0
    unit: str = "rows/s"
    per_row: float = 1.0

    def rate(self, server: Running, seconds: float) -> float:
        """Rows a second."""
        connections = max(4, 2 * self.batch // self.rows)
        if self.slow:
            return load.steady(server.port, [self.call], connections, seconds, self.batch)
        load.one_by_one(server.port, self.call, 0.2, 2)  # warm-up
        return load.wrk(server.port, self.call, connections, seconds).throughput * self.rows


@dataclass(frozen=True)
class Recordings:
    """Recordings of speech, each in a request."""

    batch: int
    name: str = ""
    seconds: float = 4.0
    unit: str = "seconds of speech/s"

    @cached_property
    def clips(self) -> list[speech.Clip]:
        """Those of a batch."""
        return speech.clips(self.batch)

    @property
    def per_row(self) -> float:
        """Seconds of a recording."""
        return sum(clip.seconds for clip in self.clips) / self.batch

    def rate(self, server: Running, seconds: float) -> float:
        """Seconds of speech that are written down a second."""
        calls = [Call(PATH, {"content-type": "audio/wav"}, clip.wav, unread) for clip in self.clips]
        return load.steady(server.port, calls, 2 * self.batch, seconds, self.batch) * self.per_row


@dataclass(frozen=True)
class Answers:
    """A wave of answers to different prompts, greedy and streamed."""

    batch: int
    tokens: int = bare_loops.TOKENS
    unit: str = "tokens/s"
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """By the number of clients."""
        return f"c={self.batch}"

    @property
    def per_row(self) -> float:
        """Tokens of an answer."""
        return float(self.tokens)

    def rate(self, server: Running, seconds: float) -> float:  # noqa: ARG002
        """Tokens a second, from the first request to the last token."""
        serving = Serving(server.port, server.process, ENDLESS, NAME)
        serving.ask(self.conversations(100), 2, self.batch)  # warm-up
        return serving.ask(self.conversations(0), self.tokens, self.batch).throughput

    def conversations(self, first: int) -> list[prompts.Conversation]:
        """One for each client."""
        return prompts.several(prompts.distinct, first, self.batch)


def json_call(value: Any) -> Call:
    """A request in JSON."""
    return Call(PATH, JSON, json.dumps({"input": value}).encode(), unread)


def tensor_call(rows: Array) -> Call:
    """A request of raw float32, whose answer is raw, too."""
    shape = {"x-tensor-dtype": "float32", "x-tensor-shape": ",".join(map(str, rows.shape))}
    return Call(PATH, {**OCTETS, **shape, "accept": OCTETS["content-type"]}, rows.tobytes(), unread)
