"""The body of ``POST /v1/chat/completions``, and its translation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.api.openai.common import refuse
from engine.api.openai.messages import ChatMessage, translate_messages
from engine.api.openai.sampling import (
    Count,
    JsonObjectFormat,
    ReasoningEffort,
    SamplingFields,
    StreamOptions,
    TextFormat,
    choose_format,
    fill_sampling,
    json_format,
    template_options,
)
from engine.api.openai.tools import ChatTool, ChatToolChoice, translate_chat_tools
from engine.errors import InvalidInput
from engine.transport.generation import Format, GenerateRequest

MAX_CHOICES = 128


class JsonSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A JSON Schema with a name."""

    name: str
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    """Without one, any object fits."""
    strict: bool | None = None
    """Accepted; every answer fits its schema."""


class JsonSchemaFormat(msgspec.Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    """JSON that fits a schema."""

    json_schema: JsonSchema


class ChatCompletionRequest(SamplingFields, kw_only=True):
    """``POST /v1/chat/completions``: OpenAI's request, with the commonest fields of vLLM and llama-server."""

    model: str
    messages: list[ChatMessage]
    max_completion_tokens: Count | None = None
    """Up to the end of the context when not given."""
    max_tokens: Count | None = None
    """The older name of `max_completion_tokens`."""
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    """Answers wanted."""
    stream: bool | None = None
    """Whether the answer comes in chunks, as server-sent events that end with ``[DONE]``."""
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Alternatives reported with each token; needs `logprobs`."""
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    tools: list[ChatTool] | None = None
    tool_choice: ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """Whether one answer may make several calls; so unless false."""
    reasoning_effort: ReasoningEffort | None = None
    """For the chat template, as its variable; ``none`` also sets ``enable_thinking`` to false."""
    reasoning_format: Literal["auto", "none"] | None = None
    """As llama-server has it: ``none`` leaves the model's reasoning in the answer's text."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the chat template."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Whether the answer goes on with the last message, the assistant's."""
    modalities: list[Literal["text", "audio"]] | None = None
    """Text alone."""
    prediction: Any = None
    """Accepted; it is a hint for speed, and changes no answer."""
    verbosity: Any = None
    """Not supported."""
    audio: Any = None
    """Not supported."""
    web_search_options: Any = None
    """Not supported."""
    functions: Any = None
    """Not supported; use `tools`."""
    function_call: Any = None
    """Not supported; use `tool_choice`."""


_REFUSED = {
    "verbosity": "say in the messages how long the answer is to be",
    "audio": "the answer is text",
    "web_search_options": "the server does not search the web",
    "functions": "use tools",
    "function_call": "use tool_choice",
}


def translate(body: ChatCompletionRequest) -> GenerateRequest:
    """The engine's request. Raises `InvalidInput`."""
    refuse(body, _REFUSED)
    _check(body)
    tools, tool_choice = translate_chat_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    request = GenerateRequest(
        messages=translate_messages(body.messages),
        tools=tools,
        tool_choice=tool_choice,
        template_options=template_options(body.chat_template_kwargs, body.reasoning_effort),
        continue_message=bool(body.continue_final_message),
        format=choose_format(body, _format(body), "response_format"),
        choices=body.n or 1,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        separate_reasoning=body.reasoning_format != "none",
        stream=bool(body.stream),
    )
    fill_sampling(request, body)
    return request


def _check(body: ChatCompletionRequest) -> None:
    """Raises `InvalidInput` for fields that contradict each other."""
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise InvalidInput(
            "max_tokens and max_completion_tokens are two names of one setting; give one of them.", field="max_tokens"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput("top_logprobs needs logprobs to be true.", field="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("stream_options needs stream to be true.", field="stream_options")
    if body.modalities is not None and body.modalities != ["text"]:
        raise InvalidInput("The answer is text: modalities can be ['text'] alone.", field="modalities")
    continues = bool(body.continue_final_message)
    if continues and body.add_generation_prompt:
        raise InvalidInput(
            "An answer either goes on with the last message or begins a new one: "
            "continue_final_message needs add_generation_prompt to be false.",
            field="add_generation_prompt",
        )
    if body.add_generation_prompt is False and not continues:
        raise InvalidInput(
            "An answer begins with the generation prompt unless continue_final_message is true.",
            field="add_generation_prompt",
        )


def _format(body: ChatCompletionRequest) -> Format | None:
    match body.response_format:
        case JsonObjectFormat(schema=schema):
            return json_format(schema, "response_format.schema")
        case JsonSchemaFormat(json_schema=named):
            return json_format(named.schema, "response_format.json_schema.schema")
        case _:
            return None
