"""Signatures that take serialized `tf.Example` messages, as estimators and pipelines of TFX export them.

The graph parses the messages first, and that operation has the name, type and shape of each feature: these are the
inputs that users see, and each row of them becomes the message that the graph parses.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import ModelFileError
from backends.tensorflow.flow import Flow, Node, Place, data_inputs, node_of
from backends.tensorflow.program import Array, Slot, is_base64

_PARSERS = ("ParseExample", "ParseExampleV2")
_ALL_PARSERS = (*_PARSERS, "ParseSingleExample", "ParseSequenceExample", "ParseSequenceExampleV2")
_LISTS = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}
"""The types of features, and the field of TensorFlow's message `Feature` for each."""

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """A tensor of serialized messages, whose features are given."""

    slots: tuple[Slot, ...]
    tensor: str
    name: str
    """Of the tensor, in the signature."""

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    @property
    def any_length(self) -> bool:
        return any(None in (slot.shape or ())[1:] for slot in self.slots)

    def pack(self, given: Sequence[Array]) -> list[Array]:
        """One message for each row."""
        from tensorflow.core.example.example_pb2 import Example

        rows = len(given[0])
        packed = np.empty(rows, object)
        for i in range(rows):
            example = Example()
            for slot, array in zip(self.slots, given, strict=True):
                field = _LISTS[slot.dtype]
                getattr(example.features.feature[slot.name], field).value.extend(np.ravel(array[i]).tolist())
            packed[i] = example.SerializeToString()
        return [packed]

    def made_up(self) -> str:
        """A message, in base64."""
        values: dict[str, Any] = {"string": b"example", "int64": 1, "float32": 0.5}
        one_row = [
            np.full([1 if dim is None else dim for dim in slot.shape or ()], values[slot.dtype]) for slot in self.slots
        ]
        return binascii.b2a_base64(self.pack(one_row)[0][0], newline=False).decode()


def unreadable(name: str) -> ModelFileError:
    """Of an input that takes messages of which nothing is known."""
    return ModelFileError(
        f"Input {name!r} takes serialized messages (tf.Example) whose features cannot be read off the graph; export "
        "the model with the features themselves as inputs (of an estimator: "
        "tf.estimator.export.build_raw_serving_input_receiver_fn)."
    )


def features(flow: Flow, tensor: str, base64: Sequence[str]) -> tuple[Slot, ...] | None:
    """The features of the messages that a tensor holds; `None` when it holds none, or they cannot be read."""
    found: dict[str, Slot] = {}
    for use in flow.uses(tensor):
        if use.node.op not in _PARSERS or node_of(use.node.input[0]) != use.name:
            continue
        for key, dtype, shape in _features(flow, use.place, use.node):
            if key is None or shape is None or dtype not in _LISTS:
                return None
            slot = Slot(key, dtype, (None, *shape), None, is_base64(key, dtype, base64))
            if found.setdefault(key, slot) != slot:
                return None
    return tuple(found[key] for key in sorted(found)) or None


def are_parsed(flow: Flow, tensor: str) -> bool:
    """Whether a tensor holds serialized messages of any kind."""
    return any(use.node.op in _ALL_PARSERS for use in flow.uses(tensor))


def was_no_message(error: Exception) -> bool:
    """Whether a model refused its input because it is no message."""
    return "Could not parse example input" in str(error)


def _features(flow: Flow, place: Place, node: Node) -> Iterator[tuple[str | None, str, Shape | None]]:
    """The key, type and shape of each feature, `None` for what cannot be told. What may be there any number of times in
    a message has a free dimension."""
    sparse, dense, ragged = _keys(flow, place, node)
    types = node.attr
    shapes = [_shape(shape) for shape in types["dense_shapes"].list.shape]
    yield from zip(dense, _names(types["Tdense"]), shapes, strict=False)
    yield from ((key, dtype, (None,)) for key, dtype in zip(sparse, _names(types["sparse_types"]), strict=False))
    yield from ((key, dtype, (None,)) for key, dtype in zip(ragged, _names(types["ragged_value_types"]), strict=False))


def _keys(flow: Flow, place: Place, node: Node) -> tuple[list[str | None], list[str | None], list[str | None]]:
    """The keys of the sparse, the dense and the ragged features."""
    inputs = data_inputs(node)

    def texts(tensors: Sequence[str]) -> list[str | None]:
        found: list[str | None] = []
        for tensor in tensors:
            value = flow.constant(place, tensor)
            if value is None or value.dtype != object:
                return [None]
            found += [_text(key) for key in value.ravel()]
        return found

    if node.op == "ParseExampleV2":
        sparse, dense, ragged = (texts([name]) for name in inputs[2:5])
        return sparse, dense, ragged
    middle = 2 + node.attr["Nsparse"].i
    return texts(inputs[2:middle]), texts(inputs[middle : middle + node.attr["Ndense"].i]), []


def _text(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _names(types: Any) -> list[str]:
    from tensorflow import dtypes

    return [dtypes.as_dtype(each).name for each in types.list.type]


def _shape(shape: Any) -> Shape | None:
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
