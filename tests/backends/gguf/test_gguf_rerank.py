"""Tests of ranking with GGUF models, on a random one: shapes, order, layout of the pairs, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from backends.base import NO_MATCH, Device, InvalidInput, InvalidOption, ModelInfo
from backends.gguf.rerank import GgufRerankBackend, RerankOptions
from tests import models_gguf

pytest.importorskip("llama_cpp")

CPU = Device("cpu", threads=1)
QUERY = "what is the capital of france ?"
TEXTS = ["paris is the capital of france .", "the cat sat on the mat .", "a dog", "paris"]
PAD, UNK, CLS, SEP = range(4)


@pytest.fixture
def loaded() -> Iterator[Any]:
    """Loads models; closes them after the test."""
    backends: list[GgufRerankBackend] = []

    def load(path: Path, **options: Any) -> tuple[GgufRerankBackend, ModelInfo]:
        backend = GgufRerankBackend()
        backends.append(backend)
        return backend, backend.load(path, CPU, RerankOptions(**options))

    yield load
    for backend in backends:
        backend.close()


def ask(backend: GgufRerankBackend, *texts: str, query: str = QUERY) -> Any:
    queries = np.array([query] * len(texts), dtype=object)
    return backend.predict({"query": queries, "text": np.array(texts, dtype=object)})


def ids(*words: str) -> list[int]:
    return [models_gguf.TOKENS.index(f"\u2581{word}") for word in words]


def test_the_signature(loaded: Any) -> None:
    backend, info = loaded(models_gguf.reranker())
    assert info.task == "rerank"
    assert [(s.name, s.dtype, s.shape) for s in (*info.inputs, *info.outputs)] == [
        ("query", "string", ("batch",)),
        ("text", "string", ("batch",)),
        ("score", "float32", ("batch",)),
        ("tokens", "int32", ("batch",)),
    ]
    answer = backend.predict(backend.example())
    assert (answer["score"].shape, answer["tokens"].shape) == ((1,), (1,))
    assert answer["score"].dtype == np.float32


def test_scores_are_of_their_pairs_and_the_same_alone_and_again(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker())
    together = ask(backend, *TEXTS)
    assert np.array_equal(ask(backend, *TEXTS)["score"], together["score"])
    assert len(set(together["score"].tolist())) == len(TEXTS)
    for i, text in enumerate(TEXTS):
        assert ask(backend, text)["score"][0] == pytest.approx(together["score"][i], abs=2e-3)
    backwards = ask(backend, *reversed(TEXTS))
    assert backwards["score"][::-1] == pytest.approx(together["score"], abs=2e-3)
    assert backwards["tokens"][::-1].tolist() == together["tokens"].tolist()


def test_both_texts_count(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker())
    score = ask(backend, TEXTS[0])["score"][0]
    assert abs(ask(backend, TEXTS[0], query="a cat")["score"][0] - score) > 1e-3
    assert abs(ask(backend, TEXTS[1])["score"][0] - score) > 1e-3


def test_many_pairs_take_several_calls(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker())
    texts = ["the cat sat on the mat " * (i % 8 + 1) for i in range(100)]
    scores = ask(backend, *texts)["score"]
    for i in range(8):
        assert scores[i::8] == pytest.approx(scores[i], abs=2e-3)


def test_a_pair_has_the_special_tokens_of_the_vocabulary(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker())
    expected = [CLS, *ids("a", "cat"), SEP, *ids("the", "dog"), SEP]
    assert backend._join("a cat", "the dog").tolist() == expected
    assert ask(backend, "the dog", query="a cat")["tokens"].tolist() == [7]


def test_a_pair_follows_the_template_of_the_file(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker("[CLS]{document}[SEP]{query}[SEP]{document}"))
    expected = [CLS, *ids("the", "dog"), SEP, *ids("a", "cat"), SEP, *ids("the", "dog")]
    assert backend._join("a cat", "the dog").tolist() == expected
    assert backend._join("a cat", "{query}").tolist().count(ids("cat")[0]) == 1  # a text is no part of the template


def test_a_pair_that_is_too_long_is_refused_with_both_numbers(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker())
    with pytest.raises(InvalidInput, match="The query and text 1 have 70 tokens together; the model takes at most 64"):
        ask(backend, "a dog", "cat " * 60)


@pytest.mark.parametrize("template", [None, "[CLS]{query}[SEP]{document}[SEP]"])
def test_truncation_cuts_the_document(loaded: Any, template: str | None) -> None:
    backend, _ = loaded(models_gguf.reranker(template), truncate=True)
    answer = ask(backend, "cat " * 60, "cat " * 54)
    assert answer["tokens"].tolist() == [64, 64]
    assert answer["score"][0] == pytest.approx(answer["score"][1], abs=1e-3)
    with pytest.raises(InvalidInput, match="The query alone has 73 tokens") as caught:
        ask(backend, "cat", query="dog " * 70)
    assert caught.value.field == "input.query"


def test_each_document_is_cut_as_its_request_says(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.reranker())
    pairs = {"query": np.array([QUERY] * 2, dtype=object), "text": np.array(["cat", "cat " * 60], dtype=object)}
    assert backend.predict({**pairs, "truncate": np.array([False, True])})["tokens"][1] == 64
    with pytest.raises(InvalidInput, match="tokens together; the model takes at most 64"):
        backend.predict({**pairs, "truncate": np.array([True, False])})


def test_a_causal_model_ranks_by_its_last_token(loaded: Any) -> None:
    backend, info = loaded(models_gguf.causal_reranker())
    assert info.metadata["architecture"] == "qwen3"
    texts = ["paris", "a cat", "the capital of france is paris, " * 2]
    together = ask(backend, *texts, query="what?")
    scores = together["score"]
    assert ((scores > 0) & (scores < 1)).all()  # the likelihood of its first label
    assert len(set(scores.tolist())) == 3
    assert together["tokens"][0] == 2 + len("query: what? text: paris")
    for i, text in enumerate(texts):
        assert ask(backend, text, query="what?")["score"][0] == pytest.approx(scores[i], abs=2e-3)


def test_a_model_without_a_head_does_not_rank(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "headless.gguf"
    models_gguf.finish(models_gguf.bert(path, pooling=gguf.PoolingType.RANK), path)
    with pytest.raises(InvalidOption, match="has nothing that scores pairs of texts"):
        loaded(path)


def test_models_that_do_not_rank_are_for_other_backends(loaded: Any) -> None:
    for path, backend in ((models_gguf.minilm(), "gguf-embedding"), (models_gguf.smollm2(), "gguf")):
        with pytest.raises(InvalidOption, match=rf"register it with --backend {backend}\."):
            loaded(path)


def test_sniff() -> None:
    match = GgufRerankBackend.sniff(models_gguf.reranker())
    assert (match.confidence, match.task) == (1, "rerank")
    assert GgufRerankBackend.sniff(models_gguf.minilm()) == NO_MATCH
