"""The answer of ``POST /v1/responses``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from backends.generation import Usage
from engine.api.openai.common import ChoiceLogprob, Head, choice_logprobs, new_id
from engine.api.openai.response_request import (
    ReasoningConfig,
    ResponseAllowedTools,
    ResponseRequest,
    ResponseTool,
    ResponseToolName,
    TextConfig,
)
from engine.api.openai.sampling import TextFormat
from engine.api.openai.tools import Mode
from engine.generation.completion import Completion

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class AnswerText(msgspec.Struct, tag="output_text", tag_field="type", kw_only=True):
    """A text of the model."""

    text: str
    annotations: list[Any] = []
    logprobs: list[ChoiceLogprob] = []


class AnswerMessage(msgspec.Struct, tag="message", tag_field="type", kw_only=True):
    """A message of the model."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[AnswerText]


class AnswerCall(msgspec.Struct, tag="function_call", tag_field="type", kw_only=True):
    """A call of a tool that the model wants."""

    id: str
    call_id: str
    """By which a ``function_call_output`` answers it."""
    name: str
    arguments: str
    """JSON of an object."""
    status: ItemStatus


class AnswerThought(msgspec.Struct, tag="reasoning_text", tag_field="type"):
    """A text of the model's reasoning."""

    text: str


class AnswerReasoning(msgspec.Struct, tag="reasoning", tag_field="type", kw_only=True):
    """What the model thought before it answered."""

    id: str
    summary: list[Any] = []
    content: list[AnswerThought]
    status: ItemStatus


AnswerItem = AnswerMessage | AnswerCall | AnswerReasoning


class IncompleteDetails(msgspec.Struct, kw_only=True):
    """Why a response is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class InputTokensDetails(msgspec.Struct, kw_only=True):
    """More about the tokens of a conversation."""

    cached_tokens: int
    """Those that were computed for an earlier request."""
    cache_write_tokens: int = 0
    """Always 0: nobody pays for what is kept."""


class OutputTokensDetails(msgspec.Struct, kw_only=True):
    """More about the tokens of an answer."""

    reasoning_tokens: int
    """Those of what the model thought."""


class ResponseUsage(msgspec.Struct, kw_only=True):
    """What a response cost."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseObject(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/responses``."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Seconds since the epoch."""
    status: Literal["in_progress", "completed", "incomplete"]
    background: Literal[False] = False
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[AnswerItem]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: ReasoningConfig
    store: Literal[False] = False
    temperature: float | None
    text: TextConfig
    tool_choice: Mode | ResponseToolName | ResponseAllowedTools
    tools: list[ResponseTool]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


def begun(head: Head, body: ResponseRequest) -> ResponseObject:
    """A response to which nothing was added yet."""
    return ResponseObject(
        id=head.id,
        created_at=head.created,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        model=head.model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning=body.reasoning or ReasoningConfig(),
        temperature=body.temperature,
        text=TextConfig(format=(body.text and body.text.format) or TextFormat()),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        truncation="auto" if body.truncation == "auto" else "disabled",
        user=body.user,
        metadata=body.metadata or {},
    )


def finish(response: ResponseObject, output: list[AnswerItem], complete: bool, usage: Usage) -> None:
    """Gives a response its output, and its end."""
    response.output = output
    response.status = "completed" if complete else "incomplete"
    response.incomplete_details = None if complete else IncompleteDetails()
    response.usage = ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def completed(head: Head, body: ResponseRequest, completion: Completion) -> ResponseObject:
    """The whole response."""
    complete = completion.finish != "length"
    status: ItemStatus = "completed" if complete else "incomplete"
    output: list[AnswerItem] = []
    if completion.reasoning:
        output.append(new_reasoning(completion.reasoning, status="completed"))
    if completion.content or not completion.tool_calls:
        message = new_message(completion.content, status)
        message.content[0].logprobs = choice_logprobs(completion.logprobs)
        output.append(message)
    for call in completion.tool_calls:
        output.append(new_call(call.id, call.name, call.arguments, status))
    response = begun(head, body)
    finish(response, output, complete, completion.usage)
    return response


def new_message(text: str, status: ItemStatus) -> AnswerMessage:
    """A message with an id of its own."""
    return AnswerMessage(id=f"msg_{new_id()}", status=status, content=[AnswerText(text=text)])


def new_reasoning(text: str, status: ItemStatus) -> AnswerReasoning:
    """Reasoning with an id of its own."""
    return AnswerReasoning(id=f"rs_{new_id()}", content=[AnswerThought(text)], status=status)


def new_call(call_id: str, name: str, arguments: str, status: ItemStatus) -> AnswerCall:
    """A call with an id of its own, beside the one by which it is answered."""
    return AnswerCall(id=f"fc_{new_id()}", call_id=call_id, name=name, arguments=arguments, status=status)
