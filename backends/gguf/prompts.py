"""The tokens of a request's prompt, and the checks that it fits the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.base import InvalidInput
from backends.generation import Generation
from backends.gguf.model import Model

Tokens = NDArray[np.int32]


def tokens_of(request: Generation, model: Model, context_length: int) -> Tokens:
    """The prompt in tokens, which leaves room for one more at least. Raises `InvalidInput`."""
    tokens = untruncated(request, model)
    if not tokens:
        raise InvalidInput("The prompt is empty, and this model has no token to begin one with.", field="prompt")
    room = context_length - 1
    if len(tokens) > room:
        if not request.truncate:
            raise InvalidInput(
                f"The prompt has {len(tokens)} tokens, and may have {room}: prompt and answer together have room for "
                f"{context_length}. Shorten it, ask for it to be truncated, or register the model with a larger "
                "max_context_length.",
                field="prompt",
            )
        tokens = _truncated(tokens, model, context_length, request.max_tokens)
    return np.array(tokens, np.int32)


def untruncated(request: Generation, model: Model) -> list[int]:
    """The whole prompt in tokens, however long it is. Raises `InvalidInput`."""
    if isinstance(request.prompt, str):
        tokens = model.tokenize(request.prompt)
    else:
        tokens = list(request.prompt)
        wrong = next((token for token in tokens if not 0 <= token < model.vocab_size), None)
        if wrong is not None:
            raise InvalidInput(
                f"The prompt has the token {wrong}; this model's are 0 to {model.vocab_size - 1}.", field="prompt"
            )
    if request.suffix is not None:
        tokens = _around_gap(tokens, request.suffix, model)
    begins = isinstance(request.prompt, str) and request.add_bos and model.wants_bos
    if (begins or not tokens) and model.bos >= 0 and tokens[:1] != [model.bos]:
        tokens.insert(0, model.bos)
    return tokens


def _around_gap(before: list[int], suffix: str, model: Model) -> list[int]:
    if model.infill is None:
        raise InvalidInput("This model does not fill gaps: its vocabulary has no tokens for it.", field="suffix")
    prefix_token, suffix_token, middle_token = model.infill
    return [prefix_token, *before, suffix_token, *model.tokenize(suffix, special=False), middle_token]


def _truncated(tokens: list[int], model: Model, context_length: int, max_tokens: int | None) -> list[int]:
    """Without as much of the beginning as leaves room for the answer: up to a quarter of the context."""
    reserve = max(1, min(max_tokens or context_length, context_length // 4))
    first = tokens[:1] if tokens[0] == model.bos else []
    return first + tokens[len(tokens) - (context_length - reserve - len(first)) :]
