"""Tests of text completions: bodies to requests, several prompts as one, and completions and deltas to answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from openai.types import Completion as OpenAICompletion

from backends.generation import Sampling, TokenLogprob, Usage
from engine.api.openai.common import Head
from engine.api.openai.completion_chunks import CompletionChunks
from engine.api.openai.completions import CompletionRequest, completed, translate
from engine.api.openai.prompts import merged
from engine.errors import InvalidInput, ModelError
from engine.generation.completion import Completion
from engine.transport.generation import Delta, Format, GenerateRequest

HEAD = Head("cmpl-1", 1700000000, "m", "fp_1")
USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=3)
EURO = [
    TokenLogprob(1, b" a", -0.25, (TokenLogprob(2, b" b", -0.125),)),
    TokenLogprob(3, b"\xe2\x82", -0.5, (TokenLogprob(3, b"\xe2\x82", -0.5),)),
    TokenLogprob(4, b"\xac", float("-inf"), (TokenLogprob(5, b"x", -1.0),)),
    TokenLogprob(6, b".", -2.0, (TokenLogprob(6, b".", -2.0),)),
]
EURO_JSON = {
    "tokens": [" a", "\\xe2\\x82", "\\xac", "."],
    "token_logprobs": [-0.25, -0.5, -9999.0, -2.0],
    "top_logprobs": [{" b": -0.125, " a": -0.25}, {"\\xe2\\x82": -0.5}, {"x": -1.0, "\\xac": -9999.0}, {".": -2.0}],
    "text_offset": [0, 2, 3, 3],
}


def translated(**fields: Any) -> list[GenerateRequest]:
    body = json.dumps({"model": "m", "prompt": "p", **fields})
    return translate(msgspec.json.decode(body, type=CompletionRequest))


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "p", "max_tokens": 16, "separate_reasoning": False, **fields})


def test_the_least_request_has_openais_length() -> None:
    assert translated() == [request()]


def test_every_field_arrives() -> None:
    assert translated(
        suffix="s", max_tokens=5, n=2, best_of=2, stream=True, logprobs=3, temperature=0, grammar="root ::= x"
    ) == [
        request(
            suffix="s",
            max_tokens=5,
            choices=2,
            stream=True,
            logprobs=3,
            sampling=Sampling(temperature=0),
            format=Format(kind="grammar", source="root ::= x"),
        )
    ]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_forms_of_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert [r.prompt for r in translated(prompt=prompt)] == prompts


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": ["a"] * 17, "n": 128}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"prompt": [1], "echo": True}, "echo"),
        ({"logprobs": 1, "echo": True}, "echo"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"grammar": "x", "regex": "y"}, "regex"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        translated(**fields)
    assert error.value.field == field


@pytest.mark.parametrize("fields", [{"prompt": None}, {"prompt": [-1]}, {"prompt": [[2**31]]}, {"messages": []}])
def test_what_is_out_of_bounds_or_unknown_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        translated(**fields)


# --- answers --------------------------------------------------------------------------------------------------------


def answered(answers: list[list[Completion]], echoes: list[str], logprobs: int | None = None) -> dict[str, Any]:
    data = msgspec.json.encode(completed(HEAD, answers, echoes, logprobs))
    OpenAICompletion.model_validate_json(data)
    answer: dict[str, Any] = json.loads(data)
    return answer


def test_an_answer() -> None:
    answers = [[Completion(content=text, usage=USAGE) for text in pair] for pair in ("ab", "cd")]
    assert answered(answers, ["1", "2"]) == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {"index": i, "text": text, "logprobs": None, "finish_reason": "stop"}
            for i, text in enumerate(["1a", "1b", "2c", "2d"])
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 12,
            "total_tokens": 32,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": "fp_1",
    }


def test_log_probabilities() -> None:
    answers = [[Completion(content=" a€.", logprobs=EURO)]]
    assert answered(answers, [""], 1)["choices"][0]["logprobs"] == EURO_JSON
    assert answered(answers, [""], 0)["choices"][0]["logprobs"] == {**EURO_JSON, "top_logprobs": None}


def streamed(
    *groups: tuple[int, list[Delta]],
    prompts: int = 1,
    choices: int = 1,
    echoes: list[str] | None = None,
    logprobs: int | None = None,
    include_usage: bool = False,
) -> list[dict[str, Any]]:
    writer = CompletionChunks(HEAD, prompts, choices, echoes or [""] * prompts, logprobs, include_usage)
    events = b"".join(writer.of(prompt, group) for prompt, group in groups).decode()
    *chunks, done, rest = events.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for chunk in chunks:
        if '"finish_reason":null' not in chunk:  # OpenAI's type has no chunks of their own, in which it is null
            OpenAICompletion.model_validate_json(chunk.removeprefix("data: "))
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


COMMON = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1700000000,
    "model": "m",
    "system_fingerprint": "fp_1",
}


def chunk(text: str, index: int = 0, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {**COMMON, "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}]}


def test_the_chunks_of_a_stream() -> None:
    assert streamed((0, [Delta(content='"Hi"'), Delta(tokens=1)]), (0, [Delta(content="\n", finish="length")])) == [
        chunk('"Hi"'),
        chunk("\n", finish="length"),
    ]


def test_prompts_and_their_choices_are_numbered_through() -> None:
    end = Delta(finish="stop", usage=USAGE)
    chunks = streamed(
        (1, [Delta(choice=1, content="d"), Delta(choice=0, content="c")]),
        (0, [Delta(choice=0, content="a"), end]),
        (1, [Delta(choice=1, finish="stop", usage=USAGE), end]),
        (0, [Delta(choice=1, content="b", finish="stop", usage=USAGE)]),
        prompts=2,
        choices=2,
        echoes=["1", "2"],
        include_usage=True,
    )
    assert chunks[-1] == {
        **COMMON,
        "choices": [],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 12,
            "total_tokens": 32,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert chunks[:-1] == [
        {**c, "usage": None}
        for c in (
            chunk("2d", 3),
            chunk("2c", 2),
            chunk("1a", 0),
            chunk("", 0, "stop"),
            chunk("", 3, "stop"),
            chunk("", 2, "stop"),
            chunk("1b", 1, "stop"),
        )
    ]


def test_log_probabilities_go_on_where_they_were() -> None:
    def part(begin: int, end: int) -> dict[str, Any]:
        return {name: values[begin:end] for name, values in EURO_JSON.items()}

    assert streamed(
        (0, [Delta(content=" a", logprobs=EURO[:1])]),
        (0, [Delta(content="€", logprobs=EURO[1:3])]),
        (0, [Delta(content=".", logprobs=EURO[3:], finish="stop")]),
        logprobs=1,
    ) == [
        chunk(" a", logprobs=part(0, 1)),
        chunk("€", logprobs=part(1, 3)),
        chunk(".", logprobs=part(3, 4), finish="stop"),
    ]


# --- several prompts as one -----------------------------------------------------------------------------------------


async def words(text: str, closed: list[str]) -> AsyncGenerator[list[Delta], None]:
    try:
        for word in text.split():
            if word == "fail":
                raise ModelError("it failed")
            if word == "wait":
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            yield [Delta(content=word)]
    finally:
        closed.append(text)


def merge(texts: list[str], closed: list[str]) -> AsyncGenerator[tuple[int, list[Delta]], None]:
    async def begin(wanted: GenerateRequest) -> AsyncGenerator[list[Delta], None]:
        return words(str(wanted.prompt), closed)

    return merged(words(texts[0], closed), [GenerateRequest(prompt=t) for t in texts[1:]], begin)


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_answers_come_as_they_are_ready(count: int) -> None:
    texts = [f"{i} a b"[: 2 * (i % 3) + 1] for i in range(count)]
    closed: list[str] = []
    got: list[list[str]] = [[] for _ in texts]
    async for number, (delta,) in merge(texts, closed):
        got[number].append(delta.content)
    assert got == [text.split() for text in texts]
    assert sorted(closed) == sorted(texts)


async def test_a_failure_ends_all() -> None:
    closed: list[str] = []
    with pytest.raises(ModelError):
        async for _ in merge(["a wait", "b wait", "c fail"], closed):
            pass
    assert sorted(closed) == ["a wait", "b wait", "c fail"]


async def test_a_reader_that_leaves_ends_all() -> None:
    closed: list[str] = []
    groups = merge(["a wait", "b wait"], closed)
    await anext(groups)
    await anext(groups)
    await groups.aclose()
    assert sorted(closed) == ["a wait", "b wait"]
