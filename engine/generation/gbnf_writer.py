"""The text of grammars in GBNF, the notation of llama.cpp, within the limits that it sets."""

from __future__ import annotations

from engine.generation.gbnf import NEVER, Alt, Chars, Node, Repeat, Rule, Seq, Text, nullable, without_empty

_MOST_REPEATS = 1000
"""What llama.cpp takes for a repetition that has no upper bound begins at 2,000."""
_UNREACHABLE = 10**9
"""No answer is so long: what may be repeated more often than that may be repeated without end."""


def gbnf(rules: dict[str, Node]) -> str:
    """Rules, by name, as text."""
    return _Writer(rules).write()


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
        most = None if most is not None and most > max(least, _UNREACHABLE) else most
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
