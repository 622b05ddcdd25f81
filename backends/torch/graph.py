"""What the code of a TorchScript program tells of its inputs: each is followed to the first layers that constrain it.

A TorchScript file declares only that an input is a tensor. But a convolution that an input runs into has a weight,
whose shape tells how many channels it takes; an embedding takes integers; and so on. On the way an input may be turned
around, and what a layer wants is turned back again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from backends.torch.state import owner_of
from backends.torch.turns import FREE, TURNS, Dims, TurnBack

_MAX_STEPS = 2000
"""Values that are looked at for one input."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What an input may be. `dims` are sizes, `FREE`, or the names of dimensions."""

    dtype: str
    dims: Dims
    certain: bool = True
    """Whether the layer says how many dimensions there are."""


Places = tuple[int, ...]
"""Where a tensor is in the tuple or list that it was put into, from the outermost inwards; empty when it is bare."""


class Code:
    """The inlined graph of a method of a module."""

    def __init__(self, module: Any, method: Any) -> None:
        self.module = module
        self.graph = method.inlined_graph
        self.inputs = dict(zip((a.name for a in method.schema.arguments), self.graph.inputs(), strict=True))
        self._flows: dict[str, list[Any]] = {}
        self._link(self.graph)

    def shapes(self, name: str) -> list[Shape]:
        """What the input `name` may be, the likeliest first: as layers say, in the order in which it comes to them."""
        found: dict[Shape, None] = {}
        seen: set[tuple[str, Places]] = set()
        waiting: deque[tuple[Any, Places, tuple[TurnBack, ...]]] = deque([(self.inputs[name], (), ())])
        while waiting and len(seen) < _MAX_STEPS:
            value, places, turns = waiting.popleft()
            if (value.debugName(), places) in seen:
                continue
            seen.add((value.debugName(), places))
            waiting.extend((other, places, turns) for other in self._flows.get(value.debugName(), ()))
            for use in value.uses():
                for shape in self._wanted(use.user, use.offset, places):
                    dims = shape.dims
                    for turn in reversed(turns):
                        dims = turn(dims)
                    found[Shape(shape.dtype, dims, shape.certain)] = None
                waiting.extend((v, s, (*turns, *t)) for v, s, t in self._after(use.user, use.offset, places))
        return sorted(found, key=lambda shape: not shape.certain)

    def row_counts(self) -> list[int]:
        """Counts of rows that the code may fix: the first sizes that it reshapes to, the commonest first."""
        first: Counter[int] = Counter()
        for kind in ("aten::view", "aten::reshape"):
            for node in self.graph.findAllNodes(kind, recurse=True):
                sizes = self._numbers(node.inputsAt(1))
                if sizes and sizes[0] is not None and sizes[0] > 0:
                    first[sizes[0]] += 1
        return [count for count, _ in first.most_common(3)]

    # --- ways through the graph --------------------------------------------------------------------------------------

    def _link(self, block: Any) -> None:
        """Notes which value a value of an inner block becomes outside of it, and of an outer one inside."""
        for node in block.nodes():
            for inner in node.blocks():
                self._link(inner)
                results = list(inner.outputs())
                results = results[1:] if node.kind() == "prim::Loop" else results
                for result, output in zip(results, node.outputs(), strict=True):
                    self._flows.setdefault(result.debugName(), []).append(output)
                if node.kind() == "prim::Loop":
                    for given, inside in zip(list(node.inputs())[2:], list(inner.inputs())[1:], strict=True):
                        self._flows.setdefault(given.debugName(), []).append(inside)

    def _after(self, node: Any, offset: int, places: Places) -> Iterator[tuple[Any, Places, tuple[TurnBack, ...]]]:
        """The values that an operator makes of its operand: each with its places, and how to turn back."""
        kind = node.kind()
        if kind in ("prim::TupleConstruct", "prim::ListConstruct"):
            yield node.outputsAt(0), (offset, *places), ()
        elif kind in ("prim::unchecked_cast", "prim::unchecked_unwrap_optional"):
            yield node.outputsAt(0), places, ()
        elif kind in ("prim::TupleUnpack", "prim::ListUnpack"):
            if places and places[0] < node.outputsSize():
                yield node.outputsAt(places[0]), places[1:], ()
        elif kind in ("prim::TupleIndex", "aten::__getitem__"):
            if places and self._constant(node.inputsAt(1)) == places[0]:
                yield node.outputsAt(0), places[1:], ()
        elif kind == _PACK:
            if offset == 0:
                yield node.outputsAt(0), (), (self._packed(node),)
        elif kind in TURNS:
            turn = TURNS[kind]([self._numbers(each) for each in list(node.inputs())[1:]]) if offset == 0 else None
            if turn is not None:
                yield node.outputsAt(0), (), (turn,)
        elif kind not in _ENDS and kind.startswith(("aten::", "quantized::", "prim::data")):
            for output in node.outputs():
                if output.type().kind() == "TensorType":
                    yield output, (), ()

    def _packed(self, node: Any) -> TurnBack:
        """Back from the steps of all sequences, one below the other, to [batch, sequence, features] or the like."""
        batch_first = self._constant(node.inputsAt(2))
        if batch_first is None:  # not written in the code, but an attribute of the module
            batch_first = owner_of(node.inputsAt(2), self.module)
        lead: Dims = (FREE, FREE) if batch_first else ("sequence", FREE)
        return lambda dims: (*lead, *dims[1:])

    # --- what layers want --------------------------------------------------------------------------------------------

    def _wanted(self, node: Any, offset: int, places: Places) -> Iterable[Shape]:
        kind = node.kind().rstrip("_")
        inputs = list(node.inputs())
        if "conv" in kind and offset == 0 and kind.startswith(("aten::", "quantized::")):
            return self._convolution(kind, inputs)
        if kind in ("aten::linear", "quantized::linear", "quantized::linear_dynamic") and offset == 0:
            return self._features(self._weight_shape(inputs[1]), -1)
        if kind in ("aten::matmul", "aten::mm") and offset == 0:
            return self._features(self._weight_shape(inputs[1]), 0)
        if kind == "aten::addmm" and offset == 1:
            return self._features(self._weight_shape(inputs[2]), 0)
        if kind == "aten::embedding" and offset == 1:
            return [Shape("int64", (FREE, FREE)), Shape("int64", (FREE,))]
        if kind == "aten::embedding_bag" and offset == 1:
            return [Shape("int64", (FREE, FREE)), Shape("int64", (FREE,))]
        if kind == _PACK and offset == 1:
            return [Shape("int64", (FREE,))]
        if kind in ("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"):
            return self._recurrent(inputs, offset, places)
        if kind in ("aten::lstm_cell", "aten::gru_cell", "aten::rnn_tanh_cell", "aten::rnn_relu_cell"):
            weight = self._weight_shape(inputs[2 if offset == 0 else 3])
            return [Shape("float32", (FREE, weight[1]))] if weight is not None and offset < 2 else []
        return self._loosely(kind, inputs, offset)

    def _loosely(self, kind: str, inputs: list[Any], offset: int) -> Iterable[Shape]:
        """Layers that leave open how many dimensions there are, and places that only want a type."""
        if kind in ("aten::batch_norm", "aten::instance_norm", "aten::group_norm") and offset == 0:
            weights = inputs[2:4] if kind == "aten::group_norm" else inputs[1:5]
            shapes = (self._weight_shape(each) for each in weights)
            channels = next((shape[0] for shape in shapes if shape), None)
            if channels is not None:
                trails: tuple[tuple[int, ...], ...] = ((FREE, FREE), (), (FREE,))
                return [Shape("float32", (FREE, channels, *trail), certain=False) for trail in trails]
        if kind == "aten::layer_norm" and offset == 0:
            sizes = self._numbers(inputs[1])
            if sizes and None not in sizes:
                known = tuple(size for size in sizes if size is not None)
                return [Shape("float32", (*(FREE,) * n, *known), certain=False) for n in (2, 1)]
        if kind in ("aten::view", "aten::reshape") and offset == 0:
            sizes = self._numbers(inputs[1]) or []
            rest = [size for size in sizes[1:] if size is not None and size > 0]
            if rest and len(rest) == len(sizes) - 1:
                count = 1
                for size in rest:
                    count *= size
                return [Shape("float32", (FREE, count), certain=False), Shape("float32", (FREE, *rest), certain=False)]
        if kind in ("aten::one_hot", "aten::embedding_renorm") and offset == 0:
            return [Shape("int64", (FREE, FREE), certain=False), Shape("int64", (FREE,), certain=False)]
        if kind in ("aten::gather", "aten::index_select") and offset == 2:
            return [Shape("int64", (FREE, FREE), certain=False), Shape("int64", (FREE,), certain=False)]
        if (kind == "aten::masked_fill" and offset == 1) or (kind == "aten::where" and offset == 0):
            return [Shape("bool", (FREE, FREE), certain=False)]
        if kind in ("aten::logical_not", "aten::bitwise_not"):
            return [Shape("bool", (FREE, FREE), certain=False)]
        return []

    def _convolution(self, kind: str, inputs: list[Any]) -> Iterable[Shape]:
        weight = self._weight_shape(inputs[1])
        if weight is None:
            return []
        general = kind in ("aten::_convolution", "aten::convolution")
        transposed = self._constant(inputs[6]) is True if general else "transpose" in kind
        place = 8 if general else 6
        groups = self._constant(inputs[place]) if kind.startswith("aten::") and len(inputs) > place else 1
        channels = weight[0] if transposed else weight[1] * (groups if isinstance(groups, int) else 1)
        return [Shape("float32", (FREE, channels, *(FREE,) * (len(weight) - 2)))]

    def _features(self, weight: tuple[int, ...] | None, axis: int) -> Iterable[Shape]:
        if weight is None or len(weight) != 2:
            return []
        return [Shape("float32", (FREE, weight[axis])), Shape("float32", (FREE, FREE, weight[axis]), certain=False)]

    def _recurrent(self, inputs: list[Any], offset: int, places: Places) -> Iterable[Shape]:
        """Its input is [batch, sequence, features] or has the sequence first, its state is [layers, batch, width]."""
        packed = inputs[3].type().kind() == "ListType"  # the sizes of its steps come before the state
        if packed:
            inputs, offset = [inputs[0], *inputs[2:]], offset - (offset > 0)
        weights = self._weight_shapes(inputs[2])
        if len(weights) < 2 or None in weights[:2]:
            return []
        first, second = weights[0] or (), weights[1] or ()
        layers, both = (self._constant(inputs[i]) for i in (4, 7))
        batch_first = not packed and self._constant(inputs[8])
        if packed and offset == 0:
            return [Shape("float32", (FREE, first[1]))]
        if offset == 0:
            lead: Dims = (FREE, FREE) if batch_first else ("sequence", FREE)
            return [Shape("float32", (*lead, first[1]))]
        if offset != 1 or not isinstance(layers, int):
            return []
        hidden = second[1] if places != (1,) else second[0] // 4  # they differ in an LSTM with projections
        return [Shape("float32", (layers * (2 if both else 1), FREE, hidden))]

    # --- constants ---------------------------------------------------------------------------------------------------

    def _weight_shape(self, value: Any) -> tuple[int, ...] | None:
        """The shape of a weight, also of one that is kept packed or turned around."""
        node = value.node()
        if node.kind() in ("aten::t", "aten::numpy_T"):
            turned = self._weight_shape(node.inputsAt(0))
            return None if turned is None else turned[::-1]
        if node.kind() == "aten::transpose":
            turned = self._weight_shape(node.inputsAt(0))
            return turned[::-1] if turned is not None and len(turned) == 2 else None
        if node.kind() in ("aten::to", "aten::detach", "aten::contiguous"):
            return self._weight_shape(node.inputsAt(0))
        weight = value.toIValue() if node.kind() == "prim::Constant" else owner_of(value, self.module)
        if hasattr(weight, "unpack"):  # of a quantized layer
            weight = weight.unpack()[0]
        return tuple(weight.shape) if hasattr(weight, "shape") else None

    def _weight_shapes(self, value: Any) -> list[tuple[int, ...] | None]:
        """The shapes of a list of weights."""
        if value.node().kind() == "prim::ListConstruct":
            return [self._weight_shape(each) for each in value.node().inputs()]
        return [tuple(weight.shape) for weight in owner_of(value, self.module) or ()]

    def _constant(self, value: Any) -> Any:
        return value.toIValue() if value.node().kind() == "prim::Constant" else None

    def _numbers(self, value: Any) -> list[int | None] | None:
        """A number, or the numbers of a list, as far as they are known; `None` when it is neither."""
        node = value.node()
        if node.kind() == "prim::ListConstruct":
            parts = [self._constant(each) for each in node.inputs()]
        else:
            whole = self._constant(value)
            parts = list(whole) if isinstance(whole, list) else [whole]
        known = [part if isinstance(part, int) and not isinstance(part, bool) else None for part in parts]
        return known if known else None


_PACK = "aten::_pack_padded_sequence"
_ENDS = frozenset(
    f"aten::{name}"
    for name in (
        "size", "dim", "len", "numel", "item", "eq", "ne", "argmax", "argmin", "mean", "sum", "max", "min", "prod",
        "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
        "conv1d", "conv2d", "conv3d", "_convolution", "convolution", "linear", "matmul", "mm", "addmm", "embedding",
        "embedding_bag", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "view", "reshape",
        "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    )
)  # fmt: skip
"""Operators whose result says nothing more of the operand's shape. Views are looked through only by what they say."""
