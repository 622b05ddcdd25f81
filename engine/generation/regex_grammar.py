"""Regular expressions as grammars.

Python's own parser reads them. What a grammar cannot say is refused: what looks ahead or back, anchors in the middle,
flags. Classes such as ``\\w`` mean what both Python and JavaScript hold for certain, since JSON Schema speaks of the
one and is often checked by the other.
"""

from __future__ import annotations

import functools
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parser  # type: ignore[import-not-found]
from collections.abc import Callable, Sequence
from typing import Any

from engine.errors import InvalidInput
from engine.generation.gbnf import ANY, EMPTY, NEVER, Chars, Node, Text, alt, chars, one_of, repeat, seq

Draw = Callable[[Chars], Node]
"""How one character of a set is written."""

_MAX_SOURCE = 4_000
_NEWLINES = one_of("\n\r\u2028\u2029")
_DIGITS = one_of("0123456789")
_WORD = chars([(48, 57), (65, 90), (95, 95), (97, 122)])
_SPACES = one_of(" \t\n\r\f\v")
_ALL_SPACES = one_of(
    " \t\n\r\f\v\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)


def regex_grammar(
    source: str,
    field: str,
    draw: Draw | None = None,
    *,
    search: bool = False,
    least: int = 0,
    most: int | None = None,
) -> Node:
    """What `source` matches, each character written by `draw` (as it is, by default).

    The whole text matches, or with `search`, any part of it. It has from `least` to `most` characters. Raises
    `InvalidInput` that names `field`.
    """
    if len(source) > _MAX_SOURCE:
        raise InvalidInput(f"The regular expression is longer than {_MAX_SOURCE} characters.", field=field)
    try:
        parsed = sre_parser.parse(source)
    except (sre.error, OverflowError) as e:
        raise InvalidInput(f"The regular expression {source!r} is not valid: {e}.", field=field) from None
    except RecursionError:
        raise InvalidInput("The regular expression is nested too deeply.", field=field) from None
    translator = _Translator(source, field, draw or _as_it_is)
    if parsed.state.flags & ~sre.SRE_FLAG_UNICODE:
        raise translator.refusal("flags")
    return translator.whole(list(parsed), search, least, most)


def _as_it_is(characters: Chars) -> Node:
    """Characters in a text that has no notation of its own."""
    low, high = characters.ranges[0] if len(characters.ranges) == 1 else (0, 1)
    return Text(chr(low)) if low == high else characters


class _Translator:
    def __init__(self, source: str, field: str, draw: Draw) -> None:
        self._source = source
        self._field = field
        self._draw = draw

    def whole(self, items: list[Any], search: bool, least: int, most: int | None) -> Node:
        """A complete expression, in which anchors may stand at the ends."""
        anything = repeat(self._draw(ANY)) if search else EMPTY
        if least or most is not None:
            return self._of_length(items, search, least, most)
        return self._edges(items, anything, anything)

    def _edges(self, items: list[Any], before: Node, after: Node) -> Node:
        """`items`, with `before` and `after` around them where they are not anchored."""
        while items and items[0] in _BEGINNINGS:
            items, before = items[1:], EMPTY
        while items and items[-1] in _ENDS:
            items, after = items[:-1], EMPTY
        if len(items) == 1 and items[0][0] is sre.BRANCH:
            return alt(*(self._edges(list(branch), before, after) for branch in items[0][1][1]))
        if len(items) == 1 and items[0][0] is sre.SUBPATTERN:
            return self._edges(list(self._inner(items[0][1])), before, after)
        return seq(before, self._sequence(items), after)

    def _of_length(self, items: list[Any], search: bool, least: int, most: int | None) -> Node:
        """An expression together with bounds of its length, where one of them can be put into the other."""
        begins, ends = bool(items) and items[0] in _BEGINNINGS, bool(items) and items[-1] in _ENDS
        inner = items[begins : len(items) - ends]
        whole = not search or (begins and ends)
        if whole and len(inner) == 1 and inner[0][0] in _REPEATS and len(inner[0][1][2]) == 1:
            fewest, greatest, part = inner[0][1]
            if part[0][0] in _SINGLE:
                bounds = [int(bound) for bound in (most, greatest) if bound not in (None, sre.MAXREPEAT)]
                low, high = max(least, fewest), min(bounds, default=None)
                return NEVER if high is not None and low > high else repeat(self._sequence(part), low, high)
        shortest, longest = sre_parser.SubPattern(sre_parser.State(), inner).getwidth()
        if shortest >= least and (most is None or (whole and longest <= most)):
            return self.whole(items, search, 0, None)
        raise InvalidInput(
            f"The regular expression {self._source!r} cannot be combined with bounds of the length here; "
            "put the bounds into the expression.",
            field=self._field,
        )

    def _sequence(self, items: Sequence[Any]) -> Node:
        return seq(*(self._item(operator, value) for operator, value in items))

    def _item(self, operator: Any, value: Any) -> Node:
        if operator is sre.LITERAL:
            return self._draw(chars([(value, value)]))
        if operator is sre.NOT_LITERAL:
            return self._draw(~chars([(value, value)]))
        if operator is sre.ANY:
            return self._draw(~_NEWLINES)
        if operator is sre.IN:
            return self._draw(self._set(value))
        if operator is sre.BRANCH:
            return alt(*(self._sequence(branch) for branch in value[1]))
        if operator is sre.SUBPATTERN:
            return self._sequence(self._inner(value))
        if operator in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, part = value
            return repeat(self._sequence(part), least, None if most is sre.MAXREPEAT else int(most))
        raise self.refusal(_NAMES.get(operator, "something that a grammar cannot say"))

    def _inner(self, subpattern: Any) -> Any:
        _, added, removed, inner = subpattern
        if added or removed:
            raise self.refusal("flags")
        return inner

    def _set(self, items: Sequence[Any]) -> Chars:
        negated = items[0][0] is sre.NEGATE
        found = chars([])
        excluded = chars([])
        for operator, value in items[negated:]:
            if operator is sre.LITERAL:
                found |= chars([(value, value)])
            elif operator is sre.RANGE:
                found |= chars([value])
            else:
                certain, possible = _category(value)
                found |= certain
                excluded |= possible
        return ~(found | excluded) if negated else found

    def refusal(self, what: str) -> InvalidInput:
        """The error for what a grammar cannot say."""
        return InvalidInput(
            f"The regular expression {self._source!r} has {what}, which cannot be made into a grammar.",
            field=self._field,
        )


_BEGINNINGS = ((sre.AT, sre.AT_BEGINNING), (sre.AT, sre.AT_BEGINNING_STRING))
_ENDS = ((sre.AT, sre.AT_END), (sre.AT, sre.AT_END_STRING))
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_SINGLE = (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)
_NAMES = {
    sre.AT: "an anchor in the middle",
    sre.ASSERT: "a lookaround",
    sre.ASSERT_NOT: "a lookaround",
    sre.GROUPREF: "a reference to a group",
    sre.GROUPREF_EXISTS: "a condition on a group",
    sre.ATOMIC_GROUP: "an atomic group",
    sre.POSSESSIVE_REPEAT: "a possessive quantifier",
}


def _category(category: Any) -> tuple[Chars, Chars]:
    """The characters that surely belong to a class such as ``\\w``, and those that may."""
    if category in (sre.CATEGORY_DIGIT, sre.CATEGORY_NOT_DIGIT):
        sure, possible = _DIGITS, _unicode("isdecimal")
    elif category in (sre.CATEGORY_WORD, sre.CATEGORY_NOT_WORD):
        sure, possible = _WORD, _unicode("isalnum") | _WORD
    else:
        sure, possible = _SPACES, _ALL_SPACES
    if category in (sre.CATEGORY_NOT_DIGIT, sre.CATEGORY_NOT_WORD, sre.CATEGORY_NOT_SPACE):
        return ~possible, ~sure
    return sure, possible


@functools.cache
def _unicode(test: str) -> Chars:
    """The characters that pass a test of `str`. Beyond the planes that are looked at, all are held to."""
    end = 0x20000
    return chars([*((c, c) for c in range(end) if getattr(chr(c), test)()), (end, 0x10FFFF)])
