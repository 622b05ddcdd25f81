"""Runs a trial in a process of its own, so that a model that crashes or hangs is told from one that fails a check."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator

import msgspec

from engine.errors import InvalidOption
from engine.kit.answers import CheckView
from engine.kit.trial import Report, Subject
from engine.worker import interpreter
from engine.worker.exits import Exit
from engine.worker.group import kill_group

_decode = msgspec.json.Decoder(CheckView).decode


def run(subject: str, timeout: float, report: Report) -> None:
    """Reports how each check of a `Subject` in JSON comes out. It runs on the Python that the subject's options name.

    A check that takes longer than `timeout` seconds fails and ends the trial, as does one that ends the process.
    """
    running = "its process starts"
    try:
        python = interpreter.find(msgspec.json.decode(subject, type=Subject).config.get(interpreter.OPTION))
    except InvalidOption as e:
        report(CheckView(name=running, state="fail", message=e.message))
        return
    process = subprocess.Popen(
        python.command("engine.kit", "trial", subject),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=python.environment(),
        start_new_session=True,
    )
    try:
        for line in _lines(process, timeout):
            view = _decode(line)
            running = view.name if view.state == "running" else ""
            if not running:
                report(view)
    except TimeoutError:
        report(CheckView(name=running, state="fail", message=f"It took longer than {timeout:g} s."))
    else:
        end = Exit(process.wait())
        if running:
            report(CheckView(name=running, state="fail", message=f"It ended the process ({end})."))
    finally:
        kill_group(process.pid)
        process.communicate()


def _lines(process: subprocess.Popen[bytes], timeout: float) -> Iterator[bytes]:
    """What a process writes, line by line. Raises `TimeoutError` when none comes for so many seconds."""
    assert process.stdout is not None
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], timeout)[0]:
            raise TimeoutError
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
