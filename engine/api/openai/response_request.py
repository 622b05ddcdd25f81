"""The body of ``POST /v1/responses``, and its translation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.api.openai.common import refuse
from engine.api.openai.response_input import translate_input
from engine.api.openai.sampling import (
    Count,
    JsonObjectFormat,
    ReasoningEffort,
    SamplingFields,
    TextFormat,
    choose_format,
    fill_sampling,
    json_format,
    template_options,
)
from engine.api.openai.tools import FunctionDefinition, Mode, choose_tools, translate_tool
from engine.errors import InvalidInput
from engine.transport.generation import Format, GenerateRequest, Tool, ToolChoice

_LOGPROBS = "message.output_text.logprobs"


class ResponseTool(FunctionDefinition, tag="function", tag_field="type", kw_only=True):
    """A function that the model may call."""


class ResponseToolName(msgspec.Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """The name of a function; as a choice, the one that the model must call."""

    name: str


class ResponseAllowedTools(
    msgspec.Struct, tag="allowed_tools", tag_field="type", kw_only=True, forbid_unknown_fields=True
):
    """A choice from some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[ResponseToolName]


class ResponseJsonSchemaFormat(
    msgspec.Struct, tag="json_schema", tag_field="type", kw_only=True, forbid_unknown_fields=True
):
    """JSON that fits a schema."""

    name: str
    schema: dict[str, Any] | bool
    description: str | None = None
    strict: bool | None = None
    """Accepted; every answer fits its schema."""


ResponseFormat = TextFormat | JsonObjectFormat | ResponseJsonSchemaFormat


class TextConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the text of a response must look like."""

    format: ResponseFormat | None = None
    verbosity: Any = None
    """Not supported."""


class ReasoningConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much the model is to think."""

    effort: ReasoningEffort | None = None
    """For the chat template, as its variable; ``none`` also sets ``enable_thinking`` to false."""
    summary: Literal["auto"] | None = None
    """Accepted; the reasoning itself comes, and no summary of it."""


class ResponseStreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a streamed response."""

    include_obfuscation: bool | None = None
    """Accepted; events are never padded."""


class ResponseRequest(SamplingFields, kw_only=True):
    """``POST /v1/responses``: OpenAI's request. The server keeps nothing, so each request brings its conversation."""

    model: str
    input: str | list[dict[str, Any]]
    """What the user says, or the items of a conversation: ``message``, ``function_call``, ``function_call_output``,
    ``reasoning``. Items of a response may be sent back as they came."""
    instructions: str | None = None
    """A system message that goes first."""
    max_output_tokens: Count | None = None
    """Up to the end of the context when not given."""
    tools: list[ResponseTool] | None = None
    tool_choice: Mode | ResponseToolName | ResponseAllowedTools | None = None
    parallel_tool_calls: bool | None = None
    """Whether one answer may make several calls; so unless false."""
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """``auto`` lets a conversation that is too long lose its beginning, instead of being an error."""
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    """The second is accepted: the reasoning comes as it is, and may be sent back."""
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Alternatives reported with each token."""
    stream: bool | None = None
    """Whether the response comes as server-sent events."""
    stream_options: ResponseStreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the chat template."""
    max_tool_calls: int | None = None
    """Accepted; it bounds calls of built-in tools, of which there are none."""
    background: bool | None = None
    previous_response_id: Any = None
    """Not supported."""
    conversation: Any = None
    """Not supported."""
    prompt: Any = None
    """Not supported."""


_REFUSED = {
    "previous_response_id": "the server keeps no responses; send the whole conversation as input",
    "conversation": "the server keeps no conversations; send the whole conversation as input",
    "prompt": "the server keeps no prompts; send the text itself as instructions and input",
}


def translate_response(body: ResponseRequest) -> GenerateRequest:
    """The engine's request. Raises `InvalidInput`."""
    refuse(body, _REFUSED)
    if body.background:
        raise InvalidInput("The server answers at once: background cannot be true.", field="background")
    if body.text is not None and body.text.verbosity is not None:
        raise InvalidInput("text.verbosity is not supported: say in the input how long the answer is to be.",
                           field="text.verbosity")  # fmt: skip
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("stream_options needs stream to be true.", field="stream_options")
    wants_logprobs = body.top_logprobs is not None or _LOGPROBS in (body.include or ())
    tools, choice = _tools(body)
    effort = body.reasoning.effort if body.reasoning is not None else None
    request = GenerateRequest(
        messages=translate_input(body.input, body.instructions),
        tools=tools,
        tool_choice=choice,
        template_options=template_options(body.chat_template_kwargs, effort, "reasoning.effort"),
        format=choose_format(body, _format(body), "text.format"),
        max_tokens=body.max_output_tokens,
        logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
        stream=bool(body.stream),
    )
    fill_sampling(request, body)
    request.truncate = request.truncate or body.truncation == "auto"
    return request


def _tools(body: ResponseRequest) -> tuple[list[Tool], ToolChoice]:
    tools = [translate_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ())]
    match body.tool_choice:
        case ResponseToolName(name=name):
            return choose_tools(tools, "required", body.parallel_tool_calls, name=name)
        case ResponseAllowedTools(mode=mode, tools=allowed):
            return choose_tools(tools, mode, body.parallel_tool_calls, only=[tool.name for tool in allowed])
        case mode:
            return choose_tools(tools, mode or "auto", body.parallel_tool_calls)


def _format(body: ResponseRequest) -> Format | None:
    match body.text and body.text.format:
        case JsonObjectFormat(schema=schema):
            return json_format(schema, "text.format.schema")
        case ResponseJsonSchemaFormat(schema=schema):
            return json_format(schema, "text.format.schema")
        case _:
            return None
