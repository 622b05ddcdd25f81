"""Tests of answers that follow grammars: what grammars may be, and what models make of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends.base import Device, InvalidInput
from backends.generation import Generation, Sampling
from backends.transformers.backend import TransformersBackend, TransformersGenerationOptions
from backends.transformers.gbnf import to_lark
from tests import models_transformers

pytest.importorskip("transformers")
pytest.importorskip("llguidance")

GREEDY = Sampling(temperature=0)
JSON = r"""
root   ::= "{" (pair ("," pair)*)? "}"
pair   ::= string ":" value
value  ::= string | number | root | "[" (value ("," value)*)? "]" | "true" | "false" | "null"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""
number ::= "-"? [0-9]{1,9} ("." [0-9]{1,9})?
"""


@pytest.fixture(scope="module")
def smollm2() -> Iterator[TransformersBackend]:
    backend = TransformersBackend()
    backend.load(models_transformers.smollm2(), Device("cpu", threads=2), TransformersGenerationOptions())
    yield backend
    backend.close()


def answers(backend: TransformersBackend, *requests: Generation) -> list[tuple[str, str | None]]:
    """Text and end of each first choice."""
    for i, request in enumerate(requests):
        backend.add(i, request)
    found: list[tuple[str, str | None]] = [("", None)] * len(requests)
    while backend.busy:
        for piece in backend.step():
            if piece.error is not None:
                raise piece.error
            if not piece.choice:
                found[piece.id] = found[piece.id][0] + piece.text, piece.finish
    return found


def ask(backend: TransformersBackend, grammar: str, prompt: str = "The", **fields: Any) -> str:
    request = Generation(prompt=prompt, grammar=grammar, **{"sampling": GREEDY, "max_tokens": 24, **fields})
    return answers(backend, request)[0][0]


# --- answers --------------------------------------------------------------------------------------------------------


def test_an_answer_is_one_that_the_grammar_has(smollm2: TransformersBackend) -> None:
    colours = Generation(prompt="The sky is", grammar='root ::= " " ("red" | "blue" | "green")', sampling=GREEDY)
    capital = Generation(prompt="The capital of France is", grammar='root ::= " R" [a-z]{3}', sampling=GREEDY)
    free = Generation(prompt="The capital of France is", sampling=GREEDY, max_tokens=1)
    assert answers(smollm2, colours, capital, free) == [(" blue", "stop"), (" Rome", "stop"), (" Paris", "length")]


@pytest.mark.parametrize("seed", range(2))
def test_json_of_any_depth(smollm2: TransformersBackend, seed: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    request = Generation(prompt="A JSON object:", grammar=JSON, sampling=sampling, max_tokens=60)
    ((text, finish),) = answers(smollm2, request)
    if finish == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert text.startswith("{")


def test_characters_that_take_several_tokens(smollm2: TransformersBackend) -> None:
    assert len(smollm2.tokenize("🙏")) > 1
    text = ask(smollm2, r"root ::= [\U0001F600-\U0001F64F]{3}", prompt="Smile", logprobs=1)
    assert len(text) == 3
    assert all("\U0001f600" <= character <= "\U0001f64f" for character in text)


def test_choices_follow_the_grammar_each_for_itself(smollm2: TransformersBackend) -> None:
    request = Generation(
        prompt="A number:", grammar='root ::= [0-9]{3} "."', choices=6, sampling=Sampling(temperature=2, seed=1)
    )
    smollm2.add(0, request)
    texts = [""] * 6
    while smollm2.busy:
        for piece in smollm2.step():
            texts[piece.choice] += piece.text
    assert all(len(text) == 4 and text[:3].isdigit() and text[3] == "." for text in texts)
    assert len(set(texts)) > 1


def test_the_same_seed_gives_the_same_answer(smollm2: TransformersBackend) -> None:
    sampling = Sampling(temperature=1, seed=7)
    first = ask(smollm2, JSON, sampling=sampling)
    assert ask(smollm2, JSON, sampling=sampling) == first


def test_an_answer_may_end_where_the_grammar_does_not(smollm2: TransformersBackend) -> None:
    """Once nothing can follow, an answer ends, whatever else is asked for."""
    assert ask(smollm2, 'root ::= "yes"', ignore_eos=True) == "yes"
    (end,) = smollm2.tokenize("<|im_end|>", add_bos=False)
    eager = Sampling(temperature=0, logit_bias={end: 100})
    assert ask(smollm2, 'root ::= "yes"', sampling=eager) == "yes"
    assert ask(smollm2, 'root ::= "yes"*', sampling=eager) == ""


def test_control_tokens_are_no_text(smollm2: TransformersBackend) -> None:
    """Where any text goes, tokens that have none do not; their text counts where it is kept, but for ends."""
    control, end, begin = (
        smollm2.tokenize(text, add_bos=False)[0] for text in ("<file_sep>", "<|im_end|>", "<|im_start|>")
    )
    grammars = smollm2._grammars
    logits = np.zeros(smollm2._vocabulary.vocab_size, np.float32)
    plain, kept = (grammars.follower("root ::= .{1,20}", keep_special=special) for special in (False, True))
    assert [plain.allows(token) for token in (control, end, begin)] == [False] * 3
    assert [kept.allows(token) for token in (control, end, begin)] == [True, False, False]
    plain.restrict(logits)
    assert np.isneginf(logits[smollm2._vocabulary.special_tokens]).all()
    assert (logits == 0).sum() > 40_000
    wanted = Sampling(temperature=0, logit_bias={control: 100})
    assert ask(smollm2, 'root ::= "<file_sep>" | "b"', sampling=wanted, keep_special=True) == "<file_sep>"
    assert ask(smollm2, 'root ::= "<file_sep>" | "b"', sampling=wanted, max_tokens=1) in ("<", "b")


# --- grammars -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('root ::= ("b" | "bb") "bc"', "bbc"),  # what a lexer would cut at the wrong place
        ('root ::= x | "q" root\nx ::= ("b" | "bb") "bc"', "qqbbc"),
        ('root ::= [a-z]* "ab" | "(" root ")"', "(xyzabab)"),
        (r'root ::= "\u00e9" [^"\x00-\x1f] [\]\-a] "" [] x? # c' '\n\n x ::= ("a" |\n "b"){1,3} | [-x]', "é1-"),
        ('root ::= "a"{2}{3} ("b"?)+ "d" | root "c"', "aaaaaabbd"),
        ("root ::= . [^a]", "\n\n"),
        ('root ::= "\t\\t\\"\\\\\\x41"', '\t\t"\\A'),
    ],
)
def test_what_grammars_mean(source: str, text: str) -> None:
    from tests.engine.generation.guided_grammar import GuidedGrammar

    grammar = GuidedGrammar(source)
    assert grammar.matches(text)
    assert not grammar.matches(text + "~~")
    assert not grammar.matches(text[:-1])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "no rule named root"),
        ("root ::= missing", "no rule named missing"),
        ('root ::= "a', "makes no sense"),
        ('root ::= ("a"', "not closed"),
        ('root ::= "a")', "was not opened"),
        ("root ::= *", "nothing to repeat"),
        ('root ::= "a"{3,1}', "at least 3 times and at most 1"),
        ('"a"', "expected a rule"),
        (r'root ::= "\q"', "no way to write a character"),
        (r'root ::= "\UFFFFFFFF"', "no character"),
        (r'root ::= "\uD800"', "half of a character"),
        ("root ::= [^\\x00-\\U0010FFFF]", "no characters"),
        ('root ::= "a" root', "without end"),
        ("root ::= <[5]>", "names the token <[5]>"),
        ("root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "more than 1500"),
        ("root ::= r0\n" + "\n".join(f'r{i} ::= r{i + 1} "a" | "b"' for i in range(9000)) + '\nr9000 ::= "c"', "1500"),
        ('root ::= "' + "ab" * 50_000 + '" | "(" root ")"', "too large"),
    ],
)
def test_grammars_that_are_refused(smollm2: TransformersBackend, source: str, says: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(InvalidInput) as caught:
        smollm2.add(0, Generation(prompt="a", grammar=source))
    assert says in caught.value.message
    assert (caught.value.field, caught.value.message[-1]) == ("grammar", ".")
    assert not smollm2.busy
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    "source",
    [
        'root ::= a a a a\na ::= b*\nb ::= ("x" | "xx" | "xxx" | c)*\nc ::= "y" c "z" | [a-z]*',
        "root ::= [a-z]{2000}{500}",
        'root ::= ([a-z]{1,2000} "q"){1,2000}',
        'root ::= ([a-z]* "x"){300}',
        'root ::= (.* "a" .{500}){2}',
        'root ::= root root | "a" |',
        "root ::= (((((([a-z]?){50}){50}){50}){50}){10})",
        "root ::= r0 | [q] root\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(200)) + "\nr200 ::= [a-z]?",
        'root ::= "a"' + "+" * 900,
    ],
)
def test_ambiguous_grammars_take_their_time_but_not_for_ever(smollm2: TransformersBackend, source: str) -> None:
    begin = time.perf_counter()
    try:
        ask(smollm2, source, max_tokens=6)
    except InvalidInput as e:
        assert e.field == "grammar"
        assert "panic" not in e.message
    assert time.perf_counter() - begin < 20
    assert ask(smollm2, 'root ::= "yes"') == "yes"


def test_a_grammar_without_recursion_is_one_lexeme() -> None:
    assert to_lark('root ::= a "c"\na ::= "ab" | [x-z]*\nunused ::= "q"') == (
        'start: R0\nR0: R1 "c"\nR1: "ab" | R2*\nR2: /[\\x{78}-\\x{7A}]/\n'
    )
    assert '"a" "b"' in to_lark('root ::= "ab" root?')
