"""What the load generators send and read, against real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks import dialects, models
from benchmarks.dialects import Call, Served
from benchmarks.load import Connection, WrongAnswer, check, encode, parse_head, parse_wrk

LINE = 'RESULT {"requests": 500, "us": 2000000, "p50": 1500.0, "p99": 3000.0, "status": %d, "broken": %d}'


def test_wrk_result() -> None:
    load = parse_wrk("Running 2s test\n" + LINE % (0, 0) + "\n")
    assert (load.throughput, load.p50_ms, load.p99_ms, load.requests) == (250, 1.5, 3.0, 500)


@pytest.mark.parametrize("failures", [(1, 0), (0, 2)])
def test_wrk_with_failed_requests_is_void(failures: tuple[int, int]) -> None:
    with pytest.raises(WrongAnswer, match="500 requests"):
        parse_wrk(LINE % failures)


def test_wrk_without_a_result_says_what_it_said() -> None:
    with pytest.raises(WrongAnswer, match="unable to connect"):
        parse_wrk("", "unable to connect to 127.0.0.1:1")


def test_head() -> None:
    status, headers = parse_head(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nX-Y:z")
    assert status == 404
    assert headers == {"content-length": "3", "x-y": "z"}


@contextmanager
def answering(*pieces: bytes) -> Iterator[int]:
    """A server that reads one request and answers it in `pieces`; yields its port."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(1 << 16)
            for piece in pieces:
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


@contextmanager
def connected(port: int) -> Iterator[Connection]:
    connection = Connection(port)
    try:
        yield connection
    finally:
        connection.close()


def test_a_body_larger_than_the_buffer_arrives_whole() -> None:
    body = bytes(range(256)) * 4096
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    with answering(head[:10], head[10:] + body[:7], body[7:]) as port, connected(port) as connection:
        status, _, answer = connection.exchange(b"POST / HTTP/1.1\r\n\r\n")
        assert status == 200
        assert bytes(answer) == body


def test_a_chunked_body_arrives_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    with answering(head + b"3\r\nab", b"c\r\n2;x=y\r\nde\r\n0\r\n\r\n") as port, connected(port) as connection:
        _, _, answer = connection.exchange(b"POST / HTTP/1.1\r\n\r\n")
        assert bytes(answer) == b"abcde"


def test_an_answer_cut_short_is_an_error() -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"
    with answering(cut) as port, connected(port) as connection, pytest.raises(WrongAnswer, match="in the middle"):
        connection.exchange(b"POST / HTTP/1.1\r\n\r\n")


CALL = Call("/", {}, b"{}", lambda body, _: np.asarray(json.loads(body), np.float32))
EXPECTED = np.array([1, 2], np.float32)


def test_check_takes_the_right_numbers() -> None:
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[1,2]") as port:
        check(port, CALL, EXPECTED)


def test_check_refuses_other_numbers() -> None:
    wrong = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[1,3]"
    with answering(wrong) as port, pytest.raises(WrongAnswer, match="but the model gives"):
        check(port, CALL, EXPECTED)


def test_check_refuses_other_statuses() -> None:
    failed = b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}"
    with answering(failed) as port, pytest.raises(WrongAnswer, match="answered with 500"):
        check(port, CALL, EXPECTED)


@pytest.fixture
def iris() -> Served:
    return Served(models.iris_onnx(), "json")


def test_every_dialect_sends_the_same_numbers(iris: Served) -> None:
    row = [5.1, 3.5, 1.4, 0.2]
    assert json.loads(dialects.unimodel(iris).body) == {"input": [row]}
    assert json.loads(dialects.plain(iris).body) == {"input": [row]}
    for dialect in (dialects.triton, dialects.mlserver):
        (tensor,) = json.loads(dialect(iris).body)["inputs"]
        assert (tensor["shape"], tensor["data"]) == ([1, 4], row)


def test_binary_rows_are_the_same_bytes(iris: Served) -> None:
    binary = Served(iris.model, "binary")
    raw = iris.model.row().tobytes()
    assert dialects.unimodel(binary).body == dialects.plain(binary).body == dialects.floor(binary).body == raw
    call = dialects.triton(binary)
    head = int(call.headers["inference-header-content-length"])
    assert call.body[head:] == raw
    assert json.loads(call.body[:head])["inputs"][0]["parameters"] == {"binary_data_size": len(raw)}


def test_answers_are_read_alike(iris: Served) -> None:
    answer = [0.5, 0.25, 0.25]
    raw = np.asarray(answer, np.float32).tobytes()
    v2 = json.dumps({"outputs": [{"data": answer}]}).encode()
    tabular = json.dumps({"output": [{"label": 0, "probabilities": dict(zip("abc", answer, strict=True))}]}).encode()
    plain = json.dumps({"output": [answer]}).encode()
    binary = Served(iris.model, "binary")
    read = [
        dialects.unimodel(iris).read(plain, {}),
        dialects.unimodel(iris).read(tabular, {}),
        dialects.plain(iris).read(plain, {}),
        dialects.triton(iris).read(v2, {}),
        dialects.unimodel(binary).read(raw, {}),
        dialects.triton(binary).read(b"{}" + raw, {"inference-header-content-length": "2"}),
    ]
    for each in read:
        assert each.tolist() == answer


def test_a_request_is_one_whole_http_message() -> None:
    request = encode(Call("/x", {"content-type": "a/b"}, b"body", lambda *_: np.zeros(1)))
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /x HTTP/1.1"
    assert b"content-length: 4" in head
    assert body == b"body"
