"""Tests of engine.telemetry.metrics, read back with Prometheus' own parser."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import BY_CODE
from engine.telemetry.metrics import CONTENT_TYPE, COUNTS, SECONDS, Histogram, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every rendered sample by name and labels."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert family.documentation
        for s in family.samples:
            key = (s.name, frozenset(s.labels.items()))
            assert key not in found
            found[key] = s.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_a_request_is_counted_and_timed() -> None:
    metrics = Metrics("1.2.3")
    m = metrics.model("resnet", 2)
    m.ended("ok", 0.004, request_bytes=100, response_bytes=7)
    m.ended("ok", 0.004, request_bytes=100, response_bytes=7)
    m.ended("overloaded", 100.0)
    labels = {"model": "resnet", "version": "2"}
    assert value(metrics, "unimodel_requests_total", **labels, outcome="ok") == 2
    assert value(metrics, "unimodel_requests_total", **labels, outcome="overloaded") == 1
    assert value(metrics, "unimodel_request_bytes_total", **labels) == 200
    assert value(metrics, "unimodel_response_bytes_total", **labels) == 14
    assert value(metrics, "unimodel_request_seconds_count", **labels) == 3
    assert value(metrics, "unimodel_request_seconds_sum", **labels) == pytest.approx(100.008)
    assert value(metrics, "unimodel_request_seconds_bucket", **labels, le="0.0025") == 0
    assert value(metrics, "unimodel_request_seconds_bucket", **labels, le="0.005") == 2
    assert value(metrics, "unimodel_request_seconds_bucket", **labels, le="60.0") == 2
    assert value(metrics, "unimodel_request_seconds_bucket", **labels, le="+Inf") == 3


def test_batches_queues_and_gauges() -> None:
    metrics = Metrics("1")
    m = metrics.model("m", 1)
    m.queued(0.02)
    m.batch(rows=5, requests=3, compute_seconds=0.2, prompt_tokens=70)
    m.retried()
    m.queue_requests, m.in_flight_requests, m.loaded, m.memory_bytes = 4, 6, 2, 1 << 30
    labels = {"model": "m", "version": "1"}
    assert value(metrics, "unimodel_queue_seconds_sum", **labels) == 0.02
    assert value(metrics, "unimodel_batch_rows_bucket", **labels, le="4.0") == 0
    assert value(metrics, "unimodel_batch_rows_bucket", **labels, le="8.0") == 1
    assert value(metrics, "unimodel_batch_requests_sum", **labels) == 3
    assert value(metrics, "unimodel_compute_seconds_sum", **labels) == 0.2
    assert value(metrics, "unimodel_prompt_tokens_total", **labels) == 70
    assert value(metrics, "unimodel_retries_total", **labels) == 1
    assert value(metrics, "unimodel_queue_requests", **labels) == 4
    assert value(metrics, "unimodel_in_flight_requests", **labels) == 6
    assert value(metrics, "unimodel_model_loaded", **labels) == 2
    assert value(metrics, "unimodel_model_memory_bytes", **labels) == 1 << 30


def test_workers_build_and_process() -> None:
    metrics = Metrics("1.2.3")
    metrics.worker("cpu:0").up = True
    metrics.worker("cpu:0").restarts += 1
    assert value(metrics, "unimodel_worker_up", worker="cpu:0") == 1
    assert value(metrics, "unimodel_worker_restarts_total", worker="cpu:0") == 1
    names = {name: dict(labels) for name, labels in samples(metrics)}
    assert names["unimodel_build_info"]["version"] == "1.2.3"
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names.keys()


def test_a_model_that_never_served_has_its_series_at_zero() -> None:
    metrics = Metrics("1")
    metrics.model("m", 1)
    assert value(metrics, "unimodel_requests_total", model="m", version="1", outcome="ok") == 0
    assert value(metrics, "unimodel_request_seconds_count", model="m", version="1") == 0


def test_gauges_of_what_is_gone_fall_to_zero_and_counters_stay() -> None:
    metrics = Metrics("1")
    m, worker = metrics.model("m", 1), metrics.worker("cpu")
    m.ended("ok", 1)
    m.loaded, m.memory_bytes, m.queue_requests, m.in_flight_requests = 1, 2, 3, 4
    worker.up, worker.restarts = True, 5
    metrics.clear_gauges()
    found = samples(metrics)
    gauges = ("model_loaded", "model_memory_bytes", "queue_requests", "in_flight_requests", "worker_up")
    assert [v for (name, _), v in found.items() if name.removeprefix("unimodel_") in gauges] == [0] * 5
    assert value(metrics, "unimodel_requests_total", model="m", version="1", outcome="ok") == 1
    assert value(metrics, "unimodel_worker_restarts_total", worker="cpu") == 5


def test_a_removed_model_has_no_series() -> None:
    metrics = Metrics("1")
    metrics.model("m", 1).ended("ok", 1)
    metrics.model("m", 2).ended("ok", 1)
    metrics.remove("m", 1)
    metrics.remove("m", 1)
    versions = {dict(labels)["version"] for _, labels in samples(metrics) if ("model", "m") in labels}
    assert versions == {"2"}
    assert value(metrics, "unimodel_requests_total", model="m", version="2", outcome="ok") == 1


def test_outcomes_are_from_a_fixed_set() -> None:
    metrics = Metrics("1")
    for i in range(100):
        metrics.model("m", 1).ended(f"what a client sent {i}", 0)
    for code in BY_CODE:
        metrics.model("m", 1).ended(code, 0)
    outcomes = {dict(labels).get("outcome") for _, labels in samples(metrics)} - {None}
    assert outcomes == {"ok", *BY_CODE}
    assert value(metrics, "unimodel_requests_total", model="m", version="1", outcome="internal") == 101


def test_two_servers_in_a_process_share_nothing() -> None:
    one, two = Metrics("1"), Metrics("1")
    one.model("m", 1).ended("ok", 1)
    assert value(two, "unimodel_requests_total", model="m", version="1", outcome="ok") is None


def test_label_values_are_escaped() -> None:
    metrics = Metrics('1"\n\\')
    assert any(dict(labels).get("version") == '1"\n\\' for _, labels in samples(metrics))


def test_content_type() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


@given(st.lists(st.floats(0, 2 * max(COUNTS)) | st.sampled_from(SECONDS + COUNTS)), st.sampled_from([SECONDS, COUNTS]))
def test_a_bucket_holds_what_is_at_most_its_bound(values: list[float], bounds: tuple[float, ...]) -> None:
    histogram = Histogram(bounds)
    for v in values:
        histogram.observe(v)
    buckets = dict(histogram.cumulative())
    assert buckets.pop("+Inf") == len(values)
    assert {float(le): n for le, n in buckets.items()} == {b: sum(v <= b for v in values) for b in bounds}
    assert histogram.sum == pytest.approx(sum(values))


def test_the_process_is_this_one() -> None:
    rss = value(Metrics("1"), "process_resident_memory_bytes")
    assert rss is not None
    assert rss > os.sysconf("SC_PAGE_SIZE")
