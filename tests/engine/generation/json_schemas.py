"""Random JSON Schemas for property tests, and schemas together with a value that fits them."""

from __future__ import annotations

import string
from functools import cache
from typing import Any

from hypothesis import strategies as st

Schema = Any

NAMES = ("a", "b", "ab", "name", "né", "x y", 'q"', "日本")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
PATTERNS = (
    r"^[a-z]{2,4}$",
    r"ab|cd",
    r"^(x|yy)+[0-9]?$",
    r"^\d{3}-\w+$",
    r"\s",
    r"^[^\x00-\x1f]*$",
    r"[à-ü]$",
    r"^\S+@\S+$",
    r"^(?:\+1)?$|^none$",
)
FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "hostname", "uri", "duration")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-50, 50) | st.sampled_from([0.5, -2.25, 3.0]) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
names = st.lists(st.sampled_from(NAMES), unique=True, max_size=4)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A schema with definitions, one of which contains itself."""
    schema = draw(schemas(3))
    following = {"anyOf": [{"$ref": "#/$defs/chain"}, {"type": "null"}]}
    chain = {
        "type": "object",
        "properties": {"value": draw(schemas(1)), "next": following},
        "required": ["value"],
    }
    return {"$defs": {"part": draw(schemas(1, references=False)), "chain": chain}, "allOf": [schema]}


@cache
def schemas(depth: int, references: bool = True) -> st.SearchStrategy[Schema]:
    """Any schema, whose parts are nested up to `depth`."""
    leaves = [_plain(), _numbers(), _strings(), st.builds(_enum, st.lists(values, min_size=1, max_size=4)), _several()]
    if not depth:
        return st.one_of(leaves)
    inner = schemas(depth - 1, references)
    nested = [_objects(inner), _arrays(inner), _any_of(inner), _one_of(inner), _all_of(inner)]
    if references:
        nested.append(st.sampled_from([{"$ref": "#/$defs/part"}, {"$ref": "#/$defs/chain"}]))
    return st.one_of(*leaves, *nested, *nested)


def _plain() -> st.SearchStrategy[Schema]:
    return st.sampled_from([True, {}, {"type": "null"}, {"type": "boolean"}, {"title": "Anything"}])


def _enum(allowed: list[Any]) -> Schema:
    return {"const": allowed[0]} if len(allowed) == 1 else {"enum": allowed}


def _several() -> st.SearchStrategy[Schema]:
    return st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True).map(lambda types: {"type": types})


def _some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the keywords, or none."""
    return st.fixed_dictionaries({}, optional=keywords)


def _numbers() -> st.SearchStrategy[Schema]:
    bounds = st.integers(-1200, 1200) | st.decimals(-20, 20, places=3).map(float)
    some = _some(minimum=bounds, exclusiveMinimum=bounds, maximum=bounds, exclusiveMaximum=bounds)
    return st.builds(lambda kind, bound: {"type": kind, **bound}, st.sampled_from(["integer", "number"]), some)


def _strings() -> st.SearchStrategy[Schema]:
    sizes = _some(minLength=st.integers(0, 4), maxLength=st.integers(0, 8))
    patterns = st.sampled_from(PATTERNS).map(lambda pattern: {"pattern": pattern})
    formats = st.sampled_from(FORMATS).map(lambda name: {"format": name})
    return st.one_of(sizes, patterns, formats).map(lambda keywords: {"type": "string", **keywords})


def _objects(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.builds(
        lambda properties, more: {"type": "object", "properties": properties, **more},
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        _some(
            required=names,
            additionalProperties=st.booleans() | inner,
            minProperties=st.integers(0, 2),
            maxProperties=st.integers(0, 4),
        ),
    )


def _arrays(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    keywords = _some(
        items=inner | st.just(False),
        prefixItems=st.lists(inner, min_size=1, max_size=3),
        minItems=st.integers(0, 3),
        maxItems=st.integers(0, 4),
    )
    return keywords.map(lambda some: {"type": "array", **some})


def _any_of(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    alternatives = st.lists(inner, min_size=1, max_size=3)
    return st.builds(lambda parts, more: {"anyOf": parts, **more}, alternatives, _some(type=st.sampled_from(TYPES)))


def _one_of(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Objects that a constant tells apart, or anything, which may overlap."""
    told_apart = st.lists(st.dictionaries(st.sampled_from(NAMES), inner, max_size=2), min_size=1, max_size=3).map(
        lambda all_properties: [
            {"type": "object", "properties": {"kind": {"const": kind}, **properties}, "required": ["kind"]}
            for kind, properties in enumerate(all_properties)
        ]
    )
    return (told_apart | st.lists(inner, min_size=2, max_size=2)).map(lambda parts: {"oneOf": parts})


def _all_of(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    part = st.builds(
        lambda properties, more: {"properties": properties, **more},
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
        _some(required=names, additionalProperties=st.booleans(), type=st.just("object")),
    )
    return st.lists(part, min_size=1, max_size=2).map(lambda parts: {"type": "object", "allOf": parts})


# --- schemas with a value that the grammar must take ---


@st.composite
def schemas_with_values(draw: st.DrawFn, depth: int = 3) -> tuple[Schema, Any]:
    """A schema, and a value that fits it. Its members are in the order in which they are declared."""
    kinds = ["plain", "integer", "number", "string", "pattern", "enum"]
    kind = draw(st.sampled_from([*kinds, "object", "object", "array", "union", "reference"] if depth else kinds))
    if kind == "plain":
        return draw(st.sampled_from([({"type": "null"}, None), ({"type": "boolean"}, True), ({}, {"any": [1, "é"]})]))
    if kind == "integer":
        value = draw(st.integers(-(10**15), 10**15))
        return {"type": "integer", **draw(_around(value))}, value
    if kind == "number":
        # a few digits, since numbers with bounds are written without an exponent
        exact = float(draw(st.decimals(-1000, 1000, places=4)))
        return {"type": "number", **draw(_around(exact))}, exact
    if kind == "string":
        text = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
        sizes = _some(minLength=st.integers(0, len(text)), maxLength=st.integers(len(text), len(text) + 9))
        return {"type": "string", **draw(sizes)}, text
    if kind == "pattern":
        pattern = draw(st.sampled_from(PATTERNS))
        wanted = st.from_regex(pattern.replace(r"\w", "[A-Za-z0-9_]").replace(r"\d", "[0-9]"))
        text = draw(wanted.filter(lambda text: text.isprintable() and not any("\ud800" <= c <= "\udfff" for c in text)))
        return {"type": "string", "pattern": pattern}, text
    if kind == "enum":
        allowed = draw(st.lists(values, min_size=1, max_size=3))
        return {"enum": allowed}, draw(st.sampled_from(allowed))
    inner = schemas_with_values(depth - 1)
    if kind == "array":
        schema, item = draw(inner)
        items = [item] * draw(st.integers(0, 3))
        sizes = _some(minItems=st.integers(0, len(items)), maxItems=st.integers(len(items), 5))
        return {"type": "array", "items": schema, **draw(sizes)}, items
    if kind == "union":
        schema, value = draw(inner)
        other, _ = draw(inner)
        return {"anyOf": draw(st.permutations([schema, other]))}, value
    if kind == "reference":
        return draw(_references(inner))
    return draw(_objects_with_values(inner))


def _around(value: float) -> st.SearchStrategy[dict[str, Any]]:
    return _some(
        minimum=st.integers(0, 999).map(lambda distance: value - distance),
        maximum=st.integers(0, 999).map(lambda distance: value + distance),
        exclusiveMaximum=st.integers(1, 999).map(lambda distance: value + distance),
    )


@st.composite
def _references(draw: st.DrawFn, inner: st.SearchStrategy[tuple[Schema, Any]]) -> tuple[Schema, Any]:
    schema, value = draw(inner)
    return {"allOf": [schema, {}]}, value


@st.composite
def _objects_with_values(draw: st.DrawFn, inner: st.SearchStrategy[tuple[Schema, Any]]) -> tuple[Schema, Any]:
    pairs = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=4))
    required = [name for name in pairs if draw(st.booleans())]
    present = {name: value for name, (_, value) in pairs.items() if name in required or draw(st.booleans())}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in pairs.items()},
        "required": required,
    }
    if draw(st.booleans()):
        schema["additionalProperties"] = {"type": "string"}
        keys = st.text(string.ascii_letters + "é\\", min_size=1, max_size=3).filter(lambda key: key not in pairs)
        present |= draw(st.dictionaries(keys, texts, max_size=2))
    return schema, present
