"""Generated answers in Anthropic's shape."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.generation import Usage
from engine.api.anthropic.answers import Events, whole
from engine.generation.completion import Completion
from engine.transport.generation import Delta, FinishReason, ToolCall, ToolCallDelta

USAGE = Usage(prompt_tokens=11, cached_tokens=4, completion_tokens=5)
COUNTED = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 5,
}


def body(completion: Completion) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(whole("msg_1", "m", completion)))
    return decoded


def events(*deltas: Delta) -> list[dict[str, Any]]:
    made = Events("msg_1", "m")
    written = b"".join(map(made.of, deltas)).decode()
    decoded = []
    for event in written.removesuffix("\n\n").split("\n\n"):
        kind, data = event.split("\n")
        decoded.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {decoded[-1]['type']}"
    return decoded


def test_a_whole_answer_has_its_blocks_in_order() -> None:
    calls = [ToolCall(id="a", name="time", arguments='{"zone":1}'), ToolCall(id="b", name="date", arguments="")]
    assert body(Completion("Rome.", "Hm.", calls, finish="tool_calls", usage=USAGE)) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Rome."},
            {"type": "tool_use", "id": "a", "name": "time", "input": {"zone": 1}},
            {"type": "tool_use", "id": "b", "name": "date", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": COUNTED,
    }


@pytest.mark.parametrize(
    ("finish", "stop_text", "reason"),
    [
        ("stop", None, "end_turn"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("tool_calls", None, "tool_use"),
    ],
)
def test_the_reason_of_the_end(finish: FinishReason, stop_text: str | None, reason: str) -> None:
    answer = body(Completion("x", finish=finish, stop_text=stop_text))
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, stop_text)
    *_, end, _ = events(Delta(finish=finish, stop_text=stop_text))
    assert end["delta"] == {"stop_reason": reason, "stop_sequence": stop_text}


def test_a_call_that_was_cut_off_has_no_arguments() -> None:
    cut = Completion(tool_calls=[ToolCall(id="a", name="time", arguments='{"zo')], finish="length")
    assert body(cut)["content"] == [{"type": "tool_use", "id": "a", "name": "time", "input": {}}]


def test_a_stream_opens_and_closes_each_block() -> None:
    def more(index: int, **delta: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    def start(index: int, **block: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def stop(index: int) -> dict[str, Any]:
        return {"type": "content_block_stop", "index": index}

    assert events(
        Delta(reasoning="H"),
        Delta(reasoning="m.", content="Ro"),
        Delta(content="me."),
        Delta(tool_calls=[ToolCallDelta(index=0, id="a", name="time", arguments='{"zo')]),
        Delta(tool_calls=[ToolCallDelta(index=0, arguments='ne":1}'), ToolCallDelta(index=1, id="b", name="date")]),
        Delta(finish="tool_calls", usage=USAGE),
    ) == [
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": dict.fromkeys(COUNTED, 0),
            },
        },
        start(0, type="thinking", thinking="", signature=""),
        more(0, type="thinking_delta", thinking="H"),
        more(0, type="thinking_delta", thinking="m."),
        stop(0),
        start(1, type="text", text=""),
        more(1, type="text_delta", text="Ro"),
        more(1, type="text_delta", text="me."),
        stop(1),
        start(2, type="tool_use", id="a", name="time", input={}),
        more(2, type="input_json_delta", partial_json='{"zo'),
        more(2, type="input_json_delta", partial_json='ne":1}'),
        stop(2),
        start(3, type="tool_use", id="b", name="date", input={}),
        stop(3),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": COUNTED,
        },
        {"type": "message_stop"},
    ]


def test_an_answer_of_nothing_is_a_message_too() -> None:
    assert [e["type"] for e in events(Delta(finish="stop", usage=USAGE))] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
