"""Our grammars in llama.cpp itself, and in llguidance: they take them, and what the interpreter of the tests takes."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.generation.gbnf_rules import Grammar
from engine.generation.grammar import for_request
from engine.generation.json_grammar import json_grammar
from engine.generation.reasoning import REASONING_FORMATS
from engine.generation.regex_grammar import regex_grammar
from engine.generation.tools import TOOL_FORMATS, ToolFormat
from engine.transport.generation import Format, GenerateRequest, ToolChoice
from tests.engine.generation.conversations import TOOLS
from tests.engine.generation.gbnf_interpreter import Gbnf
from tests.engine.generation.guided_grammar import GuidedGrammar
from tests.engine.generation.json_schemas import FORMATS, Schema, documents
from tests.engine.generation.llama_grammar import LlamaGrammar
from tests.engine.generation.test_regex_grammar import SOURCES


def assert_agree(source: str, random: random.Random) -> None:
    """Whether all of them are of one mind, about texts that match and texts that nearly do."""
    ours, theirs, guided = Gbnf(source), LlamaGrammar(source), GuidedGrammar(source)
    for _ in range(3):
        text = ours.write(random, 60)
        if not theirs.can_write(text):
            continue
        assert theirs.matches(text), text
        assert guided.matches(text), text
        if text:
            at = random.randrange(len(text))
            spoilt = text[:at] + random.choice(["", text[at] * 2, '"', "}", " ", "1", ","]) + text[at + 1 :]
            assert theirs.matches(spoilt) == guided.matches(spoilt) == ours.matches(spoilt), spoilt


@settings(max_examples=40)
@given(documents(), st.randoms(use_true_random=False))
def test_grammars_of_schemas(schema: Schema, random: random.Random) -> None:
    grammar = Grammar()
    try:
        source = grammar.text(json_grammar(grammar, schema, "schema"))
    except InvalidInput:
        return
    if source is not None:
        assert_agree(source, random)


@pytest.mark.parametrize("name", FORMATS)
def test_grammars_of_formats(name: str) -> None:
    grammar = Grammar()
    source = grammar.text(json_grammar(grammar, {"type": "string", "format": name}, "schema"))
    assert source is not None
    assert_agree(source, random.Random(1))


@pytest.mark.parametrize("expression", SOURCES)
def test_grammars_of_regular_expressions(expression: str) -> None:
    source = Grammar().text(regex_grammar(expression, "regex"))
    assert source is not None
    assert_agree(source, random.Random(1))


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("choice", [ToolChoice(mode="required"), ToolChoice(parallel=False)])
def test_grammars_of_calls(form: ToolFormat, choice: ToolChoice) -> None:
    request = GenerateRequest(tools=TOOLS, tool_choice=choice)
    source = for_request(request, form, REASONING_FORMATS[-1])
    assert source is not None
    assert_agree(source, random.Random(1))


@pytest.mark.parametrize("text", ["é\xad", "\u2013\u2027", "日本語"])
@pytest.mark.parametrize("expression", [".+", r"\S+", "[^é日\u2028x]+|é\xad|日本語"])
def test_characters_that_come_byte_by_byte(text: str, expression: str) -> None:
    """What a set excludes must not take its neighbours with it, which begin with the same bytes."""
    source = Grammar().text(regex_grammar(expression, "regex"))
    assert source is not None
    grammar = LlamaGrammar(source)
    assert grammar.can_write(text)
    assert grammar.matches(text)


def test_great_counts() -> None:
    request = GenerateRequest(
        format=Format(
            kind="json_schema",
            json_schema={"type": "array", "items": {"const": 1}, "minItems": 2100, "maxItems": 12_345},
        )
    )
    source = for_request(request, None)
    assert source is not None
    grammar = LlamaGrammar(source)
    assert grammar.matches(json.dumps([1] * 2100))
    assert not grammar.matches(json.dumps([1] * 2099))


def test_what_llama_cpp_refuses() -> None:
    for source in ("root ::= missing\n", 'root ::= root "a"\n', 'root ::= "a"{3000}\n'):
        with pytest.raises(ValueError, match=r"rule|itself|repetitions"):
            Gbnf(source)
        with pytest.raises(ValueError, match="refuses"):
            LlamaGrammar(source)
