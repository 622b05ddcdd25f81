"""Tests of the bytes of single tokens: put together, they are the text, whatever kind of tokenizer made them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.transformers.vocabulary import Vocabulary
from tests import models_transformers

pytest.importorskip("transformers")

TEXTS = ["Hello world", "naïve café 東京 🙂", "def f(x):\n\treturn x", " leading", "a  b   c"]
NOTHING = SimpleNamespace()


def vocabulary(inner: Any, **generation: Any) -> Vocabulary:
    return Vocabulary(SimpleNamespace(inner=inner), len(inner), NOTHING, SimpleNamespace(**generation))  # type: ignore[arg-type]


def put_together(found: Vocabulary, text: str) -> str:
    return b"".join(found.token_bytes(token, True) for token in found.tokenize(text)).decode()


def trained(kind: str) -> Any:
    """A small tokenizer of a kind, trained on the texts."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "llama":  # SentencePiece's pieces, and bytes where there is none
        pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{b:02X}>": 3 + b for b in range(256)}}
        for character in "\u2581Helowrdabc":
            pieces.setdefault(character, len(pieces))
        inner = tokenizers.Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        inner.normalizer = normalizers.Replace(" ", "\u2581")
        inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:  # words, some with a mark that they end one
        inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        inner.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(
            vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
        )
        inner.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2s_bytes(text: str) -> None:
    import transformers

    found = vocabulary(transformers.AutoTokenizer.from_pretrained(models_transformers.smollm2()))
    assert put_together(found, text) == text
    assert found.text(found.bos) == "<|im_start|>"
    assert found.token_bytes(found.bos, False) == b""
    assert found.longest_token > 10


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_and_bytes(text: str) -> None:
    assert put_together(vocabulary(trained("llama")), text) == text


def test_other_ways_of_putting_together() -> None:
    found = vocabulary(trained("words"))
    tokens = found.tokenize("Hello world a")
    assert b"".join(found.token_bytes(token, True) for token in tokens).decode().split() == ["Hello", "world", "a"]


def test_words_and_their_ends(tmp_path: Path) -> None:
    import transformers

    found = vocabulary(transformers.AutoTokenizer.from_pretrained(models_transformers.minilm()))
    assert put_together(found, "unbelievable happenings").strip() == "unbelievable happenings"


def test_ends() -> None:
    found = vocabulary(trained("llama"), eos_token_id=[2, 7])
    assert found.end_tokens.tolist() == [2, 7]
    assert (found.ends(7), found.ends(1), found.bos, found.wants_bos) == (True, False, -1, False)
