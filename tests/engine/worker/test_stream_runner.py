"""Streams of one model, step by step, over a real channel."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from backends.base import InvalidInput
from engine.transport.channel import Channel, pair
from engine.transport.messages import BatchUp, CancelStream, Chunk, ErrorResult, StartStream, StreamEnd, decode_batch_up
from engine.worker.stream_runner import StreamRunner
from tests.engine.worker.backends_for_tests import Numeric, Values


class Counter(Values):
    """Counts to ``n``; knows what became of its streams."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[int] = []

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if body.get("n") is None:
            raise InvalidInput("n is missing", field="n")
        return self._count(body)

    def _count(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            for i in range(body["n"]):
                if i == body.get("fail_at"):
                    raise RuntimeError("as it was told")
                yield {"i": i if i != body.get("odd_at") else object()}
        finally:
            self.closed.append(body["n"])
            if body.get("fail_at_close"):
                raise RuntimeError("cannot even close")


class Bench:
    """A runner and the server's end of its channel."""

    def __init__(self, backend: Any) -> None:
        ours, theirs = pair()
        self.server = Channel(ours)
        self.runner = StreamRunner(backend, Channel(theirs))

    def start(self, stream_id: int, **body: Any) -> None:
        self.runner.start(StartStream(stream_id, f"r{stream_id}", json.dumps(body).encode()))

    def sent(self) -> list[BatchUp]:
        """What reached the server since the last look."""
        messages = []
        while data := self.server.receive(block=False):
            messages.append(decode_batch_up(data))
        return messages

    def close(self) -> None:
        self.server.close()
        self.runner._channel.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(Counter())
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, "unimodel.worker"):
        yield


def chunk(stream_id: int, i: int) -> Chunk:
    return Chunk(stream_id, json.dumps({"i": i}, separators=(",", ":")).encode())


def test_a_stream_goes_chunk_by_chunk_to_its_end(bench: Bench) -> None:
    assert not bench.runner.busy
    bench.start(1, n=2)
    assert bench.sent() == []
    assert bench.runner.busy
    seen = []
    while bench.runner.busy:
        bench.runner.step()
        seen.append(bench.sent())
    assert seen == [[chunk(1, 0)], [chunk(1, 1)], [StreamEnd(1)]]


def test_open_streams_take_turns(bench: Bench) -> None:
    bench.start(1, n=2)
    bench.runner.step()
    bench.start(2, n=1)
    bench.runner.step()
    bench.runner.step()
    assert bench.sent() == [chunk(1, 0), chunk(1, 1), chunk(2, 0), StreamEnd(1), StreamEnd(2)]


@pytest.mark.parametrize(
    ("body", "begun", "error"),
    [
        ({}, 0, ErrorResult("invalid_input", "n is missing", "n")),
        ({"n": 3, "fail_at": 0}, 0, ErrorResult("model_error", "The model raised RuntimeError: as it was told")),
        ({"n": 3, "fail_at": 2}, 2, ErrorResult("model_error", "The model raised RuntimeError: as it was told")),
    ],
)
def test_a_stream_that_fails_says_why(bench: Bench, body: dict[str, Any], begun: int, error: ErrorResult) -> None:
    bench.start(1, n=5)
    bench.start(2, **body)
    for _ in range(4):
        bench.runner.step()
    mine = [m for m in bench.sent() if m.id == 2]
    assert mine == [*(chunk(2, i) for i in range(begun)), StreamEnd(2, error)]
    assert bench.runner.busy, "the other stream goes on"


def test_a_chunk_that_is_no_json_ends_its_stream_and_closes_it(bench: Bench) -> None:
    bench.start(1, n=3, odd_at=1)
    for _ in range(3):
        bench.runner.step()
    first, end = bench.sent()
    assert first == chunk(1, 0)
    assert isinstance(end, StreamEnd)
    assert end.error is not None
    assert end.error.code == "model_error"
    assert bench.runner._backend.closed == [3]  # type: ignore[union-attr]


def test_a_stream_of_a_model_that_has_none_ends_at_once() -> None:
    bench = Bench(Numeric())
    bench.start(1, n=1)
    assert bench.sent() == [StreamEnd(1, ErrorResult("invalid_input", "this model does not stream", "stream"))]
    assert not bench.runner.busy
    bench.close()


def test_a_body_that_is_no_json_ends_its_stream(bench: Bench) -> None:
    bench.runner.start(StartStream(1, "r1", b"{"))
    bench.runner.start(StartStream(2, "r2", b"[" * 100_000))
    ends = bench.sent()
    assert [type(e) for e in ends] == [StreamEnd, StreamEnd]
    assert not bench.runner.busy


def test_a_cancelled_stream_is_closed_and_ends_once(bench: Bench) -> None:
    bench.start(1, n=5)
    bench.start(2, n=1)
    bench.runner.step()
    bench.sent()
    bench.runner.cancel(CancelStream(1))
    assert bench.runner._backend.closed == [5]  # type: ignore[union-attr]
    bench.runner.cancel(CancelStream(1))
    bench.runner.cancel(CancelStream(99))
    bench.runner.step()
    assert bench.sent() == [StreamEnd(1), StreamEnd(2)]


def test_a_stream_that_fails_while_it_is_cancelled_harms_nobody(bench: Bench) -> None:
    bench.start(1, n=5, fail_at_close=True)
    bench.start(2, n=1)
    bench.runner.step()
    bench.runner.cancel(CancelStream(1))
    bench.runner.step()
    assert [m.id for m in bench.sent()] == [1, 2, 1, 2]


def test_a_server_that_went_away_is_noticed() -> None:
    ours, theirs = pair()
    runner = StreamRunner(Counter(), Channel(theirs))
    runner.start(StartStream(1, "r1", b'{"n":3}'))
    ours.close()
    with pytest.raises(BrokenPipeError):
        runner.step()
    theirs.close()
