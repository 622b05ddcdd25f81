"""What llama.cpp takes for granted of a header, at the price of the process.

It refuses most files that make no sense with a message. These checks are for the rest: values on which it aborts or
divides by zero, which no model that works has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from backends.base import ModelFileError
from backends.gguf.types import ENCODERS, VOCABULARY, WHOLE_HEADS

if TYPE_CHECKING:
    from backends.gguf.file import Header

_COUNTS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
    "nextn_predict_layers",
    "pooling_type",
)
_BY_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv", "expert_used_count")
_EPSILONS = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon")
_MAX_LAYERS = 512
_MAX_EXPERTS = 1024
_POOLINGS = (0, 1, 2, 3, 4, 2**32 - 1)
"""None, mean, first, last, rank, unspecified."""
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_ADDED = ("token_types.weight",)
"""Matrices whose rows are added as they are. Like all vectors, they must be of the type that is computed in."""
_NO_WEIGHTS = ("F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K")
"""Types that no operation of a model takes for its weights."""
_TABLES = ("tid2eid.weight",)
"""Tensors that are no weights, but tables of numbers."""
_BYTE_FALLBACK = ("llama",)
"""Tokenizers that look for a token of each byte that they know no other token for."""


def check(header: Header) -> None:
    """Raises `ModelFileError` for the first thing that does not make sense."""
    for problem in _problems(header):
        raise ModelFileError(f"{header.path.name} is corrupt: {problem}. Download it again.")


def _problems(header: Header) -> Iterator[str]:
    yield from _numbers(header)
    yield from _layers(header)
    yield from _heads(header)
    yield from _experts(header)
    yield from _rope(header)
    yield from _pooling(header)
    yield from _vocabulary(header)
    yield from _weights(header)


def _numbers(header: Header) -> Iterator[str]:
    """Numbers have the types that llama.cpp reads them by; it refuses others, but not all who use a header do."""
    for key in _COUNTS:
        name, value = f"{header.architecture}.{key}", header.own(key)
        kind = header.types.get(name, "u32")
        if kind != "u32" and not (key in _BY_LAYER and kind in ("arr[u32]", "arr[i32]")):
            yield f"the value of {name!r} is of type {kind}; it must be u32"
        elif kind != "u32" and not (isinstance(value, tuple) and 0 < len(value) <= _MAX_LAYERS and min(value) >= 0):
            yield f"the value of {name!r} is no list of a number for each layer"
    for key in _EPSILONS:
        epsilon = header.own(key)
        if epsilon is not None and not (isinstance(epsilon, float) and 0 <= epsilon < math.inf):
            yield f"it normalizes with an epsilon of {epsilon}"


def _layers(header: Header) -> Iterator[str]:
    layers = header.own("block_count")
    if layers is None:
        return
    if not 1 <= layers <= _MAX_LAYERS:
        yield f"it claims to have {layers} layers; 1 to {_MAX_LAYERS} make sense"
    elif _number(header, "nextn_predict_layers") > layers:
        yield "it claims to have more layers for prediction than layers"


def _heads(header: Header) -> Iterator[str]:
    """Heads of the queries share the heads of keys and values evenly."""
    queries, keys = header.own("attention.head_count"), header.own("attention.head_count_kv")
    for query_heads, key_heads in zip(*_aligned(queries, queries if keys is None else keys), strict=True):
        if key_heads and query_heads % key_heads:
            yield f"its {query_heads} attention heads cannot share {key_heads} heads of keys and values"
    width, heads = _number(header, "embedding_length"), _number(header, "attention.head_count")
    if not heads:
        return
    key, value = (_number(header, f"attention.{part}_length", width // heads) for part in ("key", "value"))
    if header.own("attention.key_length") is None and width % heads:
        yield f"its {heads} attention heads cannot share a width of {width}"
    elif header.architecture in ENCODERS | WHOLE_HEADS and key != value:
        yield f"its keys have {key} elements, and its values {value}"
    elif header.architecture in WHOLE_HEADS and (rotated := _number(header, "rope.dimension_count", key)) != key:
        yield f"it rotates {rotated} of {key} elements of its keys; all of them make sense"


def _aligned(first: Any, second: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two values, each for all layers or one for each; of differing numbers, as many as both have."""
    if first is None or second is None:
        return (), ()
    a = first if isinstance(first, tuple) else (first,)
    b = second if isinstance(second, tuple) else (second,)
    a, b = (a * len(b) if len(a) == 1 else a), (b * len(a) if len(b) == 1 else b)
    size = min(len(a), len(b))
    return a[:size], b[:size]


def _experts(header: Header) -> Iterator[str]:
    experts, used = _number(header, "expert_count"), header.own("expert_used_count") or 0
    most = max(used, default=0) if isinstance(used, tuple) else used
    dense = experts == 1 and header.architecture.startswith("hunyuan")  # which writes 1 for none
    groups, used_groups = _number(header, "expert_group_count"), _number(header, "expert_group_used_count")
    if experts > _MAX_EXPERTS or most > experts or (experts and not most and not dense):
        yield f"it claims to use {most} of {experts} experts"
    elif groups and not groups < experts:
        yield f"it claims to have {groups} groups of {experts} experts"
    elif groups > 1 and (experts % groups or not 0 < used_groups < groups):
        yield f"it claims to use {used_groups} of {groups} groups of {experts} experts"


def _rope(header: Header) -> Iterator[str]:
    scaling = header.own("rope.scaling.type")
    if scaling is not None and scaling not in _ROPE_SCALINGS:
        yield f"its way of scaling positions is {scaling!r}; it must be one of {', '.join(_ROPE_SCALINGS)}"
    for key in ("rope.dimension_count", "rope.dimension_count_swa"):
        if _number(header, key) % 2:
            yield f"it rotates {header.own(key)} dimensions; they must come in pairs"


def _pooling(header: Header) -> Iterator[str]:
    way = header.own("pooling_type")
    if way is not None and way not in _POOLINGS:
        yield f"it pools texts in the way {way}, which there is not"


def _vocabulary(header: Header) -> Iterator[str]:
    tokens = header.length(VOCABULARY)
    if tokens is None:
        return
    model = header.metadata.get("tokenizer.ggml.model")
    if model in _BYTE_FALLBACK and not header.has_all_bytes:
        yield "its tokenizer falls back to single bytes, but not all of them are in its vocabulary"
    if model == "bert" and header.has_byte_tokens:
        yield "its tokenizer knows no bytes, but its vocabulary has some"
    if not tokens:
        yield "its vocabulary is empty"
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    if embedding is not None and len(embedding.shape) > 1 and embedding.shape[1] < tokens:
        yield f"it has embeddings for {embedding.shape[1]} tokens, but a vocabulary of {tokens}"


def _weights(header: Header) -> Iterator[str]:
    for tensor in header.tensors:
        as_it_is = len(tensor.shape) == 1 or tensor.name in _ADDED
        if (tensor.type in _NO_WEIGHTS and not tensor.name.endswith(_TABLES)) or (as_it_is and tensor.type != "F32"):
            yield f"the tensor {tensor.name!r} is of type {tensor.type}"


def _number(header: Header, key: str, default: int = 0) -> int:
    value = header.own(key)
    return value if isinstance(value, int) else default
