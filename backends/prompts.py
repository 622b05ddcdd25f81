"""Prompts of models that generate text: whether they fit the context, and what is cut of one that may be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from backends.base import InvalidInput, InvalidOption
from backends.generation import Generation

_USUAL_BYTES = 16
"""Of a token. A prompt of no more for each token of the context is not looked at closer."""


def bounded(request: Generation, context_length: int, longest_token: Callable[[], int]) -> Generation:
    """The request with a prompt that could fit, by its bytes: it takes seconds to make tokens of megabytes.

    `longest_token` tells the bytes of the longest token. Raises `InvalidInput` for a longer prompt, unless it may be
    truncated.
    """
    prompt = request.prompt
    if not isinstance(prompt, str) or len(prompt) <= _USUAL_BYTES * context_length:
        return request
    data = prompt.encode()
    longest = longest_token()
    most = context_length * longest
    if len(data) <= most:
        return request
    if request.truncate and not request.images:
        return msgspec.structs.replace(request, prompt=data[-most:].decode("utf-8", "ignore"))
    raise InvalidInput(
        f"The prompt has {len(data):,} bytes. A token has {longest} at most, so these are "
        f"{len(data) // longest:,} tokens or more; prompt and answer together have room for "
        f"{context_length:,}. Shorten it, or ask for it to be truncated.",
        field="prompt",
    )


def check_features(request: Generation, runtime: str) -> None:
    """Raises `InvalidInput` for what a runtime that reads and writes nothing but text cannot do."""
    for wanted, field, sentence in (
        (bool(request.images), "images", "sees no images"),
        (request.suffix is not None, "suffix", "does not fill gaps"),
        (bool(request.adapters), "adapters", "has no adapters"),
    ):
        if wanted:
            raise InvalidInput(f"This model is served by {runtime}, and {sentence}.", field=field)


def checked(tokens: Sequence[int], vocab_size: int) -> list[int]:
    """A prompt of tokens. Raises `InvalidInput` for one that the model does not have."""
    wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidInput(f"The prompt has the token {wrong}; this model's are 0 to {vocab_size - 1}.", field="prompt")
    return list(tokens)


def fitted(tokens: list[int], request: Generation, context_length: int, bos: int) -> list[int]:
    """The tokens of a prompt, with room for one more at least. Raises `InvalidInput` where they are none or too many.

    One that may be truncated loses as much of its beginning as leaves room for the answer, up to a quarter of the
    context; the token `bos` stays at its head.
    """
    if not tokens:
        raise InvalidInput("The prompt is empty, and this model has no token to begin one with.", field="prompt")
    room = context_length - 1
    if len(tokens) <= room:
        return tokens
    if not request.truncate:
        raise InvalidInput(
            f"The prompt has {len(tokens)} tokens, and may have {room}: prompt and answer together have room for "
            f"{context_length}. Shorten it, ask for it to be truncated, or register the model with a larger "
            "max_context_length.",
            field="prompt",
        )
    reserve = max(1, min(request.max_tokens or context_length, context_length // 4))
    first = tokens[:1] if tokens[0] == bos else []
    return first + tokens[len(tokens) - (context_length - reserve - len(first)) :]


def chat_template_of(given: str | None) -> str | None:
    """The chat template that an option gives: Jinja text, or the path of a file with it. Raises `InvalidOption`."""
    if given is None or "{" in given or "\n" in given:
        return given
    try:
        return Path(given).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidOption(
            f"Option chat_template is neither Jinja nor the path of a file that can be read: {given!r}.",
            field="config.chat_template",
        ) from e
