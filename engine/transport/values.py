"""Values with tensors in them, as bytes: what pipelines and plugins exchange, where JSON would make text of numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

_TENSOR = 1
"""The number of our extension of MessagePack: dtype and shape, and the elements behind them."""

_decode_head = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...]]).decode


def encode_values(value: Any) -> bytes:
    """A value of JSON's types and NumPy's arrays of numbers."""
    return msgspec.msgpack.encode(value, enc_hook=_packed)


def decode_values(data: bytes | memoryview) -> Any:
    """The same value; its arrays are copies of their own."""
    return msgspec.msgpack.decode(data, ext_hook=_unpacked)


def encode_json(value: Any) -> bytes:
    """The same value as JSON, in which arrays are lists."""
    return msgspec.json.encode(value, enc_hook=_listed)


def _packed(value: Any) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise TypeError(f"{type(value).__name__} is neither of JSON's types nor an array of numbers")
    head = msgspec.msgpack.encode((value.dtype.str, value.shape))
    data = len(head).to_bytes(2, "little") + head + value.tobytes()
    return msgspec.msgpack.Ext(_TENSOR, data)


def _unpacked(code: int, data: memoryview) -> np.ndarray[Any, Any]:
    if code != _TENSOR:
        raise ValueError(f"extension {code} is unknown")
    size = int.from_bytes(data[:2], "little")
    dtype, shape = _decode_head(data[2 : 2 + size])
    return np.frombuffer(data[2 + size :], dtype).reshape(shape).copy()


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not of JSON's types")
