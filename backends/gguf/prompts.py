"""The tokens of a request's prompt, and the checks that it fits the model."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.base import InvalidInput
from backends.generation import IMAGE, Generation
from backends.gguf.images import Image
from backends.gguf.model import Model
from backends.gguf.projector import Projector

Tokens = NDArray[np.int32]


_USUAL_BYTES = 16
"""Of a token. A prompt of no more for each token of the context is not looked at closer."""


class Prompt(NamedTuple):
    """What a request's answer goes on from."""

    tokens: Tokens
    """Negative ones stand for those of images."""
    images: tuple[Image, ...] = ()


def prompt_of(request: Generation, model: Model, projector: Projector | None, context_length: int) -> Prompt:
    """The prompt in tokens, which leaves room for one more at least. Raises `InvalidInput`."""
    request = _bounded(request, model, context_length)
    tokens, images = untruncated(request, model, projector)
    if not tokens:
        raise InvalidInput("The prompt is empty, and this model has no token to begin one with.", field="prompt")
    room = context_length - 1
    if len(tokens) > room:
        if images:
            raise InvalidInput(
                f"The prompt has {len(tokens)} tokens, {sum(image.count for image in images)} of them for images, and "
                f"may have {room}: prompt and answer together have room for {context_length}. Send fewer or smaller "
                "images, or register the model with a larger max_context_length.",
                field="prompt",
            )
        if not request.truncate:
            raise InvalidInput(
                f"The prompt has {len(tokens)} tokens, and may have {room}: prompt and answer together have room for "
                f"{context_length}. Shorten it, ask for it to be truncated, or register the model with a larger "
                "max_context_length.",
                field="prompt",
            )
        tokens = _truncated(tokens, model, context_length, request.max_tokens)
    return Prompt(np.array(tokens, np.int32), tuple(images))


def _bounded(request: Generation, model: Model, context_length: int) -> Generation:
    """The request with a prompt that could fit, by its bytes: it takes seconds to make tokens of megabytes.

    Raises `InvalidInput` for a longer one, unless it may be truncated.
    """
    prompt = request.prompt
    if not isinstance(prompt, str) or len(prompt) <= _USUAL_BYTES * context_length:
        return request
    data = prompt.encode()
    most = context_length * model.longest_token
    if len(data) <= most:
        return request
    if request.truncate and not request.images:
        return msgspec.structs.replace(request, prompt=data[-most:].decode("utf-8", "ignore"))
    raise InvalidInput(
        f"The prompt has {len(data):,} bytes. A token has {model.longest_token} at most, so these are "
        f"{len(data) // model.longest_token:,} tokens or more; prompt and answer together have room for "
        f"{context_length:,}. Shorten it, or ask for it to be truncated.",
        field="prompt",
    )


def untruncated(request: Generation, model: Model, projector: Projector | None) -> tuple[list[int], list[Image]]:
    """The whole prompt in tokens, however long it is, and the images in it. Raises `InvalidInput`."""
    if request.images:
        return _with_images(request, model, projector)
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
    return tokens, []


def _with_images(request: Generation, model: Model, projector: Projector | None) -> tuple[list[int], list[Image]]:
    if projector is None:
        raise InvalidInput(
            "This model sees no images: it was registered without a projector (option mmproj).", field="images"
        )
    if not isinstance(request.prompt, str):
        raise InvalidInput("A prompt of tokens has no places for images; send text.", field="images")
    if request.suffix is not None:
        raise InvalidInput("A suffix does not go with images.", field="suffix")
    places = request.prompt.count(IMAGE)
    if places != len(request.images):
        raise InvalidInput(
            f"The prompt has {places} places for images ({IMAGE}), and {len(request.images)} images came.",
            field="images",
        )
    begins = request.add_bos and model.wants_bos
    return projector.tokens(request.prompt, request.images, [model.bos] if begins else [])


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
