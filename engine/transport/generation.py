"""Generated text on its way between the server and a worker: what every dialect asks for, and what comes back.

The dialects translate to `GenerateRequest` and from `Delta`; the worker applies the chat template, the grammar and the
parsers of tool calls and reasoning. Both cross the process as MessagePack, inside `StartStream` and `Chunk`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from backends.generation import Sampling, TokenLogprob, Usage


class TextPart(msgspec.Struct, tag="text", tag_field="type"):
    """A part of a message."""

    text: str


class ImagePart(msgspec.Struct, tag="image", tag_field="type"):
    """An encoded image (PNG, JPEG …) in a message."""

    data: bytes


class ToolCall(msgspec.Struct, kw_only=True):
    """A call of a tool that the model made."""

    id: str
    name: str
    arguments: str
    """JSON of an object."""


class Message(msgspec.Struct, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] = ""
    name: str | None = None
    reasoning: str = ""
    """What the assistant thought before it answered."""
    tool_calls: list[ToolCall] = []
    """Of the assistant."""
    tool_call_id: str | None = None
    """Of the call that a tool answers."""


class Tool(msgspec.Struct, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    """JSON Schema of its arguments."""
    strict: bool = False
    """Whether a call must fit the schema exactly."""


class ToolChoice(msgspec.Struct, kw_only=True):
    """Whether the model calls tools."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    """The one tool that it must call; with ``required``."""
    parallel: bool = True
    """Whether one answer may make several calls."""


class Format(msgspec.Struct, kw_only=True):
    """What the text of the answer must look like."""

    kind: Literal["text", "json_object", "json_schema", "grammar", "regex"] = "text"
    json_schema: dict[str, Any] | bool = {}
    source: str = ""
    """Of a grammar, in GBNF, or of a regular expression that the whole answer matches."""


class GenerateRequest(msgspec.Struct, kw_only=True):
    """One request for generated text: a conversation, or a prompt."""

    messages: list[Message] | None = None
    prompt: str | list[int] | None = None
    """Used as it is; exactly one of this and `messages` is given."""
    context: list[int] = []
    """Tokens of the conversation so far, which the text of `messages` or `prompt` goes on with."""
    return_context: bool = False
    """Whether the last delta has the tokens of all of it, `Delta.context`."""
    raw: bool = False
    """Whether the prompt has the beginning that the model wants already."""
    suffix: str | None = None
    images: list[bytes] = []
    """Of a prompt, one for each `backends.generation.IMAGE` in it."""
    tools: list[Tool] = []
    tool_choice: ToolChoice = msgspec.field(default_factory=ToolChoice)
    template_options: dict[str, Any] = {}
    """Variables for the chat template, such as ``enable_thinking``."""
    continue_message: bool = False
    """Whether the answer goes on with the last message, the assistant's, instead of following it."""
    format: Format = msgspec.field(default_factory=Format)
    sampling: Sampling = Sampling()
    choices: int = 1
    max_tokens: int | None = None
    stop: list[str] = []
    stop_tokens: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    truncate: bool = False
    adapters: dict[str, float] = {}
    separate_reasoning: bool = True
    """Whether reasoning comes apart from the answer's text."""
    stream: bool = False
    """Whether the answer comes in pieces; else each choice is one `Delta`."""
    count_only: bool = False
    """Whether only the prompt's tokens are counted: the answer is one `Delta` that has only `usage`."""


class ToolCallDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """More of one tool call. Its first delta has `id` and `name`."""

    index: int
    """Among the calls of this choice."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    """To be appended."""


FinishReason = Literal["stop", "length", "tool_calls"]


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """More of one choice."""

    choice: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = []
    logprobs: list[TokenLogprob] = []
    tokens: int = 0
    """How many were generated for this."""
    finish: FinishReason | None = None
    """In the last delta of the choice."""
    stop_text: str | None = None
    """The stop text that ended it."""
    usage: Usage | None = None
    """With `finish`."""
    context: list[int] = []
    """With `finish`, if it was asked for: the tokens of the conversation so far, with prompt and answer."""


encode_request = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(GenerateRequest).decode
encode_deltas = msgspec.msgpack.Encoder().encode
decode_deltas = msgspec.msgpack.Decoder(list[Delta]).decode
