"""The leaves of JSON: strings, keys, numbers."""

from __future__ import annotations

import json
import random
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.generation.gbnf import ANY, Chars, Node, chars
from engine.generation.gbnf_rules import Grammar
from engine.generation.json_text import character, integer, key_except, number, string
from tests.engine.generation.gbnf_interpreter import Gbnf


def compiled(node: Node, grammar: Grammar | None = None) -> Gbnf | None:
    text = (grammar or Grammar()).text(node)
    return None if text is None else Gbnf(text)


def matches(grammar: Gbnf | None, text: str) -> bool:
    return grammar is not None and grammar.matches(text)


some_characters = st.characters(exclude_categories=["Cs"])
bounds = st.none() | st.integers(-3000, 3000)


@given(bounds, bounds, st.integers(-4000, 4000))
def test_ranges_of_integers(low: int | None, high: int | None, value: int) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    inside = (low is None or low <= value) and (high is None or value <= high)
    assert matches(compiled(integer(low, high)), str(value)) == inside


decimals = st.decimals(-30, 30, places=2) | st.integers(-30, 30).map(Decimal)


@settings(max_examples=150)
@given(st.none() | decimals, st.none() | decimals, st.booleans(), st.booleans(), decimals)
def test_ranges_of_numbers(low: Decimal | None, high: Decimal | None, over: bool, under: bool, value: Decimal) -> None:
    over, under = over and low is not None, under and high is not None
    above = low is None or (value > low if over else value >= low)
    below = high is None or (value < high if under else value <= high)
    text = format(value if value else abs(value), "f")
    assert matches(compiled(number(low, high, over, under)), text) == (above and below)


@settings(max_examples=200)
@given(decimals, decimals, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_numbers_that_are_written_are_in_their_range(
    low: Decimal, high: Decimal, over: bool, under: bool, random: random.Random
) -> None:
    grammar = compiled(number(low, high, over, under))
    if grammar is None:
        assert low > high or (low == high and (over or under))
        return
    value = Decimal(grammar.write(random, 30))
    assert low < value if over else low <= value
    assert value < high if under else value <= high


def test_open_numbers_are_those_of_json() -> None:
    grammar = compiled(number(None, None))
    for value in (0, -1, 1.5, -0.001, 1e-07, 2.5e200, 123456789012345678):
        assert matches(grammar, json.dumps(value))
    for text in ("01", "+1", ".5", "1.", "1e", "1e999", "9" * 19, "-", "0x1"):
        assert not matches(grammar, text)


@given(some_characters)
def test_any_character_as_json_writes_it(one: str) -> None:
    grammar = Grammar()
    any_string = compiled(string(grammar), grammar)
    assert matches(any_string, json.dumps(one))
    assert matches(any_string, json.dumps(one, ensure_ascii=False))


@settings(max_examples=150)
@given(st.lists(st.tuples(some_characters, some_characters), min_size=1, max_size=3), some_characters)
def test_characters_of_a_set_as_json_writes_them(pairs: list[tuple[str, str]], one: str) -> None:
    allowed = chars((min(ord(a), ord(b)), max(ord(a), ord(b))) for a, b in pairs)
    grammar = Grammar()
    drawn = compiled(character(grammar, allowed), grammar)
    for ascii_only in (False, True):
        assert matches(drawn, json.dumps(one, ensure_ascii=ascii_only)[1:-1]) == (one in allowed)


@given(some_characters, st.randoms(use_true_random=False))
def test_escapes_that_are_written_mean_what_was_allowed(one: str, random: random.Random) -> None:
    for allowed in (Chars(((ord(one), ord(one)),)), ~Chars(((ord(one), ord(one)),)), ANY):
        grammar = Grammar()
        drawn = compiled(character(grammar, allowed), grammar)
        assert drawn is not None
        written = json.loads(f'"{drawn.write(random)}"')
        assert len(written) == 1
        assert written in allowed


keys = st.text('ab\\"\né日💄/u0', max_size=4)


@settings(max_examples=150)
@given(st.lists(keys, max_size=3), keys)
def test_keys_but_for_some(names: list[str], key: str) -> None:
    grammar = Grammar()
    others = compiled(key_except(grammar, names), grammar)
    plain = json.dumps(key, ensure_ascii=False)
    assert matches(others, plain) == (key not in names)
    if key in names:
        assert not matches(others, json.dumps(key))


@given(st.lists(keys, max_size=3), st.randoms(use_true_random=False))
def test_keys_that_are_written_are_others(names: list[str], random: random.Random) -> None:
    grammar = Grammar()
    others = compiled(key_except(grammar, names), grammar)
    assert others is not None
    assert json.loads(others.write(random, 20)) not in names
