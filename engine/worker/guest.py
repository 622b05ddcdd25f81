"""Runs a module of ours in another interpreter: ``PYTHON -P guest.py ENTRY_POINTS VERSION MODULE ARGUMENT…``.

That interpreter has packages of its own, and not ours. Were the folder that ours lie in on its path, all that is
installed beside them would be there too, for the wrong Python perhaps. So a finder of our own offers the three packages
that a worker needs, where they lie, and the distribution ``unimodel``, whose entry points are how backends are found.
What runs there is therefore always of the server's own version; only what it imports from others must be installed.

This file is run by its path, and imports nothing of ours.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = ("backends", "engine", "unimodel")


class Unimodel(Distribution):
    """The distribution, as far as a worker asks for it."""

    def __init__(self, entry_points: str, version: str) -> None:
        metadata = f"Metadata-Version: 2.1\nName: unimodel\nVersion: {version}\n"
        self._files = {"METADATA": metadata, "entry_points.txt": entry_points}

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Path:
        return ROOT.joinpath(path)


class Finder(DistributionFinder):
    """Finds our packages and their distribution, before any that the interpreter may have."""

    def __init__(self, distribution: Unimodel) -> None:
        self._distribution = distribution

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """The spec of one of our packages; what is in them is found through it."""
        if name not in OURS:
            return None
        folder = ROOT / name
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        """Ours, if it is asked for or all are."""
        wanted = getattr(context, "name", None)
        return [self._distribution] if wanted in (None, "unimodel") else []


def main() -> None:
    """Runs the module."""
    _, entry_points, version, module, *arguments = sys.argv
    sys.meta_path.insert(0, Finder(Unimodel(entry_points, version)))
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
