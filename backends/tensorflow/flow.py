"""Where a tensor goes in a graph: what a SavedModel does with its inputs first, in whichever function it does so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backends.tensorflow.program import Array

Node = Any
"""TensorFlow's message `NodeDef`."""

_PASS_ON = ("Identity", "StopGradient", "PlaceholderWithDefault", "EnsureShape", "Cast")
"""Operations that give what they are given, in another type at most."""
_MOST_STEPS = 1000
"""Of following a tensor: functions that call each other could go on for ever."""
_MOST_VALUES = 1 << 16
"""Of a constant that is read; a few bytes of a file can stand for any number of the same value."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A graph, or the body of a function where it is called."""

    nodes: Mapping[str, Node]
    given: Mapping[str, tuple[Place, str]]
    """Where the arguments are from, by their names."""
    function: str = ""
    position: Mapping[str, int] = field(default_factory=dict)
    """Which arguments these are."""


class Use(NamedTuple):
    """One use of a tensor."""

    place: Place
    node: Node
    """`None` where it is an argument of the function."""
    name: str
    """What the tensor is called there."""


class Flow:
    """What of a graph and its functions, of TensorFlow's message `GraphDef`, is computed for `fetches`."""

    def __init__(self, definition: Any, fetches: Iterable[str]) -> None:
        self.root = Place(_ancestors({node.name: node for node in definition.node}, fetches), {})
        self._functions = {function.signature.name: function for function in definition.library.function}
        self._bodies = {
            name: {node.name: node for node in function.node_def} for name, function in self._functions.items()
        }

    def uses(self, tensor: str, place: Place | None = None) -> list[Use]:
        """What computes with a tensor of a place, past what only passes it on and into functions."""
        return [use for use in self._follow(place or self.root, tensor) if use.node is not None]

    def arguments(self, tensor: str) -> list[tuple[str, int]]:
        """The functions that are called with a tensor, and which of their arguments it is."""
        return [
            (use.place.function, use.place.position[use.name])
            for use in self._follow(self.root, tensor)
            if use.node is None
        ]

    def constant(self, place: Place, tensor: str) -> Array | None:
        """The values of a tensor that is always the same; `None` of others, and of large ones."""
        from tensorflow import make_ndarray

        for _ in range(_MOST_STEPS):
            name = node_of(tensor)
            if name in place.given:
                place, tensor = place.given[name]
                continue
            node = place.nodes.get(name)
            if node is not None and node.op == "Const":
                value = node.attr["value"].tensor
                if math.prod(dim.size for dim in value.tensor_shape.dim) > _MOST_VALUES:
                    return None
                try:
                    return make_ndarray(value)  # type: ignore[no-any-return]
                except (TypeError, ValueError):  # a damaged file
                    return None
            if node is None or node.op not in _PASS_ON or not node.input:
                return None
            tensor = node.input[0]
        return None

    def _follow(self, place: Place, tensor: str) -> Iterator[Use]:
        waiting = [(place, node_of(tensor))]
        for _ in range(_MOST_STEPS):
            if not waiting:
                return
            place, name = waiting.pop()
            if name in place.position:
                yield Use(place, None, name)
            for node in place.nodes.values():
                inputs = data_inputs(node)
                if name not in map(node_of, inputs):
                    continue
                called = self._called(node)
                if called in self._functions:
                    body = self._body(called, place, inputs)
                    waiting += [(body, argument) for argument, (_, given) in body.given.items() if given == name]
                elif node.op in _PASS_ON:
                    waiting.append((place, node.name))
                else:
                    yield Use(place, node, name)

    def _called(self, node: Node) -> str:
        """The name of the function that is called with a node's inputs; empty for an operation."""
        if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            return str(node.attr["f"].func.name)
        return str(node.op)

    def _body(self, function: str, place: Place, inputs: list[str]) -> Place:
        names = [argument.name for argument in self._functions[function].signature.input_arg]
        given = {name: (place, node_of(value)) for name, value in zip(names, inputs, strict=False)}
        return Place(self._bodies[function], given, function, {name: i for i, name in enumerate(names)})


def _ancestors(nodes: Mapping[str, Node], fetches: Iterable[str]) -> dict[str, Node]:
    waiting = [node_of(name) for name in fetches]
    found: dict[str, Node] = {}
    while waiting:
        name = waiting.pop()
        if name not in found and name in nodes:
            found[name] = nodes[name]
            waiting += map(node_of, nodes[name].input)
    return found


def node_of(tensor: str) -> str:
    """The node's name in ``^name``, ``name:0`` or, in a function, ``name:output:0``."""
    return tensor.removeprefix("^").partition(":")[0]


def data_inputs(node: Node) -> list[str]:
    """What a node computes with, without what it only waits for."""
    return [name for name in node.input if not name.startswith("^")]
