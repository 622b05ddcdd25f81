"""What a GGUF file may hold: the types of values in its metadata, those of tensors, and names that tell much."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Scalar(NamedTuple):
    """A type of numbers in the metadata."""

    name: str
    form: struct.Struct


SCALARS: dict[int, Scalar] = {
    0: Scalar("u8", struct.Struct("<B")),
    1: Scalar("i8", struct.Struct("<b")),
    2: Scalar("u16", struct.Struct("<H")),
    3: Scalar("i16", struct.Struct("<h")),
    4: Scalar("u32", struct.Struct("<I")),
    5: Scalar("i32", struct.Struct("<i")),
    6: Scalar("f32", struct.Struct("<f")),
    7: Scalar("bool", struct.Struct("<?")),
    10: Scalar("u64", struct.Struct("<Q")),
    11: Scalar("i64", struct.Struct("<q")),
    12: Scalar("f64", struct.Struct("<d")),
}
"""By their number in the file; 8 is a string, 9 an array."""


class TensorType(NamedTuple):
    """How the elements of a tensor are stored: in blocks, each of so many elements and bytes."""

    name: str
    block: int
    block_bytes: int


TENSOR_TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}
"""By their number in the file. Numbers that are missing were given up."""

VOCABULARY = "tokenizer.ggml.tokens"
"""The key of the tokens."""

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""Architectures that read a whole text at once, and generate none."""

WHOLE_HEADS = frozenset({
    "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "dbrx", "deepseek", "dots1",
    "dream", "ernie4_5", "ernie4_5-moe", "exaone", "exaone4", "falcon", "granite", "granitemoe", "grok", "grovemoe",
    "hunyuan-dense", "hunyuan-moe", "internlm2", "jais2", "llada", "llada-moe", "llama", "llama4", "llama-embed",
    "mistral3", "olmo", "olmo2", "olmoe", "orion", "plamo", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe",
    "qwen3vl", "qwen3vlmoe", "seed_oss", "smallthinker", "smollm3", "starcoder2", "xverse",
})  # fmt: skip
"""Architectures of which llama.cpp takes for granted that keys and values have heads of one size, all of it rotated."""
