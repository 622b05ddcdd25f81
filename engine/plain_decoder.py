"""The fast way from a JSON body to a tensor, for the commonest signature. `engine.codec` is the general one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from backends.base import TensorSpec
from engine.codec import Form


class PlainBody(NamedTuple):
    """A whole prediction body, as `PlainDecoder` reads it."""

    form: Form
    array: np.ndarray[Any, Any]
    single: bool
    parameters: bytes
    stream: bool


class PlainDecoder:
    """Reads the commonest body at a fraction of the general way's cost: one numeric input, plain nested lists.

    One pass of msgspec checks the envelope, the types and the range of the numbers. It knows no errors: where it
    returns `None`, the general way must be gone, which accepts more and says what is wrong.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self._rank = len(spec.shape)
        self._batch = spec.shape[0] if isinstance(spec.shape[0], int) else None
        self._tail = tuple(spec.shape[1:])
        self._dtype = np.dtype(spec.dtype)
        self._batch_mark = b"[" * self._rank
        row: Any = int
        if self._dtype.kind == "f":
            limit = float(np.finfo(self._dtype).max)
            row = Annotated[float, msgspec.Meta(ge=-limit, le=limit)]
        for _ in self._tail:
            row = list[row]
        self._row = _body_decoder(row)
        self._rows = _body_decoder(list[row])

    @staticmethod
    def suits(specs: Sequence[TensorSpec]) -> bool:
        """Whether a model's signature is that of the commonest case."""
        if len(specs) != 1 or specs[0].batch_axis != 0 or len(specs[0].shape) < 2:
            return False
        return specs[0].dtype != "string" and np.dtype(specs[0].dtype).kind in "fiu"

    def decode(self, body: bytes | bytearray) -> PlainBody | None:
        """A body with ``input`` or ``instances``, or `None` when this is not the case it knows."""
        single = self._batch_mark not in body
        try:
            decoded = (self._row if single else self._rows).decode(body)
            form: Form = "input"
            value = decoded.input
            if value is msgspec.UNSET or decoded.instances is not msgspec.UNSET:
                if value is not msgspec.UNSET or single:
                    return None
                form, value = "instances", decoded.instances
            array = np.array([value] if single else value, self._dtype)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError, TypeError):
            return None
        shape = array.shape
        if shape[1:] != self._tail and not self._fits(shape):
            return None
        if not shape[0] or (self._batch is not None and shape[0] != self._batch):
            return None
        return PlainBody(form, array, single, bytes(decoded.parameters), decoded.stream)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape that is not the expected one to the letter differs in free dimensions alone."""
        return len(shape) == self._rank and all(
            isinstance(want, str) or got == want for got, want in zip(shape[1:], self._tail, strict=True)
        )


def _body_decoder(value: Any) -> msgspec.json.Decoder[Any]:
    """Decodes an envelope whose input has the type `value`. A null is none, and left to the general way."""
    fields: list[tuple[str, Any, Any]] = [
        ("input", value | msgspec.UnsetType, msgspec.UNSET),
        ("instances", value | msgspec.UnsetType, msgspec.UNSET),
        ("parameters", msgspec.Raw, msgspec.Raw()),
        ("stream", bool, False),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("PlainEnvelope", fields, forbid_unknown_fields=True))
