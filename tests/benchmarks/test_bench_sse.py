"""Streams of generated text: a client that reads what real servers send, however it is cut."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import h11
import pytest

from benchmarks import sse
from benchmarks.load import WrongAnswer


def event(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
EVENTS = [event(), event("Hé"), event("llo"), event(finish="length")]


def response(events: list[dict[str, Any]], status: str = "200 OK", newline: str = "\n") -> bytes:
    """As a server sends it, a chunk an event."""
    lines = [f"data: {json.dumps(e, ensure_ascii=False)}{newline}{newline}".encode() for e in events]
    chunks = [*lines, f"data: [DONE]{newline}{newline}".encode(), b""]
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def exchange(data: bytes, step: int) -> sse.Exchange:
    """What came, `step` bytes a second from second 1 on, after a request at second 0."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("connection", "close")]))
    http.send(h11.EndOfMessage())
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    return sse.Exchange(http, 128, 0.0, [(float(second), piece) for second, piece in enumerate(pieces, 1)])


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_stream_is_read_however_it_is_cut(step: int, newline: str) -> None:
    data = response([*EVENTS, USAGE], newline=newline)
    answer = sse.read(exchange(data, step))
    assert (answer.text, answer.tokens, answer.prompt_tokens) == ("Héllo", 5, 7)

    def arrival(text: str) -> int:
        """When the line with it was whole."""
        return data.index(b"\n", data.index(text.encode())) // step + 1

    assert (answer.first, answer.last) == (arrival("Hé"), arrival("llo"))
    assert answer.first_ms == answer.first * 1000
    assert answer.token_ms == (answer.last - answer.first) * 1000 / 4


def test_who_does_not_count_has_made_what_was_asked_for() -> None:
    assert sse.read(exchange(response(EVENTS), 64)).tokens == 128
    assert sse.read(exchange(response([event("a"), event("b"), event(finish="stop")]), 64)).tokens == 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (response([{"error": "full"}], "503 Busy"), "answered with 503"),
        (response([{"error": {"message": "gone"}}]), "a stream brought"),
        (response(EVENTS)[:-60], "broke off"),
        (response([event(finish="stop")]), "without an answer"),
        (response([event("a")]), "without an answer"),
        (b"", "broke off|nothing"),
    ],
)
def test_what_is_no_answer_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(WrongAnswer, match=why):
        sse.read(exchange(data, 64))


def test_throughput_is_of_all_answers_together() -> None:
    both = (sse.Answer("a", 30, 1, 0.0, 1.0, 4.0), sse.Answer("b", 30, 1, 1.0, 4.0, 6.0))
    answers = sse.Answers(both)
    assert answers.throughput == 10
    assert answers.first_ms == 2000
    assert answers.token_ms == pytest.approx((3000 / 29 + 2000 / 29) / 2)


class Together(BaseHTTPRequestHandler):
    """Answers in two parts, the second when so many requests have got their first as are to be in flight."""

    protocol_version = "HTTP/1.1"
    barrier = threading.Barrier(1)
    lock = threading.Lock()
    now = most = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.lock:
            type(self).now += 1
            type(self).most = max(self.most, self.now)
        data = response([event(body["text"]), event("!", "stop")])
        self.wfile.write(data[:200])
        self.barrier.wait(60)
        with self.lock:
            type(self).now -= 1
        self.wfile.write(data[200:])
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Together.now = Together.most = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Together) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("connections", [1, 3])
def test_so_many_requests_are_in_flight(port: int, connections: int) -> None:
    Together.barrier = threading.Barrier(connections)
    bodies = [{"text": f"number {n}", "max_tokens": 2} for n in range(6)]
    answers = sse.stream(port, "/", bodies, connections)
    assert {a.text for a in answers.each} == {f"number {n}!" for n in range(6)}
    assert all(a.begin < a.first <= a.last for a in answers.each)
    assert Together.most == connections
