"""Class names in a model's own metadata, under any of the keys that exporters use."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

KEYS = ("unimodel.labels", "labels", "names", "classes", "class_names", "id2label")
"""In order of preference. ``names`` is Ultralytics', ``id2label`` Hugging Face's."""

_SHOWN = 4096


def find(metadata: Mapping[str, str], count: int) -> tuple[tuple[str, ...] | None, str | None]:
    """The `count` labels of the classes, and a note when there are labels that do not fit."""
    note = None
    for key in KEYS:
        if key in metadata:
            labels = parse(metadata[key])
            if len(labels) == count:
                return labels, None
            note = (
                f"The file's {key} holds {len(labels)} labels for {count} classes, so they are not used; "
                "give the right ones with --set labels=FILE."
            )
    return None, note


def unfolded(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts beside a model as metadata: of one that holds a whole object of it, as Ultralytics' do, what is in it."""
    found: dict[str, str] = {}
    for name, text in texts.items():
        value = _literal(text)
        if isinstance(value, dict) and {"task", "names"} <= value.keys():
            found |= {str(key): each if isinstance(each, str) else repr(each) for key, each in value.items()}
        else:
            found[name] = text
    return found


def named(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The labels of as many classes as they are, for a model whose shapes do not tell how many it has."""
    key = next((key for key in KEYS if key in metadata), None)
    return parse(metadata[key]) or None if key is not None else None


def others(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is not labels, and short enough to be shown."""
    return {key: value for key, value in metadata.items() if key not in KEYS and len(value) <= _SHOWN}


def parse(text: str) -> tuple[str, ...]:
    """Labels written as JSON or Python (a list, or a dict by index), or one a line, or divided by commas."""
    value = _literal(text)
    if isinstance(value, dict):
        try:
            value = [value[k] for k in sorted(value, key=int)]
        except (TypeError, ValueError):
            return ()
    if isinstance(value, list | tuple):
        return tuple(str(v) for v in value)
    lines = text.splitlines() if "\n" in text.strip() else text.split(",")
    return tuple(line.strip() for line in lines if line.strip())


def _literal(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{", "(")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None
