"""Trying a file out in a process of its own, for runtimes that end the process on files that are damaged."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from backends.base import BackendError

_REFUSED = 3
"""The exit code of a child that says on stderr, after `_MARK`, what is wrong."""
_MARK = "refused: "


class Outcome(NamedTuple):
    """How a rehearsal ended, and what was said of it."""

    ending: Literal["well", "refused", "died", "hung"]
    said: str
    """What a `BackendError` said if it refused, else all that came on stderr."""


def rehearse(
    module: str, arguments: Sequence[str], *, seconds: float, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Runs a module, which calls `perform`, in a process of its own, and tells how that ended."""
    paths = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome("hung", f"it took longer than {seconds:g} seconds")
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode == _REFUSED:
        return Outcome("refused", said.rpartition(_MARK)[2].strip())
    return Outcome("died" if done.returncode else "well", said)


def perform(act: Callable[[], object]) -> None:
    """Does in the child what is rehearsed, and ends as `rehearse` expects it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        act()
    except BackendError as e:
        sys.stderr.write(f"{_MARK}{e.message}\n")
        sys.exit(_REFUSED)
