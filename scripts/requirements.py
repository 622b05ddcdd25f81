"""Prints what ``pip install '.[EXTRA]'`` would install, but for what `llama_wheel` compiles.

python -m scripts.requirements EXTRA ... > requirements.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from scripts import llama_wheel

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def of_extra(name: str, extras: dict[str, list[str]]) -> Iterator[str]:
    """The requirements of an extra, and of the extras that it names itself."""
    for requirement in extras[name]:
        if own := re.fullmatch(r"unimodel\[(.+)\]", requirement):
            for other in own[1].split(","):
                yield from of_extra(other, extras)
        elif not requirement.startswith(llama_wheel.PACKAGE):
            yield requirement


def main() -> int:
    """One requirement a line."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    for name in sys.argv[1:]:
        print(*of_extra(name, extras), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
