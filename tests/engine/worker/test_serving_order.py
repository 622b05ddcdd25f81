"""In which order a model's thread takes messages and computes steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.transport.messages import StartStream, encode
from engine.worker import main


class Flood:
    """A queue in which the next message always waits already, up to a number of them; and the streams that they begin.

    Each message takes a hundredth of a second.
    """

    busy = False

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0
        self.steps: list[int] = []
        """How many messages had come by each step."""

    def receive(self, *, block: bool) -> bytes:
        assert block != self.busy
        self.taken += 1
        return encode(StartStream(self.taken, "id", b"{}")) if self.taken <= self.count else b""

    def start(self, message: StartStream) -> None:
        self.busy = True

    def step(self) -> None:
        self.steps.append(self.taken)

    def monotonic(self) -> float:
        return self.taken / 100


def test_steps_go_on_while_messages_come_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    flood: Any = Flood(100)
    monkeypatch.setattr(main, "time", flood)
    main._serve_queue(flood, SimpleNamespace(streams=lambda queue: queue, runner=None))  # type: ignore[arg-type]
    assert 10 < len(flood.steps) < 50
    assert flood.steps[0] > 1, "those that come together begin together"
