"""``python -m engine.kit WHAT``: one answer as JSON on stdout. An error is an `ErrorBody`, with exit code 1.

``backends`` gives a `BackendList`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from engine import installed


def main() -> int:
    """Answers. Returns the exit code."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # where the code of others prints
    os.write(answers, msgspec.json.encode(_answer(sys.argv[1])) + b"\n")
    return 0


def _answer(what: str) -> Any:
    return {"backends": installed.backends}[what]()


if __name__ == "__main__":
    sys.exit(main())
