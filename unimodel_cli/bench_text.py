"""Closed-loop load on a model that generates text: tokens a second, time to the first token, time between tokens."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from unimodel_cli.bench import REFUSED_PAUSE, WARM_UP_SECONDS, WARM_UP_SHARE, Measured, percentile_ms, rounded
from unimodel_cli.connection import Address, Connection, ConnectionBroke, request

if TYPE_CHECKING:
    from unimodel_cli.client import Client

QUESTION = "Explain in plain words what a model server does, and why it computes the requests of many clients together."


class Details(msgspec.Struct):
    """Of the tokens of a prompt."""

    cached_tokens: int = 0


class Usage(msgspec.Struct):
    """What a request cost."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: Details | None = None


class TextDelta(msgspec.Struct):
    """More of an answer."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """Of a chunk: a chat has a `delta`, a completion `text`."""

    delta: TextDelta | None = None
    text: str = ""


class Event(msgspec.Struct):
    """One chunk of a streamed answer."""

    choices: list[Choice] = []
    usage: Usage | None = None


_decode = msgspec.json.Decoder(Event).decode


class Arrivals:
    """Reads one streamed answer, and notes when its text came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        """When each chunk with text came."""
        self.usage: Usage | None = None
        self._rest = b""

    def add(self, piece: bytes) -> None:
        """Takes in a piece of the body, at the time that it is now."""
        now = time.perf_counter()
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                event = _decode(line[6:])
                self.usage = event.usage or self.usage
                if any(_has_text(choice) for choice in event.choices):
                    self.times.append(now)


def _has_text(choice: Choice) -> bool:
    delta = choice.delta
    return bool(choice.text or (delta and (delta.content or delta.reasoning_content)))


@dataclass
class TextLevel(Measured):
    """Of a model that generates text."""

    window: float = 0.0
    """For how long new requests were sent. Only what came in it is throughput, since later fewer were in flight; unless
    it was too short for a single answer, when the whole time counts."""
    first: list[float] = field(default_factory=list)
    """Until the first text of an answer; sorted."""
    between: list[float] = field(default_factory=list)
    """Between pieces of text of an answer; sorted."""
    ended_in_window: int = 0
    output_in_window: float = 0.0
    prompt_in_window: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts, those that were computed before."""

    @property
    def output_rate(self) -> float:
        """Generated tokens a second."""
        return self._rate(self.output_in_window, self.output_tokens)

    @property
    def total_rate(self) -> float:
        """Tokens of prompts and answers a second."""
        return self._rate(self.output_in_window + self.prompt_in_window, self.output_tokens + self.prompt_tokens)

    def _rate(self, in_window: float, all_of_them: int) -> float:
        if self.ended_in_window:
            return in_window / self.window
        return all_of_them / self.seconds if self.seconds else 0.0

    def record(self, sent: float, ended: float, end: float, arrivals: Arrivals) -> None:
        """Takes in one whole answer. `end` is when the window ended."""
        times, usage = arrivals.times, arrivals.usage
        if usage is None or not times:
            self.errors += 1
            return
        self.latencies.append(ended - sent)
        self.first.append(times[0] - sent)
        self.between += [b - a for a, b in itertools.pairwise(times)]
        inside = sum(t <= end for t in times)
        self.ended_in_window += ended <= end
        self.output_in_window += usage.completion_tokens * inside / len(times)
        self.prompt_in_window += usage.prompt_tokens if inside else 0
        self.output_tokens += usage.completion_tokens
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0

    def sort(self) -> None:
        """Sorts the times, for the percentiles."""
        for times in (self.latencies, self.first, self.between):
            times.sort()

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "concurrency": self.concurrency,
            "seconds": round(self.seconds, 3),
            "requests": len(self.latencies),
            "requests_per_second": round(self.throughput, 3),
            "output_tokens_per_second": round(self.output_rate, 2),
            "total_tokens_per_second": round(self.total_rate, 2),
            "first_token_ms": {f"p{p}": rounded(percentile_ms(self.first, p)) for p in (50, 99)},
            "inter_token_ms": {f"p{p}": rounded(percentile_ms(self.between, p)) for p in (50, 99)},
            "latency_ms": {f"p{p}": rounded(percentile_ms(self.latencies, p)) for p in (50, 90, 99, 100)},
            "output_tokens": self.output_tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "refused": self.refused,
            "errors": self.errors,
            "client_cpu": rounded(self.client_cpu),
        }


@dataclass(frozen=True)
class TextTarget:
    """A model, and what it is asked."""

    client: Client
    api_key: str | None
    model: str
    version: int
    chat: bool
    """Whether it takes conversations; else it completes the prompt."""
    prompt: str | None
    """`None` asks something else each time, so that no prompt has been computed before."""
    max_tokens: int

    @property
    def path(self) -> str:
        """Of the route."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def bodies(self) -> Iterator[bytes]:
        """Requests without end."""
        salt = os.urandom(4).hex()
        for i in itertools.count():
            yield self.body(self.prompt if self.prompt is not None else f"Question {salt}-{i}. {QUESTION}")

    def body(self, prompt: str) -> bytes:
        """One request. The answer does not end before it is as long as asked, so that all are alike."""
        text: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        options = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        return json.dumps({"model": self.model, **text, "max_tokens": self.max_tokens, **options}).encode()


def measure(target: TextTarget, concurrency: int, duration: float) -> TextLevel:
    """Loads `target` with `concurrency` requests in flight for `duration` seconds, after a warm-up."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(target, concurrency, duration))


async def _measure(target: TextTarget, concurrency: int, duration: float) -> TextLevel:
    address = Address.of(target.client.url, target.api_key)
    head = address.head(target.path, {"content-type": "application/json"})
    data = (request(head, body) for body in target.bodies())
    connections = [Connection(address) for _ in range(concurrency)]
    try:
        await _drive(connections, data, min(WARM_UP_SECONDS, duration * WARM_UP_SHARE), TextLevel(concurrency))
        level = TextLevel(concurrency, window=duration)
        cpu, begun = time.process_time(), time.perf_counter()
        await _drive(connections, data, duration, level)
        level.seconds = time.perf_counter() - begun
        level.client_cpu = (time.process_time() - cpu) / level.seconds
    finally:
        for connection in connections:
            connection.close()
    level.sort()
    return level


async def _drive(connections: list[Connection], data: Iterator[bytes], seconds: float, level: TextLevel) -> None:
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_one(c, data, end, level) for c in connections))


async def _one(connection: Connection, data: Iterator[bytes], end: float, level: TextLevel) -> None:
    clock = time.perf_counter
    while (sent := clock()) < end:
        arrivals = Arrivals()
        try:
            response = await connection.send(next(data), arrivals.add)
        except ConnectionBroke:
            level.errors += 1
            await asyncio.sleep(REFUSED_PAUSE)
            continue
        if response.status == 200:
            level.record(sent, clock(), end, arrivals)
            continue
        if response.status == 429:
            level.refused += 1
        else:
            level.errors += 1
        await asyncio.sleep(REFUSED_PAUSE)


def plot(levels: list[TextLevel], title: str, path: str) -> None:
    """Draws throughput and the times of tokens over concurrency into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from unimodel_cli.bench import finish_plot

    shown = [level for level in levels if level.latencies]
    x = [level.concurrency for level in shown]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(x, [level.output_rate for level in shown], marker="o", label="generated")
    left.plot(x, [level.total_rate for level in shown], marker="o", label="with prompts")
    left.set(title="Throughput", xlabel="requests in flight", ylabel="tokens a second", ylim=(0, None))
    for percent, style in ((50, "-"), (99, "--")):
        right.plot(
            x, [percentile_ms(v.first, percent) for v in shown], style, marker="o", label=f"first token, p{percent}"
        )
        right.plot(
            x,
            [percentile_ms(v.between, percent) for v in shown],
            style,
            marker="s",
            label=f"between tokens, p{percent}",
        )
    right.set(title="Latency", xlabel="requests in flight", ylabel="milliseconds", yscale="log")
    left.legend()
    right.legend()
    finish_plot(figure, (left, right), x, title, path)
