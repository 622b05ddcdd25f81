"""Tests of engine.telemetry.tracing*: sampling, spans on the real SDK, and how tracing starts and fails."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from backends.base import ModelInfo
from backends.generation import Sampling, Usage
from engine.errors import InvalidInput, InvalidOption, Overloaded, WorkerDied
from engine.settings import MonitoringSettings
from engine.telemetry import tracing, tracing_export
from engine.telemetry.logs import JsonFormatter
from engine.telemetry.tracing_calls import ModelCall, generation
from engine.telemetry.tracing_context import Caller, Sampler, caller_of
from engine.telemetry.tracing_export import Tracer, provider_of, traces_url
from engine.transport.generation import GenerateRequest, Message
from engine.types import ModelSpec

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SPEC = ModelSpec(
    name="m", version=2, path="", sha256="", size_bytes=0, backend="onnx", task="tensor", config={}, created=0,
    info=ModelInfo(task="tensor"),
)  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Traced:
    """A tracer that takes every request, and what it sent."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._exporter = InMemorySpanExporter()
        self.provider = provider_of("test", self._exporter)
        self.tracer = Tracer(self.provider, Sampler("always_on", 1.0), self.clock)

    def request(self, **headers: str) -> tracing.Span:
        given = {name.encode(): value.encode() for name, value in headers.items()}
        span = self.tracer.request("POST /x", given, self.clock.now)
        assert span is not None
        return span

    def sent(self) -> dict[str, ReadableSpan]:
        self.provider.force_flush()
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.tracer.close()


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


# -- whether ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", True),
        (f" 00-{TRACE}-{SPAN}-01\t", True),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
def test_the_callers_header(header: str, expected: bool | None) -> None:
    caller = caller_of(header.encode())
    assert (caller and caller.sampled) == expected
    if caller is not None:
        assert (caller.trace_id, caller.span_id) == (int(TRACE, 16), int(SPAN, 16))


LOW, HIGH = Caller(1, 1, 0), Caller((1 << 64) - 1, 1, 1)
"""Callers whose trace ids are at the ends of what a ratio takes; the first is not traced itself."""


@pytest.mark.parametrize(
    ("name", "ratio", "alone", "low", "high"),
    [
        ("parentbased_traceidratio", 1.0, True, False, True),
        ("parentbased_traceidratio", 0.0, False, False, True),
        ("parentbased_always_on", 0.0, True, False, True),
        ("parentbased_always_off", 1.0, False, False, True),
        ("traceidratio", 0.5, None, True, False),
        ("always_on", 0.0, True, True, True),
        ("always_off", 1.0, False, False, False),
    ],
)
def test_samplers(name: str, ratio: float, alone: bool | None, low: bool, high: bool) -> None:
    sampler = Sampler(name, ratio)
    assert (sampler.wants(LOW), sampler.wants(HIGH)) == (low, high)
    if alone is not None:
        assert {sampler.wants(None) for _ in range(100)} == {alone}


def test_samplers_decide_as_those_of_the_sdk() -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    for trace_id in (1, 1 << 62, (1 << 62) - 1, 1 << 63, (1 << 64) - 1, int(TRACE, 16)):
        theirs = TraceIdRatioBased(0.25).should_sample(None, trace_id, "x").decision.is_sampled()
        assert Sampler("traceidratio", 0.25).wants(Caller(trace_id, 1, 1)) == theirs


def test_a_ratio_is_the_share_of_requests() -> None:
    sampler = Sampler("parentbased_traceidratio", 0.3)
    assert 2500 < sum(sampler.wants(None) for _ in range(10_000)) < 3500


# -- spans -----------------------------------------------------------------------------------------------------------


def test_a_span_below_its_caller(traced: Traced) -> None:
    traced.request(traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1,b=2").end()
    span = traced.sent()["POST /x"]
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert span.context.trace_state.to_header() == "a=1,b=2"
    assert span.kind == SpanKind.SERVER
    assert span.resource.attributes["service.name"] == "test"


def test_times_are_those_of_the_engines_clock(traced: Traced) -> None:
    request = traced.request()
    traced.clock.now += 2
    child = request.child("child", {}, 101.0)
    assert child is not None
    child.event("now")
    child.end()
    traced.clock.now += 3
    request.end(104.5)
    spans = traced.sent()
    assert seconds(spans["POST /x"]) == pytest.approx(4.5)
    assert seconds(spans["child"]) == pytest.approx(1.0)
    assert spans["child"].events[0].timestamp == spans["child"].end_time


async def test_the_current_span_is_that_of_the_task_and_is_in_its_log_lines(traced: Traced) -> None:
    def line() -> dict[str, Any]:
        record = logging.LogRecord("x", logging.INFO, "", 1, "m", (), None)
        found: dict[str, Any] = json.loads(JsonFormatter(None).format(record))
        return found

    async def answer() -> tuple[tracing.Span, dict[str, Any]]:
        with tracing.within(traced.request()) as span:
            await asyncio.sleep(0)
            with tracing.part("inner", {}):
                assert tracing.current() is not span
            assert tracing.current() is span
            assert span is not None
            return span, line()

    answers = await asyncio.gather(answer(), answer())
    ids = [entry["trace_id"] for _, entry in answers]
    assert ids == [span.log_fields["trace_id"] for span, _ in answers]
    assert ids[0] != ids[1]
    assert tracing.current() is None
    assert "trace_id" not in line()


async def test_what_outlives_its_request_is_a_part_of_none(traced: Traced) -> None:
    over = asyncio.Event()

    async def background() -> tracing.Span | None:
        await over.wait()
        return tracing.current()

    with tracing.within(traced.request()):
        task = asyncio.create_task(background())
    over.set()
    assert await task is None


def test_nothing_is_made_where_nothing_is_traced() -> None:
    with tracing.part("x", {}) as span:
        assert span is None
    assert ModelCall.begin(None, SPEC, "predict", 0.0) is None


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvalidInput("the text was 'secret'"), "invalid_input", StatusCode.ERROR),
        (ValueError("secret"), "internal", StatusCode.ERROR),
        (asyncio.CancelledError(), "cancelled", StatusCode.UNSET),
    ],
)
def test_an_error_is_kept_by_its_code(traced: Traced, error: BaseException, code: str, status: StatusCode) -> None:
    request = traced.request()
    with pytest.raises(type(error)), request.around(tracing.part)("inner", {}):
        raise error
    request.end()
    span = traced.sent()["inner"]
    assert span.attributes["error.type"] == code
    assert span.status.status_code == status
    assert "secret" not in span.to_json()


def test_what_the_client_did_wrong_is_no_fault_and_the_first_error_counts(traced: Traced) -> None:
    for error, status in ((Overloaded("x"), StatusCode.UNSET), (WorkerDied("x"), StatusCode.ERROR)):
        span = traced.request()
        span.answered(error)
        span.fail("internal")
        span.end()
        span.end()
        span.set({"late": 1})
        sent = traced.sent()["POST /x"]
        assert (sent.attributes["error.type"], sent.status.status_code) == (error.code, status)
        assert "late" not in sent.attributes


def test_a_request_has_a_bounded_number_of_spans(traced: Traced) -> None:
    request = traced.request()
    children = [request.child("child", {}) for _ in range(tracing.MOST_SPANS + 5)]
    assert sum(child is not None for child in children) == tracing.MOST_SPANS - 1
    assert ModelCall.begin(request, SPEC, "predict", 0.0) is None
    with tracing.within(request), tracing.part("one too many", {}) as span:
        assert span is None
        assert tracing.current() is request


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_linked_with_all_its_requests(traced: Traced) -> None:
    calls = [ModelCall.begin(traced.request(), SPEC, "predict", 100.0) for _ in range(3)]
    assert all(calls)
    ModelCall.computed([c for c in calls if c], {"unimodel.batch.requests": 4}, 101.0, 102.0)
    traced.provider.force_flush()
    first, *others = traced._exporter.get_finished_spans()
    assert {link.context.trace_id for link in first.links} == {span.context.trace_id for span in others}
    for span in others:
        assert [link.context.span_id for link in span.links] == [first.context.span_id]
        assert seconds(span) == pytest.approx(1.0)


def test_a_second_try_waits_from_the_end_of_the_first(traced: Traced) -> None:
    request = traced.request()
    call = ModelCall.begin(request, SPEC, "predict", 100.0)
    assert call is not None
    call.sent("cpu", "cpu", 101.0)
    traced.clock.now = 105.0
    call.waits_again("worker died")
    call.sent("cpu:1", "cpu", 107.0)
    call.end("ok", 108.0)
    traced.provider.force_flush()
    spans = traced._exporter.get_finished_spans()
    assert [seconds(s) for s in spans if s.name == "queue"] == [pytest.approx(1.0), pytest.approx(2.0)]
    (whole,) = [s for s in spans if s.name == "predict m"]
    assert whole.attributes["unimodel.worker"] == "cpu:1"
    assert [e.name for e in whole.events] == ["worker died"]


def test_generated_answers_are_counted_together(traced: Traced) -> None:
    request = GenerateRequest(
        messages=[Message(role="user", content="secret")], sampling=Sampling(top_k=3), choices=2, max_tokens=9
    )
    operation, about = generation(request)
    call = ModelCall.begin(traced.request(), SPEC, operation, 100.0, about)
    assert call is not None
    call.generated(Usage(prompt_tokens=7, completion_tokens=2), "stop")
    call.generated(Usage(prompt_tokens=7, completion_tokens=9), "length")
    call.end("ok")
    attributes = traced.sent()["chat m"].attributes
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert attributes["gen_ai.usage.output_tokens"] == 11
    assert attributes["gen_ai.response.finish_reasons"] == ("stop", "length")
    assert (attributes["gen_ai.request.top_k"], attributes["gen_ai.request.choice.count"]) == (3, 2)
    assert "gen_ai.request.temperature" not in attributes
    assert "secret" not in str(dict(attributes))
    assert generation(GenerateRequest(prompt="x"))[0] == "text_completion"


# -- the SDK ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://host/otlp", "https://host/otlp/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
    ],
)
def test_where_spans_go(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize(
    "endpoint", ["localhost:4318", "4318", "grpc://host:4317", "http://", "http://h:99999", "http://["]
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(InvalidOption, match=r"monitoring\.otlp_endpoint must be a URL such as"):
        traces_url(endpoint)


def test_an_endpoint_has_no_password() -> None:
    with pytest.raises(InvalidOption, match="OTEL_EXPORTER_OTLP_HEADERS") as refused:
        traces_url("https://me:secret@host")
    assert "secret" not in refused.value.message


def start(**settings: Any) -> Tracer | None:
    return tracing_export.start(MonitoringSettings(otlp_endpoint="http://localhost:9", **settings), lambda: 0.0)


def test_nothing_is_traced_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing_export.start(MonitoringSettings(), lambda: 0.0) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert start() is None


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(InvalidOption, match=r"is not installed\. Install it with: .*install 'unimodel\[otel\]'"):
        start()


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InvalidOption, match="sends http/protobuf"):
        start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    tracer = start()
    assert tracer is not None
    tracer.close()


def test_a_bad_variable_of_the_sdk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    with pytest.raises(InvalidOption, match="OpenTelemetry cannot start: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"):
        start()


def test_the_name_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(given: str | None) -> Any:
        provider = provider_of(given, InMemorySpanExporter())
        provider.shutdown()
        return provider.resource.attributes["service.name"]

    assert (name(None), name("ours")) == ("unimodel", "ours")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,team=ml")
    assert (name(None), name("ours")) == ("theirs", "ours")


def test_an_outage_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outage = tracing_export._Outage("http://host:4317/v1/traces", clock)
    with caplog.at_level(logging.INFO, "unimodel.tracing"):
        outage.end()
        for _ in range(100):
            outage.begin("Connection refused")
        clock.now += 601
        outage.begin("Connection refused")
        outage.end()
        outage.end()
    assert [r.message for r in caplog.records] == [
        "the collector takes no spans, they are dropped",
        "the collector takes no spans, they are dropped",
        "the collector takes spans again",
    ]
    assert "4318 that for HTTP" in vars(caplog.records[0])["reason"]


def test_the_reason_of_an_outage_is_what_the_system_says() -> None:
    with socket.socket() as taken, requests.Session() as session:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        session.trust_env = False
        with pytest.raises(requests.RequestException) as caught:
            session.get(f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert tracing_export._reason(caught.value) == "Connection refused"
        taken.listen()  # nobody answers
        with pytest.raises(requests.RequestException) as caught:
            session.get(f"http://127.0.0.1:{taken.getsockname()[1]}", timeout=0.1)
        assert tracing_export._reason(caught.value) == "no answer in time"


def test_a_full_queue_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    traced = Traced()
    monkeypatch.setattr(traced._exporter, "export", lambda _: time.sleep(0.2))
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("opentelemetry.sdk").addHandler(handler)
    try:
        for _ in range(50):
            traced.request().end()
    finally:
        logging.getLogger("opentelemetry.sdk").removeHandler(handler)
        traced.tracer.close()
    assert stream.getvalue().startswith("spans are made faster than they can be sent, and dropped; lower")
