"""Which worker gets a model, and which model makes room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidOption
from engine.scheduling.placement import Resident, Seat, choose_victim, choose_workers

CPUS = [Seat("cpu:0", "cpu", 2), Seat("cpu:1", "cpu", 0), Seat("cpu:2", "cpu", 1)]
GPUS = [Seat("cuda:0", "cuda:0", 5), Seat("cuda:1", "cuda:1", 1)]
BOTH = ("cpu", "cuda")


@pytest.mark.parametrize(
    ("seats", "wanted", "replicas", "supported", "chosen"),
    [
        pytest.param(CPUS, "auto", 1, BOTH, ["cpu:1"], id="the emptiest"),
        pytest.param(CPUS, "cpu", 2, BOTH, ["cpu:1", "cpu:2"], id="copies on different workers"),
        pytest.param(CPUS, "auto", 3, BOTH, ["cpu:1", "cpu:2", "cpu:0"], id="as many as there are"),
        pytest.param(CPUS + GPUS, "auto", 1, BOTH, ["cuda:1"], id="a GPU first, however full"),
        pytest.param(CPUS + GPUS, "auto", 1, ("cpu",), ["cpu:1"], id="a runtime without CUDA"),
        pytest.param(CPUS + GPUS, "cpu", 1, BOTH, ["cpu:1"], id="the CPU, by wish"),
        pytest.param(CPUS + GPUS, "cuda", 2, BOTH, ["cuda:1", "cuda:0"], id="any GPUs"),
        pytest.param(CPUS + GPUS, "cuda:0", 1, BOTH, ["cuda:0"], id="this GPU"),
    ],
)
def test_choice(seats: list[Seat], wanted: str, replicas: int, supported: tuple[str, ...], chosen: list[str]) -> None:
    assert choose_workers(seats, wanted, replicas, supported) == chosen


@pytest.mark.parametrize(
    ("seats", "wanted", "replicas", "supported", "field", "message"),
    [
        (CPUS, "cuda", 1, BOTH, "config.device", "No worker for device 'cuda'; this server has cpu."),
        (CPUS + GPUS, "cuda:7", 1, BOTH, "config.device", "device 'cuda:7'; this server has cpu, cuda:0, cuda:1."),
        (GPUS, "cuda", 1, ("cpu",), "config.device", "The backend runs on cpu alone; this server has cuda:0, cuda:1."),
        (CPUS, "auto", 1, ("cuda",), "config.device", "The backend runs on cuda alone; this server has cpu."),
        (CPUS, "tpu", 1, BOTH, "config.device", "No worker for device 'tpu'"),
        (CPUS, "cpu", 4, BOTH, "config.replicas", "replicas is 4, but only 3 workers fit device 'cpu'"),
        (CPUS + GPUS, "cuda:1", 2, BOTH, "config.replicas", "replicas is 2, but only 1 workers fit device 'cuda:1'"),
    ],
)
def test_refusal(
    seats: list[Seat], wanted: str, replicas: int, supported: tuple[str, ...], field: str, message: str
) -> None:
    with pytest.raises(InvalidOption) as e:
        choose_workers(seats, wanted, replicas, supported)
    assert e.value.field == field
    assert message in e.value.message


def test_automatic_copies_are_no_fewer_than_asked() -> None:
    """Two GPUs and three CPUs could hold four copies, but not four on GPUs: that is an error, not a silent two."""
    with pytest.raises(InvalidOption) as e:
        choose_workers(CPUS + GPUS, "auto", 4, BOTH)
    assert e.value.field == "config.replicas"


devices = st.sampled_from(["cpu", "cuda:0", "cuda:1"])


@given(st.lists(st.tuples(devices, st.integers(0, 9)), min_size=1, max_size=8), st.integers(1, 8))
def test_every_choice_keeps_its_word(rooms: list[tuple[str, int]], replicas: int) -> None:
    seats = [Seat(f"w{i}", device, models) for i, (device, models) in enumerate(rooms)]
    try:
        chosen = choose_workers(seats, "auto", replicas, BOTH)
    except InvalidOption:
        return
    assert len(chosen) == len(set(chosen)) == replicas
    by_name = {s.name: s for s in seats}
    kinds = {by_name[name].device == "cpu" for name in chosen}
    assert len(kinds) == 1
    rest = [s.models for s in seats if s.name not in chosen and (s.device == "cpu") in kinds]
    assert max(by_name[name].models for name in chosen) <= min(rest, default=9)


def test_the_idle_one_that_was_used_longest_ago_makes_room() -> None:
    busy_and_old = Resident(("a", 1), idle=False, last_used=1.0)
    idle_and_new = Resident(("b", 1), idle=True, last_used=9.0)
    idle_and_old = Resident(("c", 2), idle=True, last_used=5.0)
    assert choose_victim([busy_and_old, idle_and_new, idle_and_old]) == idle_and_old
    assert choose_victim([busy_and_old, idle_and_new]) == idle_and_new
    assert choose_victim([busy_and_old]) == busy_and_old
    assert choose_victim([]) is None
