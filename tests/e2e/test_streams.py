"""Streams of server-sent events: whole ones, broken ones, and readers that are slow or gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Server, checked, doubler, plugin, wait_until

URL = "/v1/models/obedient:predict"


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    server.register("obedient", plugin(folder), trust=True)
    server.register("double", doubler(folder / "double.onnx"))
    return server


def events(server: Server, body: dict[str, Any], **headers: str) -> list[Any]:
    """The events of a stream, decoded; the end mark as it is, an error as its code."""
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    with httpx.Client(base_url=server.url, timeout=30) as http:
        answer = http.post(URL, json={"stream": True, **body}, headers=names)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-request-id"]
    return [decoded(event) for event in answer.text.split("\n\n") if event]


def decoded(event: str) -> Any:
    kind, _, data = event.rpartition("data: ")
    if data == "[DONE]":
        return data
    value = json.loads(data)
    return value["error"]["code"] if kind == "event: error\n" else value["number"]


def test_a_stream_is_whole(served: Server) -> None:
    assert events(served, {"count": 3}) == [0, 1, 2, "[DONE]"]
    assert events(served, {"count": 0}) == ["[DONE]"]


def test_streams_share_the_model(served: Server) -> None:
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(events, served, {"count": n}) for n in range(40)]
        assert [f.result() for f in asked] == [[*range(n), "[DONE]"] for n in range(40)]


def test_an_error_in_the_middle_is_the_last_event(served: Server) -> None:
    assert events(served, {"count": 9, "fail_at": 2}) == [0, 1, "model_error"]


def test_an_error_before_the_first_chunk_has_its_own_status(served: Server) -> None:
    error = served.predict("obedient", {"stream": True, "fail_at": 0}, 500)["error"]
    assert error["code"] == "model_error"
    assert "in the middle" in error["message"]
    error = served.predict("double", {"input": [1, 2, 3, 4], "stream": True}, 400)["error"]
    assert error["param"] == "stream"


def test_a_deadline_ends_a_stream(served: Server) -> None:
    got = events(served, {"count": 1000, "pause": 0.02}, x_request_timeout_ms="300")
    assert got[-1] == "deadline_exceeded"
    assert got[:-1] == [*range(len(got) - 1)]


def test_the_generator_is_closed_when_its_reader_leaves(served: Server, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    body = {"stream": True, "count": 10_000, "pause": 0.01, "closed": str(closed)}
    with served.http.stream("POST", URL, json=body) as response:
        next(response.iter_lines())
    wait_until(closed.exists)
    wait_until(lambda: served.status("obedient")["in_flight"] == 0)


def test_a_reader_that_does_not_read_is_cut_off(served: Server, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    body = {"stream": True, "count": 10_000, "bytes": 100_000, "closed": str(closed)}
    with served.http.stream("POST", URL, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        wait_until(closed.exists, 30)  # long before its end, which would be a gigabyte away
        rest = list(lines)
    assert "event: error" in rest
    assert "too slowly" in rest[rest.index("event: error") + 1]


def test_a_worker_that_dies_ends_the_streams_that_have_begun(served: Server) -> None:
    with served.http.stream("POST", URL, json={"stream": True, "count": 1000, "pause": 0.01}) as response:
        lines = response.iter_lines()
        next(lines)
        served.kill_workers()
        rest = list(lines)
    assert "event: error" in rest
    error = json.loads(rest[rest.index("event: error") + 1].removeprefix("data: "))["error"]
    assert error["code"] == "worker_died"
    assert "died while it streamed this answer; send the request again" in error["message"]


def test_a_stream_that_has_not_begun_is_tried_again(served: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(events, served, {"count": 2, "pause": 0.3, "log": str(log)})
        wait_until(log.exists)
        served.kill_workers()
        assert asked.result() == [0, 1, "[DONE]"]
    assert log.read_text() == "begun\nbegun\n"


def test_unloads_and_new_versions_lose_no_stream(served: Server, tmp_path: Path) -> None:
    target = plugin(tmp_path)
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            assert events(served, {"count": 3}) == [0, 1, 2, "[DONE]"]
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(6)]
        for _ in range(4):
            served.register("obedient", target, trust=True)
            checked(served.http.post("/v1/models/obedient:unload"), 200)
        stop.set()
        assert all(reader.result() > 0 for reader in readers)


def test_too_many_streams_are_refused(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.register("obedient", plugin(tmp_path), trust=True, config={"queue": {"max_requests": 2}})
    endless = {"stream": True, "count": 10_000, "pause": 0.01}
    with server.http.stream("POST", URL, json=endless) as one, server.http.stream("POST", URL, json=endless) as two:
        readers = [one.iter_lines(), two.iter_lines()]
        assert all(next(reader) for reader in readers)
        answer = server.http.post(URL, json=endless)
        assert checked(answer, 429)["error"]["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: server.http.post(URL, json={"stream": True}).status_code == 200)
