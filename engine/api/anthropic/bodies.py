"""The bodies of Anthropic's Messages API. A field that is not here is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_LARGEST = 2**31 - 1

Count = Annotated[int, Meta(ge=1, le=_LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]


class AnthropicCacheControl(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Accepted and without effect: prompts that begin alike share their computation by themselves."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """A part of a message's content."""

    cache_control: AnthropicCacheControl | None = None


class AnthropicText(_Block, tag="text", kw_only=True):
    """Text."""

    text: str
    citations: None = None


class AnthropicBase64(msgspec.Struct, tag="base64", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """An encoded image."""

    data: str
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]


class AnthropicUrl(msgspec.Struct, tag="url", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Refused: the server fetches nothing."""

    url: str


class AnthropicImage(_Block, tag="image", kw_only=True):
    """An image, for a model that sees."""

    source: AnthropicBase64 | AnthropicUrl


class AnthropicToolUse(_Block, tag="tool_use", kw_only=True):
    """A call of a tool, by the assistant."""

    id: str
    name: str
    input: dict[str, Any]


class AnthropicToolResult(_Block, tag="tool_result", kw_only=True):
    """The result of a call, by the user."""

    tool_use_id: str
    content: str | list[AnthropicText | AnthropicImage] = ""
    is_error: bool = False
    """Whether the call failed; the model reads ``Error:`` before the content then."""


class AnthropicThinking(_Block, tag="thinking", kw_only=True):
    """What the assistant thought before it answered."""

    thinking: str
    signature: str = ""
    """Accepted from any server; there is none here."""


AnthropicBlock = AnthropicText | AnthropicImage | AnthropicToolUse | AnthropicToolResult | AnthropicThinking


class AnthropicMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation. Turns of one role that follow each other are one."""

    role: Literal["user", "assistant", "system"]
    content: str | list[AnthropicBlock]


class AnthropicTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool that the model may call. Those that Anthropic's own servers run are refused."""

    name: str
    input_schema: dict[str, Any] = {}
    """JSON Schema of its arguments."""
    description: str = ""
    type: str | None = None
    """``custom`` alone."""
    strict: bool = False
    """Whether a call must fit the schema exactly."""
    cache_control: AnthropicCacheControl | None = None


class AnthropicToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether the model calls tools: as it likes, any of them, the named one, or none."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    """With ``tool``."""
    disable_parallel_tool_use: bool = False
    """Whether an answer makes one call at most."""


class AnthropicThinkingConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether the model thinks before it answers, for one that can be told."""

    type: Literal["enabled", "disabled", "adaptive"]
    """``adaptive`` leaves it to the model."""
    display: Literal["summarized"] | None = None
    """Accepted; thoughts are part of the answer, and whole."""
    budget_tokens: Count | None = None
    """For the chat template, as its variable ``thinking_budget``; it bounds nothing in a model that does not know it.
    Less than `max_tokens`, which always holds."""


class AnthropicOutputFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class AnthropicOutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the answer must look like, and how hard the model thinks."""

    format: AnthropicOutputFormat | None = None
    effort: Literal["low", "medium", "high"] | None = None
    """For a model that knows degrees of thinking."""


class AnthropicMetadata(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Accepted and without effect."""

    user_id: str | None = None


class AnthropicCountRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/messages/count_tokens``."""

    model: str
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    """An answer goes on with the last one, if that is the assistant's."""
    system: str | list[AnthropicText] = ""
    tools: list[AnthropicTool] = []
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinkingConfig | None = None
    """Without it, a model that can be told so does not think."""
    output_config: AnthropicOutputConfig | None = None
    cache_control: AnthropicCacheControl | None = None


class AnthropicRequest(AnthropicCountRequest, kw_only=True):
    """``POST /v1/messages``."""

    max_tokens: Count
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=_LARGEST)] | None = None
    stop_sequences: list[Annotated[str, Meta(min_length=1)]] = []
    stream: bool = False
    metadata: AnthropicMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    """Accepted; there is one tier."""
    speed: Literal["standard"] | None = None
    """Accepted; there is one speed."""


# --- answers ---------------------------------------------------------------------------------------------------------


class AnthropicTextAnswer(msgspec.Struct, tag="text", tag_field="type", kw_only=True):
    """Text of an answer."""

    text: str


class AnthropicThinkingAnswer(msgspec.Struct, tag="thinking", tag_field="type", kw_only=True):
    """What the model thought."""

    thinking: str
    signature: str = ""


class AnthropicToolUseAnswer(msgspec.Struct, tag="tool_use", tag_field="type", kw_only=True):
    """A call of a tool that the model wants."""

    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = AnthropicTextAnswer | AnthropicThinkingAnswer | AnthropicToolUseAnswer

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnthropicUsage(msgspec.Struct, kw_only=True):
    """What an answer cost."""

    input_tokens: int = 0
    """Tokens of the prompt that were computed for it."""
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    """Tokens of the prompt that were computed for an earlier request."""
    output_tokens: int = 0


class AnthropicAnswer(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/messages``."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None = None
    usage: AnthropicUsage


class AnthropicCount(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/messages/count_tokens``."""

    input_tokens: int


class AnthropicErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, kw_only=True):
    """An error, as Anthropic's clients read it."""

    type: Literal["error"] = "error"
    error: AnthropicErrorDetail
    request_id: str
