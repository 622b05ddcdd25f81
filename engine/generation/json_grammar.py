"""JSON Schema as a grammar: every text that follows the grammar is valid JSON that fits the schema.

Among what fits, the grammar keeps to what models write well: properties in the order in which they are declared, little
white space, numbers of a sane length. An object that declares properties gets others only where its schema says so with
``additionalProperties``, and an array that declares its first items only those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engine.errors import InvalidInput
from engine.generation.gbnf import EMPTY, NEVER, Chars, Node, Rule, Text, alt, optional, repeat, seq
from engine.generation.gbnf_rules import Grammar
from engine.generation.json_plain import Plain, Schema, all_of, bounds_of, types_of
from engine.generation.json_schema import Schemas
from engine.generation.json_text import (
    character,
    colon,
    integer,
    key_except,
    literal,
    number,
    string,
    white_space,
)
from engine.generation.regex_grammar import regex_grammar

_MOST_RULES = 5_000
_MOST_SOURCE = 100_000
_MOST_COUNTED = 50


def json_grammar(grammar: Grammar, schema: Schema, field: str, document: Schema | None = None) -> Node:
    """The JSON values that fit `schema`, as a part of `grammar`.

    References in it mean places in `document`, which is the schema itself unless it is given. Raises `InvalidInput`
    that names the place in `field` where the schema says what a grammar cannot.
    """
    try:
        if len(json.dumps(schema)) > _MOST_SOURCE:
            raise InvalidInput(f"The JSON Schema has more than {_MOST_SOURCE} characters.", field=field)
        return _Converter(grammar, schema if document is None else document, field).value(schema, "")
    except RecursionError:
        raise InvalidInput("The JSON Schema is nested too deeply.", field=field) from None


class _Converter:
    def __init__(self, grammar: Grammar, document: Schema, field: str) -> None:
        self._grammar = grammar
        self._schemas = Schemas(document, field)
        self._rules: dict[str, Rule] = {}
        """By schema, so that a schema that comes again, also inside of itself, is the same rule."""

    def value(self, schema: Schema, path: str) -> Node:
        """What fits a schema of any kind."""
        schema = self._schemas.checked(schema, path)
        if isinstance(schema, bool):
            return self._anything() if schema else NEVER
        key = json.dumps(schema)
        if key in self._rules:
            return self._rules[key]
        if len(self._grammar) > _MOST_RULES:
            raise self._schemas.refusal("", "is too large: its grammar has too many rules")
        rule = self._rules[key] = self._grammar.reserve(path.strip(".") or "value")
        plains = self._schemas.plain(schema, path)
        return self._grammar.define(rule, alt(*(self._plain(plain, path) for plain in plains)))

    def _plain(self, plain: Plain, path: str) -> Node:
        if "enum" in plain:
            rest = {keyword: value for keyword, value in plain.items() if keyword != "enum"}
            return alt(*(literal(self._grammar, v) for v in plain["enum"] if self._schemas.fits(rest, v)))
        return alt(*(self._of_type(kind, plain, path) for kind in types_of(plain)))

    def _of_type(self, kind: str, plain: Plain, path: str) -> Node:
        if kind == "null":
            return Text("null")
        if kind == "boolean":
            return alt("true", "false")
        if kind in ("integer", "number"):
            return self._number(kind, plain, path)
        if kind == "string":
            return self._string(plain, path)
        return self._array(plain, path) if kind == "array" else self._object(plain, path)

    def _anything(self) -> Rule:
        """Any JSON value."""
        if "" not in self._rules:
            rule = self._rules[""] = self._grammar.reserve("anything")
            self._grammar.define(rule, self._plain({}, ""))
        return self._rules[""]

    def _number(self, kind: str, plain: Plain, path: str) -> Node:
        low, high, over, under = bounds_of(plain)
        if any(bound is not None and abs(bound.adjusted()) > 40 for bound in (low, high) if bound):
            raise self._schemas.refusal(path.rstrip("."), "has a bound of a number with too many digits")
        if kind == "number":
            if (low, high) == (None, None):
                return self._grammar.shared("number", lambda: number(None, None))
            return number(low, high, over, under)
        least = None if low is None else -int(-low // 1)
        most = None if high is None else int(high // 1)
        if low is not None and low > 0 and least is not None:
            least = int(low) if low == int(low) else int(low) + 1
        if high is not None and high < 0 and most is not None:
            most = int(high) if high == int(high) else int(high) - 1
        least = least + 1 if least is not None and over and least == low else least
        most = most - 1 if most is not None and under and most == high else most
        if least is not None and most is not None and least > most:
            return NEVER
        if least is None and most is None:
            return self._grammar.shared("integer", lambda: integer(None, None))
        return integer(least, most)

    def _string(self, plain: Plain, path: str) -> Node:
        least, most = int(plain.get("minLength", 0)), plain.get("maxLength")
        most = None if most is None else int(most)
        if most is not None and least > most:
            return NEVER
        if "format" in plain and "pattern" in plain:
            raise self._schemas.refusal(f"{path}format", "has both a format and a pattern, which is not supported")
        source, search = plain.get("pattern"), True
        if "format" in plain:
            source, search = self._schemas.expression_of(plain["format"], path), False
        if source is None:
            return string(self._grammar, least, most)

        def draw(characters: Chars) -> Node:
            return character(self._grammar, characters)

        field = f"{self._schemas.field}.{path}pattern"
        return seq('"', regex_grammar(source, field, draw, search=search, least=least, most=most), '"')

    # --- arrays ---

    def _array(self, plain: Plain, path: str) -> Node:
        least, most = int(plain.get("minItems", 0)), plain.get("maxItems")
        most = None if most is None else int(most)
        prefix = [
            self.value(schema, f"{path}prefixItems.{i}.") for i, schema in enumerate(plain.get("prefixItems", ()))
        ]
        if NEVER in prefix:
            most = min(prefix.index(NEVER), len(prefix) if most is None else most)
        if most is not None and least > most:
            return NEVER
        rest: Node = NEVER
        if "items" in plain or len(prefix) < max(least, 1):
            rest = self.value(plain.get("items", True), f"{path}items.")
        space = white_space(self._grammar)
        following: Node = EMPTY
        if rest != NEVER:
            more = None if most is None else max(0, most - len(prefix))
            following = repeat(seq(",", space, rest), max(0, least - len(prefix)), more)
        elif least > len(prefix):
            return NEVER
        if not prefix:
            return self._elements(rest, least, most, space)
        for index in range(len(prefix) - 1, 0, -1):
            part = seq(",", space, prefix[index], following)
            following = EMPTY if most is not None and index >= most else part if index < least else optional(part)
        if most == 0:
            return NEVER if least else seq("[", space, "]")
        full = seq("[", space, prefix[0], following, space, "]")
        return full if least else alt(full, seq("[", space, "]"))

    @staticmethod
    def _elements(item: Node, least: int, most: int | None, space: Node) -> Node:
        """An array of items of one kind."""
        empty = seq("[", space, "]")
        if item == NEVER or most == 0:
            return NEVER if least else empty
        others = repeat(seq(",", space, item), max(0, least - 1), None if most is None else most - 1)
        full = seq("[", space, item, others, space, "]")
        return full if least else alt(full, empty)

    # --- objects ---

    def _object(self, plain: Plain, path: str) -> Node:
        required = set(plain.get("required", ()))
        members: list[tuple[Node, bool]] = []
        for name, schema in self._properties(plain):
            value = self.value(schema, f"{path}properties.{name}.")
            if value != NEVER:
                members.append((seq(literal(self._grammar, name), colon(), value), name in required))
            elif name in required:
                return NEVER
        least, most = int(plain.get("minProperties", 0)), plain.get("maxProperties")
        if len(members) > _MOST_COUNTED and not plain.keys().isdisjoint(("minProperties", "maxProperties")):
            raise self._schemas.refusal(
                path.rstrip("."), f"counts the properties of an object that declares more than {_MOST_COUNTED}"
            )
        extra = self._extra(plain, path)
        body = _Members(self._grammar, members, extra, least, None if most is None else int(most))
        if least > len(members) + (extra != NEVER):
            raise self._schemas.refusal(
                f"{path}minProperties", "has more minProperties than can be told apart by their declared names"
            )
        return seq("{", body.all(), "}")

    def _properties(self, plain: Plain) -> Iterator[tuple[str, Schema]]:
        """The properties that are known by name, in order, with all that their values must fit."""
        names_fit = plain.get("propertyNames", True)
        declared: dict[str, Schema] = plain.get("properties", {})
        patterns = plain.get("patternProperties", {})
        for name in [*declared, *(name for name in plain.get("required", ()) if name not in declared)]:
            schema: Schema = declared.get(name, True if patterns else plain.get("additionalProperties", True))
            for pattern, of_pattern in patterns.items():
                if self._schemas.matches(pattern, name):
                    schema = all_of(schema, of_pattern)
            yield name, schema if self._schemas.fits(names_fit, name) else False

    def _extra(self, plain: Plain, path: str) -> Node:
        """A member that is not known by name; `NEVER` where none is allowed."""
        names = self._names(plain)
        additional = plain.get("additionalProperties", not plain.get("properties"))
        patterns: dict[str, Schema] = plain.get("patternProperties", {})
        if patterns:
            if len(patterns) > 1 or names or additional is not False:
                raise self._schemas.refusal(
                    f"{path}patternProperties",
                    "has patternProperties together with other properties, which is not supported; they can stand "
                    "alone, with a single pattern and additionalProperties false",
                )
            pattern, schema = next(iter(patterns.items()))
            key = self._string(
                _of_names({"pattern": pattern}, plain.get("propertyNames", True)), f"{path}patternProperties."
            )
            value = self.value(schema, f"{path}patternProperties.{pattern}.")
        else:
            if additional is False:
                return NEVER
            value = self.value(additional, f"{path}additionalProperties.")
            if "propertyNames" not in plain:
                key = key_except(self._grammar, names)
            elif names:
                raise self._schemas.refusal(
                    f"{path}propertyNames", "has propertyNames together with named properties, which is not supported"
                )
            else:
                key = self.value(all_of({"type": "string"}, plain["propertyNames"]), f"{path}propertyNames.")
        return NEVER if NEVER in (key, value) else seq(key, colon(), value)

    @staticmethod
    def _names(plain: Plain) -> list[str]:
        return list(dict.fromkeys([*plain.get("properties", {}), *plain.get("required", ())]))


def _of_names(plain: Plain, names: Any) -> Plain:
    """A plain schema of strings, together with the plain schema of ``propertyNames``."""
    return {**plain, **names} if isinstance(names, dict) else plain


class _Members:
    """What stands between the braces of an object: known members in order, and then others."""

    def __init__(
        self, grammar: Grammar, members: list[tuple[Node, bool]], extra: Node, least: int, most: int | None
    ) -> None:
        self._grammar = grammar
        self._members = members
        self._extra = extra
        self._space = white_space(grammar)
        always = sum(required for _, required in members)
        possible = len(members) if extra == NEVER else None
        self._least = 0 if least <= always else least
        self._most = None if most is None or (possible is not None and possible <= most) else most
        self._counts = self._least > 0 or self._most is not None
        self._made: dict[tuple[int, int, bool], Node] = {}

    def all(self) -> Node:
        """All of them, with the white space around."""
        for index in range(len(self._members), 0, -1):  # from the end, so that each finds what follows it there
            for count in range(index + 1) if self._counts else (0,):
                self._from(index, count, False)
            self._from(index, 0, True)
        return self._from(0, 0, True)

    def _from(self, index: int, count: int, first: bool) -> Node:
        """The members from `index` on, and the space at the end, when `count` are there already.

        Counts that no longer matter are all the same, so that the rules are few.
        """
        if not self._counts:
            count = 0
        key = (index, count, first)
        if key not in self._made:
            node = self._content(index, count, first)
            simple = node == NEVER or index == len(self._members)
            self._made[key] = node if simple else self._grammar.rule("members", node)
        return self._made[key]

    def _content(self, index: int, count: int, first: bool) -> Node:
        lead: Node = self._space if first else seq(",", self._space)
        full = self._most is not None and count >= self._most
        if index == len(self._members):
            return self._others(count, lead)
        member, required = self._members[index]
        taken = NEVER if full else seq(lead, member, self._from(index + 1, count + 1, False))
        return taken if required else alt(*(n for n in (taken, self._from(index + 1, count, first)) if n != NEVER))

    def _others(self, count: int, lead: Node) -> Node:
        """Members that are not known by name. They may be the same one again, so that they count as one at least."""
        end: Node = self._space
        missing = self._least - count
        room = None if self._most is None else self._most - count
        if self._extra == NEVER or (room is not None and room <= 0):
            return NEVER if missing > 0 else end
        others = seq(
            lead, self._extra, repeat(seq(",", self._space, self._extra), 0, None if room is None else room - 1), end
        )
        if missing > 1:
            return NEVER
        return others if missing == 1 else alt(others, end)
