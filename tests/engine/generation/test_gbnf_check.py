"""Grammars of clients: those that llama.cpp can take, and those that it would not survive."""

from __future__ import annotations

import pytest

from engine.errors import InvalidInput
from engine.generation.gbnf_check import check_gbnf
from engine.generation.grammar import for_request
from engine.transport.generation import Format, GenerateRequest
from tests.engine.generation.llama_grammar import LlamaGrammar

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = """root  ::= (expr "=" ws term "\\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*"""


@pytest.mark.parametrize(
    "source",
    [
        JSON,
        ARITHMETIC,
        'root ::= "a"',
        'root ::= "a" | b\r\nb ::= [^a-z\\]"\\-] .\r\n',
        'root ::= "(((" [(] # (((\n',
        'root ::= [ぁ-ん]+ | "\\u3042\\U0001F600\\t"',
        'root ::= "a"{2} [b]{ 1 , } "c"{0,3}? ( "d" "e" ){0,5000}',
        'root ::= ws* a\na ::= ws (ws)* "x" a | ""\nws ::= sp\nsp ::= [ ]*\n',
        "root ::= " + "(" * 200 + '"a"' + ")" * 200,
        "root ::= " + " | ".join(f'"{i}"' for i in range(3000)),
        'root ::= r0\nr0 ::= "x" r0 r0 | "y" r0 r0 | ""',
    ],
)
def test_good_grammars_are_taken_as_by_llama_cpp(source: str) -> None:
    check_gbnf(source, "grammar")
    LlamaGrammar(source)


@pytest.mark.parametrize(
    "form",
    [
        Format(kind="json_object"),
        Format(kind="regex", source=r"(\w+@\w+\.(com|org))(, ?\w{1,2500})*"),
        Format(
            kind="json_schema",
            json_schema={
                "$ref": "#/$defs/tree",
                "$defs": {
                    "tree": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "maxLength": 5000},
                            "day": {"type": "string", "format": "date"},
                            "size": {"type": "number", "minimum": -3, "maximum": 1e6},
                            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 10**18},
                        },
                    }
                },
            },
        ),
    ],
)
def test_our_own_grammars_are_good(form: Format) -> None:
    source = for_request(GenerateRequest(format=form), None)
    assert source is not None
    check_gbnf(source, "grammar")
    LlamaGrammar(source)


@pytest.mark.parametrize(
    "source",
    [
        "root",
        "root ::= (",
        'root ::= "a',
        "root ::= [a",
        'root ::= "\\q"',
        "root ::= *",
        'root ::= ""+',
        "root ::= a{}",
        'root ::= "a" )',
        '::= "a"',
        'root ::= "a"\n | "b"',
        "root ::= <a",
        "root ::= [a]{9999999999}",
    ],
)
def test_mistakes_are_found_where_they_are(source: str) -> None:
    with pytest.raises(InvalidInput, match=r"not valid GBNF.*in line [12]") as e:
        check_gbnf(source, "grammar")
    assert e.value.field == "grammar"
    with pytest.raises(ValueError, match="refuses"):
        LlamaGrammar(source)


DOUBLING = "\n".join(f"r{i} ::= r{i + 1} | r{i + 1} | r{i + 1}" for i in range(60)) + '\nr60 ::= "a"\nroot ::= r0'
CHAIN = "\n".join(f"r{i} ::= r{i + 1}" for i in range(11_000)) + '\nr11000 ::= "a"\nroot ::= r0'
NULLS = 'root ::= a{2000}\na ::= b{2000}\nb ::= "x"?'


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("root ::= " + "(" * 100_000, "parentheses"),
        ('root ::= "a"{3,1}', "at least 3 times and at most 1"),
        ('root ::= "a"{2001}', "more than 2000 times"),
        ('root ::= "' + "a" * 1000 + '"{1001}', "repeats too much"),
        ("root ::= " + '"a"{0,2000} ' * 501, "repeats too much"),
        ('root ::= root "a" | "b"', "what root stands for may begin with itself"),
        ('root ::= a\na ::= c a "x" | "y"\nc ::= b\nb ::= ""', "what a stands for"),
        ('root ::= (root)? "a"', "left-recursive"),
        ('root ::= a+\na ::= b*\nb ::= a "x" | "y"', "left-recursive"),
        (DOUBLING, "more than 10000 ways"),
        (CHAIN, "more than 10000 ways"),
        (NULLS, "more than 10000 ways"),
    ],
    ids=range(12),
)
def test_what_llama_cpp_would_not_survive(source: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as e:
        check_gbnf(source, "response_format.grammar")
    assert e.value.field == "response_format.grammar"
