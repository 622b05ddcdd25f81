"""The Python that a worker process runs on: the server's own, or that of a virtual environment with other packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from backends.base import PIP
from engine.errors import InvalidOption
from engine.worker import guest

OPTION = "python"
"""The model option that names it."""
_LEAST_PYTHON = (3, 11)
_NEEDED = {"msgspec": "0.19", "numpy": "1.26"}
"""What a worker imports that Python does not bring, and the least versions. NumPy may be older than the server's:
packages that want an old one are a reason for an environment of their own."""
_PATIENCE = 60.0
"""Seconds within which an interpreter must say what it is."""
_PROBE = """
import json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = __import__(name).__version__
    except ImportError:
        found[name] = None
print(json.dumps([sys.version_info[:2], found]))
"""
"""For any Python, however old."""


class Interpreter(NamedTuple):
    """A Python that can run a worker."""

    executable: str
    is_own: bool

    def command(self, module: str, *arguments: str) -> list[str]:
        """Runs a module of ours. ``-P``: a folder ``engine`` in the working directory must not be taken for it."""
        if self.is_own:
            return [self.executable, "-P", "-m", module, *arguments]
        ours = importlib.metadata.distribution("unimodel")
        entry_points = ours.read_text("entry_points.txt") or ""
        return [self.executable, "-P", guest.__file__, entry_points, ours.version, module, *arguments]

    def environment(self) -> dict[str, str]:
        """The variables of a process that it runs. What leads to the server's packages stays with the server."""
        env = dict(os.environ)
        if self.is_own:
            env["PYTHONPATH"] = os.pathsep.join(p for p in (str(guest.ROOT), env.get("PYTHONPATH", "")) if p)
            return env
        for name in ("PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
        folder = Path(self.executable).parent
        env["VIRTUAL_ENV"] = str(folder.parent)
        env[PIP] = f"{shlex.quote(self.executable)} -m pip"
        env["PATH"] = os.pathsep.join(p for p in (str(folder), env.get("PATH", "")) if p)
        return env


OWN = Interpreter(sys.executable, True)


def find(path: str | None) -> Interpreter:
    """The interpreter of a virtual environment's folder, or the interpreter itself; the server's own for `None`.

    Runs it to see that it is one, and has what a worker needs. Raises `InvalidOption` with what to do. Takes a moment:
    call it in a thread.
    """
    if path is None:
        return OWN
    found = Interpreter(str(_executable(Path(path))), False)
    version, packages = _probe(found)
    if version < _LEAST_PYTHON:
        raise _refused(
            f"{found.executable} is Python {version[0]}.{version[1]}, and a worker needs 3.11 or newer. Make the "
            "environment with another Python."
        )
    if any(_numbers(packages[name] or "") < _numbers(least) for name, least in _NEEDED.items()):
        there = ", ".join(f"{name} {packages[name] or '(none)'}" for name in _NEEDED)
        wanted = " ".join(f"'{name}>={least}'" for name, least in _NEEDED.items())
        raise _refused(
            f"A worker needs packages that {found.executable} does not have; there is {there}. Install them with: "
            f"{found.executable} -m pip install {wanted}"
        )
    return found


def _executable(path: Path) -> Path:
    """The interpreter's own path: that of a virtual environment is a link, which says by its place what it sees."""
    if not path.is_absolute():
        raise _refused(f"{path} must be an absolute path.")
    for candidate in (path / "bin" / "python", path):
        if candidate.is_file():
            return candidate
    problem = "is a folder without bin/python" if path.is_dir() else "does not exist"
    raise _refused(f"{path} {problem}. Make a virtual environment with: python3 -m venv {path}")


def _probe(interpreter: Interpreter) -> tuple[tuple[int, int], dict[str, str | None]]:
    """Its version, and those of the packages that a worker needs."""
    command = [interpreter.executable, "-c", _PROBE, *_NEEDED]
    env = interpreter.environment()
    try:
        done = subprocess.run(
            command, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
        (major, minor), packages = json.loads(done.stdout)
    except OSError as e:
        raise _refused(f"{interpreter.executable} cannot be run: {e.strerror}.") from None
    except (subprocess.TimeoutExpired, ValueError, TypeError):
        raise _refused(f"{interpreter.executable} is not a Python interpreter, or does not start.") from None
    return (major, minor), packages


def _numbers(version: str) -> tuple[int, ...]:
    """``1.26.4`` as (1, 26, 4); nothing as (), which is less than all."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _refused(problem: str) -> InvalidOption:
    return InvalidOption(f"Model option {OPTION}: {problem}", field=f"config.{OPTION}")
