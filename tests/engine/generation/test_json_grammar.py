"""JSON Schema as grammars: what a grammar writes fits the schema, and what fits the schema the grammar takes."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.generation.gbnf_rules import Grammar
from engine.generation.json_grammar import json_grammar
from tests.engine.generation.gbnf_interpreter import Gbnf
from tests.engine.generation.json_schemas import Schema, documents, schemas_with_values


def gbnf(schema: Schema) -> str | None:
    grammar = Grammar()
    return grammar.text(json_grammar(grammar, schema, "response_format.json_schema"))


def compiled(schema: Schema) -> Gbnf:
    text = gbnf(schema)
    assert text is not None
    return Gbnf(text)


def assert_fits(value: Any, schema: Schema) -> None:
    validator = jsonschema.Draft202012Validator
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(value)


@settings(max_examples=100)
@given(documents(), st.randoms(use_true_random=False))
def test_what_a_grammar_writes_fits_its_schema(schema: Schema, random: random.Random) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    try:
        text = gbnf(schema)
    except InvalidInput as e:
        assert e.field is not None
        assert e.field.startswith("response_format.json_schema")
        return
    if text is None:
        return
    grammar = Gbnf(text)
    for _ in range(3):
        written = grammar.write(random, 60)
        assert grammar.matches(written)
        assert_fits(json.loads(written), schema)


@settings(max_examples=100)
@given(schemas_with_values())
def test_a_grammar_takes_what_fits_its_schema(schema_and_value: tuple[Schema, Any]) -> None:
    schema, value = schema_and_value
    assert_fits(value, schema)
    grammar = compiled(schema)
    assert grammar.matches(json.dumps(value))
    assert grammar.matches(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/tree",
}
PAIR = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "size": {"type": size}},
            "required": ["kind", "size"],
        }
        for kind, size in (("circle", "number"), ("square", "integer"))
    ]
}
MERGED = {
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "string"}}, "required": ["a"]},
        {"properties": {"a": {"minimum": 3, "maximum": 4}}, "required": ["b"]},
    ]
}
CLOSED = {
    "type": "object",
    "properties": {"first": {"type": "boolean"}, "second": {"type": "null"}},
    "required": ["second"],
}
MAP = {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "integer"}}
PATTERNED = {"type": "object", "patternProperties": {"^v[0-9]$": {"type": "string"}}, "additionalProperties": False}
COUNTED = {
    "type": "object",
    "properties": {name: {"type": "null"} for name in "abc"},
    "minProperties": 1,
    "maxProperties": 2,
}
TUPLE = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 1, "items": False}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (TREE, ['{"value": 1, "children": [{"value": 2, "children": []}]}'], ['{"value": 1}', '{"children": []}']),
        (PAIR, ['{"kind":"circle","size":1.5}', '{"kind":"square","size":1}'], ['{"kind":"square","size":1.5}']),
        (MERGED, ['{"a": 3.5, "b": ""}'], ['{"a": 3.5}', '{"a": 2, "b": ""}', '{"a": 5, "b": ""}']),
        (CLOSED, ['{"first":true,"second":null}', '{"second": null}'], ['{"second":null,"third":1}', "{}"]),
        (MAP, ["{}", '{"a":1,"bc":2}'], ['{"A":1}', '{"a":"x"}', '{"":1}']),
        (PATTERNED, ["{}", '{"v1":"x"}'], ['{"v1":1}', '{"w1":"x"}']),
        (COUNTED, ['{"a":null}', '{"b":null,"c":null}'], ["{}", '{"a":null,"b":null,"c":null}']),
        (TUPLE, ['["a"]', '["a", 1]'], ["[]", "[1]", '["a", 1, 2]']),
        ({"type": ["string", "null"], "maxLength": 1}, ['"a"', '"\\n"', '"\\ud83d\\ude00"', "null"], ['"ab"', "1"]),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "true"]),
        ({"enum": ["a", "bc", 3], "type": "string", "minLength": 2}, ['"bc"'], ['"a"', "3"]),
        ({"enum": ["1.2.3.4", "localhost", 3], "format": "ipv4"}, ['"1.2.3.4"', "3"], ['"localhost"']),
        ({"type": "integer", "multipleOf": 1, "uniqueItems": False}, ["12"], ["1.5"]),
        ({"type": "integer", "format": "int32", "minimum": 0}, ["2147483647"], ["2147483648", "-1"]),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "null"}}}, ["null"], ["1"]),
        ({"required": ["x"], "type": "object"}, ['{"x": 1}', '{"x": [], "y": 2}'], ["{}"]),
        (
            {"type": "object", "properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
            ['{"ab":null,"abc":1,"a":2,"b":3}', '{"\\u00e4": 1}'],
            ['{"ab":1}', '{"a":null}'],
        ),
    ],
)
def test_schemas(schema: Schema, good: list[str], bad: list[str]) -> None:
    grammar = compiled(schema)
    for text in good:
        assert_fits(json.loads(text), schema)
        assert grammar.matches(text), text
    for text in bad:
        assert not grammar.matches(text), text


def test_the_items_of_older_drafts_are_understood() -> None:
    grammar = compiled({"items": [{"type": "null"}], "type": "array"})
    assert grammar.matches("[null]")
    assert not grammar.matches("[1]")


def test_properties_come_in_the_order_in_which_they_are_declared() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "null"}, "a": {"type": "null"}}, "required": ["a"]}
    grammar = compiled(schema)
    assert grammar.matches('{"z": null, "a": null}')
    assert not grammar.matches('{"a": null, "z": null}')


def test_white_space_is_bounded() -> None:
    grammar = compiled({"type": "object"})
    assert grammar.matches('{\n    "a": [\n        1,\n        2\n    ]\n}')
    for text in ("{\n\n}", "{  }", '{"a":  1}', "{}\n", " {}", "{\n" + " " * 21 + "}"):
        assert not grammar.matches(text), text


def test_any_value_is_any_json() -> None:
    grammar = compiled(True)
    for value in (None, True, -1.5e-7, 0, "é\u2028\x7f", [], [[1], {}], {"": {"a": [None]}}):
        assert grammar.matches(json.dumps(value))
    for text in ("01", "1.", "NaN", "'a'", '"\n"', '"\\x"', '"\\ud800"', "[1,]", '{"a"}'):
        assert not grammar.matches(text), text


@pytest.mark.parametrize(
    ("schema", "keyword", "path"),
    [
        ({"not": {"type": "null"}}, "not", "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "uniqueItems"),
        ({"type": "integer", "multipleOf": 2}, "multipleOf", "multipleOf"),
        ({"properties": {"a": {"if": {}, "then": {}}}}, "if", "properties.a.if"),
        ({"type": "array", "contains": {}}, "contains", "contains"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired", "dependentRequired"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties", "unevaluatedProperties"),
        ({"type": "string", "maxlength": 3}, "maxlength", "maxlength"),
        ({"type": "string", "format": "zip-code"}, "zip-code", "format"),
        ({"type": "string", "pattern": "a(?=b)"}, "lookaround", "pattern"),
        ({"type": "string", "pattern": "("}, "not valid", "pattern"),
        ({"type": "string", "pattern": "^(ab)+$", "maxLength": 3}, "length", "pattern"),
        ({"type": "string", "pattern": "a", "format": "date"}, "both a format and a pattern", "format"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "two patterns", "pattern"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "anyOf", "oneOf"),
        ({"oneOf": [{"properties": {"a": {"const": n}}, "type": "object"} for n in (1, 2)]}, "anyOf", "oneOf"),
        ({"$ref": "https://example.com/schema"}, "only places in the same schema", "$ref"),
        ({"$ref": "#/$defs/missing"}, "is not there", "$ref"),
        ({"type": "strin"}, "unknown type", "type"),
        ({"type": []}, "unknown type", "type"),
        ({"enum": []}, "list", "enum"),
        ({"anyOf": {}}, "list", "anyOf"),
        ({"minLength": -1}, "minLength", "minLength"),
        ({"minimum": "1"}, "minimum", "minimum"),
        ({"required": "a"}, "required", "required"),
        ({"properties": []}, "properties", "properties"),
        ({"items": 3}, "must be an object or a boolean", "items"),
        ({"minProperties": 2, "type": "object"}, "minProperties", "minProperties"),
        ({"type": "number", "minimum": 1e60}, "too many digits", ""),
        ({"properties": {"a": {}}, "patternProperties": {"b": {}}}, "patternProperties", "patternProperties"),
        (
            {"properties": {"a": {}}, "propertyNames": {"pattern": "a"}, "additionalProperties": True},
            "propertyNames",
            "propertyNames",
        ),
        ({"properties": {"a": {"$id": "other"}}}, "address of its own", "properties.a.$id"),
    ],
)
def test_what_a_grammar_cannot_say_is_refused_by_name(schema: Schema, keyword: str, path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        gbnf(schema)
    assert keyword in caught.value.message
    assert caught.value.field == f"response_format.json_schema.{path}".rstrip(".")


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#"},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "integer", "minimum": 1.2, "maximum": 1.9},
        {"type": "array", "minItems": 1, "items": False},
        {"type": "array", "minItems": 2, "maxItems": 1, "prefixItems": [{}]},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"enum": [1, 2], "type": "string"},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "additionalProperties": False, "required": ["a"]},
    ],
)
def test_a_schema_that_nothing_fits_has_no_grammar(schema: Schema) -> None:
    assert gbnf(schema) is None


def test_what_could_never_end_is_left_out() -> None:
    endless = {"type": "object", "properties": {"more": {"$ref": "#/$defs/endless"}}, "required": ["more"]}
    grammar = compiled({"$defs": {"endless": endless}, "anyOf": [{"$ref": "#/$defs/endless"}, {"type": "null"}]})
    assert grammar.matches("null")
    assert not grammar.matches("{")
    assert grammar.write(random.Random(1)) == "null"


def test_great_counts_are_exact() -> None:
    grammar = compiled({"type": "array", "items": {"const": 1}, "minItems": 1500, "maxItems": 2500})
    for count in (1500, 2001, 2500):
        assert grammar.matches(json.dumps([1] * count, separators=(",", ":")))
    for count in (1499, 2501):
        assert not grammar.matches(json.dumps([1] * count, separators=(",", ":")))


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(2000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        gbnf(schema)


def test_a_schema_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput, match="more than"):
        gbnf({"enum": ["x" * 500_000]})
    many = {str(i): {"maxLength": i} for i in range(2500)}
    with pytest.raises(InvalidInput, match="too many rules"):
        gbnf({"properties": {"first": {"properties": many}, "second": {"type": "null"}}})
    counted = {"type": "object", "properties": {str(i): {} for i in range(60)}, "maxProperties": 3}
    with pytest.raises(InvalidInput, match="counts the properties"):
        gbnf(counted)


def test_an_object_may_have_many_properties() -> None:
    names = [str(i) for i in range(300)]
    grammar = compiled({"type": "object", "properties": {name: {"type": "null"} for name in names}})
    assert grammar.matches(json.dumps(dict.fromkeys(names)))
    assert grammar.matches(json.dumps(dict.fromkeys(names[::50])))
    assert not grammar.matches('{"1": null, "0": null}')
