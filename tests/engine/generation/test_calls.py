"""Calls of tools in what models write, in every format, however the text is cut into pieces."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.generation.calls import new_call_id
from engine.generation.output import OutputParser
from engine.generation.tools import (
    COMMAND_R,
    DEEPSEEK,
    GLM,
    GRANITE,
    HARMONY,
    HERMES,
    KIMI,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    PHI,
    QWEN_XML,
    TOOL_FORMATS,
    ToolFormat,
    tool_format,
)
from engine.transport.generation import Tool, ToolCall
from tests.engine.generation.conversations import TOOLS, numbered, read

SIZES = (1, 2, 3, 7, 1000)


def parsed(form: ToolFormat, text: str, size: int = 1000, whole: bool = False) -> tuple[str, list[tuple[str, object]]]:
    """The text, and the name and arguments of each call."""
    parser = OutputParser(form, tools=TOOLS, whole_calls=whole, new_id=numbered())
    content, reasoning, calls = read(parser, text, size)
    assert reasoning == ""
    assert [call.id for call in calls] == [f"id{i}" for i in range(len(calls))]
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


def everywhere(form: ToolFormat, text: str) -> tuple[str, list[tuple[str, object]]]:
    """What `parsed` returns, which is the same however the text comes."""
    first, *others = [parsed(form, text, size, whole) for size in SIZES for whole in (False, True)]
    assert all(other == first for other in others)
    return first


arguments = st.fixed_dictionaries(
    {"city": st.text(st.characters(exclude_categories=["Cs"]), max_size=12)},
    optional={"days": st.integers(-5, 5)},
)


@pytest.mark.parametrize("form", [f for f in TOOL_FORMATS if f.style == "json"], ids=lambda form: form.name)
@settings(max_examples=15)
@given(st.lists(arguments, min_size=1, max_size=3), st.booleans())
def test_what_a_format_writes_is_read_back(form: ToolFormat, several: list[dict[str, object]], compact: bool) -> None:
    separators = (",", ":") if compact else None
    calls = [
        ToolCall(id="", name="get_weather", arguments=json.dumps(a, separators=separators, ensure_ascii=compact))
        for a in several
    ]
    assert everywhere(form, form.write(calls)) == ("", [("get_weather", a) for a in several])


@pytest.mark.parametrize("form", [f for f in TOOL_FORMATS if f.style in ("xml", "glm")], ids=lambda form: form.name)
def test_arguments_between_marks_are_read_back(form: ToolFormat) -> None:
    first = {"city": "New York\n12 < 13", "days": 3}
    second: dict[str, object] = {"numbers": [1, 2.5]}
    calls = [
        ToolCall(id="", name="get_weather", arguments=json.dumps(first)),
        ToolCall(id="", name="add", arguments=json.dumps(second)),
    ]
    text = f"I look it up.\n{form.write(calls)}"
    assert everywhere(form, text) == ("I look it up.", [("get_weather", first), ("add", second)])


PARIS = ("get_weather", {"city": "Paris"})


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (HERMES, '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>', "", [PARIS]),
        (HERMES, '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>', "", [PARIS]),
        (HERMES, '<tool_call>{"name": "get_weather", "parameters": {"city": "Paris"}}</tool_call>', "", [PARIS]),
        (HERMES, '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}', "", [PARIS]),
        (HERMES, '<tool_call>{"name": "add", "arguments": null}</tool_call>', "", [("add", {})]),
        (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", [("add", {})]),
        (HERMES, '<tool_call>{"type":"function","function":{"name":"add","arguments":{}}}', "", [("add", {})]),
        (HERMES, '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}</tool_call>', "", [PARIS]),
        (
            HERMES,
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}, "id": 3}</tool_call>',
            "",
            [PARIS],
        ),
        (HERMES, 'So:\n\n<tool_call>{"name": "add", "arguments": {}}</tool_call>\n Done.', "So:Done.", [("add", {})]),
        (LLAMA, '{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
        (LLAMA, '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
        (LLAMA, '{"name": "add", "parameters": {}}; {"name": "add", "parameters": {}}', "", [("add", {})] * 2),
        (MISTRAL, '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abc"}]', "", [PARIS]),
        (MISTRAL, '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', "", [PARIS]),
        (MISTRAL_ARGS, "[TOOL_CALLS]add[CALL_ID]abc123XYZ[ARGS]{}[TOOL_CALLS]add{}", "", [("add", {})] * 2),
        (GRANITE, '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}]', "", [PARIS]),
        (PHI, '<|tool_call|>{"name": "get_weather", "arguments": {"city": "Paris"}}<|/tool_call|>', "", [PARIS]),
        (KIMI, '<|tool_call_begin|>get_weather<|tool_call_argument_begin|>{"city":"Paris"}', "", [PARIS]),
        (DEEPSEEK, '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n{"city":"Paris"}', "", [PARIS]),
        (COMMAND_R, '<|START_ACTION|>[{"tool_name": "add", "parameters": {}}]<|END_ACTION|>', "", [("add", {})]),
        (QWEN_XML, "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>", "", [PARIS]),
        (QWEN_XML, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', "", [PARIS]),
        (GLM, "<tool_call>add\n</tool_call>", "", [("add", {})]),
    ],
)
def test_variants_that_models_write(form: ToolFormat, text: str, content: str, calls: list[tuple[str, object]]) -> None:
    assert everywhere(form, text) == (content, calls)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "Just text. "),
        (HERMES, "a < b, <tool"),
        (HERMES, "The mark <tool_call> begins a call"),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"title": "add", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "add", "title": {}'),
        (HERMES, '<tool_call>{"arguments": {"a": NaN}, "name": "add"}</tool_call>'),
        (HERMES, '<tool_call>{"arguments": [1], "name": "add"}</tool_call>'),
        (HERMES, '<tool_call>["add"]</tool_call>'),
        (HERMES, "<tool_call>" + '{"arguments":' * 3000),
        (LLAMA, ' {"answer": 42} '),
        (LLAMA, "{1, 2} is a set"),
        (LLAMA, 'See {"name": "add", "parameters": {}}'),
        (LLAMA, '<|python_tag|>search.call(query="x")'),
        (MISTRAL_ARGS, "[TOOL_CALLS]unknown[ARGS]{}"),
        (MISTRAL_ARGS, "[TOOL_CALLS]" + "no call " * 100),
        (QWEN_XML, "<function=unknown></function>"),
        (QWEN_XML, "<function=add>\n<parameter=numbers>\n[1]"),
        (QWEN_XML, "<tool_call>" + "no call " * 100),
        (GLM, "<tool_call>add nothing</tool_call>"),
    ],
)
def test_what_is_no_call_is_given_out_as_it_is(form: ToolFormat, text: str) -> None:
    assert everywhere(form, text) == (text, [])


@pytest.mark.parametrize("properties", [None, [], "text", {"a": None}])
def test_arguments_between_marks_of_a_tool_that_describes_none(properties: object) -> None:
    tool = Tool(name="add", parameters={"type": "object", "properties": properties})
    parser = OutputParser(GLM, tools=[tool], new_id=numbered())
    text = GLM.write([ToolCall(id="", name="add", arguments='{"a": 1}')])
    assert [(call.name, json.loads(call.arguments)) for call in read(parser, text, 7)[2]] == [("add", {"a": 1})]


def test_a_call_behind_what_is_none() -> None:
    text = '<tool_call>? <tool_call>{"name": "add", "arguments": {}}</tool_call>'
    assert everywhere(HERMES, text) == ("<tool_call>?", [("add", {})])


def test_a_broken_call_behind_a_good_one_is_text() -> None:
    text = '[TOOL_CALLS][{"name": "add", "arguments": {}}, {"name": "unknown", "arguments": {}}]'
    assert everywhere(MISTRAL, text) == (', {"name": "unknown", "arguments": {}}]', [("add", {})])


def test_mistakes_inside_of_strings_are_mended() -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb\\\'c\\d"}}</tool_call>'
    assert everywhere(HERMES, text) == ("", [("get_weather", {"city": "a\nb'c\\d"})])


def test_text_goes_out_while_it_cannot_be_a_call() -> None:
    parser = OutputParser(HERMES, tools=TOOLS)
    assert parser.feed("Hello ").content == "Hello"
    assert parser.feed("world <tool").content == " world"
    assert parser.feed("s> and").content == " <tools> and"
    assert parser.finish().content == ""


def test_arguments_go_out_as_they_come() -> None:
    parser = OutputParser(HERMES, tools=TOOLS, new_id=numbered())
    assert parser.feed('<tool_call>{"name": "get_weather", "argu').tool_calls == []
    begun = parser.feed('ments": {"city": "Pa').tool_calls
    assert [(call.id, call.name) for call in begun] == [("id0", "get_weather"), (None, None)]
    assert begun[1].arguments == '{"city": "Pa'
    assert [call.arguments for call in parser.feed("ris, Te").tool_calls] == ["ris, Te"]
    assert [call.arguments for call in parser.feed('xas"}}</tool').tool_calls] == ['xas"}']
    assert parser.feed("_call>").content == ""
    assert parser.called


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
def test_a_call_that_is_cut_off_is_text_or_left_as_it_is(form: ToolFormat) -> None:
    calls = [ToolCall(id="", name="get_weather", arguments='{"city": "Paris", "days": 2}')]
    text = form.write(calls)
    for end in range(len(text)):
        cut = text[:end]
        for size in (1, 5):
            whole = OutputParser(form, tools=TOOLS, whole_calls=True)
            content, _, found = read(whole, cut, size)
            assert all(json.loads(call.arguments) == {"city": "Paris", "days": 2} for call in found)
            if form is not HARMONY and not found:
                assert content == cut
            streamed = OutputParser(form, tools=TOOLS)
            _, _, found = read(streamed, cut, size)
            assert all('{"city": "Paris", "days": 2}'.startswith(c.arguments) for c in found if form.style == "json")


PARTS = [
    '{"name": "add"',
    ', "arguments": {',
    ', "parameters": {',
    "{",
    "}",
    "}}",
    "[",
    "]",
    '"',
    "\\",
    ";",
    ",",
    " ",
    "x",
    "<",
    "add",
]


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
@settings(max_examples=80)
@given(st.data())
def test_nothing_is_lost_and_nothing_given_twice(form: ToolFormat, data: st.DataObject) -> None:
    good = form.write([ToolCall(id="", name="add", arguments="{}")])
    marks = [*form.openers, *form.tail, form.begin, form.between, form.end, good, *good.split("add")]
    text = "".join(data.draw(st.lists(st.sampled_from([*PARTS, *(mark for mark in marks if mark)]), max_size=8)))
    for whole in (False, True):
        found = [
            read(OutputParser(form, tools=TOOLS, whole_calls=whole, new_id=numbered()), text, size) for size in SIZES
        ]
        assert all(one == found[0] for one in found)
        content, _, calls = found[0]
        if not calls and form is not HARMONY:
            assert content == text
        left = iter(text)
        assert all(character in left for character in content)
        assert text.count("add") >= len(calls)
        if whole:
            assert all(isinstance(json.loads(call.arguments), dict) for call in calls)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '<tool_call>' }}", HERMES),
        ("<tool_call>\n<function=example>\n<parameter=x>", QWEN_XML),
        ("<tool_call>{name}\n<arg_key>", GLM),
        ("[TOOL_CALLS] [", MISTRAL),
        ("[TOOL_CALLS]name[ARGS]", MISTRAL_ARGS),
        ("<｜tool▁calls▁begin｜> ```json", DEEPSEEK),
        ('<|start_header_id|> {"name": …, "parameters": …}', LLAMA),
        ("<|channel|>commentary", HARMONY),
        ("<|tool|> <|/tool|>", PHI),
        ("<|tool_call|>", GRANITE),
        ("<|im_start|>", None),
    ],
)
def test_a_template_shows_the_format(template: str, form: ToolFormat | None) -> None:
    assert tool_format(template) is form


def test_ids_are_like_those_of_openai() -> None:
    ids = {new_call_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch("call_[0-9A-Za-z]{24}", one) for one in ids)
