"""Virtual environments for the tests, made without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy


def bare(folder: Path) -> Path:
    """A new environment with nothing in it, not even pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def with_what_a_worker_needs(folder: Path) -> Path:
    """One with msgspec and NumPy, linked from this environment, and with a module ``only_there`` of its own."""
    packages = site_packages(bare(folder))
    for module in (msgspec, numpy):
        source = Path(str(module.__file__)).parent
        for part in (source, source.with_name(f"{source.name}.libs")):  # NumPy's libraries lie beside it
            if part.exists():
                (packages / part.name).symlink_to(part)
    (packages / "only_there.py").write_text("ANSWER = 42\n")
    return folder


def site_packages(environment: Path) -> Path:
    """Where the packages of an environment lie."""
    (found,) = environment.glob("lib/python3.*/site-packages")
    return found
