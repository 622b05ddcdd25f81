"""Grammars as trees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Range = tuple[int, int]
"""Code points, from the first to the last."""

_LAST = 0x10FFFF


@dataclass(frozen=True)
class Text:
    """Exactly this text; the empty one is nothing."""

    text: str


@dataclass(frozen=True)
class Chars:
    """One character of a set, which is sorted and without overlaps. See `chars`."""

    ranges: tuple[Range, ...]

    def __invert__(self) -> Chars:
        gaps, at = [], 0
        for low, high in self.ranges:
            if at < low:
                gaps.append((at, low - 1))
            at = high + 1
        if at <= _LAST:
            gaps.append((at, _LAST))
        return Chars(tuple(gaps))

    def __and__(self, other: Chars) -> Chars:
        return ~chars([*(~self).ranges, *(~other).ranges])

    def __or__(self, other: Chars) -> Chars:
        return chars([*self.ranges, *other.ranges])

    def __sub__(self, other: Chars) -> Chars:
        return self & ~other

    def __contains__(self, character: str) -> bool:
        return any(low <= ord(character) <= high for low, high in self.ranges)


@dataclass(frozen=True)
class Seq:
    """Parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """One of the choices. Without any, it matches nothing at all."""

    choices: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """`part` so many times; `most` is `None` for any number."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True)
class Rule:
    """A rule of the grammar, by its name."""

    name: str


Node = Text | Chars | Seq | Alt | Repeat | Rule

EMPTY = Text("")
NEVER = Alt(())
ANY = Chars(((0, _LAST),))


def chars(ranges: Iterable[Range]) -> Chars:
    """A set of characters, from ranges in any order."""
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return Chars(tuple(merged))


def one_of(characters: str) -> Chars:
    """One of these characters."""
    return chars((ord(c), ord(c)) for c in characters)


def seq(*parts: Node | str) -> Node:
    """Parts one after the other; strings stand for themselves."""
    flat: list[Node] = []
    for part in parts:
        node = Text(part) if isinstance(part, str) else part
        if node == NEVER:
            return NEVER
        for piece in node.parts if isinstance(node, Seq) else (node,):
            if isinstance(piece, Text) and flat and isinstance(flat[-1], Text):
                flat[-1] = Text(flat[-1].text + piece.text)
            elif piece != EMPTY:
                flat.append(piece)
    return EMPTY if not flat else flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*choices: Node | str) -> Node:
    """One of the choices."""
    flat: dict[Node, None] = {}
    for choice in choices:
        node = Text(choice) if isinstance(choice, str) else choice
        flat |= dict.fromkeys(node.choices if isinstance(node, Alt) else (node,))
    return next(iter(flat)) if len(flat) == 1 else Alt(tuple(flat))


def optional(part: Node | str) -> Node:
    """`part`, or nothing."""
    return alt(part, EMPTY)


def repeat(part: Node, least: int = 0, most: int | None = None) -> Node:
    """`part` so many times."""
    if most == 0 or part == EMPTY:
        return EMPTY
    if part == NEVER or (isinstance(part, Chars) and not part.ranges):
        return EMPTY if least == 0 else NEVER
    return part if least == most == 1 else Repeat(part, least, most)


def nullable(node: Node) -> bool:
    """Whether nothing at all matches it. Rules are taken to match something."""
    if isinstance(node, Text):
        return not node.text
    if isinstance(node, Seq):
        return all(nullable(part) for part in node.parts)
    if isinstance(node, Alt):
        return any(nullable(choice) for choice in node.choices)
    return isinstance(node, Repeat) and (node.least == 0 or nullable(node.part))


def without_empty(node: Node) -> Node:
    """What matches the same, but for nothing at all."""
    if isinstance(node, Text):
        return node if node.text else NEVER
    if isinstance(node, Seq):
        head, *tail = node.parts
        if not nullable(head):
            return node
        rest = seq(*tail)
        return alt(seq(without_empty(head), rest), without_empty(rest)) if tail else without_empty(head)
    if isinstance(node, Alt):
        return alt(*(w for choice in node.choices if (w := without_empty(choice)) != NEVER))
    if isinstance(node, Repeat) and nullable(node):
        return repeat(without_empty(node.part), 1, node.most)
    return node


def matches(node: Node, text: str) -> bool:
    """Whether `node`, which refers to no rules, matches a whole text. Unlike `re`, it never takes much longer."""
    return len(text) in _ends(node, text, {0})


def _ends(node: Node, text: str, starts: set[int]) -> set[int]:
    """Where matches that begin at one of the places may end."""
    if isinstance(node, Text):
        return {start + len(node.text) for start in starts if text.startswith(node.text, start)}
    if isinstance(node, Chars):
        return {start + 1 for start in starts if start < len(text) and text[start] in node}
    if isinstance(node, Seq):
        for part in node.parts:
            starts = _ends(part, text, starts)
        return starts
    if isinstance(node, Alt):
        return {end for choice in node.choices for end in _ends(choice, text, starts)}
    assert isinstance(node, Repeat)
    found = set(starts) if node.least == 0 else set()
    times = 0
    while starts and times != node.most:
        following = _ends(node.part, text, starts)
        times += 1
        if following == starts or (times >= node.least and following <= found):
            return found | following
        starts = following
        if times >= node.least:
            found |= starts
    return found
