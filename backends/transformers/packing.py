"""Weights of linear layers, laid out once for the processor's matrix kernels instead of anew in each call.

PyTorch keeps a layer's weights as they are in the file, and its kernels reorder them whenever they compute. oneDNN,
which comes with PyTorch, takes them in an order of its own: with MiniLM a call takes about a seventh less time, and the
next token of eight answers of SmolLM2 half of it. PyTorch has this for compiled models alone; it is used here through
the same operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from backends.base import Tensors

Array = np.ndarray[Any, Any]

_TOLERANCE = 1e-3
"""Of an answer that must stay the same: sums in another order differ by a thousandth of that."""


def linear_layers(torch: Any, model: Any) -> list[Any]:
    """The layers that can be packed: plain ones, of float32, whose weights are nobody else's.

    A table of embeddings may be the same tensor. It stays as it is, beside the packed copy.
    """
    modules = list(model.modules())
    owners = Counter(
        id(weight)
        for module in modules
        if type(module) is not torch.nn.Embedding
        for weight in module.parameters(recurse=False)
    )
    return [
        module
        for module in modules
        if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32 and owners[id(module.weight)] == 1
    ]


def nbytes(layers: list[Any]) -> int:
    """Bytes of the weights of layers."""
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)


def pack(torch: Any, layers: list[Any], answer: Callable[[], Tensors]) -> bool:
    """Packs layers on the CPU; returns whether they are packed now.

    They are left as they were where PyTorch cannot pack, or where the `answer` of the model is no longer what it was:
    its code may read weights by itself. Until that is known, both copies of the weights are there.
    """
    if not layers or not torch.backends.mkldnn.is_available():
        return False
    before, weights = answer(), [layer.weight for layer in layers]
    try:
        for layer in layers:
            _pack(torch, layer)
        if alike(before, answer(), _TOLERANCE):
            return True
    except Exception:  # noqa: S110 - whatever it was, the layers as they were compute
        pass
    for layer, weight in zip(layers, weights, strict=True):
        vars(layer).pop("forward", None)
        layer.weight = weight
    return False


def _pack(torch: Any, layer: Any) -> None:
    """Has one layer compute with packed weights, and lets go of its own."""
    operators = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(layer.weight.detach(), None)
    bias = None if layer.bias is None else layer.bias.detach()
    layer.forward = partial(_linear, operators._linear_pointwise, packed, bias)
    layer.weight = torch.nn.Parameter(layer.weight.new_empty(0), requires_grad=False)


def _linear(operator: Any, packed: Any, bias: Any, x: Any) -> Any:
    return operator(x, packed, bias, "none", [], "")


def alike(before: Tensors, after: Tensors, tolerance: float) -> bool:
    """Whether two answers agree: numbers within what another order of sums changes, all else exactly."""
    return before.keys() == after.keys() and all(
        a.shape == b.shape and (_near(a, b, tolerance) if a.dtype.kind == "f" else bool(np.array_equal(a, b)))
        for a, b in zip(before.values(), after.values(), strict=True)
    )


def _near(a: Array, b: Array, tolerance: float) -> bool:
    """Small numbers may be the sums of large ones, of which the largest tells the size."""
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=1.0))
    return np.allclose(a, b, rtol=tolerance, atol=tolerance / 10 * largest)
