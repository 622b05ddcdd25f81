"""Plain JSON Schemas, which have no references and no combinations, and the JSON values that they speak of."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

Schema = dict[str, Any] | bool
Plain = dict[str, Any]
"""A schema of the keywords in `OF_TYPE` and `type`, `enum`. Schemas of properties and items in it are of any kind."""

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

OF_TYPE = {
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "patternProperties": "object",
    "propertyNames": "object",
    "minProperties": "object",
    "maxProperties": "object",
}
"""Keywords that are kept, and the type that each speaks of."""


def all_of(a: Schema, b: Schema) -> Schema:
    """The schema of what fits both."""
    if a is True or a == b:
        return b
    if b is True:
        return a
    if a is False or b is False:
        return False
    parts: list[Schema] = []
    for schema in (a, b):
        inner = schema["allOf"] if isinstance(schema, dict) and schema.keys() == {"allOf"} else [schema]
        parts += [part for part in inner if part not in parts]
    return parts[0] if len(parts) == 1 else {"allOf": parts}


def item_of(plain: Plain, index: int) -> Schema:
    """The schema of an item."""
    prefix: list[Schema] = plain.get("prefixItems", [])
    rest: Schema = plain.get("items", True)
    return prefix[index] if index < len(prefix) else rest


def within(plain: Plain, what: str, size: int) -> bool:
    """Whether a size is within the bounds of ``minItems`` and ``maxItems`` and the like."""
    return bool(plain.get(f"min{what}", 0) <= size <= plain.get(f"max{what}", size))


def allows(types: list[str] | tuple[str, ...], kind: str) -> bool:
    """Whether a type is among some, as integers are among numbers."""
    return kind in types or (kind == "integer" and "number" in types)


def type_of(value: Any) -> str:
    """The narrowest type of a JSON value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def types_of(plain: Plain) -> list[str]:
    """The types that values are generated of. Where a schema names none, those that its keywords speak of."""
    if "type" in plain:
        types: list[str] = plain["type"]
    else:
        types = list(dict.fromkeys(OF_TYPE[keyword] for keyword in plain if keyword in OF_TYPE)) or list(TYPES)
    return [kind for kind in types if not (kind == "integer" and "number" in types)]


def bounds_of(plain: Plain) -> tuple[Decimal | None, Decimal | None, bool, bool]:
    """The least and the greatest number, and whether these themselves are excluded."""

    def tightest(
        plainly: str, exclusively: str, better: Callable[[Decimal, Decimal], bool]
    ) -> tuple[Decimal | None, bool]:
        bound = Decimal(str(plain[plainly])) if plainly in plain else None
        if exclusively in plain:
            other = Decimal(str(plain[exclusively]))
            if bound is None or other == bound or better(other, bound):
                return other, True
        return bound, False

    low, over = tightest("minimum", "exclusiveMinimum", Decimal.__gt__)
    high, under = tightest("maximum", "exclusiveMaximum", Decimal.__lt__)
    return low, high, over, under


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal; 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_canonical(a), sort_keys=True) == json.dumps(_canonical(b), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value == int(value) else value
