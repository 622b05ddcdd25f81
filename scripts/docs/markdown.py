"""Values as Markdown."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").strip() for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text in backticks; nothing stays nothing."""
    return f"`{text}`" if text else ""


def prose(docstring: str | None) -> str:
    """A docstring as one line of Markdown."""
    return " ".join(inspect.cleandoc(docstring or "").replace("``", "`").split())


def value(default: Any) -> str:
    """A default as one writes it in YAML; an absent one is nothing."""
    return "" if default in (None, (), {}) else code(json.dumps(default, ensure_ascii=False).strip('"'))
