"""The grammar that a request's answer must follow: a format of its text, calls of tools, or both."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import InvalidInput
from engine.generation.gbnf import EMPTY, NEVER, Chars, Node, alt, one_of, optional, repeat, seq
from engine.generation.gbnf_check import check_gbnf
from engine.generation.gbnf_rules import Grammar
from engine.generation.json_grammar import json_grammar
from engine.generation.json_plain import Plain, types_of
from engine.generation.json_schema import Schemas
from engine.generation.reasoning import HARMONY_REASONING, ReasoningFormat
from engine.generation.regex_grammar import regex_grammar
from engine.generation.tools import ToolFormat, schema_of
from engine.transport.generation import Format, GenerateRequest, Tool, ToolChoice

_MOST_SOURCE = 200_000
_OBJECT = {"type": "object"}
_ASKED = {"text": "tools", "json_object": "tools", "json_schema": "response_format", "regex": "response_format.regex"}
"""By kind of format, the field that a grammar which is too deep comes from."""


def for_request(
    request: GenerateRequest,
    tool_format: ToolFormat | None,
    reasoning: ReasoningFormat | None = None,
    reasoning_open: bool = False,
) -> str | None:
    """The grammar in GBNF, or `None` when anything may be answered.

    `tool_format` is `None` when no tools may be called; a call that is required takes the place of a formatted answer.
    A model that thinks, in the marks of `reasoning`, may do so before; `reasoning_open` says that the prompt ends
    inside of them. Raises `InvalidInput`.
    """
    form = request.format
    choice = request.tool_choice
    calls = bool(request.tools) and tool_format is not None and choice.mode != "none"
    bound = choice.mode == "required" or not choice.parallel or any(tool.strict for tool in request.tools)
    if form.kind == "text" and not (calls and bound):
        return None
    if form.kind == "grammar":
        if calls:
            raise InvalidInput(
                "A grammar cannot be combined with tools; leave out one of them.", field="response_format.grammar"
            )
        return _given(form)
    tools = request.tools if calls else []
    try:
        return _built(_encode((form, tools, choice)), tool_format if calls else None, reasoning, reasoning_open)
    except RecursionError:
        raise InvalidInput("What was asked for is nested too deeply.", field=_ASKED[form.kind]) from None


_Wanted = tuple[Format, list[Tool], ToolChoice]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Wanted).decode


@functools.lru_cache(maxsize=64)
def _built(
    wanted: bytes, tool_format: ToolFormat | None, reasoning: ReasoningFormat | None, reasoning_open: bool
) -> str:
    """The grammar for a format, tools and the choice of them. Clients send the same ones again and again."""
    form, tools, choice = _decode(wanted)
    grammar = Grammar()
    answer = NEVER if form.kind == "text" or choice.mode == "required" else _formatted(grammar, form)
    if reasoning is HARMONY_REASONING:
        answer = seq("<|channel|>final<|message|>", answer)
    if tool_format is not None:
        calls = _Calls(grammar, tool_format, _chosen(tools, choice), choice.parallel)
        if form.kind == "text" and choice.mode == "auto":
            answer = calls.or_text()
        else:
            answer = alt(*(node for node in (calls.all(), answer) if node != NEVER))
    text = grammar.text(_after_thoughts(grammar, answer, reasoning, reasoning_open))
    if text is None:
        raise InvalidInput("Nothing at all fits the format that was asked for.", field="response_format")
    return text


def _given(form: Format) -> str:
    if not form.source.strip() or len(form.source) > _MOST_SOURCE:
        raise InvalidInput(
            f"A grammar must have a text, of up to {_MOST_SOURCE} characters.", field="response_format.grammar"
        )
    check_gbnf(form.source, "response_format.grammar")
    return form.source


def _formatted(grammar: Grammar, form: Format) -> Node:
    """The text of an answer in a format."""
    if form.kind == "regex":
        return regex_grammar(form.source, "response_format.regex")
    if form.kind == "json_object":
        return json_grammar(grammar, _OBJECT, "response_format")
    return json_grammar(grammar, form.json_schema, "response_format.json_schema")


def _after_thoughts(grammar: Grammar, answer: Node, reasoning: ReasoningFormat | None, opened: bool) -> Node:
    """An answer, with what a model thinks before it."""
    if reasoning is None:
        return answer
    space = repeat(one_of(" \n"), 0, 4)
    if reasoning is HARMONY_REASONING:
        # The messages of gpt-oss: what it thinks, and the final one, or calls, which have a channel of their own.
        thoughts = seq(reasoning.begin, grammar.free_text({reasoning.end: EMPTY}, False), "<|start|>assistant")
        return seq(optional(thoughts), answer)
    rest = seq(grammar.free_text({reasoning.end: EMPTY}, False), space, answer)
    return rest if opened else alt(seq(space, reasoning.begin, rest), answer)


# --- calls of tools ---


def _chosen(tools: list[Tool], choice: ToolChoice) -> list[tuple[int, Tool]]:
    """The tools that may be called, with their places in the request."""
    return [(index, tool) for index, tool in enumerate(tools) if choice.name in (None, tool.name)]


class _Calls:
    """Calls of tools in the format that the model writes them in."""

    def __init__(self, grammar: Grammar, form: ToolFormat, tools: Sequence[tuple[int, Tool]], several: bool) -> None:
        self._grammar = grammar
        self._form = form
        call = grammar.rule("call", alt(*(_call(grammar, form, index, tool) for index, tool in tools)))
        more = repeat(seq(form.between, call)) if several else EMPTY
        self._calls = seq(call, more, form.end)

    def all(self) -> Node:
        """Calls and nothing else."""
        return seq(self._form.begin, self._calls)

    def or_text(self) -> Node:
        """Text, with calls at its end if the model wants to make any."""
        openers: dict[str, Node] = dict.fromkeys(self._form.openers, NEVER)
        if self._form.bare:  # calls are all of the answer, and text is what does not begin like one
            first = ~one_of("{ \t\r\n" + "".join(opener[0] for opener in openers))
            return alt(self.all(), seq(first, self._grammar.free_text(openers, True)), EMPTY)
        opener = next(opener for opener in openers if self._form.begin.startswith(opener))
        openers[opener] = seq(self._form.begin[len(opener) :], self._calls)
        return self._grammar.free_text(openers, True)


def _call(grammar: Grammar, form: ToolFormat, index: int, tool: Tool) -> Node:
    field = f"tools.{index}.parameters"
    marked = form.style in ("xml", "glm")
    try:
        schema = schema_of(tool.parameters)
        arguments = _marked(grammar, form, schema, field, tool.strict) if marked else _json(grammar, schema, field)
    except InvalidInput:
        if tool.strict:
            raise
        arguments = _marked(grammar, form, _OBJECT, field, False) if marked else _json(grammar, _OBJECT, field)
    before, after = form.call.split("ARGUMENTS")
    return seq(before.replace("NAME", tool.name), arguments, after)


def _json(grammar: Grammar, schema: dict[str, Any], field: str) -> Node:
    """Arguments as a JSON object."""
    if schema.get("type") == "object":
        return json_grammar(grammar, schema, field)
    return json_grammar(grammar, {"allOf": [_OBJECT, {"$ref": "#"}]}, field, schema)


def _marked(grammar: Grammar, form: ToolFormat, schema: dict[str, Any], field: str, strict: bool) -> Node:
    """Arguments between marks: strings as they are, and everything else in JSON."""
    schemas = Schemas(schema, field)
    plains = schemas.plain(schema)
    if len(plains) != 1:
        raise InvalidInput("The arguments must be an object without alternatives for this model.", field=field)
    properties: dict[str, Any] = plains[0].get("properties", {})
    if not properties and plains[0].get("additionalProperties", True) is not False:
        return _any_marked(grammar, form)
    parts = []
    for name, of_value in properties.items():
        before, after = form.parameter(name, "\0").split("\0")
        path = f"{field}.properties.{name}"
        choices = schemas.plain(of_value, f"properties.{name}.")
        if {kind for plain in choices for kind in types_of(plain)} == {"string"} or _are_strings(choices):
            value = alt(*(_raw_string(grammar, plain, after, path, strict) for plain in choices))
        else:
            value = seq(json_grammar(grammar, of_value, path, schema), after)
        part = seq(before, value)
        parts.append(part if name in plains[0].get("required", ()) else optional(part))
    return seq(*parts)


def _are_strings(plains: list[Plain]) -> bool:
    return all("enum" in plain and all(isinstance(value, str) for value in plain["enum"]) for plain in plains)


def _any_marked(grammar: Grammar, form: ToolFormat) -> Node:
    """Any arguments, each with any name and text."""
    before, behind, after = form.parameter("\0", "\0").split("\0")
    name = repeat(Chars(((48, 57), (65, 90), (95, 95), (97, 122))), 1, 64)
    return repeat(seq(before, name, behind, grammar.free_text({after: EMPTY}, False)))


def _raw_string(grammar: Grammar, plain: Plain, after: str, field: str, strict: bool) -> Node:
    """A string without quotes, and the mark behind it."""
    if "enum" in plain:
        return alt(*(seq(value, after) for value in plain["enum"] if isinstance(value, str)))
    if strict and plain.keys() > {"type"}:
        raise InvalidInput("Of strings, only an enum can be held to when this model calls tools.", field=field)
    return grammar.free_text({after: EMPTY}, False)
