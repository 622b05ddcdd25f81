"""The leaves of JSON as grammars: strings and their characters, numbers and their ranges, white space."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from engine.generation.gbnf import (
    ANY,
    EMPTY,
    NEVER,
    Chars,
    Node,
    Rule,
    Text,
    alt,
    one_of,
    optional,
    repeat,
    seq,
    without_empty,
)
from engine.generation.gbnf_rules import Grammar

_LONGEST_INTEGER = 18
"""Digits of a number that its schema leaves open; models would go on for ever."""
_LONGEST_FRACTION = 24
"""As many as Python writes for any number that it does not write with an exponent."""

_SHORT = {"\b": "b", "\t": "t", "\n": "n", "\f": "f", "\r": "r", '"': '"', "\\": "\\"}
"""Characters that JSON has an escape of its own for."""
_CONTROLS = Chars(((0, 0x1F),))
_RAW = ~(_CONTROLS | one_of('"\\'))
_NOT_ASCII = Chars(((0x7F, 0x10FFFF),))
_DIGIT = one_of("0123456789")
_MANY_RANGES = 40


def white_space(grammar: Grammar) -> Rule:
    """What may stand between the tokens of JSON: enough for a line break with its margin, and no more."""
    return grammar.shared("ws", lambda: alt(EMPTY, " ", seq("\n", repeat(one_of(" \t"), 0, 20))))


def character(grammar: Grammar, allowed: Chars) -> Node:
    """One of the allowed characters, inside of a string: as it is, or as an escape as JSON is commonly written."""
    if allowed == ANY:
        return grammar.shared("char", lambda: _character(grammar, allowed))
    return _character(grammar, allowed)


def _character(grammar: Grammar, allowed: Chars) -> Node:
    raw = allowed & _RAW
    escapes: list[Node] = []
    short = "".join(name for c, name in _SHORT.items() if c in allowed) + ("/" if "/" in allowed else "")
    if short:
        escapes.append(one_of(short))
    codes = [_digits(low, high, 16, 4) for low, high in ((allowed & _CONTROLS) - one_of("".join(_SHORT))).ranges]
    wide = allowed & _NOT_ASCII
    if wide == _NOT_ASCII:
        codes.append(grammar.shared("code", lambda: _codes(_NOT_ASCII)))
    elif wide.ranges and len(wide.ranges) < _MANY_RANGES:
        codes.append(_codes(wide))
    if codes:
        escapes.append(seq("u", alt(*codes)))
    choices: list[Node] = [raw] if raw.ranges else []
    if escapes:  # all behind one backslash, so that a grammar at work has few ways to follow
        choices.append(seq("\\", alt(*escapes)))
    return alt(*choices)


def _codes(characters: Chars) -> Node:
    """What follows ``\\u`` for characters beyond printable ASCII: two of them where they are beyond 16 bits."""
    choices: list[Node] = []
    for low, high in (characters & (Chars(((0, 0xD7FF), (0xE000, 0xFFFF))))).ranges:
        choices.append(_digits(low, high, 16, 4))
    for low, high in (characters & Chars(((0x10000, 0x10FFFF),))).ranges:
        choices += _pairs(low - 0x10000, high - 0x10000)
    return alt(*choices)


def _pairs(low: int, high: int) -> list[Node]:
    """Surrogate pairs for a range of code points, which are counted from 0x10000."""
    (first, start), (last, end) = divmod(low, 0x400), divmod(high, 0x400)
    if first == last:
        return [_pair(first, first, start, end)]
    pairs = []
    if start:
        pairs.append(_pair(first, first, start, 0x3FF))
        first += 1
    if end < 0x3FF:
        pairs.append(_pair(last, last, 0, end))
        last -= 1
    return [_pair(first, last, 0, 0x3FF), *pairs] if first <= last else pairs


def _pair(first: int, last: int, start: int, end: int) -> Node:
    leading = _digits(0xD800 + first, 0xD800 + last, 16, 4)
    return seq(leading, "\\u", _digits(0xDC00 + start, 0xDC00 + end, 16, 4))


def string(grammar: Grammar, least: int = 0, most: int | None = None) -> Node:
    """Any string of so many characters."""
    if least == 0 and most is None:
        return grammar.shared("string", lambda: seq('"', repeat(character(grammar, ANY)), '"'))
    return seq('"', repeat(character(grammar, ANY), least, most), '"')


def key_except(grammar: Grammar, names: list[str]) -> Node:
    """Any string but for the given ones.

    It follows their common beginnings, as they are written in JSON, character by character, up to where they differ.
    Where one of them has a character beyond ASCII, no other key may have one as ``\\uXXXX`` at the same place.
    """
    if not names:
        return string(grammar)
    rest = seq(repeat(character(grammar, ANY)), '"')
    spelled = {json.dumps(name, ensure_ascii=ascii_only)[1:-1] for name in names for ascii_only in (True, False)}
    return seq('"', _differing(grammar, spelled, rest))


def _differing(grammar: Grammar, spelled: set[str], rest: Node) -> Node:
    """What is left of a key when it is none of the spelled ones."""
    firsts = {text[0] for text in spelled if text and text[0] != "\\"}
    escapes = {text[1] for text in spelled if text[:1] == "\\"}
    choices: list[Node] = [] if "" in spelled else [Text('"')]
    for first in sorted(firsts):
        choices.append(seq(first, _differing(grammar, {t[1:] for t in spelled if t[:1] == first}, rest)))
    choices.append(seq(_RAW - one_of("".join(firsts)), rest))
    behind: list[Node] = []
    for escape in sorted(escapes - {"u"}):
        tails = {t[2:] for t in spelled if t[:2] == f"\\{escape}"}
        behind.append(seq(escape, _differing(grammar, tails, rest)))
    behind.append(seq(one_of("".join({*_SHORT.values(), "/"} - escapes)), rest))
    if "u" not in escapes:
        behind.append(seq("u", grammar.shared("code", lambda: _codes(_NOT_ASCII)), rest))
    return grammar.rule("key", alt(*choices, seq("\\", alt(*behind))))


def literal(grammar: Grammar, value: Any) -> Node:
    """Exactly this JSON value, with any of the allowed white space in it."""
    space = white_space(grammar)
    if isinstance(value, str):
        return alt(json.dumps(value), json.dumps(value, ensure_ascii=False))
    if isinstance(value, dict):
        members = [seq(literal(grammar, key), colon(), literal(grammar, item)) for key, item in value.items()]
        return seq("{", *_listed(members, space), "}")
    if isinstance(value, list):
        return seq("[", *_listed([literal(grammar, item) for item in value], space), "]")
    return Text(json.dumps(value))


def _listed(nodes: list[Node], space: Node) -> list[Node]:
    parts: list[Node] = [space] if nodes else []
    for index, node in enumerate(nodes):
        parts += [node] if index == 0 else [seq(",", space, node)]
    return [*parts, space]


def colon() -> Node:
    """What stands between a key and its value."""
    return seq(":", optional(" "))


# --- numbers ---


def integer(low: int | None, high: int | None) -> Node:
    """The integers from `low` to `high`."""
    choices: list[Node] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        choices.append(seq("-", _natural(least, None if low is None else -low)))
    if high is None or high >= 0:
        choices.append(_natural(max(low or 0, 0), high))
    return alt(*choices)


def _natural(low: int, high: int | None) -> Node:
    choices: list[Node] = []
    if high is None:
        length = len(str(low))
        if low in (0, 1):
            zero: list[Node] = [Text("0")] if low == 0 else []
            return alt(*zero, seq(one_of("123456789"), repeat(_DIGIT, 0, _LONGEST_INTEGER - 1)))
        longest = max(_LONGEST_INTEGER, length + 1)
        return alt(
            _natural(low, 10**length - 1),
            seq(one_of("123456789"), repeat(_DIGIT, length, longest - 1)),
        )
    for length in range(len(str(low)), len(str(high)) + 1):
        least, most = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        if least <= most:
            choices.append(_digits(least, most, 10, length))
    return alt(*choices)


def _digits(low: int, high: int, base: int, length: int) -> Node:
    """The numbers from `low` to `high`, with exactly so many digits."""
    if length == 0:
        return EMPTY
    unit = base ** (length - 1)
    (first, low_rest), (last, high_rest) = divmod(low, unit), divmod(high, unit)
    if first == last:
        return seq(_digit(first, first, base), _digits(low_rest, high_rest, base, length - 1))
    choices: list[Node] = []
    if low_rest:
        choices.append(seq(_digit(first, first, base), _digits(low_rest, unit - 1, base, length - 1)))
        first += 1
    if high_rest != unit - 1:
        choices.append(seq(_digit(last, last, base), _digits(0, high_rest, base, length - 1)))
        last -= 1
    if first <= last:
        choices.append(seq(_digit(first, last, base), repeat(_digit(0, base - 1, base), length - 1, length - 1)))
    return alt(*choices)


def _digit(low: int, high: int, base: int) -> Node:
    """One digit. Those of base 16 are in either case."""
    digits = "0123456789abcdef"[low : high + 1]
    if len(digits) == 1 and (base == 10 or digits.isdigit()):
        return Text(digits)
    return one_of(digits if base == 10 else digits + digits.upper())


def number(low: Decimal | None, high: Decimal | None, over: bool = False, under: bool = False) -> Node:
    """The numbers from `low` to `high`, without these themselves when `over` and `under` say so.

    Numbers with bounds are written without an exponent.
    """
    if low is None and high is None:
        exponent = alt(repeat(_DIGIT, 1, 2), seq("1", _DIGIT, _DIGIT), seq("2", one_of("01234567"), _DIGIT))
        return seq(
            optional("-"),
            _natural(0, None),
            _any_fraction(),
            optional(seq(one_of("eE"), optional(one_of("+-")), exponent)),
        )
    choices: list[Node] = []
    if low is None or low < 0:
        beyond_zero = high is None or high >= 0  # zero itself is written without a sign
        least = Decimal(0) if high is None or beyond_zero else -high
        choices.append(seq("-", _magnitude(least, None if low is None else -low, beyond_zero or under, over)))
    if high is None or high > 0 or (high == 0 and not under and (low is None or low < 0 or not over)):
        positive = low is not None and low >= 0
        least = low if low is not None and positive else Decimal(0)
        choices.append(_magnitude(least, high, over and positive, under))
    return alt(*choices)


def _magnitude(low: Decimal, high: Decimal | None, over: bool, under: bool) -> Node:
    """The numbers from `low`, which is not negative, to `high`."""
    if high is not None and (low > high or (low == high and (over or under))):
        return NEVER
    whole, fraction = _split(low)
    if high is None:
        return alt(
            seq(str(whole), _fraction(fraction, None, over, False)), seq(_natural(whole + 1, None), _any_fraction())
        )
    last, last_fraction = _split(high)
    if whole == last:
        return seq(str(whole), _fraction(fraction, last_fraction, over, under))
    choices = [seq(str(whole), _fraction(fraction, None, over, False))]
    if whole + 1 < last:
        choices.append(seq(_natural(whole + 1, last - 1), _any_fraction()))
    return alt(*choices, seq(str(last), _fraction("", last_fraction, False, under)))


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, fraction = format(value, "f").partition(".")
    return int(whole), fraction.rstrip("0")


def _any_fraction() -> Node:
    return optional(seq(".", repeat(_DIGIT, 1, _LONGEST_FRACTION)))


def _fraction(low: str, high: str | None, over: bool, under: bool) -> Node:
    """A fraction, or none, from the one with the digits `low` to that with `high`; see `number` for the others."""
    digits = _between(low, high, over, under)
    more = without_empty(digits)
    some = NEVER if more == NEVER else seq(".", more)
    return alt(EMPTY, some) if _may_end(low, high, over, under) else some


def _may_end(low: str, high: str | None, over: bool, under: bool) -> bool:
    """Whether no more digits, which is to say zeros, are between the bounds."""
    return not low and not over and (high is None or high != "" or not under)


def _between(low: str, high: str | None, over: bool, under: bool) -> Node:
    """Digits of a fraction, or none. Bounds have no zeros at their end; `high` is `None` when there is none."""
    tail = repeat(_DIGIT, 0, _LONGEST_FRACTION)
    if high == "":
        return repeat(Text("0"), 0, _LONGEST_FRACTION) if _may_end(low, high, over, under) else NEVER
    if high is None and not low:
        return seq(repeat(Text("0"), 0, _LONGEST_FRACTION), one_of("123456789"), tail) if over else tail
    first = int(low[:1] or "0")
    last = int(high[:1]) if high else 10
    choices: list[Node] = [EMPTY] if _may_end(low, high, over, under) else []
    if first == last and high is not None:
        choices.append(seq(str(first), _between(low[1:], high[1:], over, under)))
        return alt(*(c for c in choices if c != NEVER))
    choices.append(seq(str(first), _between(low[1:], None, over, False)))
    if first + 1 < last:
        choices.append(seq(_digit(first + 1, last - 1, 10), tail))
    if high:
        choices.append(seq(str(last), _between("", high[1:], False, under)))
    return alt(*(c for c in choices if c != NEVER))
