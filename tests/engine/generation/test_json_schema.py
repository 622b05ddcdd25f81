"""JSON Schema taken apart: whether values fit is what the reference implementation says."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.generation.json_plain import all_of, same, type_of
from engine.generation.json_schema import Schemas
from tests.engine.generation.json_schemas import Schema, documents, schemas, values


@settings(max_examples=50)
@given(documents(), st.lists(values, min_size=3, max_size=6))
def test_values_fit_as_the_reference_says(schema: Schema, some: list[Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for value in some:
        try:
            fits = Schemas(schema, "schema").fits(schema, value)
        except InvalidInput:
            return
        if fits or "format" not in str(schema):  # of values with a format, only those that are generated are known
            assert fits == validator.is_valid(value), value


@settings(max_examples=100)
@given(schemas(1, references=False), schemas(1, references=False), st.lists(values, min_size=2, max_size=5))
def test_what_fits_both_of_two(a: Schema, b: Schema, some: list[Any]) -> None:
    try:
        for value in some:
            fitting = [Schemas(s, "schema").fits(s, value) for s in (a, b)]
            both = all_of(a, b)
            assert Schemas(both, "schema").fits(both, value) == all(fitting)
    except InvalidInput:
        return


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ([1, {"a": 2.0}], [1.0, {"a": 2}], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ("1", 1, False),
        (None, False, False),
    ],
)
def test_equality_is_that_of_json(a: Any, b: Any, equal: bool) -> None:
    assert same(a, b) == equal


def test_types_are_the_narrowest() -> None:
    examples: list[Any] = [None, True, 1, 1.0, 1.5, "", [], {}]
    assert [type_of(value) for value in examples] == [
        "null",
        "boolean",
        "integer",
        "integer",
        "number",
        "string",
        "array",
        "object",
    ]


def test_expressions_that_would_take_python_for_ever() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    assert not Schemas(schema, "schema").fits(schema, "a" * 60 + "!")


def doubled(depth: int) -> Schema:
    """A small schema with very many alternatives."""
    definitions = {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**definitions, str(depth): {"type": "null"}}, "$ref": "#/$defs/0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"minLength": i} for i in range(200)]}] * 3},
        {"oneOf": [{"type": "string", "minLength": i, "maxLength": i} for i in range(300)]},
        doubled(60),
    ],
)
def test_alternatives_of_alternatives_are_bounded(schema: Schema) -> None:
    with pytest.raises(InvalidInput, match="too many combinations"):
        Schemas(schema, "schema").plain(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a*b|a*c)$", "const": "a" * 90_000},
        {"pattern": "^(" + "a?" * 900 + "b|c)$", "enum": [f"{i:04}" for i in range(5000)]},
        {"allOf": [{"enum": list(range(5000))}, {"enum": list(range(5000, 10_000))}]},
    ],
    ids=range(3),
)
def test_comparisons_are_bounded(schema: Schema) -> None:
    schemas = Schemas(schema, "schema")
    with pytest.raises(InvalidInput, match="too many"):
        for plain in schemas.plain(schema):
            for value in plain["enum"]:
                schemas.fits(schema, value)


def test_common_comparisons_are_not_too_many() -> None:
    days = [f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    schema = {"enum": days, "format": "date", "pattern": "^[0-9-]+$"}
    schemas = Schemas(schema, "schema")
    assert all(schemas.fits(schema, day) for day in days)
