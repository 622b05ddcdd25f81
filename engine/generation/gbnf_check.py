"""Checks grammars of clients before llama.cpp gets them.

llama.cpp trusts a grammar. It reads what is nested by calling itself, writes out what is repeated, repeats ``{3,1}``
until there is no memory left, looks for rules that begin with themselves along every way that there is, and overlooks
some of them: with such it computes for ever. None of that could be interrupted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from engine.errors import InvalidInput

_MOST_DEPTH = 200
"""Parentheses inside each other."""
_MOST_ELEMENTS = 1_000_000
"""What all repetitions come to when they are written out."""
_MOST_PATHS = 10_000
"""Ways from one rule down to the first character of what it stands for."""
_MOST_REPEATS = 2000
"""Beyond it, llama.cpp refuses a lower bound, and takes an upper one for none."""

_ESCAPE = r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn\\"\[\]-])'
_BLANK = r"(?:[ \t]|#[^\r\n]*+)*+"
_BLANKS = r"(?:[ \t\r\n]|#[^\r\n]*+)*+"
_SPACE = {False: re.compile(_BLANK), True: re.compile(_BLANKS)}
"""By whether it may go over the end of a line."""
_NAME = re.compile(r"[A-Za-z0-9-]+")
_CHARACTERS = re.compile(rf'"(?:{_ESCAPE}|[^\\"\0])*"|\[\^?(?:{_ESCAPE}|[^\\\]\0])*\]|!?<[^>\0]*>|\.')
"""A text, a set, a token, or any character."""
_EMPTY = ('""', "[]", "[^]")
_REPEAT = re.compile(rf"[*+?]|\{{{_BLANKS}([0-9]{{1,9}}){_BLANKS}(?:(,){_BLANKS}([0-9]{{1,9}})?{_BLANKS})?\}}")
_SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class _Part(NamedTuple):
    """A part of a sequence."""

    rule: str | None
    """`None` stands for characters."""
    times: int = 1


_Rules = dict[str, list[list[_Part]]]
"""The alternatives of each rule. Those that stand for groups and repetitions have names that no other can have."""


def check_gbnf(source: str, field: str) -> None:
    """Raises `InvalidInput` that names `field` for a grammar with a mistake, or that llama.cpp would not survive."""
    rules = _Reader(source, field).grammar()
    _check_beginnings(rules, field)


class _Reader:
    """Reads a grammar as llama.cpp does."""

    def __init__(self, source: str, field: str) -> None:
        self._text = source
        self._field = field
        self._at = 0
        self._depth = 0
        self._elements = 0
        self._rules: _Rules = {}
        self._made = 0

    def grammar(self) -> _Rules:
        """All rules."""
        self._space(True)
        while self._at < len(self._text):
            name = self._match(_NAME)
            self._space(False)
            if name is None or not self._text.startswith("::=", self._at):
                raise self._mistake("a rule, as in NAME ::= …")
            self._at += 3
            self._space(True)
            self._rules[name[0]] = self._alternatives(False)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._mistake("the end of the rule")
            self._space(True)
        return self._rules

    def _mistake(self, expected: str) -> InvalidInput:
        line = self._text.count("\n", 0, self._at) + 1
        rest = self._text[self._at : self._at + 40]
        return InvalidInput(
            f"The grammar is not valid GBNF: expected {expected}, in line {line}, before {rest!r}.", field=self._field
        )

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _space(self, over_lines: bool) -> None:
        self._match(_SPACE[over_lines])

    def _new_rule(self, alternatives: list[list[_Part]]) -> str:
        self._made += 1
        name = f"({self._made}"
        self._rules[name] = alternatives
        return name

    def _alternatives(self, nested: bool) -> list[list[_Part]]:
        found = [self._sequence(nested)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._space(True)
            found.append(self._sequence(nested))
        return found

    def _sequence(self, nested: bool) -> list[_Part]:
        parts: list[_Part] = []
        last = size = 0
        while True:
            if found := self._match(_CHARACTERS):
                last, size = len(parts), len(found[0])
                if found[0] not in _EMPTY:
                    parts.append(_Part(None))
            elif found := self._match(_NAME):
                last, size = len(parts), 1
                parts.append(_Part(found[0]))
            elif self._text.startswith("(", self._at):
                last, size = len(parts), 1
                parts.append(_Part(self._group()))
            elif found := self._match(_REPEAT):
                if last == len(parts):
                    raise self._mistake(f"something to repeat in front of {found[0]}")
                least, most = self._bounds(found)
                size *= max(least, 1 if most is None else most - least)
                self._elements += size
                if self._elements > _MOST_ELEMENTS:
                    raise InvalidInput("The grammar repeats too much.", field=self._field)
                parts[last:] = self._repeated(parts[last:], least, most)
            else:
                return parts
            self._space(nested)

    def _group(self) -> str:
        """The rule that a group stands for."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise InvalidInput(
                f"The grammar has more than {_MOST_DEPTH} parentheses inside each other.", field=self._field
            )
        self._at += 1
        self._space(True)
        alternatives = self._alternatives(True)
        if not self._text.startswith(")", self._at):
            raise self._mistake("a closing parenthesis")
        self._at += 1
        self._depth -= 1
        return self._new_rule(alternatives)

    def _bounds(self, found: re.Match[str]) -> tuple[int, int | None]:
        if found[0] in _SIGNS:
            return _SIGNS[found[0]]
        least = int(found[1])
        most = least if found[2] is None else None if found[3] is None else int(found[3])
        if least > _MOST_REPEATS:
            raise InvalidInput(f"The grammar repeats something more than {_MOST_REPEATS} times.", field=self._field)
        if most is not None and most < least:
            raise InvalidInput(f"The grammar repeats something at least {least} times and at most {most} times.",
                               field=self._field)  # fmt: skip
        return least, None if most is not None and most > _MOST_REPEATS else most

    def _repeated(self, parts: list[_Part], least: int, most: int | None) -> list[_Part]:
        """`parts` so many times, as rules."""
        single = len(parts) == 1 and parts[0].times == 1
        what = parts[0].rule if single else self._new_rule([parts])
        written = [_Part(what, least)] if least else []
        if most is None:
            more = self._new_rule([])
            self._rules[more] = [[_Part(what), _Part(more)], []]
            written.append(_Part(more))
        elif most > least:
            written.append(_Part(self._new_rule([[_Part(what, most - least)], []])))
        return written


def _check_beginnings(rules: _Rules, field: str) -> None:
    """Follows every rule down to what it may begin with. Raises `InvalidInput` when that never ends, or not soon."""
    empty = _empty_rules(rules)
    paths: dict[str, int] = {}
    done: set[str] = set()
    for start in rules:
        if start in done:
            continue
        trail = [(start, 1, _beginnings(start, rules, empty))]
        paths[start] = 1
        while trail:
            name, times, rest = trail[-1]
            following = next(rest, None)
            if following is None:
                trail.pop()
                done.add(name)
                if trail:
                    paths[trail[-1][0]] += times * paths[name]
            elif following.rule in done:
                paths[name] += following.times * paths[following.rule]
            elif following.rule in paths:
                shown = following.rule if not following.rule.startswith("(") else "a group"
                raise InvalidInput(
                    f"The grammar is left-recursive: what {shown} stands for may begin with itself.", field=field
                )
            else:
                paths[following.rule] = 1
                trail.append((following.rule, following.times, _beginnings(following.rule, rules, empty)))
            if paths[name] > _MOST_PATHS or len(trail) > _MOST_PATHS:
                raise InvalidInput(f"The grammar has more than {_MOST_PATHS} ways to begin a rule.", field=field)


class _Beginning(NamedTuple):
    """A rule that another one may begin with, and how often it may come there again."""

    rule: str
    times: int


def _beginnings(name: str, rules: _Rules, empty: set[str]) -> Iterator[_Beginning]:
    """What a rule may begin with. A rule that ends with itself, behind what may be nothing, does no harm."""
    for parts in rules[name]:
        for i, part in enumerate(parts):
            if part.rule is None or part.rule not in rules:
                break
            repeats = i + 1 == len(parts) and part.times == 1 and part.rule == name
            if not repeats:
                yield _Beginning(part.rule, part.times if part.rule in empty else 1)
            if part.rule not in empty:
                break


def _empty_rules(rules: _Rules) -> set[str]:
    """The rules that may stand for nothing at all."""
    users: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
    ready = []
    for name, alternatives in rules.items():
        for parts in alternatives:
            needed = {part.rule for part in parts if part.rule is not None}
            if any(part.rule is None for part in parts):
                continue
            if not needed:
                ready.append(name)
            left = [len(needed)]
            for rule in needed:
                users[rule].append((name, left))
    empty: set[str] = set()
    while ready:
        found = ready.pop()
        if found in empty:
            continue
        empty.add(found)
        for name, left in users[found]:
            left[0] -= 1
            if not left[0]:
                ready.append(name)
    return empty
