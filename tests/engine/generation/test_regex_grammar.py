"""Regular expressions as grammars."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.generation.gbnf_rules import Grammar
from engine.generation.regex_grammar import regex_grammar
from tests.engine.generation.gbnf_interpreter import Gbnf


def compiled(source: str, *, search: bool = False, least: int = 0, most: int | None = None) -> Gbnf:
    text = Grammar().text(regex_grammar(source, "response_format.regex", search=search, least=least, most=most))
    assert text is not None
    return Gbnf(text)


SOURCES = [
    "",
    "yes|no|maybe",
    "[a-cx-z]+",
    r"\d{3}-\d{4}",
    r"(foo|bar){2,3}baz?",
    r"a*b+c?",
    r"(?:a|(b|c)d)*?e",
    r"[^\s]+@\w+\.\w{2,3}",
    r"\(\[\{\\\"'\^\$\.",
    r".{1,4}",
    "é+|日本|[à-ü]{2}|💄",
    r"\x41\u00e9\n\t",
    r"(?P<year>\d\d)",
    r"^start|end$",
    r"^(?:a|b)$|^c$",
    r"(^a$)|(^b$)",
    r"[\]\-\\]",
    r"[\d_]\D\W\S",
    r"(a?b?)*c",
    r"(|a)b",
    r"a{,2}b{2,}",
]


@pytest.mark.parametrize("source", SOURCES)
def test_what_a_grammar_writes_matches(source: str) -> None:
    for search in (False, True):
        grammar = compiled(source, search=search)
        for seed in range(20):
            text = grammar.write(random.Random(seed), 40)
            assert (re.search if search else re.fullmatch)(source, text), text


@settings(max_examples=100)
@given(st.data())
def test_what_matches_a_grammar_takes(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([s for s in SOURCES if "\\w" not in s and "\\d" not in s and "\\W" not in s]))
    text = data.draw(st.from_regex(source, fullmatch=True).filter(lambda t: t.isprintable() or "\n" not in t))
    assert compiled(source).matches(text)


@settings(max_examples=100)
@given(st.sampled_from(SOURCES), st.text("abcdexyzfoo baz-019.é\n", max_size=9))
def test_a_grammar_takes_nothing_else(source: str, text: str) -> None:
    if compiled(source).matches(text):
        assert re.fullmatch(source, text)


def test_classes_are_those_that_all_agree_on() -> None:
    assert compiled(r"\d").matches("7")
    assert not compiled(r"\d").matches("٣")  # a digit for Python, and none for JavaScript
    assert not compiled(r"\D").matches("٣")
    assert not compiled(r"\w").matches("é")
    assert not compiled(r"\W").matches("é")
    assert compiled(r"\W").matches("!")
    assert compiled(r"\S").matches("é")
    assert not compiled(r"\S").matches("\u00a0")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("a(?=b)", "lookaround"),
        ("(?<!a)b", "lookaround"),
        (r"(a)\1", "reference"),
        (r"(a)?(?(1)b|c)", "condition"),
        (r"\bword", "anchor"),
        ("a^b", "anchor"),
        ("a$b", "anchor"),
        ("(?i)abc", "flags"),
        ("(?i:a)", "flags"),
        ("(?>ab)", "atomic"),
        ("a++", "possessive"),
        ("(", "not valid"),
        ("[z-a]", "not valid"),
        (r"\p{L}", "not valid"),
        ("a" * 5000, "longer"),
        ("(" * 2000 + ")" * 2000, "nested"),
    ],
)
def test_what_a_grammar_cannot_say_is_refused(source: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        compiled(source)
    assert caught.value.field == "response_format.regex"


@pytest.mark.parametrize(
    ("source", "least", "most", "good", "bad"),
    [
        ("[a-z]+", 2, 3, ["ab", "abc"], ["a", "abcd"]),
        ("[a-z]{1,9}", 2, 12, ["ab", "abcdefghi"], ["a", "abcdefghij"]),
        ("ab|cde", 2, 3, ["ab", "cde"], ["abc"]),
        (".*", 0, 1, ["", "x"], ["xy"]),
    ],
)
def test_bounds_of_the_length(source: str, least: int, most: int, good: list[str], bad: list[str]) -> None:
    grammar = compiled(source, least=least, most=most)
    assert all(grammar.matches(text) for text in good)
    assert not any(grammar.matches(text) for text in bad)


def test_bounds_of_the_length_in_a_search() -> None:
    grammar = compiled("^[a-z]+$", search=True, most=2)
    assert grammar.matches("ab")
    assert not grammar.matches("abc")
    assert compiled("abc", search=True, least=2).matches("xabc")
    for source, least, most in (("abc", 0, 9), ("a", 3, None)):
        with pytest.raises(InvalidInput, match="bounds of the length"):
            compiled(source, search=True, least=least, most=most)
