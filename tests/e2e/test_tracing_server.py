"""Traces of a real server, as a collector gets them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector import ERROR, INTERNAL, SERVER, UNSET, Collector, Spans, attributes, events
from serving import Blocked, Server, checked, doubler, plugin, wait_until

from scripts import fetch_models

PREDICT = "POST /v1/models/{name}:predict"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "do not tell"

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
"""Milliseconds until spans are sent."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def served(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    env = {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_RESOURCE_ATTRIBUTES": "team=ml"}
    with Server(folder / "home", env=env) as server:
        server.register("double", doubler(folder / "double.onnx"))
        server.register("obedient", plugin(folder), trust=True)
        yield server


def post(server: Server, path: str, body: Any, **headers: str) -> httpx.Response:
    return server.http.post(path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def traced(collector: Collector, response: httpx.Response) -> Spans:
    return collector.trace_of(response.headers["x-request-id"])


def test_one_request_is_one_trace(served: Server, collector: Collector) -> None:
    before = time.time_ns()
    response = post(served, "/v1/models/double:predict", {"input": [1, 2, 3, 4]}, x_request_id="mine-1")
    after = time.time_ns()
    spans = traced(collector, response)
    request, call, queue, compute = (spans.named(n) for n in (PREDICT, "predict double", "queue", "compute"))
    assert spans.tree(request) == {"predict double": {"queue": {}, "compute": {}}}
    assert spans.below(call) == ["queue", "compute"]
    assert (request.kind, call.kind) == (SERVER, INTERNAL)
    assert request.parent_span_id == b""
    assert {span.status.code for span in spans} == {UNSET}
    assert before <= request.start_time_unix_nano <= call.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano <= compute.end_time_unix_nano <= call.end_time_unix_nano
    assert call.end_time_unix_nano <= request.end_time_unix_nano <= after + 50_000_000
    assert attributes(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/models/{name}:predict",
        "url.path": "/v1/models/double:predict",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "unimodel.request.id": "mine-1",
    }
    assert attributes(call.attributes) == {
        "unimodel.model.name": "double",
        "unimodel.model.version": 1,
        "unimodel.model.backend": "onnx",
        "unimodel.model.task": "tensor",
        "unimodel.worker": "cpu",
        "unimodel.device": "cpu",
    }
    assert attributes(compute.attributes) == {"unimodel.batch.requests": 1, "unimodel.batch.rows": 1}
    assert collector.resource["service.name"] == "unimodel"
    assert collector.resource["team"] == "ml"


def test_a_caller_goes_on_with_its_trace_or_has_none(served: Server, collector: Collector) -> None:
    body = {"input": [1, 2, 3, 4]}
    other = TRACE.replace("0af", "1af")
    post(served, "/v1/models/double:predict", body, traceparent=f"00-{other}-{SPAN}-00")
    response = post(
        served, "/v1/models/double:predict", body, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=x"
    )
    request = traced(collector, response).named(PREDICT)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    assert request.trace_state == "vendor=x"
    assert other not in collector.trace_ids


def test_errors_are_named_and_those_of_the_server_are_faults(served: Server, collector: Collector) -> None:
    cases = [
        ("double", {"input": [SECRET]}, 400, "invalid_input", UNSET),
        ("obedient", {"input": {"raise": SECRET}}, 500, "model_error", ERROR),
        ("absent", {"input": 1}, 404, "model_not_found", UNSET),
    ]
    for model, body, status, code, expected in cases:
        response = post(served, f"/v1/models/{model}:predict", body)
        assert response.status_code == status
        request = traced(collector, response).named(PREDICT)
        assert attributes(request.attributes)["error.type"] == code
        assert attributes(request.attributes)["http.response.status_code"] == status
        assert request.status.code == expected
    call = traced(collector, post(served, "/v1/models/obedient:predict", {"input": {"raise": "x"}})).named(
        "predict obedient"
    )
    assert (call.status.code, call.status.message) == (ERROR, "model_error")
    log = [json.loads(line) for line in served.log.read_text().splitlines() if '"model_error"' in line or "500" in line]
    line = next(entry for entry in log if entry.get("status") == 500)
    assert line["trace_id"] in collector.trace_ids
    assert len(line["span_id"]) == 16
    assert not any(SECRET.encode() in body for body in collector.bodies)


def test_what_tells_of_the_server_itself_is_not_traced(served: Server, collector: Collector) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/nowhere"):
        served.http.get(path)
    spans = traced(collector, served.http.get("/v1/models/double"))
    assert [span.name for span in spans] == ["GET /v1/models/{name}"]
    assert not any(b"/healthz" in body or b"/metrics" in body for body in collector.bodies)


def test_a_cold_model_shows_its_load(served: Server, collector: Collector) -> None:
    checked(served.http.post("/v1/models/double:unload"), 200)
    response = post(served, "/v1/models/double/versions/1:predict", {"input": [1, 2, 3, 4]})
    spans = traced(collector, response)
    request = spans.named("POST /v1/models/{name}/versions/{version}:predict")
    assert spans.below(request) == ["load double", "predict double"]


def test_a_request_whose_worker_died_shows_its_second_try(served: Server, collector: Collector) -> None:
    blocked = Blocked(served, "obedient")
    with blocked:
        served.kill_workers()
        wait_until(lambda: served.get("/v1/status")["workers"][0]["restarts"])
    found = collector.wait(lambda: [s for s in collector.spans if s.name == "predict obedient" and s.events])
    (call,) = found
    assert events(call) == ["worker died"]
    assert "error.type" not in attributes(call.attributes)
    spans = Spans(s for s in collector.spans if s.trace_id == call.trace_id)
    assert spans.below(call) == ["queue", "queue", "compute"]


def test_a_stream_ends_with_its_last_event_or_its_client(served: Server, collector: Collector) -> None:
    url = "/v1/models/obedient:predict"
    whole = traced(collector, post(served, url, {"stream": True, "count": 3, "pause": 0.05}))
    call = whole.named("stream obedient")
    assert call.end_time_unix_nano - call.start_time_unix_nano >= 150_000_000
    assert call.end_time_unix_nano <= whole.named(PREDICT).end_time_unix_nano
    assert "error.type" not in attributes(whole.named(PREDICT).attributes)
    with (
        httpx.Client(base_url=served.url) as http,
        http.stream("POST", url, json={"stream": True, "count": 1000, "pause": 0.02}) as response,
    ):
        next(response.iter_lines())
    gone = traced(collector, response)
    for span in (gone.named("stream obedient"), gone.named(PREDICT)):
        assert attributes(span.attributes)["error.type"] == "cancelled"
        assert span.status.code == UNSET
        assert span.end_time_unix_nano - span.start_time_unix_nano < 10_000_000_000
    failed = traced(collector, post(served, url, {"stream": True, "fail_at": 1}))
    assert attributes(failed.named(PREDICT).attributes)["error.type"] == "model_error"
    assert failed.named(PREDICT).status.code == failed.named("stream obedient").status.code == ERROR


def test_a_pipeline_is_one_trace(served: Server, collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "steps:\n"
        "  first: {model: double, input: input}\n"
        "  again: {model: double, input: first}\n"
        "  never: {model: double, input: first, when: parameters.wish}\n"
        "  each: {model: obedient, each: 'input', input: {input: item}, when: 'item > `2`'}\n"
        "output: again\n"
    )
    served.register("chain", tmp_path / "p.yaml")
    response = post(served, "/v1/models/chain:predict", {"input": [1, 2, 3, 4]})
    assert response.json()["output"] == [4, 8, 12, 16]
    spans = traced(collector, response)
    model = {"queue": {}, "compute": {}}
    steps = {
        "step first": {"predict double": model},
        "step again": {"predict double": model},
        "step never": {},
        "step each": {"predict obedient": model},
    }
    assert spans.tree(spans.named(PREDICT)) == {"pipeline chain": steps}
    assert spans.named("step first").end_time_unix_nano <= spans.named("step again").start_time_unix_nano
    assert attributes(spans.named("step never").attributes)["unimodel.step.skipped"] is True
    assert events(spans.named("step each")) == ["skipped", "skipped"]
    assert attributes(spans.named("step each").attributes)["unimodel.step.items"] == 4
    failed = traced(collector, post(served, "/v1/models/chain:predict", {"input": [1, 2]}))
    for name in ("step first", "pipeline chain"):
        assert attributes(failed.named(name).attributes)["error.type"] == "invalid_input"
        assert failed.named(name).status.code == ERROR
    assert failed.named(PREDICT).status.code == UNSET


def test_generated_text(served: Server, collector: Collector) -> None:
    served.register(
        "chat", fetch_models.fetch("smollm2") / "model.gguf", config={"sequences": 2, "max_context_length": 512}
    )
    body = {"model": "chat", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, "temperature": 0}
    response = post(served, "/v1/chat/completions", body)
    usage = response.json()["usage"]
    spans = traced(collector, response)
    call = spans.named("chat chat")
    about = attributes(call.attributes)
    assert spans.tree(spans.named("POST /v1/chat/completions")) == {"chat chat": {"queue": {}}}
    assert about["gen_ai.operation.name"] == "chat"
    assert about["gen_ai.request.model"] == "chat"
    assert about["gen_ai.request.max_tokens"] == 5
    assert about["gen_ai.request.temperature"] == 0
    assert about["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert about["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 5
    assert about["gen_ai.response.finish_reasons"] == ["length"]
    (token,) = call.events
    assert token.name == "first token"
    assert call.start_time_unix_nano < token.time_unix_nano <= call.end_time_unix_nano
    assert about["gen_ai.response.time_to_first_chunk"] > 0

    long = {**body, "max_tokens": 450, "stream": True}
    with (
        httpx.Client(base_url=served.url, timeout=60) as http,
        http.stream("POST", "/v1/chat/completions", json={**long, "ignore_eos": True}) as response,
    ):
        next(response.iter_lines())
    gone = traced(collector, response)
    assert attributes(gone.named("chat chat").attributes)["error.type"] == "cancelled"
    assert attributes(gone.named("POST /v1/chat/completions").attributes)["error.type"] == "cancelled"
    assert not any(SECRET.encode() in sent for sent in collector.bodies)


def test_the_command_line_hands_its_trace_on(served: Server, collector: Collector) -> None:
    from unimodel_cli.client import Client

    trace = TRACE.replace("0af", "2af")
    os.environ["TRACEPARENT"] = f"00-{trace}-{SPAN}-01"
    try:
        client = Client(served.url)
        client.send("GET", "/v1/models/double")
        client.close()
    finally:
        del os.environ["TRACEPARENT"]
    collector.wait(lambda: trace in collector.trace_ids)


@pytest.mark.parametrize("listens", [False, True])
def test_a_collector_that_is_down_harms_no_request_and_no_stop(tmp_path: Path, listens: bool) -> None:
    with socket.socket() as taken:  # nobody listens, or nobody answers
        taken.bind(("127.0.0.1", 0))
        if listens:
            taken.listen()
        flag = ("--otlp-endpoint", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with Server(tmp_path / "home", *flag, env=SOON) as server:
            server.register("double", doubler(tmp_path / "double.onnx"))
            for number in range(50):
                answer = server.predict("double", {"input": [number, 0, 0, 0]})
                assert answer["output"] == [2 * number, 0, 0, 0]
            if not listens:
                wait_until(lambda: "takes no spans" in server.log.read_text())
            assert server.process is not None
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
            assert time.monotonic() - begin < 5
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    if not listens:
        (warning,) = [line for line in lines if "takes no spans" in line["message"]]
        assert (warning["level"], warning["reason"]) == ("warning", "Connection refused")
    assert "the last spans could not be sent in time" in [line["message"] for line in lines]
    assert not any("trace" in line or line["logger"].startswith("opentelemetry") for line in lines)
