"""all-MiniLM-L6-v2 as GGUF, from the safetensors and the vocabulary of a package, without PyTorch.

llama.cpp's own converter needs PyTorch and transformers for this. The names and the metadata here are the ones that it
writes for such a model. Matrices are stored in 16 bits; vectors, and those that are only added, in 32.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {  # of the tensors, in the safetensors file and in GGUF
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
LAYER_NAMES = {  # the same, behind "encoder.layer.N." and "blk.N."
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
ADDED = ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight")
SPECIAL = {"[PAD]": "pad", "[UNK]": "unk", "[CLS]": "bos", "[SEP]": "sep", "[MASK]": "mask"}


def write(weights: bytes, vocabulary: bytes, config: bytes, path: Path) -> None:
    """Writes the model to `path`. The arguments are ``model.safetensors``, ``vocab.txt`` and ``config.json``."""
    import gguf

    facts = json.loads(config)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_block_count(facts["num_hidden_layers"])
    writer.add_context_length(facts["max_position_embeddings"])
    writer.add_embedding_length(facts["hidden_size"])
    writer.add_feed_forward_length(facts["intermediate_size"])
    writer.add_head_count(facts["num_attention_heads"])
    writer.add_layer_norm_eps(facts["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(facts["type_vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_vocabulary(writer, vocabulary.decode().split("\n")[: facts["vocab_size"]])
    for name, tensor in tensors(weights):
        if name != "embeddings.position_ids" and not name.startswith("pooler."):  # the pooler is not used
            is_matrix = tensor.ndim > 1 and name not in ADDED
            writer.add_tensor(renamed(name), tensor.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: Any, tokens: list[str]) -> None:
    """Adds the vocabulary of a WordPiece tokenizer.

    llama.cpp marks the beginnings of words, and WordPiece their continuations: ``do``, ``##ing`` are ``▁do``, ``ing``.
    """
    import gguf

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([t if t in SPECIAL else t[2:] if t.startswith("##") else f"\u2581{t}" for t in tokens])
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens])
    for token, role in SPECIAL.items():
        getattr(writer, f"add_{role}_token_id")(tokens.index(token))


def renamed(name: str) -> str:
    """The name of a tensor in GGUF, such as ``blk.0.attn_q.weight``."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("encoder.layer."):
        return f"{NAMES[module]}.{kind}"
    number, _, rest = module.removeprefix("encoder.layer.").partition(".")
    return f"blk.{number}.{LAYER_NAMES[rest]}.{kind}"


def tensors(data: bytes) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The tensors of a safetensors file: the length of its header u64, the header in JSON, and the elements."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    dtypes = {"F32": "<f4", "I64": "<i8"}
    for name, facts in header.items():
        if name != "__metadata__":
            begin, end = facts["data_offsets"]
            yield name, np.frombuffer(body[begin:end], dtypes[facts["dtype"]]).reshape(facts["shape"])
