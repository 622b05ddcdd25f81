"""Tests of engine.api.openai.plugin_chat: what a plugin gets of a chat."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from engine.api.openai.chat_request import ChatCompletionRequest
from engine.api.openai.plugin_chat import plugin_body
from engine.errors import InvalidInput


def body(**fields: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "se"}, {"type": "text", "text": "cond"}]},
        {"role": "assistant", "content": "hm"},
    ]
    request = {"model": "m", "messages": messages, **fields}
    return plugin_body("m", msgspec.json.decode(json.dumps(request), type=ChatCompletionRequest))


def test_a_plugin_gets_the_conversation_and_the_users_last_text() -> None:
    assert body() == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "first"},
            {"role": "user", "content": [{"type": "text", "text": "se"}, {"type": "text", "text": "cond"}]},
            {"role": "assistant", "content": "hm"},
        ],
        "input": "second",
    }


def test_a_conversation_without_a_user_has_no_input() -> None:
    assert body(messages=[{"role": "system", "content": "x"}])["input"] == ""


def test_what_is_given_of_sampling_goes_along() -> None:
    given = {"temperature": 0.0, "max_tokens": 5, "stop": ["x"], "seed": 1}
    got = body(**given, n=1, logprobs=False, response_format={"type": "text"}, user="u")
    assert {key: got[key] for key in got.keys() - {"messages", "input"}} == given


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"grammar": "root ::= x"},
        {"logit_bias": {"1": 1}},
        {"reasoning_effort": "low"},
    ],
)
def test_what_only_tokens_can_honour_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="plugin") as error:
        body(**fields)
    assert error.value.field == next(iter(fields))
