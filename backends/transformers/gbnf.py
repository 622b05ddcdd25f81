"""Grammars in GBNF, the notation of llama.cpp, as llguidance reads them: in its dialect of Lark.

llguidance cuts a text into lexemes, each as long as it can be, before it looks at rules; GBNF knows no lexemes. Both
mean the same in two cases, and a grammar is written as one of them: all of it is a single lexeme, which is quicker but
cannot be where rules refer to themselves, or each character is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backends.base import InvalidInput

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
"""Halves of characters, which no text contains."""
_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t]|\#[^\r\n]*)+)
    |(?P<line>[\r\n]+)
    |(?P<rule>[A-Za-z0-9-]+)[ \t]*::=
    |(?P<name>[A-Za-z0-9-]+)
    |"(?P<text>(?:\\.|[^\\"])*)"
    |\[(?P<set>(?:\\.|[^\\\]])*)\]
    |(?P<token>!?<[^>]*>)
    |(?P<repeat>[*+?]|\{\s*(?P<least>[0-9]+)\s*(?:(?P<comma>,)\s*(?P<most>[0-9]+)?\s*)?\})
    |(?P<sign>[|().])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"\\(?:x(?P<x>[0-9A-Fa-f]{2})|u(?P<u>[0-9A-Fa-f]{4})|U(?P<U>[0-9A-Fa-f]{8})|(?P<plain>[trn\\\"\[\]-]))|(?P<own>[^\\])",
    re.DOTALL,
)
_CONTROLS = {"t": "\t", "r": "\r", "n": "\n"}

_MOST_LEVELS = 100
_MOST_PARTS = 50_000
"""Of one lexeme. llguidance calls itself for each level of rules, and writes out what they refer to."""
_MOST_DEPTH = 1500
_MOST_SYMBOLS = 60_000
"""Of rules. llguidance calls itself for each level, which 8 MB of stack allow 2,500 times, and numbers with 16 bits."""
_OPTIONAL = ("*", "?", "{0")
"""How repetitions begin that may be none."""

_Range = tuple[int, int]


Name = str | int
"""Of a rule; numbers are those of groups, which become rules here."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """Stands for a rule, so many times."""

    name: Name
    times: str = ""


_Part = str | _Reference
"""A part of a sequence; a string is as llguidance reads it."""
_Rules = dict[Name, list[list[_Part]]]
"""The alternatives of each rule."""


def to_lark(source: str) -> str:
    """A grammar for llguidance. Raises `InvalidInput`."""
    rules = _Reader(source, whole=True).rules()
    _check(rules)
    simple = _is_simple(rules)
    if not simple:
        rules = _Reader(source, whole=False).rules()
        _check_size(rules)
    names = {name: f"{'R' if simple else 'r'}{i}" for i, name in enumerate(_reachable(rules))}

    def written(part: _Part) -> str:
        return part if isinstance(part, str) else names[part.name] + part.times

    lines = [f"start: {names['root']}"]
    for name in names:
        choices = (" ".join(map(written, parts)) or '""' for parts in rules[name])
        lines.append(f"{names[name]}: {' | '.join(choices)}")
    return "\n".join(lines) + "\n"


def _invalid(reason: str) -> InvalidInput:
    return InvalidInput(f"The grammar is not valid GBNF: {reason}.", field="grammar")


class _Reader:
    """Reads rules. `whole` texts stay what they are; else they are taken apart into characters."""

    def __init__(self, source: str, *, whole: bool) -> None:
        self._source = source
        self._whole = whole
        self._rules: _Rules = {}
        self._opened: list[list[list[_Part]]] = []
        """The rule that is being read, and the groups in it, from the outermost on; nothing between rules."""

    def rules(self) -> _Rules:
        """All rules, by name."""
        goes_on = False  # into the next line
        for found in self._tokens():
            if found["rule"] is not None:
                if len(self._opened) > 1:
                    raise _invalid("a parenthesis is not closed")
                self._opened = [[[]]]
                self._rules[found["rule"]] = self._opened[0]
                goes_on = True
            elif found["line"] is not None:
                if len(self._opened) == 1 and not goes_on:
                    self._opened = []
            elif found["blank"] is None:
                if not self._opened:
                    raise _invalid(f"expected a rule, as in NAME ::= …, before {found[0][:40]!r}")
                self._take(found)
                goes_on = found[0] == "|"
        if len(self._opened) > 1:
            raise _invalid("a parenthesis is not closed")
        return self._rules

    def _tokens(self) -> Iterator[re.Match[str]]:
        at = 0
        while at < len(self._source):
            found = _TOKEN.match(self._source, at)
            if found is None:
                raise _invalid(f"{self._source[at : at + 40]!r} makes no sense")
            yield found
            at = found.end()

    def _take(self, found: re.Match[str]) -> None:
        parts = self._opened[-1][-1]
        if found["repeat"] is not None:
            if not parts:
                raise _invalid(f"there is nothing to repeat in front of {found[0]}")
            parts.append(self._repeated(parts.pop(), _times(found)))
        elif found[0] == "(":
            self._opened.append([[]])
        elif found[0] == ")":
            if len(self._opened) == 1:
                raise _invalid("a parenthesis is closed that was not opened")
            group = self._opened.pop()
            self._opened[-1][-1].append(self._new_rule(group))
        elif found[0] == "|":
            self._opened[-1].append([])
        else:
            parts.append(self._item(found))

    def _item(self, found: re.Match[str]) -> _Part:
        if found["name"] is not None:
            return _Reference(found["name"])
        if found["text"] is not None:
            text = "".join(chr(code) for code in _codes(found["text"]))
            if self._whole or len(text) < 2:
                return _quoted(text)
            return self._new_rule([[_quoted(character) for character in text]])
        if found["set"] is not None:
            return _set(found["set"])
        if found[0] == ".":
            return _class([(0, _LAST)])
        raise InvalidInput(
            f"The grammar names the token {found[0][:40]}, which a model that is served by transformers does not "
            "follow; write its text in quotes.",
            field="grammar",
        )

    def _repeated(self, part: _Part, times: str) -> _Reference:
        if isinstance(part, str) or part.times:
            part = self._new_rule([[part]])
        return _Reference(part.name, times)

    def _new_rule(self, alternatives: list[list[_Part]]) -> _Reference:
        name = len(self._rules)
        self._rules[name] = alternatives
        return _Reference(name)


def _times(found: re.Match[str]) -> str:
    """A repetition, without blanks."""
    if found["least"] is None:
        return found[0]
    least, most = int(found["least"]), found["most"]
    if most is not None and int(most) < least:
        raise _invalid(f"{found[0]} repeats something at least {least} times and at most {most} times")
    return f"{{{least}{',' if found['comma'] else ''}{most or ''}}}"


def _codes(text: str) -> Iterator[int]:
    """The code points between quotes or brackets."""
    at = 0
    while at < len(text):
        found = _CHARACTER.match(text, at)
        if found is None:
            raise _invalid(f"{text[at : at + 10]!r} is no way to write a character")
        at = found.end()
        digits = found["x"] or found["u"] or found["U"]
        plain = found["own"] or found["plain"] or ""
        code = int(digits, 16) if digits else ord(_CONTROLS.get(plain, plain) if found["plain"] else plain)
        if code > _LAST:
            raise _invalid(f"there is no character {found[0]}")
        yield code


def _quoted(text: str) -> str:
    if any(_SURROGATES[0] <= ord(c) <= _SURROGATES[1] for c in text):
        raise _invalid("a text has half of a character")
    return json.dumps(text, ensure_ascii=False)


def _set(text: str) -> str:
    """A set of characters as a regular expression; without any, it stands for no text at all."""
    negated = text.startswith("^")
    codes = list(_codes(text[negated:]))
    written = [found[0] for found in _CHARACTER.finditer(text[negated:])]
    ranges: list[_Range] = []
    at = 0
    while at < len(codes):
        spans = at + 2 < len(codes) and written[at + 1] == "-"
        ranges.append((codes[at], codes[at + 2] if spans else codes[at]))
        at += 3 if spans else 1
    if not ranges:
        return '""'
    return _class(_others(ranges) if negated else ranges)


def _others(ranges: Iterable[_Range]) -> list[_Range]:
    """All characters that are in none of the ranges."""
    gaps, at = [], 0
    for low, high in sorted(ranges):
        if at < low:
            gaps.append((at, low - 1))
        at = max(at, high + 1)
    return [*gaps, (at, _LAST)] if at <= _LAST else gaps


def _class(ranges: Iterable[_Range]) -> str:
    """A set of characters as a regular expression."""
    first, last = _SURROGATES
    parts = [part for low, high in ranges for part in ((low, min(high, first - 1)), (max(low, last + 1), high))]
    shown = "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in parts if low <= high)
    if not shown:
        raise _invalid("a set has no characters")
    return f"/[{shown}]/"


def _references(alternatives: list[list[_Part]]) -> list[Name]:
    return [part.name for parts in alternatives for part in parts if isinstance(part, _Reference)]


def _check(rules: _Rules) -> None:
    """Raises `InvalidInput` for rules that are missing, and when no text that ends could ever fit."""
    wanted = ["root", *(name for rule in rules.values() for name in _references(rule))]
    missing = next((name for name in wanted if name not in rules), None)
    if missing is not None:
        raise _invalid(f"it has no rule named {missing}")
    if "root" not in _finite(rules):
        raise _invalid("its rules refer to each other without end, so that no text fits")


def _finite(rules: _Rules) -> set[Name]:
    """The rules that some text fits."""
    missing: dict[tuple[Name, int], int] = {}
    users: dict[Name, list[tuple[Name, int]]] = defaultdict(list)
    for name, alternatives in rules.items():
        for i, parts in enumerate(alternatives):
            needed = {p.name for p in parts if isinstance(p, _Reference) and not p.times.startswith(_OPTIONAL)}
            missing[name, i] = len(needed)
            for other in needed:
                users[other].append((name, i))
    pending = [name for (name, _), count in missing.items() if not count]
    finite = set(pending)
    while pending:
        for user in users[pending.pop()]:
            missing[user] -= 1
            if not missing[user] and user[0] not in finite:
                finite.add(user[0])
                pending.append(user[0])
    return finite


def _reachable(rules: _Rules) -> list[Name]:
    """The rules that a grammar needs, its root first."""
    found: dict[Name, None] = {"root": None}
    pending: list[Name] = ["root"]
    while pending:
        new = dict.fromkeys(name for name in _references(rules[pending.pop()]) if name not in found)
        found |= new
        pending += new
    return list(found)


def _check_size(rules: _Rules) -> None:
    """Raises `InvalidInput` for rules that llguidance has no room for. Looks at them in its order, each once."""
    if sum(len(parts) + 1 for alternatives in rules.values() for parts in alternatives) > _MOST_SYMBOLS:
        raise InvalidInput("The grammar is too large; a smaller one, or one without recursion, can be followed.",
                           field="grammar")  # fmt: skip
    seen: set[Name] = {"root"}
    trail = [iter(_references(rules["root"]))]
    while trail:
        for name in trail[-1]:
            if name not in seen:
                seen.add(name)
                trail.append(iter(_references(rules[name])))
                break
        else:
            trail.pop()
        if len(trail) > _MOST_DEPTH:
            raise InvalidInput(
                f"The grammar has more than {_MOST_DEPTH} rules or parentheses inside each other.", field="grammar"
            )


def _is_simple(rules: _Rules) -> bool:
    """Whether a grammar can be one lexeme: no rule lies inside itself, and written out it is neither deep nor long."""
    measured: dict[Name, tuple[int, int] | None] = {"root": None}  # levels and parts; `None` while they are counted
    trail: list[tuple[Name, Iterator[Name]]] = [("root", iter(_references(rules["root"])))]
    while trail:
        name, rest = trail[-1]
        for other in rest:
            if other not in measured:
                measured[other] = None
                trail.append((other, iter(_references(rules[other]))))
                break
            if measured[other] is None:
                return False
        else:
            inner = [found for other in _references(rules[name]) if (found := measured[other]) is not None]
            levels = 1 + max((found[0] for found in inner), default=0)
            size = sum(map(len, rules[name])) + sum(found[1] for found in inner)
            if levels > _MOST_LEVELS or size > _MOST_PARTS:
                return False
            measured[name] = levels, size
            trail.pop()
    return True
