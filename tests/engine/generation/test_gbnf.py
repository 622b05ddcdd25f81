"""Grammars as trees, and their text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.generation.gbnf import (
    ANY,
    EMPTY,
    NEVER,
    Chars,
    Node,
    Text,
    alt,
    chars,
    matches,
    one_of,
    optional,
    repeat,
    seq,
)
from engine.generation.gbnf_rules import Grammar
from tests.engine.generation.gbnf_interpreter import Gbnf

ranges = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair), max(pair))), max_size=5
)


def members(characters: Chars) -> set[int]:
    return {code for low, high in characters.ranges for code in range(low, min(high, 60) + 1)}


@given(ranges, ranges)
def test_sets_of_characters(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    a, b = chars(first), chars(second)
    everything = set(range(61))
    assert members(a) == {code for low, high in first for code in range(low, high + 1)}
    assert members(~a) == everything - members(a)
    assert members(a & b) == members(a) & members(b)
    assert members(a | b) == members(a) | members(b)
    assert members(a - b) == members(a) - members(b)
    assert ~~a == a
    assert all((chr(code) in a) == (code in members(a)) for code in everything)


def compiled(node: Node, grammar: Grammar | None = None) -> Gbnf:
    text = (grammar or Grammar()).text(node)
    assert text is not None
    return Gbnf(text)


@pytest.mark.parametrize("text", ["", 'a"b\\c', "[x]-^|*", "line\nbreak\t", "é日💄", "\x00\x7f", "#{}()<>."])
def test_text_matches_itself_alone(text: str) -> None:
    grammar = compiled(Text(text))
    assert grammar.matches(text)
    assert not grammar.matches(f"{text}x")
    assert not grammar.matches(f"x{text}")


@pytest.mark.parametrize("characters", ["]", "^a", "a-c", "-", "\\", '"', "é-", "\n"])
def test_sets_match_each_of_their_characters(characters: str) -> None:
    inside, outside = compiled(one_of(characters)), compiled(~one_of(characters))
    for character in 'abc-]^\\"é\n💄':
        assert inside.matches(character) == (character in characters)
        assert outside.matches(character) == (character not in characters)


def test_any_character() -> None:
    assert compiled(ANY).matches("💄")
    assert not compiled(ANY).matches("ab")


def test_parts_are_simplified() -> None:
    assert seq("a", EMPTY, "b", seq("c", one_of("de"))) == seq("abc", one_of("de"))
    assert seq("a", NEVER) == NEVER
    assert seq() == EMPTY
    assert alt("a", alt("b", "a")) == alt("a", "b")
    assert repeat(NEVER) == EMPTY
    assert repeat(NEVER, 1) == NEVER
    assert repeat(Text("a"), 0, 0) == EMPTY
    assert repeat(Text("a"), 1, 1) == Text("a")


@pytest.mark.parametrize(("least", "most"), [(0, None), (1, None), (3, None), (0, 1), (2, 2), (2, 5), (0, 4)])
@pytest.mark.parametrize("part", [Text("ab"), one_of("ab"), alt("a", "bc")])
def test_repetitions(part: Node, least: int, most: int | None) -> None:
    grammar = compiled(repeat(part, least, most))
    once = Gbnf(Grammar().text(part) or "").write(random.Random(1))
    for count in range(8):
        assert grammar.matches(once * count) == (least <= count and (most is None or count <= most))


def test_a_repetition_of_what_may_be_nothing() -> None:
    grammar = compiled(repeat(repeat(optional("a")), 2, 3))
    assert grammar.matches("")
    assert grammar.matches("a" * 20)
    assert not grammar.matches("ab")


@pytest.mark.parametrize(("least", "most"), [(0, 2500), (1999, 2000), (3001, None), (2000, 2000), (10, 90_000)])
def test_repetitions_beyond_what_llama_cpp_counts(least: int, most: int | None) -> None:
    grammar = compiled(repeat(one_of("x"), least, most))
    counts = [least - 1, least, least + 1, least + 1000, 2000, 2001, 2500, 2501]
    for count in {count for count in counts if 0 <= count <= 3100}:
        assert grammar.matches("x" * count) == (least <= count and (most is None or count <= most)), count


@pytest.mark.parametrize("most", [2**62, int(1e308)])
def test_a_bound_that_no_answer_reaches_is_none(most: int) -> None:
    assert Grammar().text(repeat(one_of("x"), 2, most)) == Grammar().text(repeat(one_of("x"), 2, None))


def test_rules_get_names_of_their_own() -> None:
    grammar = Grammar()
    first, second = grammar.rule("my rule", Text("a")), grammar.rule("my_rule", Text("b"))
    root, foreign = grammar.rule("root", Text("c")), grammar.rule("日", Text("d"))
    assert len({first.name, second.name, root.name, foreign.name, "root"}) == 5
    assert compiled(seq(first, second, root, foreign), grammar).matches("abcd")


def test_rules_may_contain_themselves() -> None:
    grammar = Grammar()
    rule = grammar.reserve("nested")
    grammar.define(rule, seq("(", optional(rule), ")"))
    nested = compiled(rule, grammar)
    assert nested.matches("((()))")
    assert not nested.matches("(()")


def test_shared_rules_are_made_once() -> None:
    grammar = Grammar()
    made = [grammar.shared("word", lambda: Text("x")) for _ in range(2)]
    assert made[0] == made[1]
    assert len(grammar) == 1


def test_what_can_never_be_finished_is_left_out() -> None:
    grammar = Grammar()
    endless = grammar.reserve("endless")
    grammar.define(endless, seq("x", endless))
    assert grammar.text(endless) is None
    text = grammar.text(alt("a", endless, seq("b", repeat(endless))))
    assert text is not None
    assert "endless" not in text
    assert Gbnf(text).matches("b")


@given(st.text("<end >x", max_size=12))
def test_free_text_ends_at_a_mark(text: str) -> None:
    mark = "<end>"
    grammar = Grammar()
    bounded = compiled(grammar.free_text({mark: Text("!")}, may_end=False), grammar)
    assert not bounded.matches(text)
    before, _, _ = text.partition(mark)
    assert bounded.matches(f"{before}{mark}!")
    grammar = Grammar()
    unbounded = compiled(grammar.free_text({mark: NEVER, "xx": EMPTY}, may_end=True), grammar)
    assert unbounded.matches(text) == (mark not in text and text.find("xx") in (-1, len(text) - 2))


def test_free_text_follows_marks_that_begin_alike() -> None:
    grammar = Grammar()
    text = compiled(grammar.free_text({"<tool>": Text("1"), "<tools>": Text("2")}, may_end=True), grammar)
    for good in ("a <tool>1", "<<tools>2", "<tool", "plain"):
        assert text.matches(good), good
    for bad in ("<tool>", "<tool>2", "<tools>", "<tools>1"):
        assert not text.matches(bad), bad


@given(st.data())
def test_trees_match_texts_themselves(data: st.DataObject) -> None:
    leaves = st.sampled_from([EMPTY, Text("a"), Text("ab"), one_of("ab"), ~one_of("a")])
    bounds = st.tuples(st.integers(0, 3), st.none() | st.integers(3, 4))
    nodes = st.recursive(
        leaves,
        lambda inner: (
            st.builds(seq, inner, inner)
            | st.builds(alt, inner, inner)
            | st.builds(lambda part, least_most: repeat(part, *least_most), inner, bounds)
        ),
        max_leaves=6,
    )
    node = data.draw(nodes)
    text = data.draw(st.text("abc", max_size=6))
    assert matches(node, text) == compiled(node).matches(text)


def test_matching_takes_no_time_that_explodes() -> None:
    node = repeat(repeat(optional("a"), 0, 1000), 1000, 1000)
    assert matches(node, "a" * 60)
    assert not matches(node, "a" * 60 + "b")
    several = repeat(one_of("a"))
    for node in seq(repeat(several), "b"), seq(repeat(ANY), several, "b"), seq(repeat(ANY), repeat(several.part, 9000)):
        assert not matches(node, "a" * 30_000 + "c")
