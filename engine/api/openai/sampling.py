"""The fields that several of OpenAI's requests share: how tokens are chosen, when they end, and what they must form.

Fields that no OpenAI server has are those of vLLM and llama-server, under their names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from backends.generation import Sampling
from engine.api.parts import crossing
from engine.errors import InvalidInput
from engine.transport.generation import Format, GenerateRequest

LARGEST = 2**31 - 1

Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Token = Annotated[int, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class AcceptedFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields that are about OpenAI's own service. They are accepted and do nothing, since no answer depends on them."""

    user: str | None = None
    """Accepted; does nothing."""
    store: bool | None = None
    """Accepted; nothing is ever stored."""
    metadata: dict[str, str] | None = None
    """Accepted; does nothing but come back where OpenAI's answers have it."""
    service_tier: str | None = None
    """Accepted; there is one tier."""
    safety_identifier: str | None = None
    """Accepted; does nothing."""
    prompt_cache_key: str | None = None
    """Accepted; prompts that begin alike share their computation by themselves."""
    prompt_cache_retention: str | None = None
    """Accepted; does nothing."""
    prompt_cache_options: dict[str, Any] | None = None
    """Accepted; does nothing."""


class SamplingFields(AcceptedFields, kw_only=True):
    """How an answer's tokens are chosen, and when it ends. What is not given is the model's default."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    """0 always takes the likeliest token."""
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    """Added to the logits, by token."""
    stop: str | list[str] | None = None
    """Texts that end the answer, and are not part of it."""
    top_k: Annotated[int, Meta(ge=-1, le=LARGEST)] | None = None
    """0 and -1 keep all."""
    min_p: Share | None = None
    typical_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0)] | None = None
    """Another name of `repetition_penalty`."""
    repeat_last_n: Annotated[int, Meta(ge=-1, le=LARGEST)] | None = None
    """Tokens that the penalties look back on; -1 is the whole context."""
    stop_token_ids: list[Token] | None = None
    ignore_eos: bool | None = None
    """Whether the model's own end of answer is never chosen."""
    grammar: str | None = None
    """In GBNF; the answer follows it."""
    regex: str | None = None
    """A regular expression that the whole answer matches."""
    truncate: bool | None = None
    """Whether a prompt that is too long loses its beginning, instead of being an error."""
    adapters: dict[str, float] | None = None
    """Strength of LoRA adapters, by name."""


class TextFormat(msgspec.Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, tag="json_object", tag_field="type", forbid_unknown_fields=True):
    """Any JSON object."""

    schema: dict[str, Any] | bool | None = None
    """As llama-server has it: the JSON Schema that it fits."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    """Whether a last chunk says what the request cost."""
    include_obfuscation: bool | None = None
    """Accepted; chunks are never padded."""


def fill_sampling(request: GenerateRequest, body: SamplingFields) -> None:
    """Puts the shared fields of a body into a request. Raises `InvalidInput`."""
    request.sampling = Sampling(
        temperature=body.temperature,
        top_k=None if body.top_k is None else max(0, body.top_k),
        top_p=body.top_p,
        min_p=body.min_p,
        typical_p=body.typical_p,
        repeat_penalty=_repeat_penalty(body),
        repeat_last_n=body.repeat_last_n,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_logit_bias(body.logit_bias or {}),
        seed=body.seed,
    )
    request.stop = _stop(body.stop)
    request.stop_tokens = body.stop_token_ids or []
    request.ignore_eos = bool(body.ignore_eos)
    request.truncate = bool(body.truncate)
    request.adapters = body.adapters or {}


def _repeat_penalty(body: SamplingFields) -> float | None:
    if body.repetition_penalty is not None and body.repeat_penalty is not None:
        raise InvalidInput(
            "repetition_penalty and repeat_penalty are two names of one setting; give one of them.",
            field="repeat_penalty",
        )
    return body.repetition_penalty if body.repeat_penalty is None else body.repeat_penalty


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    bias = {}
    for token, value in given.items():
        if not (token.isascii() and token.isdigit()) or int(token) > LARGEST:
            raise InvalidInput(f"The keys of logit_bias are numbers of tokens; got {token[:40]!r}.", field="logit_bias")
        bias[int(token)] = value
    return bias


def _stop(given: str | list[str] | None) -> list[str]:
    texts = [given] if isinstance(given, str) else given or []
    if "" in texts:
        raise InvalidInput("A stop text must not be empty.", field="stop")
    return texts


def choose_format(body: SamplingFields, wish: Format | None, field: str) -> Format:
    """The one format that a body asks for: `wish`, which its `field` describes, a grammar, or a regular expression.

    Raises `InvalidInput` when it asks for several.
    """
    formats = {
        field: wish if wish is not None and wish.kind != "text" else None,
        "grammar": None if body.grammar is None else Format(kind="grammar", source=body.grammar),
        "regex": None if body.regex is None else Format(kind="regex", source=body.regex),
    }
    given = {name: form for name, form in formats.items() if form is not None}
    if len(given) > 1:
        raise InvalidInput(f"An answer has one format; got {' and '.join(given)}.", field=list(given)[-1])
    return next(iter(given.values()), Format())


def json_format(schema: dict[str, Any] | bool | None, field: str) -> Format:
    """JSON that fits a schema, or any object where there is none. Raises `InvalidInput`."""
    if schema is None:
        return Format(kind="json_object")
    return Format(kind="json_schema", json_schema=crossing(schema, field))


def template_options(
    given: dict[str, Any] | None, effort: str | None, field: str = "reasoning_effort"
) -> dict[str, Any]:
    """Variables for the chat template: the client's own, and how much the model is to think.

    Raises `InvalidInput` when both say the latter.
    """
    options: dict[str, Any] = dict(crossing(given or {}, "chat_template_kwargs"))
    if effort is not None:
        if "reasoning_effort" in options:
            raise InvalidInput(f"{field} is given twice: also in chat_template_kwargs.", field=field)
        options["reasoning_effort"] = effort
        if effort == "none":
            options.setdefault("enable_thinking", False)
    return options


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
