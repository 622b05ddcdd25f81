"""Tests of texts that are joined to one sequence, and of threads that compute at once: each answer is its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Device, InvalidInput, TensorBackend, Tensors
from backends.transformers import joining
from backends.transformers.classify import TransformersClassifyBackend
from backends.transformers.embedding import TransformersEmbeddingBackend, TransformersEmbeddingOptions
from backends.transformers.heads import ClassifyOptions
from backends.transformers.tokens import Reader
from tests import models_transformers
from tests import models_transformers_heads as trained
from tests.models_transformers import TOKENIZER, bert, edit, save

pytest.importorskip("transformers")

TWO_THREADS = Device("cpu", threads=2)
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "near", "river", "bank"]
TEXTS = [" ".join(WORDS[(n + i) % len(WORDS)] for i in range(n)) for n in (1, 40, 3, 17, 18, 7, 29, 2, 50, 15)]
SIZES = {
    "vocab_size": 30522,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def texts(*of: str) -> Tensors:
    return {"text": np.array(of, object)}


def embedding(folder: Path, device: Device = TWO_THREADS, **options: Any) -> TransformersEmbeddingBackend:
    backend = TransformersEmbeddingBackend()
    backend.load(folder, device, TransformersEmbeddingOptions(**options))
    return backend


def classifier(name: str) -> TransformersClassifyBackend:
    backend = TransformersClassifyBackend()
    backend.load(trained.path(name), TWO_THREADS, ClassifyOptions())
    return backend


def made(folder: Path, architecture: str, **config: Any) -> Path:
    """A random model of some architecture, which reads words as MiniLM does."""
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, f"{architecture}Model")
    save(cls(cls.config_class(**{**SIZES, **config})), folder)
    for name in TOKENIZER:
        shutil.copyfile(models_transformers.minilm() / name, folder / name)
    edit(folder / "tokenizer_config.json", model_max_length=60)
    return folder


def by_the_library(folder: Path, text: str) -> Any:
    """The mean of a text's vectors at length 1, computed alone."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    if "token_type_ids" in tokens and not hasattr(model.config, "type_vocab_size"):
        del tokens["token_type_ids"]
    with torch.inference_mode():
        mean = model(**tokens).last_hidden_state[0].mean(0).numpy()
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize(
    ("architecture", "config", "joins"),
    [
        ("Bert", {}, True),
        ("Roberta", {"pad_token_id": 1}, True),  # its positions begin at 2
        ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, True),
        ("ModernBert", {"local_attention": 8, "pad_token_id": 0}, True),  # looks at 4 tokens on either side
        ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}, True),  # looks back only
        ("MPNet", {}, False),  # computes attention by itself
        ("ConvBert", {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3}, False),  # looks over borders
        ("FNet", {"type_vocab_size": 4}, False),  # has no attention
    ],
)
def test_texts_are_joined_if_that_changes_nothing(
    architecture: str, config: dict[str, Any], joins: bool, tmp_path: Path
) -> None:
    folder = made(tmp_path / "model", architecture, **config)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if "type_vocab_size" in config else [])]
    if architecture not in ("Bert", "Roberta"):
        edit(folder / "tokenizer_config.json", model_input_names=names)
    backend = embedding(folder)
    assert backend._reader._joins == joins
    found = backend.predict(texts(*TEXTS))["embedding"]
    for text, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(vector, by_the_library(folder, text), atol=1e-5)
        np.testing.assert_allclose(vector, backend.predict(texts(text))["embedding"][0], atol=1e-5)


def test_a_batch_that_is_too_long_for_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = embedding(models_transformers.minilm())
    whole = backend.predict(texts(*TEXTS))
    monkeypatch.setattr(joining, "_CALL_TOKENS", 45)
    parts = backend.predict(texts(*TEXTS))
    np.testing.assert_array_equal(parts["tokens"], whole["tokens"])
    np.testing.assert_allclose(parts["embedding"], whole["embedding"], atol=1e-6)
    assert list(joining.groups([9, 40, 5, 60, 3])) == [[0], [1, 2], [3], [4]]
    assert list(joining.groups([])) == []


def test_tokens_of_a_prompt_do_not_count_in_a_joined_text(tmp_path: Path) -> None:
    modules = ("Pooling", {"pooling_mode_mean_tokens": True, "include_prompt": False})
    folder = models_transformers.as_sentence_transformer(bert(tmp_path / "model"), modules)
    backend = embedding(folder, prompt="query: ")
    assert backend._reader._joins
    joined = backend.predict(texts(*TEXTS[:4]))["embedding"]
    backend._reader._joins = False
    np.testing.assert_allclose(joined, backend.predict(texts(*TEXTS[:4]))["embedding"], atol=1e-5)


def test_what_cannot_be_compared_is_padded() -> None:
    backend = embedding(models_transformers.minilm(), dtype="bfloat16")
    assert not backend._reader._joins
    assert backend.predict(texts("a cat", "a dog sat"))["tokens"].tolist() == [4, 5]


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("names", texts(*[f"Maria lives in Paris. {'Then nothing.' * n}" for n in (0, 4, 1, 9)])),
        ("capitals", texts("the [MASK] is blue", "[MASK]", "one [MASK] and another [MASK] one")),
    ],
)
def test_heads_of_single_tokens_join_texts(name: str, batch: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = classifier(name)
    monkeypatch.setattr(Reader, "settle", lambda *_, **__: None)
    padded = classifier(name)
    assert reader_of(joined)._joins
    assert not reader_of(padded)._joins
    expected = padded.predict(batch)
    for key, array in joined.predict(batch).items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected[key], atol=1e-5)
        else:
            np.testing.assert_array_equal(array, expected[key])


def reader_of(backend: TransformersClassifyBackend) -> Reader:
    reader: Reader = backend._loaded.reader  # type: ignore[attr-defined]
    return reader


# --- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [lambda: embedding(models_transformers.minilm()), lambda: classifier("names")])
def test_threads_at_once_answer_as_one(load: Callable[[], TensorBackend]) -> None:
    backend = load()
    assert backend.parallel
    batches = [texts(*TEXTS[i:], "no") for i in range(8)]
    expected = [backend.predict(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(backend.predict_on_one_thread, batches * 3))
    for mine, theirs in zip(found, expected * 3, strict=True):
        for name, array in theirs.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(mine[name], array, atol=1e-5)
            else:
                np.testing.assert_array_equal(mine[name], array)


def test_texts_are_cut_for_those_alone_who_ask() -> None:
    backend = embedding(models_transformers.minilm())

    def tokens(cut: bool) -> Any:
        try:
            batch = {**texts("a " * 300), "truncate": np.array([cut])}
            return backend.predict_on_one_thread(batch)["tokens"].tolist()
        except InvalidInput as e:
            return e.message.split(";")[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tokens, [True, False] * 12))
    assert found == [[256], "The text has 302 tokens"] * 12


def test_a_thread_computes_with_as_many_threads_as_it_may() -> None:
    import torch

    backend = embedding(models_transformers.minilm())
    assert counted(torch, backend.predict) == 2
    assert counted(torch, backend.predict_on_one_thread) == 1
    assert not embedding(models_transformers.minilm(), Device("cpu", threads=1)).parallel


def counted(torch: Any, predict: Callable[[Tensors], Tensors]) -> int:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(predict, texts("a cat")).result()
        return pool.submit(torch.get_num_threads).result()


def test_a_model_that_changes_with_the_longest_text_is_not_shared(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    stretching = made(tmp_path / "a", "Qwen3", num_key_value_heads=2, head_dim=8, rope_parameters=rope)
    plain = made(tmp_path / "b", "Qwen3", num_key_value_heads=2, head_dim=8)
    for folder in (stretching, plain):
        edit(folder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    assert not embedding(stretching).parallel
    assert embedding(plain).parallel
