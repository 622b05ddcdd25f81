"""What the answers of several of OpenAI's endpoints share: their heads, usage, log probabilities, and refusals."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.generation import TokenLogprob, Usage
from engine.api.http import encode_json
from engine.errors import InvalidInput, InvalidRequest, UniModelError
from engine.generation.completion import Completion, total
from engine.pool import Entry
from engine.types import ModelSpec

DONE = b"data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have."""

_ROUTES = {
    "chat": "POST /v1/chat/completions",
    "completion": "POST /v1/completions",
    "embedding": "POST /v1/embeddings",
    "rerank": "POST /v1/rerank",
    "transcription": "POST /v1/audio/transcriptions",
}


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer begin with."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str
    """The name that the client asked for."""
    fingerprint: str
    """Of the model's file, options and runtime: while it is the same, so are seeded answers."""

    @classmethod
    def of(cls, prefix: str, model: str, spec: ModelSpec) -> Head:
        """A new one, for a model that is registered as `spec`."""
        return cls(f"{prefix}{new_id()}", int(time.time()), model, _fingerprint(spec))


def new_id() -> str:
    """Enough random characters to be unique."""
    return os.urandom(12).hex()


def _fingerprint(spec: ModelSpec) -> str:
    digest = hashlib.sha256(encode_json((spec.sha256, spec.config, spec.info.runtime)))
    return f"fp_{digest.hexdigest()[:10]}"


def wrong_model(entry: Entry, purpose: str) -> InvalidRequest:
    """The error of a request to a model that is for something else; it says which route serves the model."""
    spec = entry.spec
    task = _task(entry)
    route = _ROUTES.get(task, f"POST /v1/models/{spec.name}:predict")
    return InvalidRequest(f"Model {spec.name!r} is for the task {task}, not for {purpose}; use {route}.", field="model")


def _task(entry: Entry) -> str:
    """The task that decides which route serves a model."""
    generation = entry.spec.info.generation
    if generation is None:
        return entry.spec.task
    return "completion" if generation.chat_template is None else "chat"


def refuse(body: msgspec.Struct, reasons: Mapping[str, str]) -> None:
    """Raises `InvalidInput` for the first field that is given although this server cannot do what it asks."""
    for field, reason in reasons.items():
        if getattr(body, field) is not None:
            raise InvalidInput(f"{field} is not supported: {reason}.", field=field)


def convert(value: Any, kind: Any, field: str) -> Any:
    """A decoded JSON value as a type, `kind`. Raises `InvalidInput` that names the place below `field`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        text, _, where = str(e).partition(" - at `$")
        place = field + where.rstrip("`")
        raise InvalidInput(f"{place}: {text[0].lower()}{text[1:]}.", field=place) from None


Names = Mapping[str, str]
"""How the engine's names of fields become OpenAI's: patterns of their beginnings, and what stands for those."""

_OF_SAMPLING = {
    r"response_format\.(grammar|regex)\b": r"\1",
    r"stop_tokens\b": "stop_token_ids",
    r"template_options\b": "chat_template_kwargs",
}
CHAT_NAMES: Names = {
    **_OF_SAMPLING,
    r"response_format\.json_schema\b": "response_format.json_schema.schema",
    r"tools\.(\d+)\b": r"tools[\1].function",
    r"continue_message\b": "continue_final_message",
    r"(prompt|images)\b": "messages",
}
COMPLETION_NAMES: Names = _OF_SAMPLING
RESPONSE_NAMES: Names = {
    **_OF_SAMPLING,
    r"response_format\.json_schema\b": "text.format.schema",
    r"response_format\b": "text.format",
    r"tools\.(\d+)\b": r"tools[\1]",
    r"max_tokens\b": "max_output_tokens",
    r"(prompt|messages|images)\b": "input",
}


@contextmanager
def naming(names: Names) -> Iterator[None]:
    """Gives the fields that errors name the names that they have in OpenAI's bodies."""
    try:
        yield
    except UniModelError as e:
        found = next((m for pattern in names if (m := re.match(pattern, e.field or ""))), None)
        if found is not None and e.field is not None:
            e.field = found.expand(names[found.re.pattern]) + e.field[found.end() :]
        raise


# --- usage ----------------------------------------------------------------------------------------------------------


class PromptTokensDetails(msgspec.Struct, kw_only=True):
    """More about the tokens of a prompt."""

    cached_tokens: int
    """Those that were computed for an earlier request."""


class CompletionTokensDetails(msgspec.Struct, kw_only=True):
    """More about the tokens of an answer."""

    reasoning_tokens: int
    """Those of what the model thought."""


class CompletionUsage(msgspec.Struct, kw_only=True):
    """What a request cost."""

    prompt_tokens: int
    completion_tokens: int
    """Of all choices together."""
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def usage_of(groups: Iterable[Sequence[Usage]]) -> CompletionUsage:
    """The usage of a request whose prompts each had some choices."""
    totals = [total([Completion(usage=usage) for usage in usages]) for usages in groups]
    prompt = sum(t.prompt_tokens for t in totals)
    completion = sum(t.completion_tokens for t in totals)
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(t.cached_tokens for t in totals)),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=sum(t.reasoning_tokens for t in totals)),
    )


# --- log probabilities ----------------------------------------------------------------------------------------------


class TopLogprob(msgspec.Struct, kw_only=True):
    """A token that was possible."""

    token: str
    """Its text; bytes that are no whole character are written like ``\\xe2``."""
    logprob: float
    bytes: list[int]


class ChoiceLogprob(TopLogprob, kw_only=True):
    """A token of an answer, and what else was possible there."""

    top_logprobs: list[TopLogprob]


def choice_logprobs(tokens: Iterable[TokenLogprob]) -> list[ChoiceLogprob]:
    """The log probabilities of some tokens, in the form that all but the oldest of OpenAI's endpoints have."""
    return [
        ChoiceLogprob(
            token=token_text(t.text),
            logprob=finite(t.logprob),
            bytes=list(t.text),
            top_logprobs=[
                TopLogprob(token=token_text(o.text), logprob=finite(o.logprob), bytes=list(o.text)) for o in t.top
            ],
        )
        for t in tokens
    ]


def token_text(text: bytes) -> str:
    """The text of a token, whose bytes alone may be no text."""
    return text.decode("utf-8", "backslashreplace")


def finite(logprob: float) -> float:
    """A log probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else _LEAST_LOGPROB
