"""Tries out a model in a process of its own: XGBoost ends the process on many files that are damaged."""

from __future__ import annotations

import sys
from pathlib import Path

from backends import rehearsal
from backends.base import ModelFileError

_SECONDS = 300.0


def check(path: Path) -> None:
    """Raises `ModelFileError` if reading the file, or computing a row, crashes or hangs."""
    outcome = rehearsal.rehearse(__name__, [str(path)], seconds=_SECONDS)
    if outcome.ending == "hung":
        raise ModelFileError(f"{path} is damaged, or too slow: it did not compute a row in {_SECONDS:g} seconds.")
    if outcome.ending == "refused":
        raise ModelFileError(outcome.said)
    if outcome.ending == "died":
        raise ModelFileError(f"{path} is damaged: it crashes XGBoost. Save it again, or copy it again.")


def main() -> None:
    """Loads and computes a row; in the child."""
    from backends.boosting.xgboost_trees import XgboostBackend

    rehearsal.perform(lambda: XgboostBackend().try_out(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
