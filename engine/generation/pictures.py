"""The images of a request for generated text, decoded: in the worker, with bounds on what they may be."""

from __future__ import annotations

from collections.abc import Sequence

from backends.base import InvalidInput as Unfit
from backends.generation import Pixels
from engine.errors import InvalidInput
from engine.tasks.pixels import MAX_PIXELS, decode_whole

MAX_IMAGES = 16
MAX_RATIO = 100
"""Of the sides of an image. Projectors scale images; of a longer one they would leave nothing."""


def decode_pictures(images: Sequence[bytes], field: str) -> tuple[Pixels, ...]:
    """The pixels of encoded images, which came in `field`. Raises `InvalidInput` that says which one is at fault."""
    if len(images) > MAX_IMAGES:
        raise InvalidInput(f"A request may have {MAX_IMAGES} images; got {len(images)}.", field=field)
    pictures: list[Pixels] = []
    for number, data in enumerate(images, start=1):
        where = f"Image {number}"
        pixels = _decoded(data, where, field)
        height, width, _ = pixels.shape
        if max(height, width) > MAX_RATIO * min(height, width):
            raise InvalidInput(
                f"{where} is {width} pixels wide and {height} high; one side may be {MAX_RATIO} times as long as the "
                "other.",
                field=field,
            )
        pictures.append(pixels)
        if sum(picture.size // 3 for picture in pictures) > MAX_PIXELS:
            raise InvalidInput(
                f"The images have more than {MAX_PIXELS} pixels together; send smaller ones.", field=field
            )
    return tuple(pictures)


def _decoded(data: bytes, where: str, field: str) -> Pixels:
    try:
        return decode_whole(data, where)
    except Unfit as e:
        raise InvalidInput(e.message, field=field) from None
