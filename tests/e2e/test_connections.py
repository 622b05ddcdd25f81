"""What goes over the wire: every legal way to say it, what is no HTTP, and clients that stall, leave or overdo it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from onnx import TensorProto, helper
from serving import FLOAT, Server, checked, doubler, onnx_model, plugin, wait_until

URL = "/v1/models/double:predict"
LINE = b"POST /v1/models/double:predict HTTP/1.1\r\nhost: x\r\n"
BODY = b'{"input": [1, 2, 3, 4]}'
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
CLOSE = b"connection: close\r\n"


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    server.register("double", doubler(tmp_path_factory.mktemp("models") / "double.onnx"))
    return server


def exchange(server: Server, data: bytes) -> bytes:
    """What the server sends before it closes the connection."""
    with server.connect() as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    for i in range(0, len(body), size):
        yield body[i : i + size]


@pytest.mark.parametrize(
    ("request_bytes", "answers"),
    [
        (LINE + CLOSE + LENGTH + BODY, 1),
        (LINE.replace(b"1.1", b"1.0") + LENGTH + BODY, 1),
        (LINE.replace(b"double", b"d%6fuble") + CLOSE + LENGTH + BODY, 1),
        (LINE.replace(b":predict", b":predict?debug=1") + CLOSE + LENGTH + BODY, 1),
        (LINE + b"expect: 100-continue\r\n" + CLOSE + LENGTH + BODY, 1),
        (
            LINE
            + CLOSE
            + b"transfer-encoding: chunked\r\n\r\n9\r\n"
            + BODY[:9]
            + b"\r\ne\r\n"
            + BODY[9:]
            + b"\r\n0\r\n\r\n",
            1,
        ),
        ((LINE + LENGTH + BODY) * 4 + LINE + CLOSE + LENGTH + BODY, 5),
        (LINE.replace(b":predict", b"/versions/1:predict") + CLOSE + LENGTH + BODY, 1),
    ],
    ids=["plain", "http-1.0", "percent", "query", "expect", "chunked", "pipelined", "version"],
)
def test_every_legal_way_to_ask(served: Server, request_bytes: bytes, answers: int) -> None:
    received = exchange(served, request_bytes)
    assert received.count(b"HTTP/1.1 200 OK") == answers
    assert received.count(b'"output":[2.0,4.0,6.0,8.0]') == answers


def test_a_wish_for_another_protocol_is_declined_and_the_request_served(served: Server) -> None:
    """Java's client asks for HTTP/2 like this in its first request; the parser stops at its body."""
    wish = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAA\r\n"
    received = exchange(served, LINE + wish + LENGTH + BODY + LINE + CLOSE + LENGTH + BODY)
    assert received.count(b'"output":[2.0,4.0,6.0,8.0]') == 2
    with served.connect() as connection:  # its body in a packet of its own
        connection.sendall(LINE + wish + LENGTH)
        connection.sendall(BODY)
        assert b"HTTP/1.1 200" in connection.recv(4096)
    assert b"HTTP/1.1 400" in exchange(served, b"CONNECT other:443 HTTP/1.1\r\nhost: x\r\nupgrade: x\r\n\r\n")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting\r\n\r\n",
        LINE + b"content-length: -5\r\n\r\n" + BODY,
        LINE + b"content-length: 5\r\ncontent-length: 23\r\n\r\n" + BODY,
        LINE + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
        LINE.replace(b"double", "dö".encode()) + LENGTH + BODY,
    ],
    ids=["tls", "negative", "two-lengths", "length-and-chunked", "not-ascii"],
)
def test_what_is_no_http_gets_an_error_body(served: Server, request_bytes: bytes) -> None:
    head, _, body = exchange(served, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_request"
    assert b"x-request-id: " + error["request_id"].encode() in head


def test_a_head_has_an_end(served: Server) -> None:
    with served.connect() as connection:
        connection.sendall(LINE + b"x: ")
        with pytest.raises(OSError):  # a reset or a broken pipe, whatever the kernel finds first
            for _ in range(1000):
                connection.sendall(b"x" * 16384)
    assert served.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]


def test_heads_of_get_and_head_agree(served: Server) -> None:
    got, head = served.http.get("/v1/models"), served.http.head("/v1/models")
    assert (head.status_code, head.headers["content-length"], head.content) == (
        200,
        got.headers["content-length"],
        b"",
    )


def test_a_large_body_to_a_cold_model(served: Server) -> None:
    body = b'{"input": [[1, 2, 3, 4]]' + b" " * 3_000_000 + b"}"
    checked(served.http.post("/v1/models/double:unload"), 200)
    assert checked(served.http.post(URL, content=body), 200)["output"] == [[2, 4, 6, 8]]
    received = exchange(served, LINE + b"content-length: %d\r\n\r\n" % len(body) + body + LINE + CLOSE + LENGTH + BODY)
    assert received.count(b"HTTP/1.1 200") == 2, "what follows a body that bypassed the parser is read as ever"


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that holds at most 1 MiB of large bodies."""
    folder = tmp_path_factory.mktemp("tight")
    with Server(folder / "home", "--max-buffered-mb", "1", "--max-body-mb", "2") as server:
        server.register("double", doubler(folder / "double.onnx"))
        server.register("obedient", plugin(folder), trust=True)
        yield server


def begun(server: Server) -> socket.socket:
    """A connection with a part of a large body."""
    connection = server.connect()
    connection.sendall(LINE + b"content-length: 900000\r\n\r\n" + b" " * 70_000)
    assert exchange(server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"\r\n")  # by now it has been read
    return connection


def test_a_client_that_leaves_gives_its_memory_back(tight: Server) -> None:
    full = BODY + b" " * 500_000
    for _ in range(4):
        with begun(tight):
            for again in (full, chunks(full, 65536)):  # the same when its length is not announced
                answer = tight.http.post(URL, content=again)
                assert checked(answer, 429)["error"]["param"] == "body"
                assert int(answer.headers["retry-after"]) >= 1
        wait_until(lambda: tight.http.post(URL, content=full).status_code == 200)
        assert tight.http.post(URL, content=chunks(full, 65536)).status_code == 200


def test_small_bodies_need_none_even_when_they_are_chunked(tight: Server) -> None:
    with begun(tight), ThreadPoolExecutor(8) as pool:
        url, body = f"{tight.url}/v1/models/obedient:predict", b'{"input": {"sleep": 0.05}}'
        asked = [pool.submit(httpx.post, url, content=chunks(body, 10), timeout=30) for _ in range(8)]
        assert {f.result().status_code for f in asked} == {200}


def test_answers_that_nobody_reads_are_not_computed(server: Server, tmp_path: Path) -> None:
    """Otherwise the server would hold them all."""
    copies, number = 2_000_000, 40
    repeats = helper.make_tensor("repeats", TensorProto.INT64, [2], [1, copies])
    path = onnx_model(
        tmp_path / "tile.onnx",
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        {"x": (FLOAT, ["batch", 1])},
        {"y": (FLOAT, ["batch", copies])},
        (repeats,),
    )
    server.register("tile", path)
    memory = psutil.Process(server.pid).memory_info
    before = memory().rss
    line = LINE.replace(b"double", b"tile") + b"accept: application/octet-stream\r\n"
    request = line + b'content-length: 16\r\n\r\n{"input": [[1]]}'
    with server.connect() as connection:
        for i in range(number):
            connection.sendall(request)
            wait_until(lambda i=i: server.status("tile")["requests"] >= min(i + 1, 2))
        assert server.status("tile")["requests"] < 5
        assert memory().rss - before < 100e6, f"{number} answers would be {number * copies * 4 / 1e6} MB"
        received = 0
        while received < number * copies * 4:
            received += len(connection.recv(1 << 20))
    wait_until(lambda: server.status("tile")["requests"] == number)


def test_a_connection_too_many(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-connections", "3")
    server.register("double", doubler(tmp_path / "double.onnx"))
    idle = [server.connect() for _ in range(2)]
    assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
    for line in (LINE, b"GET /healthz HTTP/1.1\r\nhost: x\r\n"):
        head, _, body = exchange(server, line + LENGTH + BODY).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in head
        assert json.loads(body)["error"]["code"] == "unavailable"
    for connection in idle:
        connection.close()
    wait_until(lambda: exchange(server, LINE + CLOSE + LENGTH + BODY).startswith(b"HTTP/1.1 200"))
