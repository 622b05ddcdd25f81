"""Tests of engine.api.openai.messages: a chat's messages to the engine's."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from engine.api.openai.messages import ChatMessage, image_bytes, translate_messages
from engine.errors import InvalidInput
from engine.transport.generation import ImagePart, Message, TextPart, ToolCall

PNG = b"\x89PNG\r\n\x1a\n and more"
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def translated(*messages: dict[str, Any]) -> list[Message]:
    return translate_messages(msgspec.json.decode(json.dumps(messages), type=list[ChatMessage]))


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def test_roles() -> None:
    assert translated(
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [text("d"), text("e")], "name": "n"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "tool", "content": [text("t")], "tool_call_id": "c1"},
    ) == [
        Message(role="system", content="s"),
        Message(role="developer", content="de", name="n"),
        Message(role="user", content="u"),
        Message(role="assistant", content="a"),
        Message(role="tool", content="t", tool_call_id="c1"),
    ]


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": "hm",
        "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
    }
    assert translated(answer) == [
        Message(role="assistant", reasoning="hm", tool_calls=[ToolCall(id="c1", name="f", arguments='{"x":1}')])
    ]
    assert translated({"role": "assistant", "reasoning": "hm", "content": [{"type": "refusal", "refusal": "no"}]}) == [
        Message(role="assistant", reasoning="hm", content="no")
    ]
    assert translated({"role": "assistant", "refusal": "no"}) == [Message(role="assistant", content="no")]


def test_images_come_with_the_message() -> None:
    parts = [text("what"), {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}]
    assert translated({"role": "user", "content": parts}) == [
        Message(role="user", content=[TextPart("what"), ImagePart(PNG)])
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.com/cat.png", "does not fetch"),
        ("file:///etc/passwd", "does not fetch"),
        ("data:image/png,abc", "must be like"),
        ("data:image/png;base64", "must be like"),
        ("data:image/png;base64,????", "not valid base64"),
        ("data:image/png;base64,", "empty"),
    ],
)
def test_other_images_are_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        image_bytes(url, "f")
    with pytest.raises(InvalidInput) as error:
        translated(
            {"role": "user", "content": "x"},
            {"role": "user", "content": [text("x"), {"type": "image_url", "image_url": {"url": url}}]},
        )
    assert error.value.field == "messages[1].content[1].image_url.url"


def test_case_does_not_matter_in_a_url() -> None:
    assert image_bytes(URL.replace("data:image/png;base64", "DATA:image/PNG;BASE64"), "f") == PNG


def test_a_conversation_has_messages() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        translated()


@pytest.mark.parametrize(
    "message",
    [
        {"role": "narrator", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": "x", "mood": "good"},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": URL}}]},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
    ],
)
def test_what_is_no_message_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        translated(message)
