"""EfficientNet-Lite0 as ONNX, from the PyTorch weights of a package, without PyTorch.

The graph is the published one (Tan & Le 2019, the Lite variant: no squeeze-and-excite, ReLU6 for Swish) with each batch
normalization folded into the convolution before it. Input ``image`` f32 [batch, 3, 224, 224], output ``logits`` f32
[batch, 1000]. Labels and preprocessing are stored in the file's metadata, where UniModel finds them.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Weights = dict[str, np.ndarray[Any, Any]]

STAGES = (  # repeats, kernel, stride of the first, expansion
    (1, 3, 1, 1),
    (2, 3, 2, 6),
    (2, 5, 2, 6),
    (3, 3, 2, 6),
    (3, 5, 1, 6),
    (4, 5, 2, 6),
    (1, 3, 1, 6),
)
EPSILON = 1e-3  # of every batch normalization
PREPROCESS = {
    "size": 224,
    "resize": 256,
    "crop": True,
    "interpolation": "bicubic",
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
    "color": "rgb",
}


def write(weights: bytes, names: bytes, path: Path) -> None:
    """Writes the model to `path`. `weights` is the ``.pth`` file, `names` JSON ``{"0": "tench, Tinca tinca", …}``."""
    import onnx

    model = build(read_pth(weights))
    onnx.helper.set_model_props(
        model, {"labels": json.dumps(short_labels(json.loads(names))), "unimodel.preprocess": json.dumps(PREPROCESS)}
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def short_labels(names: dict[str, str]) -> list[str]:
    """The first synonym of each class; all of them where the first alone would be ambiguous."""
    full = [names[str(i)] for i in range(len(names))]
    first = [name.split(",")[0] for name in full]
    return [short if first.count(short) == 1 else name for short, name in zip(first, full, strict=True)]


class _Graph:
    """Collects nodes and initializers; every method returns the name of its output."""

    def __init__(self, weights: Weights) -> None:
        from onnx import helper, numpy_helper

        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers = [
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(6, np.float32), "six"),
        ]
        self._node, self._tensor = helper.make_node, numpy_helper.from_array

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(self._node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self.initializers.append(self._tensor(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def conv(self, x: str, conv: str, norm: str, *, stride: int = 1, depthwise: bool = False) -> str:
        """A convolution without bias, padded as TensorFlow's SAME, and the batch normalization after it."""
        kernel = self.weights[f"{conv}.weight"]
        mean, variance = self.weights[f"{norm}.running_mean"], self.weights[f"{norm}.running_var"]
        scale = self.weights[f"{norm}.weight"] / np.sqrt(variance + EPSILON)
        w = self.constant(f"{conv}.weight", kernel * scale[:, None, None, None])
        b = self.constant(f"{conv}.bias", self.weights[f"{norm}.bias"] - mean * scale)
        return self.add(
            "Conv",
            x,
            w,
            b,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            group=kernel.shape[0] if depthwise else 1,
            auto_pad="SAME_UPPER",
        )

    def relu6(self, x: str) -> str:
        return self.add("Clip", x, "zero", "six")


def build(weights: Weights) -> Any:
    """The `onnx.ModelProto` of the weights."""
    from onnx import TensorProto, helper

    g = _Graph(weights)
    x = g.relu6(g.conv("image", "_conv_stem", "_bn0", stride=2))
    block = 0
    for repeats, _, first_stride, expansion in STAGES:
        for repeat in range(repeats):
            x = _block(g, x, f"_blocks.{block}", stride=first_stride if repeat == 0 else 1, expand=expansion != 1)
            block += 1
    x = g.relu6(g.conv(x, "_conv_head", "_bn1"))
    x = g.add("Flatten", g.add("GlobalAveragePool", x), axis=1)
    w, b = g.constant("_fc.weight", weights["_fc.weight"]), g.constant("_fc.bias", weights["_fc.bias"])
    g.nodes.append(helper.make_node("Gemm", [x, w, b], ["logits"], name="classifier", transB=1))
    graph = helper.make_graph(
        g.nodes,
        "efficientnet-lite0",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        g.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _block(g: _Graph, x: str, name: str, *, stride: int, expand: bool) -> str:
    """An inverted residual block: widen, filter each channel, narrow; added to its input where the shapes allow."""
    y = g.relu6(g.conv(x, f"{name}._expand_conv", f"{name}._bn0")) if expand else x
    y = g.relu6(g.conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, depthwise=True))
    y = g.conv(y, f"{name}._project_conv", f"{name}._bn2")
    narrow, wide = g.weights[f"{name}._project_conv.weight"].shape[:2]
    channels_in = g.weights[f"{name}._expand_conv.weight"].shape[1] if expand else wide
    return g.add("Add", x, y) if stride == 1 and channels_in == narrow else y


# --- PyTorch's first file format ------------------------------------------------------------------------------------
# Five pickles (a magic number, the protocol, facts of the machine, the tensors, the keys of the storages), then for
# each key its count of elements (int64) and its raw little-endian elements.

_MAGIC = 0x1950A86A20F9469CFC6C


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements. The weights were converted from TensorFlow, so their axes lie in another order than they count."""


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    """Stands in for ``torch._utils._rebuild_tensor_v2``: notes where the elements will be."""
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Knows the four names that saved weights need, and no other: nothing in the file can run."""

    names = {  # noqa: RUF012 - never changed
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f"the weights refer to {module}.{name}, which is not a tensor")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(key, dtype)


def read_pth(data: bytes) -> Weights:
    """The named tensors of a ``.pth`` file in PyTorch's first format. Raises `pickle.UnpicklingError`."""
    stream = io.BytesIO(data)
    magic, _, _, tensors, keys = (_Unpickler(stream).load() for _ in range(5))
    if magic != _MAGIC:
        raise pickle.UnpicklingError("this is not a file of PyTorch's first format")
    dtypes = {t.storage.key: t.storage.dtype for t in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        storages[key] = np.frombuffer(stream.read(count * dtypes[key].itemsize), dtypes[key])
    return {name: _view(t, storages[t.storage.key]) for name, t in tensors.items()}


def _view(t: _Tensor, storage: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    last = t.offset + sum((size - 1) * stride for size, stride in zip(t.shape, t.strides, strict=True))
    if not 0 <= t.offset <= last < len(storage) or min(t.strides, default=0) < 0:
        raise pickle.UnpicklingError("the weights hold a tensor that reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in t.strides]
    return np.lib.stride_tricks.as_strided(storage[t.offset :], t.shape, strides, writeable=False)
