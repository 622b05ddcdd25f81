"""When a batch closes: a table of the cases, and what holds for every state."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.batcher import GATHER_SHARE, MAX_ITEMS, MAX_OUTSTANDING, BatchPolicy, InstanceLoad, due_in

POLICY = BatchPolicy(max_rows=32, max_wait=0.05)
IDLE = InstanceLoad(outstanding=0)
BUSY = InstanceLoad(outstanding=1)
FULL = InstanceLoad(outstanding=MAX_OUTSTANDING)


def answered(clients: int, ago: float, compute: float = 0.1) -> InstanceLoad:
    """An idle instance that answered `clients` requests a while ago."""
    return InstanceLoad(0, last_requests=clients, since_last=ago, compute_seconds=compute)


@pytest.mark.parametrize(
    ("load", "requests", "rows", "oldest", "due"),
    [
        pytest.param(IDLE, 0, 0, 0.0, math.inf, id="nothing waits"),
        pytest.param(IDLE, 1, 1, 0.0, 0.0, id="idle: at once"),
        pytest.param(IDLE, 7, 7, 0.0, 0.0, id="idle: all that is there"),
        pytest.param(BUSY, 1, 1, 0.0, 0.05, id="busy: waits for company"),
        pytest.param(BUSY, 31, 31, 0.02, 0.03, id="busy: what is left of the wait"),
        pytest.param(BUSY, 1, 1, 0.05, 0.0, id="busy: waited long enough"),
        pytest.param(BUSY, 1, 1, 9.0, 0.0, id="busy: waited too long"),
        pytest.param(BUSY, 32, 32, 0.0, 0.0, id="busy: a full batch follows at once"),
        pytest.param(BUSY, 1, 500, 0.0, 0.0, id="busy: one request that fills it"),
        pytest.param(BUSY, MAX_ITEMS, 0, 0.0, 0.0, id="busy: as many requests as a message holds"),
        pytest.param(FULL, 32, 32, 9.0, math.inf, id="no room"),
        pytest.param(answered(8, ago=0.0), 1, 1, 0.0, 0.1 * GATHER_SHARE, id="gathers the clients it just answered"),
        pytest.param(answered(8, ago=0.004), 7, 7, 0.0, 0.1 * GATHER_SHARE - 0.004, id="gathers what is left"),
        pytest.param(answered(8, ago=0.02), 1, 1, 0.0, 0.0, id="has gathered long enough"),
        pytest.param(answered(8, ago=0.0), 8, 8, 0.0, 0.0, id="all are back"),
        pytest.param(answered(8, ago=0.0), 2, 32, 0.0, 0.0, id="a full batch need not gather"),
        pytest.param(answered(8, ago=0.0, compute=60.0), 1, 1, 0.0, 0.05, id="gathers no longer than the wait allows"),
        pytest.param(answered(1, ago=0.0), 1, 1, 0.0, 0.0, id="one client alone is never kept waiting"),
    ],
)
def test_due(load: InstanceLoad, requests: int, rows: int, oldest: float, due: float) -> None:
    assert due_in(POLICY, requests, rows, oldest, load) == pytest.approx(due)


def test_without_a_wait_nothing_waits() -> None:
    policy = BatchPolicy(max_rows=32, max_wait=0.0)
    for load in (IDLE, BUSY, answered(8, ago=0.0)):
        assert due_in(policy, 1, 1, 0.0, load) == 0.0


seconds = st.floats(0, 1e4)
policies = st.builds(BatchPolicy, st.integers(1, 4096), seconds)
loads = st.builds(
    InstanceLoad,
    outstanding=st.integers(0, MAX_OUTSTANDING),
    last_requests=st.integers(0, 2 * MAX_ITEMS),
    since_last=seconds | st.just(math.inf),
    compute_seconds=seconds,
)
requests = st.integers(0, 2 * MAX_ITEMS)
rows = st.integers(0, 10_000)


@given(policies, requests, rows, seconds, loads)
def test_never_in_the_past_and_never_beyond_the_wait(
    policy: BatchPolicy, requests: int, rows: int, oldest: float, load: InstanceLoad
) -> None:
    due = due_in(policy, requests, rows, oldest, load)
    assert due >= 0
    if requests and load.outstanding < MAX_OUTSTANDING:
        assert due <= policy.max_wait
    else:
        assert due == math.inf


@given(policies, st.integers(1, 2 * MAX_ITEMS), rows, seconds, loads)
def test_full_is_due_where_there_is_room(
    policy: BatchPolicy, requests: int, extra_rows: int, oldest: float, load: InstanceLoad
) -> None:
    due = due_in(policy, requests, policy.max_rows + extra_rows, oldest, load)
    assert due == (0.0 if load.outstanding < MAX_OUTSTANDING else math.inf)


@given(policies, st.integers(1, 64), seconds, st.integers(0, 1), seconds, seconds)
def test_a_lone_request_on_an_idle_instance_goes_at_once(
    policy: BatchPolicy, rows: int, oldest: float, last_requests: int, since_last: float, compute: float
) -> None:
    load = InstanceLoad(0, last_requests, since_last, compute)
    assert due_in(policy, 1, rows, oldest, load) == 0.0


@given(policies, st.integers(1, 100), st.integers(1, 100), seconds, seconds, loads)
def test_time_only_brings_it_closer(
    policy: BatchPolicy, requests: int, rows: int, oldest: float, passed: float, load: InstanceLoad
) -> None:
    later = InstanceLoad(load.outstanding, load.last_requests, load.since_last + passed, load.compute_seconds)
    assert due_in(policy, requests, rows, oldest + passed, later) <= due_in(policy, requests, rows, oldest, load)
