"""The expressions of a pipeline, in JMESPath: where the input of a step comes from, and whether it runs.

An expression that only names a place (``detect.boxes``) passes on what lies there as it is, be it a tensor or an image.
Any other one works on JSON, in which a tensor is a list of lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

_MOST_CHARACTERS = 4096
_NESTED = {"projection", "value_projection", "filter_projection", "pipe", "subexpression", "index_expression"}
"""Nodes of which only the first child is about the scope; the others are about what the first one gave."""


class Expression:
    """One expression. Raises `ValueError`, in words for people, when it is none."""

    def __init__(self, text: str) -> None:
        if len(text) > _MOST_CHARACTERS:
            raise ValueError(f"it has {len(text)} characters; the most are {_MOST_CHARACTERS}")
        try:
            self._compiled = jmespath.compile(text)
            self.roots = frozenset(_roots(self._compiled.parsed))
            """The names of the scope that it is about."""
        except (JMESPathError, RecursionError) as e:
            raise ValueError(f"{text!r} is not JMESPath: {' '.join(str(e).split()[:20])}") from None
        self.text = text
        self._path = _path(self._compiled.parsed)

    def of(self, scope: Mapping[str, Any], plain: Callable[[Any], Any]) -> Any:
        """Its value in a scope; `plain` makes JSON of what is a value of ours.

        Raises `ValueError` when a function in it does not take what it gets.
        """
        if self._path is not None:
            return _at(scope, self._path)
        try:
            return self._compiled.search({name: plain(scope[name]) for name in self.roots})
        except (JMESPathError, RecursionError) as e:
            raise ValueError(f"{self.text!r}: {' '.join(str(e).split()[:40])}") from None


def _roots(node: Mapping[str, Any]) -> Iterator[str]:
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield node["value"]
    elif kind in ("current", "identity"):
        raise ValueError("@ is everything at once; name what you mean")
    for child in children[:1] if kind in _NESTED else children:
        if child["type"] != "expref":  # about each element of a list
            yield from _roots(child)


def _path(node: Mapping[str, Any]) -> list[str] | None:
    """The names that lead to a place; `None` when the expression does anything else."""
    if node["type"] == "field":
        return [node["value"]]
    if node["type"] != "subexpression":
        return None
    names: list[str] = []
    for child in node["children"]:
        part = _path(child)
        if part is None:
            return None
        names += part
    return names


def _at(scope: Mapping[str, Any], path: list[str]) -> Any:
    value: Any = scope
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
