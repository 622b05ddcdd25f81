"""Projectors for tests: small, of random weights, of kinds that llama.cpp knows. No trained one comes in a package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gguf
import numpy as np

from tests import models_gguf
from tests.models_gguf import finish

SMOLLM2 = 576
"""The width of the small LLM."""
WIDTH, INNER, PATCH = 32, 64, 8
SIDE = 64
"""Of the square that these projectors scale an image to."""


@cache
def projector(kind: str = "mlp", width: int = SMOLLM2) -> Path:
    """One that makes 64 tokens of an image (``mlp``), of it and each of its two halves (``tiles``), or 16 that see one
    another (``gemma3``)."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / f"mmproj-{kind}.gguf"
    if kind == "tiles":
        return write(path, "mlp", width, image_grid_pinpoints=[2 * SIDE, SIDE])
    return write(path, kind, width)


def write(path: Path, kind: str = "mlp", width: int = SMOLLM2, side: int = SIDE, **changed: Any) -> Path:
    """Writes one; `changed` are entries of its metadata, ``clip.vision.`` left out, or `None` for none."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", True)
    for key, value in (_numbers(width) | {"image_size": side} | changed).items():
        _put(writer, f"clip.vision.{key}", value)
    random = np.random.default_rng(len(kind))
    for name, shape in {**_tower(side), **TAILS[kind](width)}.items():
        if not (kind == "qwen2vl_merger" and name == "v.patch_embd.bias"):
            _tensor(writer, random, name, shape)
    return finish(writer, path)


@cache
def qwen2vl() -> Path:
    """A random Qwen2-VL of width 64, which sees places in two dimensions. 128 tokens at most."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / "qwen2vl.gguf"
    writer = models_gguf.decoder(path, "qwen2vl")
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    for block in ("blk.0", "blk.1"):
        for name, size in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32)):
            writer.add_tensor(f"{block}.{name}.bias", np.zeros(size, np.float32))
    return finish(writer, path)


def picture(seed: int = 0, height: int = 48, width: int = 80) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random pixels in large squares."""
    squares = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return squares.repeat(8, 0).repeat(8, 1)


def _numbers(width: int) -> dict[str, Any]:
    return {
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "block_count": 2,
        "projection_dim": width,
        "attention.head_count": 4,
        "attention.layer_norm_epsilon": 1e-6,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "projector.scale_factor": 2,
    }


def _put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_uint32(key, value)


def _tower(side: int) -> Mapping[str, tuple[int, ...]]:
    """The encoder: patches of an image, and two layers over them."""
    tensors: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.patch_embd.bias": (WIDTH,),
        "v.position_embd.weight": ((side // PATCH) ** 2, WIDTH),
        "v.post_ln.weight": (WIDTH,),
        "v.post_ln.bias": (WIDTH,),
    }
    for block in ("v.blk.0", "v.blk.1"):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors |= {f"{block}.{name}.weight": (WIDTH, WIDTH), f"{block}.{name}.bias": (WIDTH,)}
        for name in ("ln1", "ln2"):
            tensors |= {f"{block}.{name}.weight": (WIDTH,), f"{block}.{name}.bias": (WIDTH,)}
        tensors |= {f"{block}.ffn_up.weight": (INNER, WIDTH), f"{block}.ffn_up.bias": (INNER,)}
        tensors |= {f"{block}.ffn_down.weight": (WIDTH, INNER), f"{block}.ffn_down.bias": (WIDTH,)}
    return tensors


def _mlp(width: int) -> Mapping[str, tuple[int, ...]]:
    return {
        "mm.0.weight": (INNER, WIDTH),
        "mm.0.bias": (INNER,),
        "mm.2.weight": (width, INNER),
        "mm.2.bias": (width,),
    }


def _gemma3(width: int) -> Mapping[str, tuple[int, ...]]:
    return {"mm.input_projection.weight": (WIDTH, width), "mm.soft_emb_norm.weight": (WIDTH,)}


def _qwen2vl(width: int) -> Mapping[str, tuple[int, ...]]:
    return {
        "v.patch_embd.weight.1": (WIDTH, 3, PATCH, PATCH),
        "mm.0.weight": (4 * WIDTH, 4 * WIDTH),
        "mm.0.bias": (4 * WIDTH,),
        "mm.2.weight": (width, 4 * WIDTH),
        "mm.2.bias": (width,),
    }


def _idefics3(width: int) -> Mapping[str, tuple[int, ...]]:
    return {"mm.model.fc.weight": (width, 4 * WIDTH)}


TAILS = {"idefics3": _idefics3, "mlp": _mlp, "gemma3": _gemma3, "qwen2vl_merger": _qwen2vl}
"""What follows the encoder, by kind."""


def _tensor(writer: gguf.GGUFWriter, random: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
    scale = 0.1 if name.startswith("mm.2") or "projection" in name else 0.3
    writer.add_tensor(name, random.normal(0, scale, shape).astype(np.float32))
