"""The grammar of a whole answer: its format, the calls in it, and the thoughts before."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import msgspec
import pytest

from engine.errors import InvalidInput
from engine.generation.grammar import for_request
from engine.generation.output import OutputParser
from engine.generation.reasoning import HARMONY_REASONING, REASONING_FORMATS, ReasoningFormat
from engine.generation.tools import GLM, HARMONY, HERMES, LLAMA, MISTRAL, QWEN_XML, TOOL_FORMATS, ToolFormat
from engine.transport.generation import Format, GenerateRequest, Tool, ToolCall, ToolChoice
from tests.engine.generation.conversations import ADD, TOOLS, WEATHER, read
from tests.engine.generation.gbnf_interpreter import Gbnf

THINK = REASONING_FORMATS[-1]
REQUIRED = ToolChoice(mode="required")
JSON = Format(kind="json_schema", json_schema={"type": "object", "properties": {"a": {"type": "null"}}})


def grammar(
    form: ToolFormat | None = None,
    reasoning: ReasoningFormat | None = None,
    reasoning_open: bool = False,
    **fields: Any,
) -> Gbnf:
    text = for_request(GenerateRequest(**fields), form, reasoning, reasoning_open)
    assert text is not None
    return Gbnf(text)


def calls_in(form: ToolFormat, text: str) -> list[ToolCall]:
    reasoning = HARMONY_REASONING if form is HARMONY else None
    _, _, calls = read(OutputParser(form, reasoning, tools=TOOLS, whole_calls=True), text, 7)
    return calls


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
def test_calls_that_are_required_fit_their_schemas(form: ToolFormat) -> None:
    required = grammar(form, tools=TOOLS, tool_choice=REQUIRED)
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    names = set()
    for seed in range(25):
        text = required.write(random.Random(seed), 60)
        found = calls_in(form, text)
        assert found, text
        for call in found:
            jsonschema.validate(json.loads(call.arguments), {"type": "object", **schemas[call.name]})
            names.add(call.name)
    assert names == {"get_weather", "add"}
    assert not required.matches("")
    assert not required.matches("The weather is fine.")


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
def test_the_call_of_one_tool(form: ToolFormat) -> None:
    named = ToolChoice(mode="required", name="add", parallel=False)
    one = grammar(form, tools=TOOLS, tool_choice=named)
    for seed in range(10):
        assert [call.name for call in calls_in(form, one.write(random.Random(seed), 60))] == ["add"]
    call = ToolCall(id="", name="add", arguments='{"numbers": [1, 2.5]}')
    assert one.matches(form.write([call]))
    assert not one.matches(form.write([call, call]))
    assert not one.matches(form.write([ToolCall(id="", name="get_weather", arguments='{"city": "Paris"}')]))
    assert grammar(form, tools=TOOLS, tool_choice=REQUIRED).matches(form.write([call, call]))


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
def test_calls_of_strict_tools_among_text(form: ToolFormat) -> None:
    strict = [msgspec.structs.replace(WEATHER, strict=True)]
    free = grammar(form, tools=strict)
    good = form.write([ToolCall(id="", name="get_weather", arguments='{"city": "Paris", "days": 2}')])
    bad = form.write([ToolCall(id="", name="get_weather", arguments='{"town": "Paris"}')])
    unknown = form.write([ToolCall(id="", name="add", arguments="{}")])
    text = "<|channel|>final<|message|>Fine <" if form is HARMONY else "Fine < \n"
    assert free.matches(text)
    assert free.matches(good)
    assert free.matches("")
    assert free.matches(f"Let me see. {good}")
    assert not free.matches(bad)
    assert not free.matches(unknown)


def test_text_in_front_of_a_bare_call() -> None:
    free = grammar(LLAMA, tools=[msgspec.structs.replace(WEATHER, strict=True)])
    assert free.matches('See {"a": 1}')
    assert not free.matches('{"a": 1}')
    assert not free.matches('See <|python_tag|>{"name": "get_weather", "parameters": {}}')


def test_at_most_one_call() -> None:
    call = ToolCall(id="", name="add", arguments="{}")
    one = grammar(HERMES, tools=TOOLS, tool_choice=ToolChoice(parallel=False))
    assert one.matches(f"So: {HERMES.write([call])}")
    assert not one.matches(HERMES.write([call, call]))
    assert not one.matches(f"{HERMES.write([call])} more")


def test_free_answers_have_no_grammar() -> None:
    assert for_request(GenerateRequest(), None) is None
    assert for_request(GenerateRequest(tools=TOOLS), HERMES) is None
    assert for_request(GenerateRequest(tools=TOOLS, tool_choice=ToolChoice(mode="none")), None) is None


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (Format(kind="json_object"), ["{}", '{"a": [1, "x"]}'], ["[]", "1", ""]),
        (JSON, ["{}", '{"a": null}'], ['{"a": 1}', '{"b": null}']),
        (Format(kind="json_schema", json_schema=True), ["1", "[]"], ["x"]),
        (Format(kind="regex", source="yes|no"), ["yes", "no"], ["yesno", " yes", ""]),
        (Format(kind="grammar", source='root ::= "a" | "b"\n'), ["a", "b"], ["ab"]),
    ],
)
def test_formats(form: Format, good: list[str], bad: list[str]) -> None:
    formatted = grammar(format=form)
    assert all(formatted.matches(text) for text in good)
    assert not any(formatted.matches(text) for text in bad)


def test_a_format_or_calls() -> None:
    either = grammar(HERMES, tools=TOOLS, format=JSON)
    assert either.matches('{"a": null}')
    assert either.matches(HERMES.write([ToolCall(id="", name="add", arguments="{}")]))
    assert not either.matches("text")
    calls = grammar(HERMES, tools=TOOLS, format=JSON, tool_choice=REQUIRED)
    assert not calls.matches('{"a": null}')


def test_thoughts_before_a_format() -> None:
    maybe = grammar(reasoning=THINK, format=JSON)
    assert maybe.matches("{}")
    assert maybe.matches("<think>\nLet {me} < see.\n</think>\n\n{}")
    assert not maybe.matches("<think>\nLet me see.")
    assert not maybe.matches("Let me see.</think>{}")
    begun = grammar(reasoning=THINK, reasoning_open=True, format=JSON)
    assert begun.matches("Let me see.\n</think>\n\n{}")
    assert not begun.matches("{}")


def test_thoughts_before_calls() -> None:
    both = grammar(HERMES, THINK, tools=TOOLS, tool_choice=REQUIRED)
    call = HERMES.write([ToolCall(id="", name="add", arguments="{}")])
    assert both.matches(call)
    assert both.matches(f"<think>I need <tool_call></think>\n\n{call}")


def test_the_channels_of_harmony() -> None:
    formatted = grammar(HARMONY, HARMONY_REASONING, tools=TOOLS, format=JSON)
    assert formatted.matches("<|channel|>final<|message|>{}")
    assert formatted.matches("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}")
    assert formatted.matches(HARMONY.write([ToolCall(id="", name="add", arguments="{}")]))
    assert not formatted.matches("{}")


def test_grammars_do_not_go_with_tools() -> None:
    given = Format(kind="grammar", source='root ::= "a"')
    with pytest.raises(InvalidInput, match="combined with tools"):
        grammar(HERMES, tools=TOOLS, format=given)
    assert grammar(None, tools=TOOLS, tool_choice=ToolChoice(mode="none"), format=given).matches("a")


@pytest.mark.parametrize("source", ["", "  \n", "x" * 300_000])
def test_grammars_have_a_sane_size(source: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        grammar(format=Format(kind="grammar", source=source))
    assert caught.value.field == "response_format.grammar"


def test_a_format_that_is_too_deep() -> None:
    with pytest.raises(InvalidInput, match="too deeply") as caught:
        grammar(format=Format(kind="regex", source="(?:ab" * 400 + ")*" * 400))
    assert caught.value.field == "response_format.regex"


def test_a_format_that_nothing_fits() -> None:
    with pytest.raises(InvalidInput, match="Nothing at all fits"):
        grammar(format=Format(kind="json_schema", json_schema=False))


HARD = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}


def test_a_schema_that_cannot_be_said_matters_for_strict_tools_only() -> None:
    lenient = Tool(name="add", parameters=HARD)
    assert grammar(HERMES, tools=[lenient], tool_choice=REQUIRED).matches(
        HERMES.write([ToolCall(id="", name="add", arguments='{"b": 1}')])
    )
    with pytest.raises(InvalidInput) as caught:
        grammar(HERMES, tools=[WEATHER, Tool(name="add", parameters=HARD, strict=True)], tool_choice=REQUIRED)
    assert caught.value.field == "tools.1.parameters.properties.a.not"


def test_references_in_the_schema_of_a_tool() -> None:
    parameters = {"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "object", "required": ["x"]}}}
    one = grammar(HERMES, tools=[Tool(name="add", parameters=parameters)], tool_choice=REQUIRED)
    assert one.matches(HERMES.write([ToolCall(id="", name="add", arguments='{"x": 1}')]))
    assert not one.matches(HERMES.write([ToolCall(id="", name="add", arguments="{}")]))


@pytest.mark.parametrize("form", [QWEN_XML, GLM], ids=lambda form: form.name)
def test_arguments_between_marks(form: ToolFormat) -> None:
    tools = [
        Tool(
            name="add",
            parameters={
                "$defs": {"word": {"type": "string"}},
                "type": "object",
                "properties": {
                    "text": {"$ref": "#/$defs/word"},
                    "unit": {"enum": ["km", "mi"]},
                    "tags": {"type": "array", "items": {"$ref": "#/$defs/word"}},
                },
                "required": ["text"],
            },
        )
    ]
    one = grammar(form, tools=tools, tool_choice=REQUIRED)

    def call(**arguments: Any) -> str:
        return form.write([ToolCall(id="", name="add", arguments=json.dumps(arguments))])

    assert one.matches(call(text="a\n<b>"))
    assert one.matches(call(text="", unit="km", tags=["x"]))
    assert not one.matches(call(unit="km"))
    assert not one.matches(call(text="a", unit="m"))
    assert not one.matches(call(text="a", other="b"))
    anything = grammar(form, tools=[Tool(name="add")], tool_choice=REQUIRED)
    assert anything.matches(call(any_name="any text"))
    hard: list[dict[str, Any]] = [{"type": "string", "maxLength": 3}, {"not": {}}]
    for schema in hard:
        parameters = {"type": "object", "properties": {"a": schema}}
        lenient = grammar(form, tools=[Tool(name="add", parameters=parameters)], tool_choice=REQUIRED)
        assert lenient.matches(call(a="longer"))
        with pytest.raises(InvalidInput):
            grammar(form, tools=[Tool(name="add", parameters=parameters, strict=True)], tool_choice=REQUIRED)
    alternatives = Tool(name="add", parameters={"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, strict=True)
    with pytest.raises(InvalidInput, match="without alternatives"):
        grammar(form, tools=[alternatives], tool_choice=REQUIRED)


def test_the_same_request_has_the_same_grammar() -> None:
    request = GenerateRequest(tools=[ADD], tool_choice=REQUIRED)
    first = for_request(request, MISTRAL)
    assert for_request(msgspec.convert(msgspec.to_builtins(request), GenerateRequest), MISTRAL) is first
    assert for_request(request, HERMES) != first
