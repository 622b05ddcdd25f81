"""Tiny models with random weights, of architectures that remember in other ways than most."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests import models_gguf
from tests.models_gguf import add, finish

WIDTH = 32


def gemma3(folder: Path) -> Path:
    """A model whose layers look back on a window of 32 tokens only. 128 tokens at most."""
    path = folder / "gemma3.gguf"
    writer = models_gguf.decoder(path, "gemma3")
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_sliding_window(32)
    for block in ("blk.0", "blk.1"):
        for name, size in (
            ("attn_q_norm", 16),
            ("attn_k_norm", 16),
            ("post_attention_norm", 64),
            ("post_ffw_norm", 64),
        ):
            writer.add_tensor(f"{block}.{name}.weight", np.ones(size, np.float32))
    return finish(writer, path)


def mamba(folder: Path) -> Path:
    """A recurrent model, whose state cannot be cut back. Its tokens are bytes."""
    path = folder / "mamba.gguf"
    inner, state, rank, kernel = 64, 8, 4, 4
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * 259)
    writer.add_token_types([2, 3, 3, *[6] * 256])
    random = np.random.default_rng(1)
    add(writer, random, "token_embd.weight", 259, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for block in ("blk.0", "blk.1"):
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        add(writer, random, f"{block}.ssm_in.weight", 2 * inner, WIDTH)
        add(writer, random, f"{block}.ssm_conv1d.weight", inner, kernel)
        add(writer, random, f"{block}.ssm_conv1d.bias", inner)
        add(writer, random, f"{block}.ssm_x.weight", rank + 2 * state, inner)
        add(writer, random, f"{block}.ssm_dt.weight", inner, rank)
        writer.add_tensor(f"{block}.ssm_dt.bias", np.full(inner, -2.0, np.float32))
        writer.add_tensor(f"{block}.ssm_a", -np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1)))
        writer.add_tensor(f"{block}.ssm_d", np.ones(inner, np.float32))
        add(writer, random, f"{block}.ssm_out.weight", WIDTH, inner)
    return finish(writer, path)
