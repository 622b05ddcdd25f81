"""How much memory a model takes, from its header alone, and how much there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends import resources
from backends.base import Device, OutOfMemory
from backends.gguf.context import TYPE_NUMBERS, Settings
from backends.gguf.file import Header
from backends.gguf.types import TENSOR_TYPES
from backends.resources import megabytes


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes, by what for."""

    weights: int
    cells: int
    """Keys and values."""
    compute: int
    """What the computation itself needs; an estimate, on the safe side."""
    prefixes: int = 0
    """What cached prefixes may grow to."""
    images: int = 0
    """The projector, weights and computing together."""

    def __add__(self, other: Need) -> Need:
        return Need(
            self.weights + other.weights,
            self.cells + other.cells,
            self.compute + other.compute,
            self.prefixes + other.prefixes,
            self.images + other.images,
        )

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cells + self.compute + self.prefixes + self.images

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "keys and values": self.cells,
            "computing": self.compute,
            "the projector": self.images,
            "cached prefixes at most": self.prefixes,
        }
        return ", ".join(f"{name} {megabytes(size)}" for name, size in parts.items() if size)


def bytes_per_token(header: Header, kv_type: str) -> int:
    """Of the keys and values of one token, in all layers."""
    layers = int(header.own("block_count") or 0)
    heads = _per_layer(header.own("attention.head_count"), layers, 1)
    kv_heads = _per_layer(header.own("attention.head_count_kv"), layers, None)
    width = int(header.own("embedding_length") or 0) // max(1, *heads, 1)
    key = int(header.own("attention.key_length") or width)
    value = int(header.own("attention.value_length") or width)
    kind = TENSOR_TYPES[TYPE_NUMBERS[kv_type]]
    elements = sum(heads[i % len(heads)] if n is None else n for i, n in enumerate(kv_heads)) * (key + value)
    return int(elements * kind.block_bytes // kind.block)


def need(header: Header, contexts: Sequence[Settings], vocab_size: int, prefixes: int) -> Need:
    """What a model takes with contexts like these."""
    return Need(
        weights=header.nbytes,
        cells=sum(bytes_per_token(header, settings.kv_type) * settings.cells for settings in contexts),
        compute=sum(_compute(header, settings, vocab_size) for settings in contexts),
        prefixes=prefixes,
    )


def _compute(header: Header, settings: Settings, vocab_size: int) -> int:
    width = int(header.own("embedding_length") or 0)
    inner = max(_per_layer(header.own("feed_forward_length"), 1, 0) or [0]) or 4 * width
    heads = max(_per_layer(header.own("attention.head_count"), 1, 1) or [1])
    batch, length = settings.batch_tokens, settings.length
    activations = 4 * batch * (6 * width + 3 * inner)
    attention = 6 * batch * length + (4 * heads * batch * length if settings.flash_attention == "off" else 0)
    logits = 8 * settings.outputs * vocab_size
    return activations + attention + logits


def check(need: Need, device: Device, name: str) -> None:
    """Raises `OutOfMemory`, with the numbers, if `need` is more than there is."""
    room, where = resources.available(), "this machine"
    if device.kind != "cpu":
        if device.memory_bytes is None:
            return
        room, where = device.memory_bytes, str(device)
    elif device.memory_bytes is not None:
        room = min(room, device.memory_bytes)
    if need.total > room:
        raise OutOfMemory(
            f"{name} needs {megabytes(need.total)} ({need}), and {where} has {megabytes(room)} left. "
            "Smaller values of max_context_length, sequences or long_sequences need less, and so does kv_type=q8_0."
        )


def _per_layer(value: Any, layers: int, default: Any) -> list[Any]:
    """A number for each layer, which the file gives once or for each."""
    if isinstance(value, tuple):
        return list(value)
    return [default if value is None else value] * layers
