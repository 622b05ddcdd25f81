"""Generated answers in Ollama's shape."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from backends.generation import TokenLogprob, Usage
from engine.api.ollama import answers
from engine.api.ollama.answers import Clock, Lines, Shape
from engine.generation.completion import Completion
from engine.transport.generation import Delta, FinishReason, ToolCall, ToolCallDelta

USAGE = Usage(prompt_tokens=11, cached_tokens=4, completion_tokens=5, prompt_seconds=0.25, generation_seconds=0.5)
NUMBERS = {
    "total_duration": 3_000_000_000,
    "load_duration": 1_000_000_000,
    "prompt_eval_count": 11,
    "prompt_eval_duration": 250_000_000,
    "eval_count": 5,
    "eval_duration": 500_000_000,
}
CLOCK = Clock(lambda: 10.0, 7.0, 1.0)


def body(response: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(response))
    assert decoded.pop("created_at").endswith("Z")
    assert decoded.pop("model") == "m"
    return decoded


def lines(shape: Shape, *deltas: Delta) -> list[dict[str, Any]]:
    made = Lines(shape, "m", CLOCK)
    written = b"".join(map(made.of, deltas))
    assert not written or written.endswith(b"\n")
    return [body(json.loads(line)) for line in written.splitlines()]


def test_a_whole_chat_answer_has_message_and_numbers() -> None:
    completion = Completion("Rome.", "Hm.", [ToolCall(id="a", name="time", arguments='{"zone":1}')], usage=USAGE)
    call = {"id": "a", "function": {"name": "time", "arguments": {"zone": 1}, "index": 0}}
    assert body(answers.whole(answers.chat, "m", completion, CLOCK)) == {
        "message": {"role": "assistant", "content": "Rome.", "thinking": "Hm.", "tool_calls": [call]},
        "done": True,
        "done_reason": "stop",
        **NUMBERS,
    }


def test_a_whole_generate_answer_has_response_and_numbers() -> None:
    completion = Completion("Rome.", "Hm.", finish="length", usage=USAGE)
    assert body(answers.whole(answers.generate, "m", completion, CLOCK)) == {
        "response": "Rome.",
        "thinking": "Hm.",
        "done": True,
        "done_reason": "length",
        **NUMBERS,
    }


@pytest.mark.parametrize(("finish", "reason"), [("stop", "stop"), ("tool_calls", "stop"), ("length", "length")])
def test_the_reason_of_the_end(finish: FinishReason, reason: str) -> None:
    assert body(answers.whole(answers.chat, "m", Completion(finish=finish), CLOCK))["done_reason"] == reason
    (last,) = lines(answers.generate, Delta(finish=finish))
    assert last["done_reason"] == reason


def test_a_streamed_chat_is_pieces_and_then_the_numbers() -> None:
    assert lines(
        answers.chat,
        Delta(reasoning="Hm."),
        Delta(content="Ro"),
        Delta(),
        Delta(content="me.", finish="stop", usage=USAGE),
    ) == [
        {"message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False},
        {"message": {"role": "assistant", "content": "Ro"}, "done": False},
        {"message": {"role": "assistant", "content": "me."}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **NUMBERS},
    ]


def test_a_streamed_generate_is_pieces_and_then_the_numbers() -> None:
    assert lines(answers.generate, Delta(content="Ro"), Delta(content="me."), Delta(finish="length", usage=USAGE)) == [
        {"response": "Ro", "done": False},
        {"response": "me.", "done": False},
        {"response": "", "done": True, "done_reason": "length", **NUMBERS},
    ]


def test_a_call_is_one_line_when_it_is_whole() -> None:
    def call(name: str, index: int, **arguments: Any) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments, "index": index}
        tool_calls = [{"id": f"id{index}", "function": function}]
        return {"message": {"role": "assistant", "content": "", "tool_calls": tool_calls}, "done": False}

    written = lines(
        answers.chat,
        Delta(tool_calls=[ToolCallDelta(index=0, id="id0", name="time", arguments='{"zo')]),
        Delta(tool_calls=[ToolCallDelta(index=0, arguments='ne":1}')]),
        Delta(tool_calls=[ToolCallDelta(index=1, id="id1", name="date")]),
        Delta(tool_calls=[ToolCallDelta(index=1, arguments="{}")]),
        Delta(finish="tool_calls", usage=USAGE),
    )
    assert written[:2] == [call("time", 0, zone=1), call("date", 1)]
    assert [line["done"] for line in written] == [False, False, True]


def test_a_call_that_was_cut_off_is_left_out() -> None:
    cut = Delta(
        tool_calls=[ToolCallDelta(index=0, id="a", name="time", arguments='{"zo')], finish="length", usage=USAGE
    )
    (last,) = lines(answers.chat, cut)
    assert last["done_reason"] == "length"
    assert "tool_calls" not in last["message"]
    completion = Completion(tool_calls=[ToolCall(id="a", name="time", arguments='{"zo')], finish="length")
    assert "tool_calls" not in body(answers.whole(answers.chat, "m", completion, CLOCK))["message"]


def test_tokens_have_their_bytes_and_alternatives() -> None:
    tokens = [TokenLogprob(3, b"\xc3", -0.5, (TokenLogprob(4, b"a", -math.inf),)), TokenLogprob(5, b"b", -0.1)]
    expected = [
        {
            "token": "\ufffd",
            "logprob": -0.5,
            "bytes": [0xC3],
            "top_logprobs": [{"token": "a", "logprob": -9999.0, "bytes": [97]}],
        },
        {"token": "b", "logprob": -0.1, "bytes": [98]},
    ]
    assert lines(answers.chat, Delta(content="b", logprobs=tokens))[0]["logprobs"] == expected
    assert body(answers.whole(answers.generate, "m", Completion(logprobs=tokens), CLOCK))["logprobs"] == expected
