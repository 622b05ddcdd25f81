"""GGUF files for tests: tiny random models of real architectures, and headers written field by field."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gguf
import numpy as np

from tests import models

WORDS = ("paris", "is", "the", "capital", "of", "france", "what", "a", "cat", "dog", "sat", "on", "mat", "?", ".")
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in WORDS))


def smollm2() -> Path:
    """A small LLM that chats."""
    return models.model("smollm2", "model.gguf")


def minilm() -> Path:
    """Embeddings of English sentences: 384 numbers, texts of up to 512 tokens."""
    return models.model("minilm-gguf", "model.gguf")


@cache
def reranker(template: str | None = None) -> Path:
    """A random BERT that gives a pair of texts a score: no trained one comes in a package. 64 tokens at most."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / "reranker.gguf"
    writer = bert(path, pooling=gguf.PoolingType.RANK)
    random = np.random.default_rng(1)
    add(writer, random, "cls.weight", 32, 32)
    add(writer, random, "cls.bias", 32)
    add(writer, random, "cls.output.bias", 1)
    add(writer, random, "cls.output.weight", 1, 32)  # the last one, since it needs no padding
    if template is not None:
        writer.add_string("tokenizer.chat_template.rerank", template)
    return finish(writer, path)


@cache
def embedder() -> Path:
    """A random BERT that makes 32 numbers of a text of at most 64 tokens."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / "embedder.gguf"
    return finish(bert(path, pooling=gguf.PoolingType.MEAN), path)


@cache
def llama() -> Path:
    """A random Llama of two layers that generates nonsense, in the tokens of all single bytes."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / "llama.gguf"
    return finish(decoder(path, "llama"), path)


@cache
def causal_reranker() -> Path:
    """A random Qwen 3 that says how likely it is that a text answers a query. 128 tokens at most."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / "qwen3.gguf"
    writer = decoder(path, "qwen3")
    for block in ("blk.0", "blk.1"):
        for name in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"{block}.{name}.weight", np.ones(16, np.float32))
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    writer.add_string("tokenizer.chat_template.rerank", "<s>query: {query} text: {document}</s>")
    add(writer, np.random.default_rng(2), "cls.output.weight", 2, 64)
    return finish(writer, path)


@cache
def llama_in_parts() -> tuple[Path, ...]:
    """The same model as `llama`, split over several files."""
    path = Path(mkdtemp(prefix="unimodel-test-")) / "llama.gguf"
    finish(decoder(path, "llama", split_max_tensors=9), path)
    return tuple(sorted(path.parent.iterdir()))


def adapter(folder: Path, seed: int, width: int = 576, layers: Sequence[int] = range(10, 20)) -> str:
    """A LoRA adapter of random weights for some layers of a Llama of that width; SmolLM2's has 576."""
    path = folder / f"adapter-{seed}-{width}.gguf"
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4)
    for layer in layers:
        name = f"blk.{layer}.attn_output.weight"
        writer.add_tensor(f"{name}.lora_a", random.standard_normal((4, width)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", random.standard_normal((width, 4)).astype(np.float32))
    return str(finish(writer, path))


def decoder(path: Path, architecture: str, split_max_tensors: int = 0) -> gguf.GGUFWriter:
    """A writer that has all of a random model of the Llama family, with two layers of width 64."""
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_max_tensors)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "</s>", *_bytes(), "he", "ll"])
    writer.add_token_types([3, 3, *[1] * 258])
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    random = np.random.default_rng(0)
    add(writer, random, "token_embd.weight", 260, 64)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    for block in ("blk.0", "blk.1"):
        for name, rows in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64)):
            add(writer, random, f"{block}.{name}.weight", rows, 64)
        for name, shape in (("ffn_gate", (96, 64)), ("ffn_up", (96, 64)), ("ffn_down", (64, 96))):
            add(writer, random, f"{block}.{name}.weight", *shape)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{name}.weight", np.ones(64, np.float32))
    return writer


def _bytes() -> list[str]:
    """The characters that stand for all bytes in GPT-2's tokens: those that can be printed for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def bert(path: Path, pooling: gguf.PoolingType | None = None, tokens: Sequence[str] = TOKENS) -> gguf.GGUFWriter:
    """A writer that has all of a random BERT with two layers of width 32."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-6)
    writer.add_causal_attention(False)
    writer.add_token_type_count(2)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(list(tokens))
    writer.add_token_types([3 if t.startswith("[") else 1 for t in tokens])
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    random = np.random.default_rng(0)
    add(writer, random, "token_embd.weight", len(tokens), 32)
    add(writer, random, "position_embd.weight", 64, 32)
    add(writer, random, "token_types.weight", 2, 32)
    norm(writer, "token_embd_norm")
    for block in ("blk.0", "blk.1"):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(writer, random, f"{block}.{name}.weight", 32, 32)
            add(writer, random, f"{block}.{name}.bias", 32)
        add(writer, random, f"{block}.ffn_up.weight", 64, 32)
        add(writer, random, f"{block}.ffn_up.bias", 64)
        add(writer, random, f"{block}.ffn_down.weight", 32, 64)
        add(writer, random, f"{block}.ffn_down.bias", 32)
        norm(writer, f"{block}.attn_output_norm")
        norm(writer, f"{block}.layer_output_norm")
    return writer


def add(writer: gguf.GGUFWriter, random: np.random.Generator, name: str, *shape: int) -> None:
    """Adds a random tensor."""
    writer.add_tensor(name, random.normal(0, 0.3, shape).astype(np.float32))


def norm(writer: gguf.GGUFWriter, name: str) -> None:
    """Adds a normalization that changes nothing."""
    writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.add_tensor(f"{name}.bias", np.zeros(32, np.float32))


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    """Writes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- headers, field by field ----------------------------------------------------------------------------------------

FORMS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "u64": 10, "i64": 11, "f64": 12}
LETTERS = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q",
    "i64": "q", "f64": "d",
}  # fmt: skip


def text(value: str | bytes) -> bytes:
    """A string as it is stored."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: str, value: Any) -> bytes:
    """An entry of the metadata; `kind` is such as ``u32``, ``str`` or ``arr[f32]``."""
    if kind == "str":
        return text(key) + struct.pack("<I", 8) + text(value)
    if not kind.startswith("arr"):
        return text(key) + struct.pack(f"<I{LETTERS[kind]}", FORMS[kind], value)
    inner = kind[4:-1]
    head = text(key) + struct.pack("<IIQ", 9, 8 if inner == "str" else FORMS[inner], len(value))
    if inner == "str":
        return head + b"".join(map(text, value))
    return head + struct.pack(f"<{len(value)}{LETTERS[inner]}", *value)


def tensor(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """An entry of the list of tensors."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = pair("general.architecture", "str", "llama")


def header(
    pairs: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A whole file. `counts`, of tensors and of pairs, are the true ones when not given."""
    numbers = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, *numbers) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data
