"""Grammars as trees, and their text in GBNF, the notation of llama.cpp.

A tree can be looked into: `Grammar.text` leaves out what could never be finished, such as an object that requires one
more of itself, because a model that steps into it cannot come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Range = tuple[int, int]
"""Code points, from the first to the last."""

_MOST_REPEATS = 1000
"""What llama.cpp takes for a repetition that has no upper bound begins at 2,000."""
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


class Grammar:
    """Rules under construction."""

    def __init__(self) -> None:
        self._rules: dict[str, Node] = {}
        self._numbers: dict[str, int] = {}
        """How many rules have a name with this beginning."""

    def __len__(self) -> int:
        return len(self._rules)

    def reserve(self, hint: str) -> Rule:
        """A rule whose content follows by `define`; that allows it to refer to itself."""
        base = "".join(c if c.isascii() and c.isalnum() else "-" for c in hint[-40:]).strip("-") or "rule"
        name = base
        while name in self._rules or name == "root":
            self._numbers[base] = self._numbers.get(base, 1) + 1
            name = f"{base}-{self._numbers[base]}"
        self._rules[name] = NEVER
        return Rule(name)

    def define(self, rule: Rule, node: Node) -> Rule:
        """Gives a reserved rule its content."""
        self._rules[rule.name] = node
        return rule

    def rule(self, hint: str, node: Node) -> Rule:
        """A new rule, named like `hint`."""
        return self.define(self.reserve(hint), node)

    def shared(self, name: str, make: Callable[[], Node]) -> Rule:
        """The rule of this very name, which is made when it is first asked for."""
        if name not in self._rules:
            self._rules[name] = make()
        return Rule(name)

    def free_text(self, marks: Mapping[str, Node], may_end: bool) -> Node:
        """Text up to the first of the marks, the mark, and what the mapping has for it; or just text without any.

        Each rule is a state of the search for the marks: what was read last, as far as it is the beginning of one.
        """
        beginnings = {mark[:n] for mark in marks for n in range(len(mark))} or {""}
        states = {seen: self.reserve("text") for seen in sorted(beginnings)}
        letters = "".join(sorted({c for mark in marks for c in mark}))
        for seen, state in states.items():
            choices: list[Node] = [EMPTY] if may_end else []
            others = letters
            for letter in letters:
                now = seen + letter
                found = next((mark for mark in marks if now.endswith(mark)), None)
                rest = next(now[n:] for n in range(len(now) + 1) if now[n:] in states)
                if found is not None or rest:
                    choices.append(seq(letter, states[rest] if found is None else marks[found]))
                else:
                    others = others.replace(letter, "")
            choices.append(seq(~one_of(others), states[""]))
            self.define(state, alt(*choices))
        return states[""]

    def text(self, root: Node) -> str | None:
        """The grammar in GBNF, with `root` as the rule where it begins; `None` when nothing can match it."""
        finite = self._finite()
        root = self._pruned(root, finite)
        if root == NEVER:
            return None
        kept = {"root": root}
        pending = [root]
        while pending:
            for name in _names_in(pending.pop()):
                if name not in kept:
                    kept[name] = self._pruned(self._rules[name], finite)
                    pending.append(kept[name])
        writer = _Writer(kept)
        return writer.write()

    def _finite(self) -> set[str]:
        """The rules that something finite matches."""
        finite: set[str] = set()
        waiting = list(self._rules)
        while True:
            before = len(finite)
            waiting.reverse()  # whichever way rules build on each other, one of the two ways is quick
            finite.update(name for name in waiting if _is_finite(self._rules[name], finite))
            if len(finite) == before:
                return finite
            waiting = [name for name in waiting if name not in finite]

    def _pruned(self, node: Node, finite: set[str]) -> Node:
        """`node` without the choices that could never be finished."""
        if isinstance(node, Rule):
            return node if node.name in finite else NEVER
        if isinstance(node, Seq):
            return seq(*(self._pruned(part, finite) for part in node.parts))
        if isinstance(node, Alt):
            return alt(*(p for choice in node.choices if (p := self._pruned(choice, finite)) != NEVER))
        if isinstance(node, Repeat):
            return repeat(self._pruned(node.part, finite), node.least, node.most)
        return node


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


def _names_in(node: Node) -> list[str]:
    if isinstance(node, Rule):
        return [node.name]
    if isinstance(node, Repeat):
        return _names_in(node.part)
    inner: Sequence[Node] = node.parts if isinstance(node, Seq) else node.choices if isinstance(node, Alt) else ()
    return [name for part in inner for name in _names_in(part)]


def _is_finite(node: Node, finite: set[str]) -> bool:
    if isinstance(node, Rule):
        return node.name in finite
    if isinstance(node, Seq):
        return all(_is_finite(part, finite) for part in node.parts)
    if isinstance(node, Alt):
        return any(_is_finite(choice, finite) for choice in node.choices)
    if isinstance(node, Repeat):
        return node.least == 0 or _is_finite(node.part, finite)
    return not isinstance(node, Chars) or bool(node.ranges)


class _Writer:
    """Writes rules as GBNF. It adds rules of its own where the notation, or llama.cpp's limits, want that."""

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        self._lines: list[str] = []
        self._helpers: dict[tuple[str, str], str] = {}

    def write(self) -> str:
        for name, node in self._rules.items():
            self._lines.append(f"{name} ::= {self._choices(node, name)}")
        return "\n".join(self._lines) + "\n"

    def _choices(self, node: Node, name: str) -> str:
        if isinstance(node, Alt):
            return " | ".join(self._sequence(choice, name) for choice in node.choices)
        return self._sequence(node, name)

    def _sequence(self, node: Node, name: str) -> str:
        if isinstance(node, Seq):
            return " ".join(self._item(part, name) for part in node.parts)
        return self._item(node, name)

    def _item(self, node: Node, name: str) -> str:
        if isinstance(node, Text):
            return '"' + "".join(map(_quoted, node.text)) + '"'
        if isinstance(node, Chars):
            return _class(node)
        if isinstance(node, Rule):
            return node.name
        if isinstance(node, Repeat):
            return self._repeat(node, name)
        return f"({self._choices(node, name)})"

    def _repeat(self, node: Repeat, name: str) -> str:
        least, most = node.least, node.most
        part = node.part
        if nullable(part):
            least, part = 0, without_empty(part)
        if part == NEVER:
            return '""'
        if isinstance(part, Text | Chars | Rule):
            item = self._item(part, name)
        else:
            item = self._helper(name, self._choices(part, name))
        exact = self._exactly(item, least, name)
        if most is None:
            return f"{item}*" if least == 0 else f"{item}+" if least == 1 else f"{exact} {item}*"
        if most == least:
            return exact or '""'
        if most <= _MOST_REPEATS:
            return f"{item}?" if (least, most) == (0, 1) else f"{item}{{{least},{most}}}"
        return " ".join(part for part in (exact, self._at_most(item, most - least, name)) if part)

    def _exactly(self, item: str, count: int, name: str) -> str:
        """`item` so many times, in blocks where that is often."""
        if count <= _MOST_REPEATS:
            return "" if count == 0 else item if count == 1 else f"{item}{{{count}}}"
        blocks, rest = divmod(count, _MOST_REPEATS)
        block = self._helper(name, f"{item}{{{_MOST_REPEATS}}}")
        return " ".join(part for part in (self._exactly(block, blocks, name), self._exactly(item, rest, name)) if part)

    def _at_most(self, item: str, count: int, name: str) -> str:
        """`item` up to so many times: so many whole blocks, and less than a block, or the rest behind all blocks."""
        if count <= _MOST_REPEATS:
            return f"{item}{{0,{count}}}" if count else ""
        size = max(_MOST_REPEATS, -(-count // _MOST_REPEATS))
        blocks, rest = divmod(count, size)
        block = self._helper(name, self._exactly(item, size, name))
        less = self._helper(name, self._at_most(item, size - 1, name))
        tail = self._helper(name, self._at_most(item, rest, name) or '""')
        for _ in range(blocks):
            tail = self._helper(name, f"{block} {tail} | {less}")
        return tail

    def _helper(self, name: str, content: str) -> str:
        """The name of a rule with this content."""
        if (name, content) not in self._helpers:
            number = len(self._helpers) + 1
            while (helper := f"{name}-x{number}") in self._rules:
                number += 1
            self._helpers[name, content] = helper
            self._lines.append(f"{helper} ::= {content}")
        return self._helpers[name, content]


def _quoted(character: str) -> str:
    """A character as it stands between quotes or brackets."""
    if character.isascii() and (character.isalnum() or character in " _.:,;/{}()<>=+*?!@#$%&|'`~"):
        return character
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _class(node: Chars) -> str:
    """A set in brackets.

    It is negated only when what it excludes is ASCII: of a character beyond, llama.cpp may see the first byte alone,
    and then refuses all that share it with an excluded one.
    """
    excluded = (~node).ranges
    if not excluded:
        return "."
    negated = excluded[-1][1] < 0x80
    shown = excluded if negated else node.ranges
    ranges = (_quoted(chr(low)) if low == high else f"{_quoted(chr(low))}-{_quoted(chr(high))}" for low, high in shown)
    return f"[{'^' if negated else ''}{''.join(ranges)}]"
