"""The channels of gpt-oss."""

from __future__ import annotations

import json

import pytest

from engine.generation.output import OutputParser
from engine.generation.reasoning import HARMONY_REASONING
from engine.generation.tools import HARMONY
from tests.engine.generation.conversations import TOOLS, numbered, read

THOUGHT = "<|channel|>analysis<|message|>Let me see.<|end|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'


def parsed(text: str, size: int, whole: bool) -> tuple[str, str, list[tuple[str, object]]]:
    parser = OutputParser(HARMONY, HARMONY_REASONING, tools=TOOLS, whole_calls=whole, new_id=numbered())
    content, reasoning, calls = read(parser, text, size)
    return content, reasoning, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>final<|message|>Yes.<|return|>", ("Yes.", "", [])),
        (f"{THOUGHT}<|start|>assistant<|channel|>final<|message|>Yes <b>.", ("Yes <b>.", "Let me see.", [])),
        (f"{THOUGHT}<|start|>assistant{CALL}", ("", "Let me see.", [("get_weather", {"city": "Paris"})])),
        (f"{CALL}<|start|>assistant{CALL}", ("", "", [("get_weather", {"city": "Paris"})] * 2)),
        (
            "<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{}",
            ("", "", [("add", {})]),
        ),
        ("<|channel|>commentary<|message|>I look it up.<|end|>", ("I look it up.", "", [])),
        ("<|channel|>commentary to=functions.unknown<|message|>{}", ("{}", "", [])),
        ("<|channel|>analysis<|message|>Never ends", ("", "Never ends", [])),
        ("No channel at all.", ("No channel at all.", "", [])),
        ("<|chan", ("<|chan", "", [])),
        ("<|channel|>final", ("", "", [])),
    ],
)
def test_channels(text: str, size: int, whole: bool, expected: tuple[str, str, list[tuple[str, object]]]) -> None:
    assert parsed(text, size, whole) == expected


def test_arguments_that_are_cut_off_are_text_when_calls_come_whole() -> None:
    parser = OutputParser(HARMONY, None, tools=TOOLS, whole_calls=True)
    content, _, calls = read(parser, CALL[:-12], 3)
    assert calls == []
    assert content == '{"city": "Par'[: len(content)]
    assert content


def test_arguments_go_out_as_they_come() -> None:
    parser = OutputParser(HARMONY, HARMONY_REASONING, tools=TOOLS, new_id=numbered())
    head, arguments = CALL.split("<|message|>")
    assert parser.feed(head).tool_calls == []
    first = parser.feed(f"<|message|>{arguments[:9]}").tool_calls
    assert (first[0].id, first[0].name) == ("id0", "get_weather")
    assert first[1].arguments == arguments[:9]
