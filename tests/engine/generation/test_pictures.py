"""Images of requests for generated text: what is decoded, and every bound."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import InvalidInput
from engine.generation import pictures
from engine.generation.pictures import MAX_IMAGES, decode_pictures


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 6, height: int = 4) -> Image.Image:
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels)


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, and that has hardly any pixels."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_formats(kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    (pixels,) = decode_pictures([encoded(gradient(), kind, **options)], "images")
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    lost = np.abs(pixels.astype(int) - np.asarray(gradient()).astype(int)).max()
    assert lost <= (60 if kind in ("JPEG", "GIF") else 0)


def test_an_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (pixels,) = decode_pictures([encoded(gradient(), "PNG", exif=exif)], "images")
    assert np.array_equal(pixels, np.rot90(np.asarray(gradient()), -1))


def test_transparent_parts_are_white_and_grey_is_three_colours() -> None:
    clear, grey = Image.new("RGBA", (2, 2), (9, 9, 9, 0)), Image.new("L", (2, 2), 7)
    decoded = decode_pictures([encoded(clear), encoded(grey)], "images")
    assert [picture.tolist() for picture in decoded] == [[[[255] * 3] * 2] * 2, [[[7] * 3] * 2] * 2]


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ([encoded(gradient()), b"no image"], "Image 2 is not an image of a known format"),
        ([encoded(gradient(64, 64))[:60]], "Image 1 is a corrupt PNG image"),
        ([b""], "Image 1 is empty"),
        ([claiming(60_000, 60_000)], "Image 1 has more than 89478485 pixels"),
        ([encoded(gradient())] * (MAX_IMAGES + 1), "may have 16 images; got 17"),
        ([encoded(Image.new("RGB", (301, 3)))], "Image 1 is 301 pixels wide and 3 high"),
        ([encoded(Image.new("RGB", (1, 101)))], "one side may be 100 times as long as the other"),
    ],
)
def test_what_is_refused(images: list[bytes], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        decode_pictures(images, "messages")
    assert caught.value.field == "messages"


def test_all_images_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 60)
    one = encoded(gradient())
    assert len(decode_pictures([one, one], "images")) == 2
    with pytest.raises(InvalidInput, match="more than 60 pixels together"):
        decode_pictures([one, one, one], "images")
