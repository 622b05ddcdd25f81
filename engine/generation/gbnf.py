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
    return bool(_Matcher(text).ends(node, 1) >> len(text))


class _Matcher:
    """Where parts of one text match. Places in it are the bits of an integer, so that all are looked at together."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._places: dict[Text | Chars, int] = {}

    def ends(self, node: Node, starts: int) -> int:
        """Where matches that begin at one of the places may end."""
        if isinstance(node, Text):
            return (starts & self._places_of(node)) << len(node.text) if node.text else starts
        if isinstance(node, Chars):
            return (starts & self._places_of(node)) << 1
        if isinstance(node, Seq):
            for part in node.parts:
                starts = self.ends(part, starts)
            return starts
        if isinstance(node, Alt):
            found = 0
            for choice in node.choices:
                found |= self.ends(choice, starts)
            return found
        assert isinstance(node, Repeat)
        return self._ends_of_repeat(node, starts)

    def _ends_of_repeat(self, node: Repeat, starts: int) -> int:
        part, least = node.part, node.least
        if nullable(part):
            part, least = without_empty(part), 0
        found = 0 if least else starts
        times = 0
        while starts and times != node.most:
            starts = self.ends(part, starts)
            times += 1
            if times >= least:
                starts &= ~found  # those that were there after fewer times can go on at least as far
                found |= starts
        return found

    def _places_of(self, node: Text | Chars) -> int:
        """Where a text, or one character of a set, is."""
        if node not in self._places:
            text = self._text
            if isinstance(node, Chars):
                fitting = {c for c in set(text) if c in node}
                bits = ["1" if c in fitting else "0" for c in reversed(text)]
            else:
                bits = ["1" if text.startswith(node.text, at) else "0" for at in reversed(range(len(text)))]
            self._places[node] = int("".join(bits) or "0", 2)
        return self._places[node]
