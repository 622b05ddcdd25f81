"""How the inputs that users see become the tensors that a signature is fed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from backends.base import ModelFileError
from backends.tensorflow import examples
from backends.tensorflow.flow import Flow
from backends.tensorflow.program import Array, Slot


class Feed(Protocol):
    """Some inputs of a signature that belong together."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What a user gives."""

    @property
    def any_length(self) -> bool:
        """Whether the model itself is told how long rows are, so that what they are filled up with would count."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """What TensorFlow is fed: names of tensors in the graph."""

    def pack(self, given: Sequence[Array]) -> list[Array]:
        """The tensors, for what was given for the slots. Raises `InvalidInput`."""


@dataclass(frozen=True, slots=True)
class AsItIs:
    """A tensor that is given as it is."""

    slot: Slot
    tensor: str
    any_length: ClassVar[bool] = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (self.slot,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,)

    def pack(self, given: Sequence[Array]) -> list[Array]:
        return list(given)


@dataclass(frozen=True, slots=True)
class Ragged:
    """A ragged tensor: its values in one row, and tensors that say where each row of it begins.

    The rows of one call are as long as each other, as those of any tensor are; the next call's may be longer.
    """

    slot: Slot
    values: str
    splits: tuple[str, ...]
    """The outermost first."""
    splits_dtype: str = "int64"
    any_length: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (self.slot,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.values, *self.splits)

    def pack(self, given: Sequence[Array]) -> list[Array]:
        (array,) = given
        levels = len(self.splits)
        splits = [_splits(array.shape, level).astype(self.splits_dtype) for level in range(levels)]
        return [array.reshape(math.prod(array.shape[: levels + 1]), *array.shape[levels + 1 :]), *splits]


def _splits(shape: tuple[int, ...], level: int) -> Array:
    """Where each row of a level begins, and where the last ends, when all are as long as each other."""
    return np.arange(math.prod(shape[: level + 1]) + 1) * shape[level + 1]


def find(flow: Flow, concrete: Mapping[str, Any], slots: Mapping[Slot, str], base64: Sequence[str]) -> list[Feed]:
    """The feeds of a signature's `slots`, whose tensors the graph may take for parts of something else.

    `concrete` are TensorFlow's messages `SavedConcreteFunction`. Raises `ModelFileError` for what cannot be fed.
    """
    ragged = _ragged(flow, concrete, slots)
    parts = {tensor for feed in ragged.values() for tensor in feed.tensors}
    feeds: list[Feed] = []
    for slot, tensor in slots.items():
        if tensor in ragged:
            feeds.append(ragged[tensor])
        elif tensor not in parts:
            feeds.append(_messages(flow, slot, tensor, base64, len(slots)) or AsItIs(slot, tensor))
    return feeds


def _messages(flow: Flow, slot: Slot, tensor: str, base64: Sequence[str], inputs: int) -> Feed | None:
    """The feed of a tensor of serialized messages, if it holds such."""
    if slot.dtype != "string" or not examples.are_parsed(flow, tensor):
        return None
    features = examples.features(flow, tensor, base64) if slot.shape in (None, (None,)) else None
    if features is None or inputs > 1:
        raise examples.unreadable(slot.name)
    read = examples.Examples(features, tensor, slot.name)
    if slot.name not in base64:
        return read
    return AsItIs(replace(slot, base64=True, example=read.made_up()), tensor)


def _ragged(flow: Flow, concrete: Mapping[str, Any], slots: Mapping[Slot, str]) -> dict[str, Ragged]:
    """The ragged tensors, by the tensors of their values: functions say which of their arguments make one."""
    parts: dict[tuple[str, int], dict[int, tuple[Slot, str]]] = {}
    for slot, tensor in slots.items():
        for function, position in flow.arguments(tensor):
            leaves = list(_leaves(concrete[function].canonicalized_input_signature)) if function in concrete else []
            spec, part = leaves[position] if position < len(leaves) else (None, 0)
            if spec is not None and spec.type_spec_class_name == "SparseTensorSpec":
                raise ModelFileError(not_dense("Input", slot.name))
            if spec is not None and spec.type_spec_class_name == "RaggedTensorSpec":
                parts.setdefault((function, position - part), {})[part] = slot, tensor
    found = {}
    for (function, first), tensors in parts.items():
        spec, _ = list(_leaves(concrete[function].canonicalized_input_signature))[first]
        if sorted(tensors) != list(range(spec.num_flat_components)):
            raise ModelFileError(not_dense("Input", tensors[min(tensors)][0].name))
        (slot, values), splits = tensors[0], [tensors[i] for i in sorted(tensors)[1:]]
        if splits:
            inner = (slot.shape or (None,))[1:]
            whole = replace(slot, shape=(None,) * (len(splits) + 1) + inner)
            found[values] = Ragged(whole, values, tuple(tensor for _, tensor in splits), splits[0][0].dtype)
    return found


def _leaves(value: Any) -> Iterator[tuple[Any, int]]:
    """The tensors of TensorFlow's message `StructuredValue`: of what they are parts, and which one."""
    kind = value.WhichOneof("kind")
    if kind in ("tuple_value", "list_value"):
        for each in getattr(value, kind).values:
            yield from _leaves(each)
    elif kind == "dict_value":
        for key in sorted(value.dict_value.fields):
            yield from _leaves(value.dict_value.fields[key])
    elif kind == "named_tuple_value":
        for pair in value.named_tuple_value.values:
            yield from _leaves(pair.value)
    elif kind == "type_spec_value":
        yield from ((value.type_spec_value, part) for part in range(min(value.type_spec_value.num_flat_components, 99)))
    elif kind in ("tensor_spec_value", "bounded_tensor_spec_value"):
        yield None, 0


def not_dense(kind: str, name: str) -> str:
    """What to say of an input or output that is no plain tensor."""
    return (
        f"{kind} {name!r} is a ragged or sparse tensor in a form that cannot be served; export the model with dense "
        "ones (tf.RaggedTensor.to_tensor, tf.sparse.to_dense)."
    )
