"""A real LLM on a real server through the native API: answers, streams, deadlines, and everything that goes wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from serving import Server, checked, wait_until

from scripts import fetch_models

URL = "/v1/models/chat:predict"
GREEDY = {"temperature": 0, "raw": True}
LONG = {**GREEDY, "input": "1, 2, 3, 4, 5, 6,", "ignore_eos": True, "max_tokens": 490}
"""An answer that takes long enough to be interrupted."""


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    path = fetch_models.fetch("smollm2") / "model.gguf"
    server.register("chat", path, config={"sequences": 4, "max_context_length": 512})
    return server


def events(server: Server, body: dict[str, Any], **headers: str) -> list[Any]:
    """The events of a stream, decoded; an error as its code."""
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    with httpx.Client(base_url=server.url, timeout=60) as http:
        answer = http.post(URL, json={**body, "stream": True}, headers=names)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    return [decoded(event) for event in answer.text.split("\n\n") if event]


def decoded(event: str) -> Any:
    kind, _, data = event.rpartition("data: ")
    if data == "[DONE]":
        return data
    value = json.loads(data)
    return value["error"]["code"] if kind == "event: error\n" else value


@contextmanager
def streaming(server: Server, body: dict[str, Any]) -> Iterator[Iterator[str]]:
    """The lines of a stream, after its first event."""
    with (
        httpx.Client(base_url=server.url, timeout=60) as http,
        http.stream("POST", URL, json={**body, "stream": True}) as response,
    ):
        assert response.status_code == 200
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


def in_flight(server: Server) -> int:
    return int(server.status("chat")["in_flight"])


def test_the_models_card(served: Server) -> None:
    card = served.get("/v1/models/chat")
    assert (card["backend"], card["task"], card["streams"]) == ("gguf", "chat", True)
    assert card["generation"]["context_length"] == 512
    assert card["generation"]["sequences"] == 4
    assert card["generation"]["chat_template"] is True
    assert card["generation"]["quantization"] == "Q4_1"
    assert "continuous batching" in card["batching"]["reason"]
    example = served.predict("chat", card["example"])
    assert example["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("The capital of France is", " Paris"),
        ("The capital of Italy is", " Rome"),
        ("1, 2, 3, 4, 5, 6,", " 7, 8, 9"),
    ],
)
def test_known_answers(served: Server, prompt: str, answer: str) -> None:
    got = served.predict("chat", {**GREEDY, "input": prompt, "max_tokens": 8})
    assert got["output"].startswith(answer)
    assert (got["model"], got["version"], got["finish_reason"]) == ("chat", 1, "length")
    assert got["usage"]["completion_tokens"] == 8
    assert got["usage"]["prompt_tokens"] > 4


def test_a_question_is_put_through_the_chat_template(served: Server) -> None:
    question = "What is 2+2? Answer with just the number."
    got = served.predict("chat", {"input": question, "temperature": 0, "max_tokens": 20})
    assert got["output"].startswith("2 + 2 = 4")
    assert got["finish_reason"] == "stop"
    messages = [{"role": "user", "content": question}]
    assert served.predict("chat", {"input": messages, "temperature": 0, "max_tokens": 20})["output"] == got["output"]


def test_a_stream_has_the_same_text_and_then_the_rest(served: Server) -> None:
    body = {**GREEDY, "input": "The capital of France is", "max_tokens": 24}
    whole = served.predict("chat", body)
    *pieces, done = events(served, body)
    assert done == "[DONE]"
    assert len(pieces) > 1
    assert "".join(p["output"] for p in pieces) == whole["output"]
    assert pieces[-1]["finish_reason"] == "length"
    assert pieces[-1]["usage"]["completion_tokens"] == 24
    assert all("usage" not in p for p in pieces[:-1])


def test_answers_do_not_depend_on_what_else_is_generated(served: Server) -> None:
    bodies = [
        {**GREEDY, "input": f"{start}, {start + 1}, {start + 2}, {start + 3},", "max_tokens": 6 + start % 7}
        for start in range(1, 33)
    ]
    alone = [served.predict("chat", body)["output"] for body in bodies]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda body: served.predict("chat", body)["output"], bodies))
    assert together == alone


def test_a_shared_beginning_is_computed_once(served: Server) -> None:
    system = "You answer questions about the history of small towns in one short sentence. " * 8
    asked = [{"input": f"Tell me of town {n}.", "system": system, "temperature": 0, "max_tokens": 2} for n in (1, 2)]
    first, second = (served.predict("chat", body)["usage"] for body in asked)
    assert second["cached_tokens"] > 80
    assert second["cached_tokens"] > first["cached_tokens"]
    metrics = served.http.get("/metrics").text
    (cached,) = [line for line in metrics.splitlines() if line.startswith("unimodel_cached_tokens_total{")]
    assert float(cached.split()[-1]) >= second["cached_tokens"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": "a", "max_tokens": 0}, "max_tokens"),
        ({"input": "a", "max_tokens": "many"}, "max_tokens"),
        ({"input": "a", "temperature": -1}, "temperature"),
        ({"input": "a", "top_p": 2}, "top_p"),
        ({"input": "a", "tempersture": 1}, "tempersture"),
        ({"input": 7}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
        ({"input": "word " * 1000}, None),
        ({"input": "a", "images": ["aGVsbG8="]}, None),
        ({"input": "a", "grammar": "root ::= ("}, "grammar"),
        ({"input": "a", "grammar": 'root ::= "a"{3,1}'}, "grammar"),
        ({"input": "a", "regex": "(?:ab" * 400 + ")*" * 400}, "regex"),
        ({"input": "a", "grammar": 'root ::= "a"', "regex": "a"}, "regex"),
        ({"input": "a", "adapters": {"none": 1.0}}, "adapters"),
        ({"input": "a", "json_schema": {"not": {}}}, "json_schema.not"),
        ({}, None),
    ],
)
def test_bad_requests_name_the_field(served: Server, body: dict[str, Any], field: str | None) -> None:
    for stream in (False, True):
        error = served.predict("chat", {**body, "stream": stream}, 400)["error"]
        assert error["code"] in ("invalid_input", "invalid_request")
        if field is not None:
            assert error["param"] == field


def test_a_prompt_that_is_too_long_gives_both_numbers(served: Server) -> None:
    error = served.predict("chat", {**GREEDY, "input": "word " * 1000}, 400)["error"]
    assert "512" in error["message"]
    assert "100" in error["message"]
    got = served.predict("chat", {**GREEDY, "input": "word " * 1000, "truncate": True, "max_tokens": 2})
    assert got["usage"]["prompt_tokens"] < 512


def test_structured_answers(served: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 9999}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    got = served.predict("chat", {"input": "Tell me of Rome as JSON.", "json_schema": schema, "temperature": 0})
    value = json.loads(got["output"])
    assert set(value) == {"city", "people"}
    got = served.predict("chat", {"input": "Yes or no?", "regex": "(yes|no)!", "temperature": 1.0})
    assert got["output"] in ("yes!", "no!")


def test_a_reader_that_leaves_frees_its_sequence(served: Server) -> None:
    for _ in range(6):  # more than there are sequences
        with streaming(served, LONG):
            pass
    got = served.predict("chat", {**GREEDY, "input": "The capital of France is", "max_tokens": 1})
    assert got["output"] == " Paris"
    wait_until(lambda: in_flight(served) == 0, 5)


def test_a_client_that_leaves_before_its_whole_answer_is_cancelled(served: Server) -> None:
    before = served.status("chat")["requests"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}{URL}", json=LONG, timeout=0.5)
    wait_until(lambda: served.status("chat")["requests"] == before + 1, 10)
    assert 'outcome="cancelled"' in served.http.get("/metrics").text


def test_more_requests_than_sequences_wait(served: Server) -> None:
    with ThreadPoolExecutor(24) as pool:
        body = {**GREEDY, "input": "The capital of Italy is", "max_tokens": 12}
        got = list(pool.map(lambda _: served.predict("chat", body)["output"], range(24)))
    assert len(set(got)) == 1


def test_an_asked_deadline_ends_an_answer(served: Server) -> None:
    got = events(served, LONG, x_request_timeout_ms="700")
    assert got[-1] == "deadline_exceeded"
    assert len(got) > 1
    error = served.predict("chat", LONG, 504, x_request_timeout_ms="300")["error"]
    assert error["code"] == "deadline_exceeded"


def test_the_models_deadline_is_for_the_first_token(start: Callable[..., Server]) -> None:
    server = start()
    path = fetch_models.fetch("smollm2") / "model.gguf"
    server.register("chat", path, config={"sequences": 1, "deadline_ms": 1500, "max_context_length": 512})
    with streaming(server, {**LONG, "max_tokens": 480}):  # takes longer than the deadline
        error = server.predict("chat", {**GREEDY, "input": "a", "max_tokens": 1}, 504)["error"]
        assert error["code"] == "deadline_exceeded"
        assert "first token" in error["message"]
    assert server.predict("chat", {**GREEDY, "input": "a", "max_tokens": 1})["finish_reason"] == "length"


def test_a_worker_that_dies_ends_what_was_seen_and_repeats_what_was_not(start: Callable[..., Server]) -> None:
    server = start()
    server.register("chat", fetch_models.fetch("smollm2") / "model.gguf", config={"max_context_length": 512})
    body = {**GREEDY, "input": "1, 2, 3, 4, 5, 6,", "max_tokens": 200, "ignore_eos": True}
    alone = server.predict("chat", body)["output"]
    results: list[Any] = []
    whole = threading.Thread(target=lambda: results.append(server.predict("chat", body)["output"]))
    with streaming(server, LONG) as lines:
        whole.start()
        wait_until(lambda: in_flight(server) == 2)
        server.kill_workers()
        rest = "\n".join(lines)
    assert "worker_died" in rest
    whole.join(60)
    assert results == [alone]


def test_a_stop_lets_answers_end(start: Callable[..., Server]) -> None:
    server = start()
    server.register("chat", fetch_models.fetch("smollm2") / "model.gguf")
    body = {**GREEDY, "input": "1, 2, 3, 4, 5, 6,", "max_tokens": 100, "ignore_eos": True}
    with streaming(server, body) as lines:
        os.kill(server.pid, signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert server.process is not None
    assert server.process.wait(30) == 0


def test_unloading_waits_and_loading_again_answers_alike(served: Server) -> None:
    body = {**GREEDY, "input": "The capital of France is", "max_tokens": 5}
    before = served.predict("chat", body)["output"]
    checked(served.http.post("/v1/models/chat:unload"), 200)
    assert served.status("chat")["state"] == "unloaded"
    assert served.predict("chat", body)["output"] == before
