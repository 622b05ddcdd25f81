"""Requests checked against the model, and what they come to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from PIL import Image

from backends.base import GenerationInfo
from backends.generation import IMAGE, Generation, Sampling
from engine.errors import InvalidInput
from engine.generation.prepare import Prepared, prepare
from engine.generation.template import ChatTemplate
from engine.transport.generation import (
    Format,
    GenerateRequest,
    ImagePart,
    Message,
    TextPart,
    Tool,
    ToolChoice,
)
from tests.engine.generation import templates
from tests.engine.generation.conversations import TOOLS, WEATHER, read
from tests.engine.generation.test_pictures import encoded

INFO = GenerationInfo(context_length=512, sequences=4, bos="<s>", eos="</s>", adapters=("style",))
HI = Message(role="user", content="Hi")
RED = [[[255, 0, 0], [255, 0, 0]]]
PNG = encoded(Image.new("RGB", (2, 1), "red"))
PICTURE = Message(role="user", content=[TextPart(text="What is it? "), ImagePart(data=PNG)])


def prepared(source: str | None = templates.HERMES, info: GenerationInfo = INFO, **fields: Any) -> Prepared:
    template = None if source is None else ChatTemplate(source, info.bos, info.eos)
    if "prompt" not in fields:
        fields.setdefault("messages", [HI])
    return prepare(GenerateRequest(**fields), template, info)


def test_all_of_a_request_reaches_the_backend() -> None:
    sampling = Sampling(temperature=0.5, seed=3)
    generation = prepared(
        sampling=sampling,
        choices=2,
        max_tokens=7,
        stop=["a", "b"],
        stop_tokens=[5],
        ignore_eos=True,
        logprobs=3,
        truncate=True,
        adapters={"style": 0.5},
    ).generation
    assert generation == Generation(
        prompt="<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        sampling=sampling,
        choices=2,
        max_tokens=7,
        stop=("a", "b"),
        stop_tokens=(5,),
        ignore_eos=True,
        keep_special=True,
        logprobs=3,
        truncate=True,
        adapters={"style": 0.5},
    )


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("prompt", ["Once upon", [1, 2, 3]])
def test_prompts(prompt: str | list[int], raw: bool) -> None:
    result = prepared(None, prompt=prompt, raw=raw)
    assert result.generation.prompt == (prompt if isinstance(prompt, str) else tuple(prompt))
    assert result.generation.add_bos is not raw
    assert not result.generation.keep_special
    assert read(result.parser(), "<think>text", 4) == ("<think>text", "", [])


def test_a_prompt_begins_once() -> None:
    assert prepared(templates.CHATML).generation.add_bos
    assert not prepared(templates.ALTERNATING).generation.add_bos


def test_a_format_becomes_a_grammar() -> None:
    assert prepared(templates.CHATML, format=Format(kind="json_object")).generation.grammar is not None
    assert prepared(None, prompt="x", format=Format(kind="regex", source="a+")).generation.grammar == 'root ::= "a"+\n'
    assert prepared(templates.CHATML).generation.grammar is None


def test_calls_are_read_when_there_are_tools() -> None:
    text = 'So: <tool_call>{"name": "add", "arguments": {}}</tool_call>'
    content, _, calls = read(prepared(tools=TOOLS).parser(), text, 3)
    assert (content, [call.name for call in calls]) == ("So:", ["add"])
    for result in (prepared(), prepared(tools=TOOLS, tool_choice=ToolChoice(mode="none"))):
        assert read(result.parser(), text, 3) == (text, "", [])
        assert "Tools:" not in result.generation.prompt


def test_each_choice_has_a_parser_of_its_own() -> None:
    result = prepared(tools=TOOLS, choices=2)
    first, second = result.parser(), result.parser()
    first.feed("<tool_call>")
    assert second.feed("text").content == "text"


def test_calls_come_whole_in_answers_that_do() -> None:
    cut = '<tool_call>{"name": "get_weather", "arguments": {"city": "Par'
    assert read(prepared(tools=TOOLS).parser(), cut, 9) == (cut, "", [])
    _, _, calls = read(prepared(tools=TOOLS, stream=True).parser(), cut, 9)
    assert calls[0].arguments == '{"city": "Par'


def test_thoughts_come_apart_unless_they_should_not() -> None:
    text = "<think>Hm.</think>Yes."
    assert read(prepared().parser(), text, 3) == ("Yes.", "Hm.", [])
    assert read(prepared(separate_reasoning=False).parser(), text, 3) == (text, "", [])


def test_thoughts_that_the_prompt_has_begun() -> None:
    result = prepared(templates.THINKING, format=Format(kind="json_object"))
    assert str(result.generation.prompt).endswith("<think>\n")
    assert read(result.parser(), "Hm.</think>{}", 3) == ("{}", "Hm.", [])
    assert result.generation.grammar is not None
    assert "</think" not in result.generation.grammar  # it is looked for character by character
    assert result.generation.grammar != prepared(format=Format(kind="json_object")).generation.grammar


def test_thoughts_that_are_turned_off_are_not_in_the_grammar() -> None:
    json_format = Format(kind="json_object")
    off = prepared(format=json_format, template_options={"enable_thinking": False}).generation
    assert str(off.prompt).endswith("</think>\n\n")
    assert off.grammar == prepared(templates.CHATML, format=json_format).generation.grammar


def test_a_message_is_continued() -> None:
    messages = [HI, Message(role="assistant", content="Well, ")]
    result = prepared(messages=messages, continue_message=True)
    assert str(result.generation.prompt).endswith("assistant\nWell, ")
    assert read(result.parser(), "<think> is a tag", 3) == ("<think> is a tag", "", [])


def test_images() -> None:
    seeing = msgspec.structs.replace(INFO, images=True)
    generation = prepared(info=seeing, messages=[PICTURE]).generation
    assert [image.tolist() for image in generation.images] == [RED]
    assert f"What is it? {IMAGE}" in str(generation.prompt)
    of_prompt = prepared(None, seeing, prompt=f"{IMAGE} is", images=[PNG]).generation
    assert [image.tolist() for image in of_prompt.images] == [RED]


def test_gaps() -> None:
    filling = msgspec.structs.replace(INFO, infill=True)
    assert prepared(None, filling, prompt="def", suffix="return").generation.suffix == "return"


SEEING = msgspec.structs.replace(INFO, images=True)


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"choices": 0}, "choices", "from 1 to 128; got 0"),
        ({"choices": 129}, "choices", "from 1 to 128"),
        ({"logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"logprobs": -1}, "logprobs", "from 0 to 20"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"adapters": {"other": 1.0}}, "adapters", "its adapters: style"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [HI], "prompt": "x"}, "prompt", "cannot be combined"),
        ({"suffix": "x"}, "suffix", "cannot be combined"),
        ({"images": [b"x"]}, "images", "cannot be combined"),
        ({"messages": [PICTURE]}, "messages", "does not see images"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "does not fill gaps"),
        ({"prompt": IMAGE, "images": [b"x"]}, "images", "does not see images"),
        ({"prompt": "x", "tools": TOOLS}, "tools", "need a conversation"),
        ({"prompt": "x", "continue_message": True}, "continue_message", "need a conversation"),
        ({"messages": None}, "prompt", "messages or a prompt"),
        ({"tool_choice": ToolChoice(mode="required")}, "tool_choice", "there are no tools"),
        ({"tools": TOOLS, "tool_choice": ToolChoice(mode="required", name="x")}, "tool_choice", "none of the tools"),
        ({"tools": [Tool(name="a b")]}, "tools.0.name", "letters, digits"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name", "Two tools"),
        ({"tools": TOOLS, "format": Format(kind="grammar", source="x")}, "response_format.grammar", "with tools"),
        ({"format": Format(kind="json_object"), "ignore_eos": True}, "ignore_eos", "never ends"),
        ({"format": Format(kind="regex", source="(")}, "response_format.regex", "not valid"),
    ],
)
def test_what_cannot_be_asked(fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        prepared(**fields)
    assert caught.value.field == field


def test_images_without_places() -> None:
    with pytest.raises(InvalidInput, match="0 places for images"):
        prepared(None, SEEING, prompt="x", images=[b"x"])


def test_a_base_model_only_completes() -> None:
    with pytest.raises(InvalidInput, match="base model") as caught:
        prepared(None)
    assert caught.value.field == "messages"
