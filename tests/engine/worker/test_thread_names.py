"""The names of a worker's threads, as Linux has them."""

from __future__ import annotations

import threading
from pathlib import Path

from engine.worker.gate import Gate
from engine.worker.thread_names import RUN, mark_thread, name_thread, restore_name


def names_within(*steps: object) -> list[str]:
    """The name of a thread after each of some calls."""
    names: list[str] = []

    def run() -> None:
        for step in steps:
            step()  # type: ignore[operator]
            names.append(Path("/proc/thread-self/comm").read_text().rstrip("\n"))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return names


def test_a_name_is_cut_so_that_its_mark_fits() -> None:
    long = "a-model-with-a-long-name#1"
    assert names_within(lambda: name_thread(long), lambda: name_thread(long, RUN)) == [
        "a-model-with-a-",
        "a-model-wit/run",
    ]


def test_a_mark_is_there_once_and_goes_again() -> None:
    before: list[bytes] = []
    steps = (
        lambda: name_thread("größe#1"),
        lambda: before.append(mark_thread(RUN)),
        lambda: before.append(mark_thread(RUN)),
        lambda: restore_name(before[0]),
    )
    assert names_within(*steps) == ["größe#1", "größe#1/run", "größe#1/run", "größe#1"]
    assert before == ["größe#1".encode(), "größe#1/run".encode()]


def test_a_thread_is_marked_in_its_turns_alone_and_those_that_it_makes_then_stay_so() -> None:
    made: list[str] = []

    with Gate(2).model() as model:
        turn = model.turn(1)
        names = names_within(
            lambda: name_thread("m#1"),
            turn.__enter__,
            lambda: made.extend(names_within(lambda: None)),
            lambda: turn.__exit__(None, None, None),
        )
    assert names == ["m#1", "m#1/run", "m#1/run", "m#1"]
    assert made == ["m#1/run"]
