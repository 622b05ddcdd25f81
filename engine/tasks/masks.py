"""Maps that a model made of a picture, as masks of the image that was sent: enlarged as the usual libraries do it
(bilinear, between the centres of pixels), and written as PNG. Works through strips, so that memory stays small."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from backends.base import InvalidInput, MissingRuntime
from engine.tasks.pixels import Placement

Array = np.ndarray[Any, Any]

MOST_SAMPLES = 1 << 27
"""Values, of all maps of an image together, that are computed between those of the model. Of a larger image, masks are
computed smaller and enlarged to its size: their edges are then coarser than a pixel."""
MOST_PIXELS = 1 << 30
"""Of all masks in an answer."""

_STRIP = 1 << 21
"""Values that are computed at once."""


class Window(NamedTuple):
    """A part of an image, in pixels: the first of each axis, and the one behind the last."""

    left: int
    top: int
    right: int
    bottom: int


class _Axis(NamedTuple):
    """For each pixel along one side of an image, which two cells of a map it lies between."""

    low: Array
    high: Array
    weight: Array
    """float32: the share of `high`."""
    inside: Array
    """Whether the pixel is in the picture that the model saw."""


class Sampler:
    """What maps of this height and width say at the pixels of an image."""

    def __init__(self, placement: Placement, shape: tuple[int, int], maps: int) -> None:
        """`maps` is how many of them will be asked for at each pixel."""
        self.size = _bounded(placement.size, maps)
        """Width and height of the masks: the image's, unless that would be too much work."""
        width, height = self.size
        self._across = _axis(placement, 0, width, shape[1])
        self._down = _axis(placement, 1, height, shape[0])
        self.whole = Window(0, 0, width, height)

    def strips(self, maps: Array, window: Window | None = None) -> Iterator[tuple[slice, Array]]:
        """The rows of the window, a few at a time, and the values there of `maps` [maps, height, width]: float32
        [maps, rows, columns of the window], which lives until the next."""
        left, top, right, bottom = window or self.whole
        if right <= left or bottom <= top:
            return
        across = _Axis(*(part[left:right] for part in self._across))
        rows = max(1, _STRIP // (len(maps) * (right - left)))
        for begin in range(top, bottom, rows):
            part = slice(begin, min(begin + rows, bottom))
            low, high, weight, _ = (each[part] for each in self._down)
            first = int(low[0])
            lines = maps[:, first : int(high[-1]) + 1].astype(np.float32)
            lines = _between(lines[..., across.low], lines[..., across.high], across.weight)
            yield part, _between(lines[:, low - first], lines[:, high - first], weight[:, None])

    def nearest(self, values: Array) -> Array:
        """The values of one map [height, width], each pixel its nearest."""
        down, across = (np.where(axis.weight < 0.5, axis.low, axis.high) for axis in (self._down, self._across))
        found: Array = values[down[:, None], across]
        return found

    def inside(self) -> Array:
        """bool [height, width]: which pixels are in the picture that the model saw."""
        found: Array = self._down.inside[:, None] & self._across.inside
        return found


class Mask(NamedTuple):
    """What is said of one mask."""

    png: str
    """Of the size of the image, white where it is, one bit a pixel; in base64."""
    share: float
    """Of the image's pixels."""
    box: dict[str, float]
    """The smallest that has all of it, in pixels of the image."""


class Painter:
    """Makes the masks of one answer, and sees to it that they are not too much."""

    def __init__(self) -> None:
        self._pixels = 0

    def paint(self, mask: Array, window: Window, whole: tuple[int, int], size: tuple[int, int]) -> Mask:
        """`mask` bool [rows, columns] is what a window of the masks' size `whole` shows, in an image of this `size`.

        Raises `InvalidInput` when the answer becomes too large.
        """
        try:
            from PIL import Image
        except ImportError:
            raise MissingRuntime("pillow", "image") from None
        self._pixels += size[0] * size[1]
        if self._pixels > MOST_PIXELS:
            raise InvalidInput(
                f"The masks of this answer have more than {MOST_PIXELS:,} pixels; send smaller images, or fewer, or "
                "ask for fewer masks with the parameter top_k.",
                field="input",
            )
        image = Image.fromarray(mask)
        if whole != mask.shape[::-1]:
            paper = Image.new("1", whole)
            paper.paste(image, window[:2])
            image = paper
        if whole != size:
            image = image.resize(size, Image.Resampling.NEAREST)
        file = io.BytesIO()
        image.save(file, "PNG")
        box = image.getbbox() or (0, 0, 0, 0)
        share = np.count_nonzero(mask) / (whole[0] * whole[1])
        sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, box), strict=True))
        return Mask(base64.b64encode(file.getvalue()).decode(), round(float(share), 6), sides)


def best(values: Array) -> tuple[Array, Array]:
    """Which of the maps [maps, rows, columns] is the greatest at each pixel, the first of equals; and its value."""
    owners = np.zeros(values.shape[1:], np.int32)
    most = values[0].copy()
    for i, each in enumerate(values[1:], 1):
        owners[each > most] = i
        np.maximum(most, each, out=most)
    return owners, most


def _between(low: Array, high: Array, weight: Array) -> Array:
    """A mean, in which `high` has this weight. The arrays are used up."""
    high -= low
    high *= weight
    high += low
    return high


def _bounded(size: tuple[int, int], maps: int) -> tuple[int, int]:
    """Width and height, made smaller where so many maps of them would be too much."""
    samples = size[0] * size[1] * maps
    factor = min(1.0, (MOST_SAMPLES / samples) ** 0.5)
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def _axis(placement: Placement, side: int, length: int, cells: int) -> _Axis:
    """`length` pixels of a mask along one side of an image, in a map that has so many `cells` along that of the picture
    that was made of the image."""
    centres = (np.arange(length) + 0.5) * (placement.size[side] / length)
    seen = placement.picture[side] + placement.space[side]
    places = (centres * placement.scale[side] + placement.offset[side]) * (cells / seen) - 0.5
    inside = (places >= -0.5) & (places <= cells - 0.5)
    places = places.clip(0, cells - 1)
    low = places.astype(np.intp)
    return _Axis(low, np.minimum(low + 1, cells - 1), (places - low).astype(np.float32), inside)
