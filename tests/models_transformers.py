"""Hugging Face folders for tests: real ones, and small ones that are made and trained here."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests import models


def minilm() -> Path:
    """A folder of sentence-transformers: 384 numbers of an English sentence, texts of up to 256 tokens."""
    return models.model("minilm", "")


def smollm2() -> Path:
    """A small LLM that chats, its weights in 16 bits."""
    return models.model("smollm2-folder", "")


def copied(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a folder, with links to its large files. `changes` replace keys of ``config.json``."""
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif file.stat().st_size > 1 << 20:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file.resolve())
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    if changes:
        edit(target / "config.json", **changes)
    return target


def edit(file: Path, **changes: Any) -> None:
    """Replaces keys of a JSON object."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


TOKENIZER = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def bert(folder: Path, architecture: str = "BertModel", seed: int = 0, **config: Any) -> Path:
    """Makes a random BERT with two layers of width 32, which reads words as MiniLM does."""
    import torch
    import transformers

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 30522,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    settings = transformers.BertConfig(**{**sizes, **config})
    save(getattr(transformers, architecture)(settings), folder)
    for name in TOKENIZER:
        shutil.copyfile(minilm() / name, folder / name)
    edit(folder / "tokenizer_config.json", model_max_length=64)
    return folder


def save(model: Any, folder: Path) -> None:
    """Saves a model as its library does, in silence."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)


def as_sentence_transformer(folder: Path, *modules: tuple[str, dict[str, Any]]) -> Path:
    """Adds the list of modules to a folder; each is its kind and its ``config.json``."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, (kind, settings) in enumerate(modules, 1):
        path = f"{i}_{kind}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(settings))
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def smollm2_tokenizer(folder: Path) -> Path:
    """Gives a folder the tokenizer of SmolLM2, without its chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(smollm2() / name, folder / name)
    edit(folder / "tokenizer_config.json", chat_template=None)
    return folder


@cache
def llama() -> Path:
    """A random Llama of two layers."""
    return decoder(Path(mkdtemp(prefix="unimodel-test-")) / "llama")


def decoder(folder: Path, architecture: str = "LlamaForCausalLM", **config: Any) -> Path:
    """Makes a random model of two layers that generates nonsense, in the tokens of SmolLM2."""
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, architecture)
    settings = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **_SIZES, **config}
    save(cls(cls.config_class(**settings)), folder)
    return smollm2_tokenizer(folder)


_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.5,
}
