"""Why a worker ended, in words."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from engine.worker.exits import Exit, oom_kills


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Exit(0), "exit code 0"),
        (Exit(3), "exit code 3"),
        (Exit(-11), "SIGSEGV"),
        (Exit(-64), "SIGRTMAX"),
        (Exit(-200), "signal 200"),
        (Exit(-9), "SIGKILL, killed from outside"),
        (Exit(-9, out_of_memory=True), "SIGKILL, the system is out of memory"),
    ],
)
def test_in_words(end: Exit, words: str) -> None:
    assert str(end) == words


def test_from_outside() -> None:
    assert Exit(-signal.SIGKILL).from_outside
    assert not Exit(-signal.SIGKILL, out_of_memory=True).from_outside
    assert not Exit(-signal.SIGABRT).from_outside
    assert not Exit(0).from_outside


def test_the_count_of_kills_for_want_of_memory(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 12\noom_kill 7\nswap_ra 0\n")
    assert oom_kills(file) == 7


def test_a_system_that_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    assert oom_kills(file) == 0
    file.write_text("nr_free_pages 12\n")
    assert oom_kills(file) == 0
