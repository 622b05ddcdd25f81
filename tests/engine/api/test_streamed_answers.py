"""Whatever pieces an answer comes in, and whichever dialect it is streamed in, all of it arrives, in order."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from backends.generation import Usage
from engine.api.anthropic.answers import Events
from engine.api.anthropic.answers import whole as anthropic_whole
from engine.api.http import encode_json
from engine.api.ollama import answers as ollama
from engine.generation.completion import Completion
from engine.transport.generation import Delta, ToolCallDelta

CLOCK = ollama.Clock(lambda: 1.0, 0.0)
USAGE = Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2)

texts = st.lists(st.text(max_size=5), max_size=5)
arguments = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5))


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """The deltas of an answer: thoughts, then text, then calls whose arguments are cut anywhere."""
    deltas = [Delta(reasoning=text) for text in draw(texts)] + [Delta(content=text) for text in draw(texts)]
    for index, value in enumerate(draw(st.lists(arguments, max_size=3))):
        source = json.dumps(value)
        cut = draw(st.integers(0, len(source)))
        first = ToolCallDelta(index=index, id=f"id{index}", name=f"tool{index}", arguments=source[:cut])
        deltas += [Delta(tool_calls=[first]), Delta(tool_calls=[ToolCallDelta(index=index, arguments=source[cut:])])]
    called = any(delta.tool_calls for delta in deltas)
    return [*deltas, Delta(finish="tool_calls" if called else "stop", usage=USAGE)]


def completed(deltas: list[Delta]) -> Completion:
    completion = Completion()
    for delta in deltas:
        completion.add(delta)
    return completion


@given(answers())
def test_ollamas_lines_add_up_to_the_whole_message(deltas: list[Delta]) -> None:
    lines = ollama.Lines(ollama.chat, "m", CLOCK)
    *pieces, last = [json.loads(line) for line in b"".join(map(lines.of, deltas)).splitlines()]
    added: dict[str, Any] = {"role": "assistant", "content": "", "thinking": "", "tool_calls": []}
    for message in (piece["message"] for piece in pieces):
        added["content"] += message["content"]
        added["thinking"] += message.get("thinking", "")
        added["tool_calls"] += message.get("tool_calls", [])
    whole = json.loads(encode_json(ollama.whole(ollama.chat, "m", completed(deltas), CLOCK)))
    assert added == {"thinking": "", "tool_calls": [], **whole["message"]}
    for volatile in ("message", "created_at"):
        del last[volatile], whole[volatile]
    assert last == whole


@given(answers())
def test_anthropics_events_add_up_to_the_whole_message(deltas: list[Delta]) -> None:
    events = Events("msg_1", "m")
    written = b"".join(map(events.of, deltas)).decode()
    first, *rest, end, stop = [json.loads(line[6:]) for line in written.split("\n") if line.startswith("data: ")]
    content: list[dict[str, Any]] = []
    inputs: list[str] = []
    is_open = False
    for event in rest:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(content)
            content.append(event["content_block"])
            inputs.append("")
        else:
            assert is_open
            assert event["index"] == len(content) - 1
            for key, value in event.get("delta", {}).items():
                if key == "partial_json":
                    inputs[-1] += value
                elif key != "type":
                    content[-1][key] += value
        is_open = event["type"] != "content_block_stop"
    assert not is_open
    for block, source in zip(content, inputs, strict=True):
        if block["type"] == "tool_use":
            block["input"] = json.loads(source)
    message = first["message"] | end["delta"] | {"content": content, "usage": end["usage"]}
    assert message == json.loads(encode_json(anthropic_whole("msg_1", "m", completed(deltas))))
    assert stop == {"type": "message_stop"}
