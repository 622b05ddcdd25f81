"""JSON Schema taken apart: any schema as a choice of plain ones, which have no references and no combinations.

It knows what can be said in a grammar, and refuses the rest by name; nothing of a schema is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from engine.errors import InvalidInput
from engine.generation.gbnf import Node, matches
from engine.generation.json_formats import FORMATS
from engine.generation.json_plain import (
    OF_TYPE,
    TYPES,
    Plain,
    Schema,
    all_of,
    allows,
    bounds_of,
    item_of,
    same,
    type_of,
    types_of,
    within,
)
from engine.generation.regex_grammar import regex_grammar

_COMBINATIONS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "const", "type", "enum"})
_ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "id", "$comment", "$defs", "definitions", "$anchor", "$vocabulary"),
        *("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema", "discriminator", "externalDocs", "xml"),
    }
)
"""Keywords that do not bear on what is valid."""
_WITHOUT_EFFECT = {"uniqueItems": False, "unevaluatedProperties": True, "unevaluatedItems": True}
"""Keywords that say nothing when they have this value, and cannot be expressed otherwise."""
_SCHEMAS = ("items", "additionalProperties", "propertyNames")
_MOST_WORK = 20_000
"""Steps of taking one document apart."""
_MOST_COMPARED = 4_000_000
"""About how many characters of texts and patterns are compared; of a long text, many pairs of places."""

_INTEGER_FORMATS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_NUMBER_FORMATS = ("float", "double")


class Schemas:
    """One document of schemas. Errors name `field`, followed by the path in the document."""

    def __init__(self, document: Schema, field: str) -> None:
        self._document = document
        self.field = field
        self._expressions: dict[tuple[str, bool], Node] = {}
        self._work = 0
        self._compared = 0
        self._comparing = False
        """Whether alternatives are compared; what is inside of them is then not, which might never end."""

    def refusal(self, path: str, problem: str) -> InvalidInput:
        """The error about a place in the document."""
        place = f" at {path}" if path else ""
        return InvalidInput(f"The JSON Schema{place} {problem}.", field=f"{self.field}.{path}" if path else self.field)

    def target(self, reference: Any, path: str) -> Schema:
        """The schema that a ``$ref`` means."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise self.refusal(f"{path}$ref", f"refers to {reference!r}; only places in the same schema can be used")
        found: Any = self._document
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise self.refusal(f"{path}$ref", f"refers to {reference!r}, which is not there")
        return self.checked(found, path)

    def expression_of(self, name: str, path: str = "") -> str:
        """The regular expression of a format."""
        if name not in FORMATS:
            raise self.refusal(
                f"{path}format",
                f"has the format {name!r}, which is not supported; these are: {', '.join(sorted(FORMATS))}",
            )
        return FORMATS[name]

    def checked(self, schema: Any, path: str) -> Schema:
        """`schema`, if it is one. Raises `InvalidInput`."""
        if not isinstance(schema, dict | bool):
            raise self.refusal(path.rstrip("."), f"must be an object or a boolean, and is {schema!r}")
        return schema

    def plain(self, schema: Schema, path: str = "", inside: tuple[str, ...] = ()) -> list[Plain]:
        """The plain schemas of which a value must fit one. `inside` are the references that led here."""
        schema = self.checked(schema, path)
        self._work_more(path)
        if isinstance(schema, bool):
            return [{}] if schema else []
        found = self._own(schema, path)
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in inside:  # what only says that it is itself adds nothing
                return []
            inner = self.plain(self.target(reference, path), path, (*inside, reference))
            found = self._both(found, inner, path)
        for index, part in enumerate(self._list(schema, "allOf", path)):
            found = self._both(found, self.plain(part, f"{path}allOf.{index}.", inside), path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                parts = [
                    self._both(found, self.plain(part, f"{path}{keyword}.{index}.", inside), path)
                    for index, part in enumerate(self._list(schema, keyword, path))
                ]
                if keyword == "oneOf":
                    self._require_disjoint(parts, path)
                found = [plain for part in parts for plain in part]
                self._work += len(found)
        return found

    def _list(self, schema: dict[str, Any], keyword: str, path: str) -> list[Any]:
        parts = schema.get(keyword, [])
        if not isinstance(parts, list) or (keyword in schema and not parts):
            raise self.refusal(f"{path}{keyword}", "must be a list with something in it")
        return parts

    def _own(self, schema: dict[str, Any], path: str) -> list[Plain]:
        """What a schema says itself."""
        own: Plain = {}
        for keyword, value in schema.items():
            if keyword in OF_TYPE:
                own[keyword] = value
            elif (keyword in _WITHOUT_EFFECT and value == _WITHOUT_EFFECT[keyword]) or (keyword, value) == (
                "multipleOf",
                1,
            ):
                pass
            elif keyword == "$id" and path:
                raise self.refusal(f"{path}$id", "has an address of its own inside of another, which is not supported")
            elif keyword not in _COMBINATIONS and keyword not in _ANNOTATIONS and not keyword.startswith("x-"):
                raise self.refusal(f"{path}{keyword}", f"has the keyword {keyword!r}, which is not supported")
        if "type" in schema:
            kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            if not kinds or not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
                raise self.refusal(f"{path}type", f"has an unknown type: {schema['type']!r}")
            own["type"] = kinds
        if "const" in schema:
            own["enum"] = [schema["const"]]
        if "enum" in schema:
            values = self._list(schema, "enum", path)
            own["enum"] = [v for v in values if not own.get("enum") or same(v, schema["const"])]
        self._check_values(own, path)
        if schema.get("multipleOf") == 1:
            return self._both([own], [{"type": [kind for kind in TYPES if kind != "number"]}], path)
        if own.get("format") in _NUMBER_FORMATS:
            del own["format"]
            return self._both([own], [{"type": ["number"]}], path) if "type" not in own else [own]
        if own.get("format") in _INTEGER_FORMATS:
            low, high = _INTEGER_FORMATS[own.pop("format")]
            return self._both([own], [{"type": ["integer"], "minimum": low, "maximum": high}], path)
        return [own]

    def _check_values(self, own: Plain, path: str) -> None:
        """Refuses keywords with values that they cannot have."""
        for keyword, value in own.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if keyword in ("exclusiveMinimum", "exclusiveMaximum", "minimum", "maximum"):
                good = number
            elif keyword.startswith(("min", "max")):
                good = number and value >= 0 and value == int(value)
            elif keyword in ("pattern", "format"):
                good = isinstance(value, str)
            elif keyword == "required":
                good = isinstance(value, list) and all(isinstance(name, str) for name in value)
            elif keyword in ("properties", "patternProperties"):
                good = isinstance(value, dict)
            elif keyword == "prefixItems":
                good = isinstance(value, list)
            else:
                good = True
            if not good:
                raise self.refusal(f"{path}{keyword}", f"has a {keyword} that cannot be: {value!r}")
        if isinstance(own.get("items"), list):  # as it was until the draft of 2019
            own["prefixItems"] = own.pop("items")

    # --- both of two ---

    def _both(self, left: list[Plain], right: list[Plain], path: str) -> list[Plain]:
        return [both for a in left for b in right if (both := self.meet(a, b, path)) is not None]

    def _work_more(self, path: str, steps: int = 1) -> None:
        """Counts what is done, which small schemas can make much of."""
        self._work += steps
        if self._work > _MOST_WORK:
            raise self.refusal(path.rstrip("."), "has too many combinations of alternatives")

    def meet(self, a: Plain, b: Plain, path: str) -> Plain | None:
        """The schema of what fits both; `None` when nothing does, as far as that is easily seen."""
        self._work_more(path)
        both: Plain = {**a, **b}
        if "type" in a and "type" in b:
            both["type"] = [t for t in TYPES if allows(a["type"], t) and allows(b["type"], t)]
            if not both["type"]:
                return None
        if "enum" in a and "enum" in b:
            self._work_more(path, len(a["enum"]) * len(b["enum"]) // 100)
            both["enum"] = [v for v in a["enum"] if any(same(v, w) for w in b["enum"])]
        for keyword in a.keys() & b.keys():
            x, y = a[keyword], b[keyword]
            if keyword.startswith("min") or keyword == "exclusiveMinimum":
                both[keyword] = max(x, y)
            elif keyword.startswith("max") or keyword == "exclusiveMaximum":
                both[keyword] = min(x, y)
            elif keyword in _SCHEMAS:
                both[keyword] = all_of(x, y)
            elif keyword == "required":
                both[keyword] = [*x, *(name for name in y if name not in x)]
            elif keyword in ("pattern", "format", "patternProperties") and x != y:
                raise self.refusal(f"{path}{keyword}", f"requires two {keyword}s of one value, which is not supported")
        if "properties" in both or "additionalProperties" in both:
            both |= self._properties_of_both(a, b)
        if "prefixItems" in both:
            length = max(len(a.get("prefixItems", ())), len(b.get("prefixItems", ())))
            both["prefixItems"] = [all_of(item_of(a, i), item_of(b, i)) for i in range(length)]
        return both

    def _properties_of_both(self, a: Plain, b: Plain) -> Plain:
        names = [*a.get("properties", {}), *(n for n in b.get("properties", {}) if n not in a.get("properties", {}))]
        properties: dict[str, Schema] = {}
        for name in names:
            both: Schema = True
            for part in (*self._schemas_of(a, name), *self._schemas_of(b, name)):
                both = all_of(both, part)
            properties[name] = both
        return {"properties": properties}

    def _schemas_of(self, plain: Plain, name: str) -> Iterator[Schema]:
        """The schemas that the value of a property must fit."""
        known = False
        if name in plain.get("properties", {}):
            known = True
            yield plain["properties"][name]
        for pattern, schema in plain.get("patternProperties", {}).items():
            if self.matches(pattern, name):
                known = True
                yield schema
        if not known:
            yield plain.get("additionalProperties", True)

    # --- one of several, and no more ---

    def _require_disjoint(self, parts: list[list[Plain]], path: str) -> None:
        if self._comparing:
            return
        for (i, left), (j, right) in combinations(enumerate(parts), 2):
            self._comparing = True
            overlap = any(self._overlap(a, b, path) for a in left for b in right)
            self._comparing = False
            if overlap:
                raise self.refusal(
                    f"{path}oneOf",
                    f"has alternatives, {i} and {j}, that some values fit both of, as far as can be seen; use anyOf, "
                    "or a required property with a const that tells them apart",
                )

    def _overlap(self, a: Plain, b: Plain, path: str) -> bool:
        both = self.meet(a, b, path)
        if both is None:
            return False
        kinds = {kind for kind in (*types_of(a), *types_of(b)) if allows(both.get("type", TYPES), kind)}
        return any(not self._is_void({**both, "type": [kind]}, path, 3) for kind in kinds)

    def _is_void(self, plain: Plain, path: str, depth: int) -> bool:
        """Whether nothing fits, as far as that is easily seen. There is one type."""
        if "enum" in plain:
            return not any(self.fits(plain, value) for value in plain["enum"])
        kind = plain["type"][0]
        if kind in ("integer", "number"):
            low, high, over, under = bounds_of(plain)
            return low is not None and high is not None and (low > high or (low == high and (over or under)))
        if kind == "object" and depth:
            properties = plain.get("properties", {})
            required = (
                properties.get(name, plain.get("additionalProperties", True)) for name in plain.get("required", ())
            )
            return any(self._nothing_fits(schema, path, depth - 1) for schema in required)
        sizes = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}.get(kind)
        return sizes is not None and plain.get(sizes[0], 0) > plain.get(sizes[1], float("inf"))

    def _nothing_fits(self, schema: Schema, path: str, depth: int) -> bool:
        return all(
            self._is_void({**plain, "type": [kind]}, path, depth)
            for plain in self.plain(schema, path)
            for kind in plain.get("type", TYPES)
        )

    # --- whether a value fits ---

    def matches(self, source: str, text: str, search: bool = True) -> bool:
        """Whether a text matches a regular expression, as the grammar understands it."""
        self._compared += len(source) * (10 + len(text) + len(text) ** 2 // 1000)
        if self._compared > _MOST_COMPARED:
            raise self.refusal("", "compares too many texts with patterns, or too long ones")
        if (source, search) not in self._expressions:
            self._expressions[source, search] = regex_grammar(source, self.field, search=search)
        return matches(self._expressions[source, search], text)

    def fits(self, schema: Schema, value: Any) -> bool:
        """Whether a value, such as one of an ``enum``, is what a schema wants; formats are as they are generated."""
        return any(self._fits_plain(plain, value) for plain in self.plain(schema))

    def _fits_plain(self, plain: Plain, value: Any) -> bool:
        kind = type_of(value)
        if not allows(plain.get("type", TYPES), kind):
            return False
        if "enum" in plain and not any(same(value, allowed) for allowed in plain["enum"]):
            return False
        if kind in ("integer", "number"):
            low, high, over, under = bounds_of(plain)
            exact = Decimal(str(value))
            below = low is not None and (exact < low or (over and exact == low))
            above = high is not None and (exact > high or (under and exact == high))
            return not (below or above)
        if kind == "string":
            if "pattern" in plain and not self.matches(plain["pattern"], value):
                return False
            if "format" in plain and not self.matches(self.expression_of(plain["format"]), value, search=False):
                return False
            return within(plain, "Length", len(value))
        if kind == "array":
            return within(plain, "Items", len(value)) and all(
                self.fits(item_of(plain, index), item) for index, item in enumerate(value)
            )
        if kind == "object":
            return (
                within(plain, "Properties", len(value))
                and all(name in value for name in plain.get("required", ()))
                and all(
                    self.fits(part, member) for name, member in value.items() for part in self._schemas_of(plain, name)
                )
                and all(self.fits(plain.get("propertyNames", True), name) for name in value)
            )
        return True
