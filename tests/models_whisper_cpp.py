"""Whisper tiny.en as whisper.cpp's file, made of the one in CTranslate2's format: the same trained weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tests import models, models_speech

Weights = dict[str, np.ndarray[Any, Any]]

_ENDS_OF_TEXT = 50256
"""The tokens below it are text."""


def whisper_cpp() -> Path:
    """The file, which is made once. Its name is that of whisper.cpp's own."""
    return models.built("whisper-cpp-1", "ggml-tiny.en.bin", _write)


def _write(path: Path) -> None:
    source = models_speech.whisper()
    weights = models_speech.weights()
    width, heads, layers = 384, 6, 4
    with path.open("wb") as file:
        shape = (51864, 1500, width, heads, layers, 448, width, heads, layers, 80, 1)
        file.write(struct.pack("<I11i", 0x67676D6C, *shape))
        _write_filters(file)
        _write_tokens(file, source / "tokenizer.json")
        for name, value in _renamed(weights).items():
            plain = value.ndim < 2 or "positional" in name or name.endswith(("conv1.bias", "conv2.bias"))
            data = np.ascontiguousarray(value, np.float32 if plain else np.float16)
            file.write(struct.pack("<3i", data.ndim, len(name), 0 if plain else 1))
            file.write(struct.pack(f"<{data.ndim}i", *reversed(data.shape)) + name.encode() + data.tobytes())


def _write_filters(file: BinaryIO) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    filters = FeatureExtractor.get_mel_filters(16_000, 400, n_mels=80).astype(np.float32)
    file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())


def _write_tokens(file: BinaryIO, tokenizer: Path) -> None:
    vocabulary: dict[str, int] = json.loads(tokenizer.read_text())["model"]["vocab"]
    texts = {number: text for text, number in vocabulary.items()}
    file.write(struct.pack("<i", _ENDS_OF_TEXT))
    byte_of = _bytes_of_characters()
    for number in range(_ENDS_OF_TEXT):
        token = bytes(byte_of[c] for c in texts[number])
        file.write(struct.pack("<I", len(token)) + token)


def _bytes_of_characters() -> dict[str, int]:
    """What the characters in which GPT-2 writes its tokens stand for."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def _renamed(weights: Weights) -> Weights:
    """The weights by whisper.cpp's names."""
    out: Weights = {
        "encoder.positional_embedding": weights["encoder/position_encodings/encodings"],
        "decoder.positional_embedding": weights["decoder/position_encodings/encodings"],
        "decoder.token_embedding.weight": weights["decoder/embeddings/weight"],
        "encoder.ln_post.weight": weights["encoder/layer_norm/gamma"],
        "encoder.ln_post.bias": weights["encoder/layer_norm/beta"],
        "decoder.ln.weight": weights["decoder/layer_norm/gamma"],
        "decoder.ln.bias": weights["decoder/layer_norm/beta"],
    }
    for conv in ("conv1", "conv2"):
        out[f"encoder.{conv}.weight"] = weights[f"encoder/{conv}/weight"]
        out[f"encoder.{conv}.bias"] = weights[f"encoder/{conv}/bias"][:, None]
    for part in ("encoder", "decoder"):
        for layer in range(4):
            before, after = f"{part}/layer_{layer}/", f"{part}.blocks.{layer}."
            out |= _attention(weights, f"{before}self_attention/", f"{after}attn", ("query", "key", "value"))
            if part == "decoder":
                out |= _attention(weights, f"{before}attention/", f"{after}cross_attn", ("query",), ("key", "value"))
            out |= _norm(weights, f"{before}ffn/", f"{after}mlp_ln")
            for i, name in enumerate(("mlp.0", "mlp.2")):
                for kind in ("weight", "bias"):
                    out[f"{after}{name}.{kind}"] = weights[f"{before}ffn/linear_{i}/{kind}"]
    return out


def _attention(weights: Weights, before: str, after: str, *groups: tuple[str, ...]) -> Weights:
    out = _norm(weights, before, f"{after}_ln")
    for i, names in enumerate((*groups, ("out",))):
        for kind in ("weight", "bias"):
            parts = np.split(weights[f"{before}linear_{i}/{kind}"], len(names))
            out |= {f"{after}.{name}.{kind}": part for name, part in zip(names, parts, strict=True)}
    del out[f"{after}.key.bias"]  # which is zero: Whisper has none
    return out


def _norm(weights: Weights, before: str, after: str) -> Weights:
    return {
        f"{after}.weight": weights[f"{before}layer_norm/gamma"],
        f"{after}.bias": weights[f"{before}layer_norm/beta"],
    }
