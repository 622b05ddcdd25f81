"""Encoded images → pixels, of the size that a model wants or all of them. The one place that touches Pillow."""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backends.base import InvalidInput, MissingRuntime

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, Any]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read. Pillow knows more; some of those start other programs."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
MAX_KEPT = 1 << 24
"""Pixels of an image that is not scaled: each becomes numbers that take up to 24 bytes."""
MAX_PIXELS = 89_478_485
"""A larger image is refused before it is decoded: a small file can claim a gigantic one. It is Pillow's own limit."""

_KEPT = 2.0
"""A large image may first be shrunk the quick way, to no less than this many times the final size."""


class Free(NamedTuple):
    """What bounds the size of an image of which the short side is given."""

    longest: int
    """Of its long side, which may make the short one shorter."""
    multiple: int = 1
    """Of which both sides are multiples."""
    up: bool = False
    """Whether the next larger ones, not the next smaller ones."""
    as_it_is: bool = False
    """Whether it is not scaled at all; nothing else counts then."""


class Geometry(NamedTuple):
    """How an image is cut and scaled. Sizes in pixels."""

    height: int
    width: int
    resize: int | None
    """Scale the short side to this and cut the centre out; `None` squeezes the whole image into height and width."""
    interpolation: str
    mode: str
    """``RGB`` or ``L`` (grey)."""
    border: int | None = None
    """The grey, of 0 to 255, of the borders beside an image that keeps its shape; `None` when it has none."""
    free: Free | None = None
    """How large an image becomes that keeps its shape and gets no borders; height and width are then its short side."""


class Placement(NamedTuple):
    """Where an image lies in the picture that was made of it. Widths before heights, in pixels."""

    size: tuple[int, int]
    """Of the image as it came, upright."""
    scale: tuple[float, float]
    """What lengths in the image are multiplied with."""
    offset: tuple[float, float]
    """Of its upper left corner, after that; below 0 where a part is cut off."""
    picture: tuple[int, int]
    """The size of the picture."""
    space: tuple[int, int] = (0, 0)
    """What was added to it on the right and below, to make it as large as others."""


def from_base64(text: str, where: str) -> bytes:
    """The bytes in a base64 string or a ``data:`` URL. Raises `InvalidInput`."""
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise InvalidInput(f"{where} is a data: URL without ';base64,'.", field=where)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass
    text = re.sub(r"\s+", "", text).translate({ord("-"): "+", ord("_"): "/"})  # lines, and the URL-safe alphabet
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as e:
        raise InvalidInput(
            f"{where} is not base64 ({e}). Send the bytes of the image in base64; addresses and paths are not fetched.",
            field=where,
        ) from None


def decode(data: bytes, geometry: Geometry, where: str) -> Array:
    """The image as uint8 [height, width, channels]: upright, flattened onto white, cut and scaled.

    Raises `InvalidInput` that names `where`, `MissingRuntime` without Pillow.
    """
    return decode_placed(data, geometry, where)[0]


def decode_placed(data: bytes, geometry: Geometry, where: str) -> tuple[Array, Placement]:
    """As `decode`, and where the image lies in it."""
    image = _open(data, where)
    size = image.size
    as_it_is = geometry.free is not None and geometry.free.as_it_is
    if as_it_is and size[0] * size[1] > MAX_KEPT:
        raise InvalidInput(
            f"{where} has {size[0]} × {size[1]} pixels, which is too much for a model that takes images as they are; "
            "send a smaller one, or have images scaled with --set preprocess.size=N --set preprocess.longest=N.",
            field=where,
        )
    if image.format in ("JPEG", "MPO") and not as_it_is:  # a large one is told to decode to a fraction of its size
        width, height = image.size
        scale = _KEPT * max(_target(geometry)) / min(width, height)
        if scale < 1:
            image.draft(geometry.mode, (int(width * scale), int(height * scale)))
    with _decoding(image, where):
        orientation = _orientation(image)
        size = size if orientation < 5 else size[::-1]
        inner, placement = _place(geometry, size)
        pixels = np.asarray(_fit(_in_mode(image, geometry.mode, where), inner, orientation))
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    return _bordered(pixels, geometry, placement), placement


def decode_whole(data: bytes, where: str) -> Array:
    """The whole image as uint8 [height, width, 3], red, green and blue: upright, flattened onto white.

    Raises `InvalidInput` that names `where`, `MissingRuntime` without Pillow.
    """
    image = _open(data, where)
    with _decoding(image, where):
        turn = _turn(_orientation(image))
        image = _in_mode(image, "RGB", where)
        return np.asarray(image if turn is None else image.transpose(turn))


@contextmanager
def _decoding(image: Image, where: str) -> Iterator[None]:
    """Turns what goes wrong with an image's bytes into `InvalidInput`."""
    try:
        yield
    except (InvalidInput, MemoryError):
        raise
    except Exception as e:  # decoders of untrusted bytes fail in many ways
        raise InvalidInput(f"{where} is a corrupt {image.format} image: {_reason(e)}", field=where) from None


def _open(data: bytes, where: str) -> Image:
    """The image, not decoded yet."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingRuntime("pillow", "image") from None
    if not data:
        raise InvalidInput(f"{where} is empty; it must hold an image.", field=where)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise InvalidInput(f"{where} is not an image of a known format ({', '.join(FORMATS)}).", field=where) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(f"{where} has more than {MAX_PIXELS} pixels; send a smaller image.", field=where) from None
    except MemoryError:
        raise
    except Exception as e:
        raise InvalidInput(f"{where} is a corrupt image: {_reason(e)}", field=where) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidInput(f"{where} has more than {MAX_PIXELS} pixels; send a smaller image.", field=where)
    return image


def _reason(error: Exception) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    return f"{text}."


def _orientation(image: Image) -> int:
    """EXIF's code of how the camera was held, 1 to 8. Reading it must come after the pixels of a TIFF, which turn."""
    image.load()
    try:
        code = image.getexif().get(0x0112, 1)
    except Exception:  # malformed EXIF is no EXIF
        return 1
    return code if isinstance(code, int) and 1 <= code <= 8 else 1


def _in_mode(image: Image, mode: str, where: str) -> Image:
    """The image as 8-bit RGB or grey; transparent parts show white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel, whatever Pillow keeps them in
        values = np.asarray(image)
        wide = values.dtype.itemsize == 2 or values.max(initial=0) > 255
        image = Image.fromarray((values >> 8 if wide else values).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise InvalidInput(f"{where} has floating-point pixels; send 8 or 16 bits a channel.", field=where)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _target(geometry: Geometry) -> tuple[int, int]:
    """The least sizes that the short side of an image is scaled to."""
    return (geometry.height, geometry.width) if geometry.resize is None else (geometry.resize, geometry.resize)


def _fit(image: Image, geometry: Geometry, orientation: int) -> Image:
    """Cuts and scales in one step, then turns upright: the turn is cheaper on the small image."""
    from PIL.Image import Resampling

    size = (geometry.width, geometry.height) if orientation < 5 else (geometry.height, geometry.width)
    box = None if geometry.resize is None else _centre(image.size, size, geometry.resize)
    filter_ = Resampling[geometry.interpolation.upper()]
    image = image.resize(size, filter_, box=box, reducing_gap=_KEPT)
    turn = _turn(orientation)
    return image if turn is None else image.transpose(turn)


def _place(geometry: Geometry, size: tuple[int, int]) -> tuple[Geometry, Placement]:
    """How an image of this width and height is scaled, without its borders, and where it lies."""
    whole = (geometry.width, geometry.height)
    if geometry.resize is not None:
        left, top, right, bottom = _centre(size, whole, geometry.resize)
        scale = whole[0] / (right - left), whole[1] / (bottom - top)
        return geometry, Placement(size, scale, (-left * scale[0], -top * scale[1]), whole)
    if geometry.free is not None and geometry.free.as_it_is:
        return geometry._replace(width=size[0], height=size[1]), Placement(size, (1, 1), (0, 0), size)
    if geometry.free is not None:
        whole = _shaped(size, geometry.height, geometry.free)
        geometry = geometry._replace(width=whole[0], height=whole[1])
    if geometry.border is None:
        return geometry, Placement(size, (whole[0] / size[0], whole[1] / size[1]), (0, 0), whole)
    least = min(whole[0] / size[0], whole[1] / size[1])
    width, height = (max(1, round(length * least)) for length in size)
    offset = (whole[0] - width) // 2, (whole[1] - height) // 2
    inner = geometry._replace(width=width, height=height, resize=None)
    return inner, Placement(size, (width / size[0], height / size[1]), offset, whole)


def _shaped(size: tuple[int, int], short: int, free: Free) -> tuple[int, int]:
    """Width and height of an image that keeps its shape, rounded as DETR's family does."""
    least, most = min(size), max(size)
    exact = float(short)
    if most / least * short > free.longest:
        exact = free.longest * least / most
        short = round(exact)
    long = most if least == short else int(exact * most / least)
    sides = (short, long) if size[0] < size[1] else (long, short)
    if free.up:
        sides = (-(-sides[0] // free.multiple) * free.multiple, -(-sides[1] // free.multiple) * free.multiple)
    else:
        sides = (sides[0] // free.multiple * free.multiple, sides[1] // free.multiple * free.multiple)
    return max(free.multiple, sides[0]), max(free.multiple, sides[1])


def _bordered(pixels: Array, geometry: Geometry, placement: Placement) -> Array:
    height, width, channels = pixels.shape
    if geometry.border is None or (height, width) == (geometry.height, geometry.width):
        return pixels
    whole = np.full((geometry.height, geometry.width, channels), geometry.border, np.uint8)
    left, top = map(int, placement.offset)
    whole[top : top + height, left : left + width] = pixels
    return whole


def _centre(source: tuple[int, int], size: tuple[int, int], resize: int) -> tuple[float, float, float, float]:
    """The part of the source that would be the centre, had its short side been scaled to `resize`, in its own pixels.

    Rounded as in the usual pipeline (scale to whole pixels, then cut at a whole pixel), so that it picks the same ones.
    """
    scale = resize / min(source)
    box: list[float] = []
    for length, wanted in zip(source, size, strict=True):
        scaled = round(length * scale)
        first = round((scaled - wanted) / 2)
        box += [first * length / scaled, min((first + wanted) * length / scaled, length)]
    return box[0], box[2], box[1], box[3]


def _turn(orientation: int) -> Any:
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
