"""The tokens of a request's prompt, and the checks that it fits the model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.base import InvalidInput
from backends.generation import IMAGE, Generation
from backends.gguf.images import Image
from backends.gguf.model import Model
from backends.gguf.projector import Projector
from backends.prompts import bounded, checked, fitted

Tokens = NDArray[np.int32]


class Prompt(NamedTuple):
    """What a request's answer goes on from."""

    tokens: Tokens
    """Negative ones stand for those of images."""
    images: tuple[Image, ...] = ()


def prompt_of(request: Generation, model: Model, projector: Projector | None, context_length: int) -> Prompt:
    """The prompt in tokens, which leaves room for one more at least. Raises `InvalidInput`."""
    request = bounded(request, context_length, lambda: model.longest_token)
    tokens, images = untruncated(request, model, projector)
    room = context_length - 1
    if images and len(tokens) > room:
        raise InvalidInput(
            f"The prompt has {len(tokens)} tokens, {sum(image.count for image in images)} of them for images, and "
            f"may have {room}: prompt and answer together have room for {context_length}. Send fewer or smaller "
            "images, or register the model with a larger max_context_length.",
            field="prompt",
        )
    return Prompt(np.array(fitted(tokens, request, context_length, model.bos), np.int32), tuple(images))


def untruncated(request: Generation, model: Model, projector: Projector | None) -> tuple[list[int], list[Image]]:
    """The whole prompt in tokens, however long it is, and the images in it. Raises `InvalidInput`."""
    if request.images:
        return _with_images(request, model, projector)
    if isinstance(request.prompt, str):
        tokens = model.tokenize(request.prompt)
    else:
        tokens = checked(request.prompt, model.vocab_size)
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
