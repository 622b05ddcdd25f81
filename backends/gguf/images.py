"""Images among the tokens of a prompt: where they are, what stands for them, and at which positions they are computed.

A projector turns an image, or each tile of a large one, into a run of vectors that the model takes in place of tokens'
embeddings. In the tokens of the prompt each of these has a *stand-in*: a negative number that comes of the image's
digest. So two prompts have a beginning in common, and may share what was computed of it, only if the images in it are
the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Vectors = NDArray[np.float32]

_SURE = 8
"""With fewer stand-ins, of 31 bits each, another image might have the same ones."""


class Image:
    """A run of a prompt's tokens that stands for an image, or for a tile of one."""

    def __init__(
        self,
        begin: int,
        positions: NDArray[np.int32],
        advance: int,
        *,
        key: bytes,
        whole: bool,
        encode: Callable[[], Vectors],
    ) -> None:
        self.begin = begin
        """Index of its first token in the prompt."""
        self.count = int(positions.shape[1])
        self.end = begin + self.count
        self.positions = positions
        """Of each token, in one row; or in four where the model sees places in two dimensions (M-RoPE)."""
        self.advance = advance
        """How far the position of what follows is from that of its first token."""
        self.whole = whole
        """Whether its tokens see those after them as well, so that all must be computed in one call."""
        self.stand_ins = _stand_ins(key, self.count)
        self.vectors: Vectors | None = None
        """What the model takes for its tokens; `None` until it was encoded."""
        self._encode: Callable[[], Vectors] | None = encode

    def encode(self) -> None:
        """Computes its vectors, and lets go of its pixels. Raises `BackendError`."""
        if self._encode is not None:
            self.vectors = self._encode()
            self._encode = None


def position(images: Iterable[Image], index: int) -> int:
    """The position of a prompt's token that is in none of `images`."""
    return index + sum(image.advance - image.count for image in images if image.end <= index)


def at(images: Iterable[Image], index: int) -> Image | None:
    """The one that has the token of this index."""
    return next((image for image in images if image.begin <= index < image.end), None)


def bounded(images: Iterable[Image], length: int) -> int:
    """`length`, or less where it would end within an image."""
    for image in images:
        if image.begin < length < image.end:
            return image.begin
    return length


def key_of(pixels: NDArray[Any]) -> str:
    """What no other image has."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _stand_ins(key: bytes, count: int) -> Tokens:
    if count < _SURE:
        key = os.urandom(32)
    drawn = np.frombuffer(hashlib.shake_256(key).digest(4 * count), np.uint32)
    negative: Tokens = (drawn | np.uint32(1 << 31)).view(np.int32)
    return negative
