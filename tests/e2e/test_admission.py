"""Deadlines, priorities, cancellation and full queues: who is computed, and who is told to come back."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from serving import Blocked, Server, checked, doubler, plugin


@pytest.fixture(scope="module")
def slow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    server.register("slow", plugin(tmp_path_factory.mktemp("plugin")), trust=True)
    return server


def ask_aside(server: Server, body: object, name: str = "slow", **headers: str) -> threading.Thread:
    """Sends a request whose answer does not matter."""
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    url = f"{server.url}/v1/models/{name}:predict"
    thread = threading.Thread(target=lambda: httpx.post(url, json=body, headers=names, timeout=60))
    thread.start()
    return thread


def test_a_request_past_its_deadline_is_never_computed(slow: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Blocked(slow, "slow") as blocked:
        follower = ask_aside(slow, {"input": {}})  # it has the place behind the one that computes
        blocked.wait_for(2)
        error = slow.predict("slow", {"input": {"log": str(log)}}, 504, x_request_timeout_ms="100")["error"]
        assert error["code"] == "deadline_exceeded"
    follower.join()
    slow.predict("slow", {"input": {}})
    assert not log.exists()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_leaves_is_not_computed(slow: Server, tmp_path: Path, framing: str) -> None:
    """On the short way and on uvicorn's; the latter guards the probe in engine/api, since uvicorn promises none."""
    log = tmp_path / "log"
    body = b'{"input": {"log": "%s"}}' % str(log).encode()
    head = b"POST /v1/models/slow:predict HTTP/1.1\r\nhost: x\r\n"
    if framing == "length":
        request = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    else:
        request = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with Blocked(slow, "slow") as blocked:
        follower = ask_aside(slow, {"input": {}})
        blocked.wait_for(2)
        with slow.connect() as connection:
            connection.sendall(request)
            blocked.wait_for(3)
        slow.get("/healthz")  # by now the server has seen it leave
    follower.join()
    slow.predict("slow", {"input": {}})
    assert not log.exists()


def test_priorities(slow: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Blocked(slow, "slow") as blocked:
        threads = []
        for number, priority in enumerate((0, 0, -5, 7)):
            body = {"input": {"log": str(log), "id": number}}
            threads.append(ask_aside(slow, body, x_request_priority=str(priority)))
            blocked.wait_for(number + 2)
    for thread in threads:
        thread.join()
    order = [int(line) for line in log.read_text().split()]
    assert order.index(3) < order.index(1) < order.index(2)
    error = slow.predict("slow", {"input": 1}, 400, x_request_priority="high")["error"]
    assert error["param"] == "x-request-priority"


@pytest.mark.parametrize(
    ("limits", "headers", "reason"),
    [
        ({"max_requests": 1}, {}, "1 requests wait already"),
        ({"max_mb": 1}, {}, "of inputs wait already"),
        ({"max_wait_ms": 100}, {}, "the predicted wait is"),
        ({}, {"x-request-timeout-ms": "200"}, "the predicted wait is"),
    ],
    ids=["requests", "bytes", "wait", "deadline"],
)
def test_a_full_queue_says_when_to_come_back(
    server: Server, tmp_path: Path, limits: dict[str, int], headers: dict[str, str], reason: str
) -> None:
    server.register("bounded", plugin(tmp_path), trust=True, config={"queue": limits})
    server.predict("bounded", {"input": {"sleep": 0.4}})  # so that its speed is known
    large = {"input": {"filler": "x" * 700_000}}
    with Blocked(server, "bounded") as blocked:
        threads = []
        for i in range(2):  # one behind the one that computes, one in the queue
            threads.append(ask_aside(server, large, "bounded"))
            blocked.wait_for(i + 2)
        answer = server.http.post("/v1/models/bounded:predict", json=large, headers=headers)
        assert reason in checked(answer, 429)["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
    for thread in threads:
        thread.join()


def test_a_model_may_have_a_deadline_of_its_own(server: Server, tmp_path: Path) -> None:
    server.register("hasty", plugin(tmp_path), trust=True, config={"deadline_ms": 200})
    assert server.predict("hasty", {"input": {"sleep": 1}}, 504)["error"]["code"] == "deadline_exceeded"
    assert server.predict("hasty", {"input": {"sleep": 0.5}}, x_request_timeout_ms="30000")["output"]


@pytest.mark.parametrize(("connections", "each"), [(10_000, 1), (200, 50)], ids=["connections", "pipelined"])
def test_ten_thousand_requests_at_once(
    start: Callable[..., Server], tmp_path: Path, connections: int, each: int
) -> None:
    """Each gets its own result, or is told to come back; none is lost."""
    server = start("--max-queue-requests", "2000")
    server.register("double", doubler(tmp_path / "double.onnx"))
    host, port = server.url.removeprefix("http://").split(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = min(connections, hard - 500)  # as many as the machine lets one process have

    def request(number: int) -> bytes:
        body = b'{"input": [%d, 2, 3, 4]}' % number
        return b"POST /v1/models/double:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (
            len(body),
            body,
        )

    everyone_is_here = asyncio.Event()
    here = 0

    async def client(number: int) -> list[int]:
        nonlocal here
        reader, writer = await asyncio.open_connection(host, int(port))
        here += 1
        if here == connections:
            everyone_is_here.set()
        await everyone_is_here.wait()
        statuses = []
        numbers = range(number * each, (number + 1) * each)
        writer.write(b"".join(map(request, numbers)))
        for n in numbers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.startswith(b"content-length"))
            answer = json.loads(await reader.readexactly(length))
            statuses.append(int(head.split()[1]))
            if statuses[-1] == 200:
                assert answer["output"] == [2 * n, 4, 6, 8]
        writer.close()
        return statuses

    async def everyone() -> list[int]:
        return [s for statuses in await asyncio.gather(*map(client, range(connections))) for s in statuses]

    try:
        statuses = asyncio.run(asyncio.wait_for(everyone(), 120))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(statuses) == connections * each
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
    assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]


def test_bodies_that_are_too_large(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-body-mb", "1")
    server.register("double", doubler(tmp_path / "double.onnx"))
    error = checked(server.http.post("/v1/models/double:predict", content=b"x" * (2 << 20)), 413)["error"]
    assert error["code"] == "body_too_large"
    with server.connect() as connection:
        connection.sendall(b"POST /v1/models/double:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413"), "refused before any of it came"

    def chunks() -> object:
        for _ in range(40):
            yield b"x" * 65536

    response = server.http.post("/v1/models/double:predict", content=chunks())  # type: ignore[arg-type]
    assert response.status_code == 413
    assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
