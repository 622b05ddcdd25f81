"""Tries out a model in a process of its own: the libraries end the process on many files that are damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from backends import rehearsal
from backends.base import ModelFileError

if TYPE_CHECKING:
    from backends.boosting.backend import BoostingBackend

_SECONDS = 300.0


def check(path: Path, kind: type[BoostingBackend]) -> None:
    """Raises `ModelFileError` if reading the file, or computing a row, crashes or hangs."""
    outcome = rehearsal.rehearse(__name__, [str(path), kind.__name__], seconds=_SECONDS)
    if outcome.ending == "hung":
        raise ModelFileError(f"{path} is damaged, or too slow: it did not compute a row in {_SECONDS:g} seconds.")
    if outcome.ending == "refused":
        raise ModelFileError(outcome.said)
    if outcome.ending == "died":
        raise ModelFileError(f"{path} is damaged: it crashes {kind.library}. Save it again, or copy it again.")


def main() -> None:
    """Loads and computes a row; in the child."""
    from backends import boosting

    path, kind = sys.argv[1:]
    rehearsal.perform(lambda: getattr(boosting, kind)().open(Path(path), threads=1))


if __name__ == "__main__":
    main()
