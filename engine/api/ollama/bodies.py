"""The bodies of Ollama's API. A field that is not here is an error, as is one that a docstring calls refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from engine.api.thinking import Effort

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType

Think = bool | Effort


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a request has that may keep its model loaded."""

    model: str
    """``NAME``, ``NAME:latest``, or ``NAME:3`` for version 3."""
    options: dict[str, Any] | None = None
    """``temperature``, ``num_predict`` and the like; those that belong to loading are refused."""
    keep_alive: str | float | None = None
    """Seconds, or a text such as ``5m``, for which the model stays loaded when idle; 0 unloads it after the answer."""


class _Asks(_Request, kw_only=True):
    """What generate and chat have in common."""

    stream: bool | None = None
    """Whether the answer comes in pieces, one JSON object a line; so unless false."""
    format: str | dict[str, Any] | None = None
    """``json``, or the JSON Schema that the answer fits."""
    think: Think | None = None
    """Whether the model thinks before it answers, for one that can be told."""
    logprobs: bool | None = None
    top_logprobs: int | None = None
    """Alternatives reported with each token; needs `logprobs`."""
    truncate: bool | None = None
    """Whether a prompt that is too long loses its beginning; it is an error unless true."""
    shift: bool | None = None
    """Refused if true: the context does not slide, an answer ends where it is full."""


class OllamaGenerateRequest(_Asks, kw_only=True):
    """``POST /api/generate``. Without a prompt it loads the model, or unloads it when `keep_alive` is 0."""

    prompt: str = ""
    suffix: str = ""
    """Text after the gap that is to be filled, for a model that can."""
    system: str = ""
    template: str = ""
    """Refused: a template is set when the model is registered."""
    context: list[int] = []
    """The one of an earlier answer, which this prompt goes on with."""
    raw: bool = False
    """Whether the prompt is used as it is, without the model's chat template."""
    images: list[str] | None = None
    """Base64, for a model that sees."""


class OllamaFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that the model called, with its arguments."""

    name: str
    arguments: dict[str, Any] = {}
    index: int | UnsetType = UNSET
    description: str | UnsetType = UNSET


class OllamaToolCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A call of a tool."""

    function: OllamaFunction
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class OllamaMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation. An answer goes on with the last message if that is the assistant's."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    """What the assistant thought before it answered."""
    images: list[str] | None = None
    """Base64, for a model that sees."""
    tool_calls: list[OllamaToolCall] | None = None
    """Of the assistant."""
    tool_name: str | None = None
    """Of the tool whose result this is."""
    tool_call_id: str | None = None
    """Of the call whose result this is; found by `tool_name` and order when not given."""


class OllamaToolFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of its arguments."""


class OllamaTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool that the model may call."""

    function: OllamaToolFunction
    type: Literal["function"] = "function"


class OllamaChatRequest(_Asks, kw_only=True):
    """``POST /api/chat``. Without messages it loads the model, or unloads it when `keep_alive` is 0."""

    messages: list[OllamaMessage] = []
    tools: list[OllamaTool] | None = None


class OllamaLogprob(msgspec.Struct, kw_only=True):
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[OllamaLogprob] | UnsetType = UNSET


class _Answer(msgspec.Struct, kw_only=True):
    """What all objects of an answer have; the numbers are in the last one, and durations are in nanoseconds."""

    model: str
    created_at: datetime
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: list[OllamaLogprob] | UnsetType = UNSET


class OllamaGenerateResponse(_Answer, kw_only=True):
    """The answer of ``/api/generate``, or one line of it."""

    response: str
    thinking: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET
    """In the last one, the tokens of the conversation so far; not of a prompt that is raw or has images or a suffix."""


class OllamaAnswerMessage(msgspec.Struct, kw_only=True):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaToolCall] | UnsetType = UNSET


class OllamaChatResponse(_Answer, kw_only=True):
    """The answer of ``/api/chat``, or one line of it."""

    message: OllamaAnswerMessage


class OllamaEmbedRequest(_Request, kw_only=True):
    """``POST /api/embed``."""

    input: str | list[str]
    truncate: bool | None = None
    """Whether an input that is too long loses its end; so unless false, where the model can."""
    dimensions: int | None = None
    """How many numbers of each embedding are kept."""


class OllamaEmbedResponse(msgspec.Struct, kw_only=True):
    """The answer of ``/api/embed``."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int | UnsetType = UNSET


class OllamaEmbeddingsRequest(_Request, kw_only=True):
    """``POST /api/embeddings``, the older ``/api/embed``."""

    prompt: str = ""


class OllamaEmbeddingsResponse(msgspec.Struct, kw_only=True):
    """The answer of ``/api/embeddings``."""

    embedding: list[float]


class OllamaNameRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``DELETE /api/delete``."""

    model: str = ""
    name: str = ""
    """The older name of `model`."""


class OllamaShowRequest(OllamaNameRequest, kw_only=True):
    """``POST /api/show``."""

    verbose: bool = False
    """Whether large metadata is shown too."""


class OllamaCopyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /api/copy``: registers the same file, with the same options, under another name."""

    source: str
    destination: str


class OllamaPullRequest(OllamaNameRequest, kw_only=True):
    """``POST /api/pull``: downloads ``hf.co/ORG/REPO`` or ``hf.co/ORG/REPO:FILE``, and registers it."""

    stream: bool | None = None
    insecure: bool = False
    """Refused if true."""


class OllamaPushRequest(OllamaNameRequest, kw_only=True):
    """``POST /api/push``, which is always refused."""

    stream: bool | None = None
    insecure: bool = False


class OllamaCreateRequest(OllamaNameRequest, kw_only=True):
    """``POST /api/create``: registers the file of another model again, or uploaded files, with options of their own."""

    from_: str | None = msgspec.field(name="from", default=None)
    """A registered model."""
    files: dict[str, str] | None = None
    """Instead of `from`: digests of uploaded files, by the names that they get."""
    adapters: dict[str, str] | None = None
    """Digests of uploaded LoRA adapters, by their files' names."""
    parameters: dict[str, Any] | None = None
    """Defaults for requests, such as ``temperature``, and ``num_ctx``."""
    template: str | None = None
    """A chat template in Jinja."""
    stream: bool | None = None
    system: str | None = None
    """Refused: send it with each request."""
    license: str | list[str] | None = None
    """Refused."""
    messages: list[OllamaMessage] | None = None
    """Refused."""
    quantize: str | None = None
    """Refused."""


class OllamaStatus(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How far a pull or a creation is, as one line of the answer."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class OllamaDetails(msgspec.Struct, kw_only=True):
    """What kind of model it is."""

    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(msgspec.Struct, kw_only=True):
    """A registered model."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(msgspec.Struct, kw_only=True):
    """``GET /api/tags``: the models and aliases that text can be sent to."""

    models: list[OllamaModel]


class OllamaRunningModel(msgspec.Struct, kw_only=True):
    """A loaded model."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: datetime
    """When it is unloaded unless it is used before; the year 9999 when nothing says so."""
    size_vram: int
    context_length: int


class OllamaRunningModels(msgspec.Struct, kw_only=True):
    """``GET /api/ps``: the models that are loaded."""

    models: list[OllamaRunningModel]


class OllamaDescription(msgspec.Struct, kw_only=True):
    """``POST /api/show``."""

    license: str = ""
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    """Of ``completion``, ``tools``, ``insert``, ``vision``, ``thinking`` and ``embedding``."""
    modified_at: datetime


class OllamaVersion(msgspec.Struct, kw_only=True):
    """``GET /api/version``."""

    version: str
