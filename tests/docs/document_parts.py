"""The documents, taken apart: their blocks, links, headings and inline code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    code: str
    line: int
    """Of its fence, counted from 1."""

    def __str__(self) -> str:
        return f"line {self.line}:\n{self.code}"


def blocks(document: Path, *languages: str) -> list[Block]:
    """The blocks in these languages, by default all."""
    text = document.read_text()
    found = (Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text))
    return [b for b in found if not languages or b.language in languages]


def prose(document: Path) -> str:
    """The text without its blocks."""
    return _BLOCK.sub("", document.read_text())


def inline_code(document: Path) -> list[str]:
    """What stands in single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(document))


def links(document: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of the links to other places in this repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(code: str) -> list[str]:
    """The commands of a shell block, each on one line; one that goes on over several lines is joined."""
    whole: list[str] = []
    begun = ""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quotation is still open
            begun += " "
            continue
        if words:
            whole.append(begun)
        begun = ""
    return whole
