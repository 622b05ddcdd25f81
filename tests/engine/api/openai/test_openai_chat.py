"""Tests of chat completions: bodies to the engine's request, and completions and deltas to OpenAI's answers.

The types of OpenAI's own client say what an answer must look like.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.generation import Sampling, TokenLogprob, Usage
from engine.api.openai.chat import completed
from engine.api.openai.chat_chunks import ChatChunks
from engine.api.openai.chat_request import ChatCompletionRequest, translate
from engine.api.openai.common import Head
from engine.errors import InvalidInput
from engine.generation.completion import Completion
from engine.transport.generation import (
    Delta,
    Format,
    GenerateRequest,
    Message,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)

HEAD = Head("chatcmpl-1", 1700000000, 'a "model"', "fp_1")
HELLO = [{"role": "user", "content": "hello"}]
USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=3, reasoning_tokens=2)
LOGPROBS = [TokenLogprob(5, b"\xe2\x82", -0.5, (TokenLogprob(5, b"\xe2\x82", -0.5), TokenLogprob(6, b"a", -1e400)))]
LOGPROBS_JSON = [
    {
        "token": "\\xe2\\x82",
        "logprob": -0.5,
        "bytes": [0xE2, 0x82],
        "top_logprobs": [
            {"token": "\\xe2\\x82", "logprob": -0.5, "bytes": [0xE2, 0x82]},
            {"token": "a", "logprob": -9999.0, "bytes": [0x61]},
        ],
    }
]


def translated(**fields: Any) -> GenerateRequest:
    body = json.dumps({"model": "m", "messages": HELLO, **fields})
    return translate(msgspec.json.decode(body, type=ChatCompletionRequest))


def test_the_least_request() -> None:
    assert translated() == GenerateRequest(messages=[Message(role="user", content="hello")])


def test_every_field_arrives() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert translated(
        max_completion_tokens=20,
        n=2,
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        logprobs=True,
        top_logprobs=3,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        reasoning_effort="low",
        reasoning_format="none",
        chat_template_kwargs={"x": 1},
        continue_final_message=True,
        add_generation_prompt=False,
        temperature=0,
        modalities=["text"],
    ) == GenerateRequest(
        messages=[Message(role="user", content="hello")],
        max_tokens=20,
        choices=2,
        stream=True,
        logprobs=3,
        tools=[Tool(name="f")],
        tool_choice=ToolChoice(mode="required", parallel=False),
        template_options={"x": 1, "reasoning_effort": "low"},
        separate_reasoning=False,
        continue_message=True,
        sampling=Sampling(temperature=0),
    )


def test_both_names_of_the_length() -> None:
    assert translated(max_tokens=5).max_tokens == 5
    assert translated(max_tokens=5, max_completion_tokens=5).max_tokens == 5
    assert translated(logprobs=True).logprobs == 0
    assert translated(logprobs=False).logprobs is None


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"type": "text"}, Format()),
        ({"type": "json_object"}, Format(kind="json_object")),
        ({"type": "json_object", "schema": SCHEMA}, Format(kind="json_schema", json_schema=SCHEMA)),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            Format(kind="json_schema", json_schema=SCHEMA),
        ),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, Format(kind="json_object")),
    ],
)
def test_formats(wish: dict[str, Any], expected: Format) -> None:
    assert translated(response_format=wish).format == expected


def test_what_changes_no_answer_is_accepted() -> None:
    assert (
        translated(
            user="u",
            store=True,
            metadata={"a": "b"},
            service_tier="flex",
            safety_identifier="s",
            prompt_cache_key="k",
            prompt_cache_retention="24h",
            prediction={"type": "content", "content": "x"},
        )
        == translated()
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"verbosity": "low"}, "verbosity"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "add_generation_prompt"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"messages": []}, "messages"),
        ({"chat_template_kwargs": {"x": 2**70}}, "chat_template_kwargs"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        translated(**fields)
    assert error.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"top_p": 1.5},
        {"n": 0},
        {"n": 129},
        {"max_tokens": 0},
        {"logprobs": True, "top_logprobs": 21},
        {"presence_penalty": 3},
        {"logit_bias": {"1": 101}},
        {"seed": 2**63},
        {"response_format": {"type": "xml"}},
        {"tool_choice": "perhaps"},
        {"min_tokens": 3},
        {"stream_options": {"verbose": True}},
    ],
)
def test_what_is_out_of_bounds_or_unknown_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        translated(**fields)


# --- whole answers --------------------------------------------------------------------------------------------------


def answered(*completions: Completion, logprobs: bool = False) -> dict[str, Any]:
    data = msgspec.json.encode(completed(HEAD, list(completions), logprobs))
    ChatCompletion.model_validate_json(data)
    answer: dict[str, Any] = json.loads(data)
    return answer


def test_an_answer() -> None:
    assert answered(Completion(content="hi", usage=USAGE)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": 'a "model"',
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        "system_fingerprint": "fp_1",
    }


def test_several_choices_pay_for_one_prompt() -> None:
    answer = answered(Completion(content="a", usage=USAGE), Completion(content="b", finish="length", usage=USAGE))
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    assert [c["finish_reason"] for c in answer["choices"]] == ["stop", "length"]
    assert answer["usage"]["prompt_tokens"] == 10
    assert answer["usage"]["completion_tokens"] == 6


def test_calls_of_tools() -> None:
    calls = [ToolCall(id="c1", name="f", arguments="{}"), ToolCall(id="c2", name="g", arguments='{"x":1}')]
    (choice,) = answered(Completion(tool_calls=calls, reasoning="hm", finish="tool_calls"))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": '{"x":1}'}},
        ],
    }


def test_log_probabilities() -> None:
    (choice,) = answered(Completion(content="€", logprobs=LOGPROBS), logprobs=True)["choices"]
    assert choice["logprobs"] == {"content": LOGPROBS_JSON, "refusal": None}
    (choice,) = answered(Completion(content=""), logprobs=True)["choices"]
    assert choice["logprobs"] == {"content": [], "refusal": None}


# --- streams --------------------------------------------------------------------------------------------------------


def streamed(
    *groups: list[Delta], choices: int = 1, logprobs: bool = False, include_usage: bool = False
) -> list[dict[str, Any]]:
    """The chunks, each checked against OpenAI's type; the stream must end as it should."""
    writer = ChatChunks(HEAD, choices, logprobs, include_usage)
    events = b"".join(writer.of(group) for group in groups).decode()
    *chunks, done, rest = events.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    decoded = []
    for chunk in chunks:
        assert chunk.startswith("data: ")
        ChatCompletionChunk.model_validate_json(chunk[6:])
        decoded.append(json.loads(chunk[6:]))
    return decoded


COMMON = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": 'a "model"',
    "system_fingerprint": "fp_1",
}


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {**COMMON, "choices": [choice]}


ROLE = {"role": "assistant", "content": "", "refusal": None}


def test_the_chunks_of_a_stream() -> None:
    assert streamed(
        [Delta(content='"Hi"\n', tokens=1)], [Delta(tokens=1)], [Delta(content=" €"), Delta(finish="stop", usage=USAGE)]
    ) == [
        chunk(ROLE),
        chunk({"content": '"Hi"\n'}),
        chunk({"content": " €"}),
        chunk({}, finish="stop"),
    ]


def test_usage_comes_last_if_it_is_asked_for() -> None:
    *chunks, last = streamed([Delta(content="x", finish="length", usage=USAGE)], include_usage=True)
    assert chunks == [{**c, "usage": None} for c in (chunk(ROLE), chunk({"content": "x"}), chunk({}, finish="length"))]
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert last == {**COMMON, "choices": [], "usage": usage}


def test_code_that_counts_no_tokens_has_no_usage() -> None:
    assert streamed([Delta(content="x"), Delta(finish="stop")], include_usage=True)[-1]["usage"] is None


def test_choices_are_interleaved() -> None:
    assert streamed(
        [Delta(choice=1, content="b"), Delta(choice=0, content="a")],
        [Delta(choice=1, finish="stop", usage=USAGE)],
        [Delta(choice=0, content="A", finish="stop", usage=USAGE)],
        choices=2,
    ) == [
        chunk(ROLE, 1),
        chunk({"content": "b"}, 1),
        chunk(ROLE, 0),
        chunk({"content": "a"}, 0),
        chunk({}, 1, "stop"),
        chunk({"content": "A"}, 0),
        chunk({}, 0, "stop"),
    ]


def test_calls_of_tools_come_in_pieces() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        first = {"id": f"c{index}", "type": "function"} if "name" in function else {}
        return {"tool_calls": [{"index": index, **first, "function": function}]}

    assert streamed(
        [Delta(tool_calls=[ToolCallDelta(index=0, id="c0", name="f")])],
        [Delta(tool_calls=[ToolCallDelta(index=0, arguments='{"x"')])],
        [Delta(tool_calls=[ToolCallDelta(index=0, arguments=":1}")])],
        [Delta(tool_calls=[ToolCallDelta(index=1, id="c1", name="g", arguments="{}")], finish="tool_calls")],
    ) == [
        chunk({**ROLE, "content": None}),
        chunk(call(0, name="f", arguments="")),
        chunk(call(0, arguments='{"x"')),
        chunk(call(0, arguments=":1}")),
        chunk(call(1, name="g", arguments="{}")),
        chunk({}, finish="tool_calls"),
    ]


def test_reasoning_comes_apart() -> None:
    assert streamed([Delta(reasoning="hm")], [Delta(reasoning="!", content="x", finish="stop", usage=USAGE)]) == [
        chunk(ROLE),
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning_content": "!", "content": "x"}),
        chunk({}, finish="stop"),
    ]


def test_log_probabilities_come_with_their_text() -> None:
    logprobs = {"content": LOGPROBS_JSON, "refusal": None}
    assert streamed(
        [Delta(content="€", logprobs=LOGPROBS)], [Delta(logprobs=LOGPROBS)], [Delta(content="x", finish="stop")],
        logprobs=True,
    ) == [
        chunk(ROLE),
        chunk({"content": "€"}, logprobs=logprobs),
        chunk({"content": ""}, logprobs=logprobs),
        chunk({"content": "x"}),
        chunk({}, finish="stop"),
    ]  # fmt: skip


deltas = st.builds(
    Delta, choice=st.integers(0, 2), content=st.text(max_size=5), reasoning=st.sampled_from(["", "", "hm"])
)


@given(st.lists(st.lists(deltas, max_size=4), max_size=6), st.booleans())
def test_nothing_of_any_stream_is_lost(groups: list[list[Delta]], include_usage: bool) -> None:
    ends = [Delta(choice=i, finish="stop", usage=USAGE) for i in range(3)]
    chunks = streamed(*groups, ends, choices=3, include_usage=include_usage)
    for index in range(3):
        got = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
        sent = [d for group in groups for d in group if d.choice == index]
        assert "".join(c["delta"].get("content") or "" for c in got) == "".join(d.content for d in sent)
        assert "".join(c["delta"].get("reasoning_content", "") for c in got) == "".join(d.reasoning for d in sent)
        assert [c["delta"].get("role") for c in got] == ["assistant"] + [None] * (len(got) - 1)
        assert [c["finish_reason"] for c in got] == [None] * (len(got) - 1) + ["stop"]
