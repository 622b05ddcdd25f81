"""Tests of embedding with GGUF models: real vectors, packed and alone, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest

from backends import resources
from backends.base import (
    NO_MATCH,
    TRUNCATE,
    Device,
    InvalidInput,
    InvalidOption,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
)
from backends.gguf.embedding import EmbeddingOptions, GgufEmbeddingBackend
from tests import models_gguf

pytest.importorskip("llama_cpp")

CPU = Device("cpu", threads=1)
HAPPY = ["That is a happy person", "That is a very happy person", "Today is a sunny day"]


@pytest.fixture
def loaded() -> Iterator[Any]:
    """Loads models; closes them after the test."""
    backends: list[GgufEmbeddingBackend] = []

    def load(path: Path, device: Device = CPU, **options: Any) -> tuple[GgufEmbeddingBackend, ModelInfo]:
        backend = GgufEmbeddingBackend()
        backends.append(backend)
        return backend, backend.load(path, device, EmbeddingOptions(**options))

    yield load
    for backend in backends:
        backend.close()


@pytest.fixture(scope="module")
def minilm() -> Iterator[GgufEmbeddingBackend]:
    backend = GgufEmbeddingBackend()
    backend.load(models_gguf.minilm(), CPU, EmbeddingOptions())
    yield backend
    backend.close()


def ask(backend: GgufEmbeddingBackend, *texts: str) -> Any:
    return backend.predict({"text": np.array(texts, dtype=object)})


def test_the_signature(loaded: Any) -> None:
    backend, info = loaded(models_gguf.minilm())
    assert (info.task, info.batchable, info.notes) == ("embedding", True, ())
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [("text", "string", ("batch",))]
    assert [(s.name, s.dtype, s.shape) for s in info.outputs] == [
        ("embedding", "float32", ("batch", 384)),
        ("tokens", "int32", ("batch",)),
    ]
    assert info.metadata["pooling"] == "mean"
    assert (info.metadata["architecture"], info.metadata["context_length"]) == ("bert", "512")
    assert backend.threads == 1
    assert backend.memory() > models_gguf.minilm().stat().st_size


def test_known_cosines(minilm: GgufEmbeddingBackend) -> None:
    vectors = ask(minilm, *HAPPY)["embedding"]
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.943, abs=2e-3)
    assert cosines[0, 2] == pytest.approx(0.257, abs=2e-3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


def test_tokens_are_counted_with_those_that_begin_and_end_a_text(minilm: GgufEmbeddingBackend) -> None:
    answer = ask(minilm, "a", "happy person", "a " * 100)
    assert answer["tokens"].tolist() == [3, 4, 102]
    assert answer["tokens"].dtype == np.int32


def test_a_row_is_what_it_is_alone_whatever_is_beside_it(minilm: GgufEmbeddingBackend) -> None:
    texts = [f"sentence {i} " + "and so on " * (i * 13 % 40) for i in range(90)]  # more than one call takes
    together = ask(minilm, *texts)
    for i in (0, 1, 44, 89):
        alone = ask(minilm, texts[i])
        assert together["embedding"][i] == pytest.approx(alone["embedding"][0], abs=2e-3)
        assert together["tokens"][i] == alone["tokens"][0]


def test_the_longest_text_fits(minilm: GgufEmbeddingBackend) -> None:
    answer = ask(minilm, "a " * 510, *HAPPY)
    assert answer["tokens"].tolist() == [512, 7, 8, 7]
    assert answer["embedding"][1:] == pytest.approx(ask(minilm, *HAPPY)["embedding"], abs=2e-3)


def test_a_text_that_is_too_long_is_refused_with_both_numbers(minilm: GgufEmbeddingBackend) -> None:
    with pytest.raises(InvalidInput, match=r"^Text 1 has 513 tokens; the model takes at most 512\.") as caught:
        ask(minilm, "a", "a " * 511)
    assert caught.value.field == "input"
    with pytest.raises(InvalidInput, match=r"^The text has 513 tokens"):
        ask(minilm, "a " * 511)


@pytest.mark.parametrize("length", [100, 300, 511])
def test_any_length_of_the_context_will_do(loaded: Any, length: int) -> None:
    for path in (models_gguf.minilm(), models_gguf.smollm2()):
        backend, info = loaded(path, max_context_length=length)
        assert info.metadata["context_length"] == str(length)
        texts = ["a " * (length - 10), *["happy"] * 70]
        answer = ask(backend, *texts)
        assert np.ptp(answer["embedding"][1:], axis=0).max() < 2e-3


def test_truncation_cuts_the_end_and_keeps_the_closing_token(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.minilm(), truncate=True, max_context_length=10)
    long = ask(backend, "the cat sat on the mat with a dog and another cat")
    same = ask(backend, "the cat sat on the mat with a")
    assert long["tokens"].tolist() == [10] == same["tokens"].tolist()
    assert long["embedding"] == pytest.approx(same["embedding"], abs=1e-5)


def test_each_text_is_cut_as_its_request_says(loaded: Any) -> None:
    for default in (False, True):
        backend, info = loaded(models_gguf.minilm(), truncate=default, max_context_length=10)
        assert info.optional == (TRUNCATE,)
        texts = np.array(["a cat", "the cat sat on the mat with a dog and another cat"], dtype=object)
        answer = backend.predict({"text": texts, "truncate": np.array([False, True])})
        assert answer["tokens"].tolist() == [4, 10]
        with pytest.raises(InvalidInput, match="Text 1 has 14 tokens; the model takes at most 10"):
            backend.predict({"text": texts, "truncate": np.array([True, False])})


def test_special_tokens_in_a_text_are_only_text(minilm: GgufEmbeddingBackend) -> None:
    assert ask(minilm, "[SEP]")["tokens"][0] > 3


@pytest.mark.parametrize("text", ["日本語", "👍🏽", "\ud800", "\0", "a\nb", " "])
def test_any_text_can_be_embedded(minilm: GgufEmbeddingBackend, text: str) -> None:
    assert np.linalg.norm(ask(minilm, text)["embedding"]) == pytest.approx(1)


def test_the_example_is_valid(minilm: GgufEmbeddingBackend) -> None:
    assert minilm.predict(minilm.example())["embedding"].shape == (1, 384)


# --- pooling --------------------------------------------------------------------------------------------------------


def test_ways_of_pooling_differ(loaded: Any) -> None:
    ways = {}
    for pooling in ("mean", "cls", "last"):
        backend, info = loaded(models_gguf.minilm(), pooling=pooling)
        assert info.metadata["pooling"] == pooling
        ways[pooling] = ask(backend, HAPPY[0])["embedding"][0]
    assert ways["mean"] @ ways["cls"] < 0.95
    assert ways["cls"] @ ways["last"] < 0.999


def test_the_file_says_how_to_pool(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "cls.gguf"
    models_gguf.finish(models_gguf.bert(path, pooling=gguf.PoolingType.CLS), path)
    said, info = loaded(path)
    assert (info.metadata["pooling"], info.notes) == ("cls", ())
    chosen, _ = loaded(path, pooling="cls")
    assert ask(said, "the cat")["embedding"] == pytest.approx(ask(chosen, "the cat")["embedding"])


def test_a_file_that_does_not_say_is_pooled_by_the_mean_and_a_note_tells(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "silent.gguf"
    models_gguf.finish(models_gguf.bert(path), path)
    _, info = loaded(path)
    assert info.metadata["pooling"] == "mean"
    assert "--set pooling=last" in info.notes[0]


def test_vectors_as_they_are(loaded: Any) -> None:
    backend, _ = loaded(models_gguf.minilm(), normalize=False)
    raw = ask(backend, HAPPY[0])["embedding"]
    assert abs(np.linalg.norm(raw) - 1) > 0.1


def test_a_model_that_generates_embeds_too(loaded: Any) -> None:
    backend, info = loaded(models_gguf.smollm2(), max_context_length=64)
    assert info.outputs[0].shape == ("batch", 576)
    together = ask(backend, *HAPPY)["embedding"]
    assert together @ together.T == pytest.approx((together @ together.T).T)
    assert together[0] @ together[1] > together[0] @ together[2]
    for i, text in enumerate(HAPPY):
        assert ask(backend, text)["embedding"][0] == pytest.approx(together[i], abs=2e-3)


def test_the_last_token_speaks_for_a_text_as_the_reference_has_it(loaded: Any) -> None:
    from llama_cpp import LLAMA_POOLING_TYPE_LAST, Llama

    texts = [*HAPPY, "a", "one two three " * 200]  # one of a single token, one of several pieces
    backend, info = loaded(models_gguf.smollm2(), pooling="last")
    assert (info.metadata["pooling"], info.metadata["context_length"]) == ("last", "8192")
    together = ask(backend, *texts)
    assert together["tokens"].tolist()[-2:] == [1, 601]
    reference = Llama(
        str(models_gguf.smollm2()), embedding=True, pooling_type=LLAMA_POOLING_TYPE_LAST, n_ctx=1024, n_batch=1024,
        n_ubatch=1024, n_threads=1, verbose=False,
    )  # fmt: skip
    for text, vector in zip(texts, together["embedding"], strict=True):
        assert np.array(reference.embed(text, normalize=True)) @ vector > 0.999
        assert ask(backend, text)["embedding"][0] == pytest.approx(vector, abs=2e-3)
    reference.close()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"threads": 0}, "config.threads"),
        ({"gpu_layers": -2}, "config.gpu_layers"),
        ({"max_context_length": 4}, "config.max_context_length"),
        ({"max_context_length": 513}, "config.max_context_length"),
    ],
)
def test_options_out_of_range(loaded: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        loaded(models_gguf.minilm(), **options)
    assert caught.value.field == field


def test_the_first_token_of_a_model_that_generates_says_nothing(loaded: Any) -> None:
    with pytest.raises(InvalidOption, match="choose one of mean, last"):
        loaded(models_gguf.smollm2(), pooling="cls")


def test_no_pooling_is_no_option() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"pooling": "none"}, EmbeddingOptions)


def test_a_model_that_ranks_is_for_the_other_backend(loaded: Any) -> None:
    with pytest.raises(InvalidOption, match="--backend gguf-rerank"):
        loaded(models_gguf.reranker())


def test_a_broken_file_is_refused(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(models_gguf.minilm().read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="is truncated: 1000 bytes are missing"):
        loaded(path)


@pytest.mark.parametrize("role", ["bos", "sep"])
def test_a_special_token_that_is_missing_is_refused(loaded: Any, tmp_path: Path, role: str) -> None:
    path = tmp_path / "tokens.gguf"
    writer = models_gguf.bert(path, pooling=gguf.PoolingType.MEAN)
    key = {"bos": "bos", "sep": "seperator"}[role]
    writer.kv_data[0][f"tokenizer.ggml.{key}_token_id"].value = 999
    models_gguf.finish(writer, path)
    with pytest.raises(ModelFileError, match=f"its vocabulary lacks the special token '{role}'"):
        loaded(path)


def test_a_width_that_nothing_has_is_refused(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "wide.gguf"
    writer = models_gguf.bert(path, pooling=gguf.PoolingType.MEAN)
    writer.add_uint32("bert.embedding_length_out", 48)
    models_gguf.finish(writer, path)
    with pytest.raises(ModelFileError, match="nothing in it makes vectors of 48 elements"):
        loaded(path)


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available", lambda: 10_000_000)
    with pytest.raises(OutOfMemory, match=r"needs \d+ MB \(.*weights.*\), and 10 MB are left"):
        loaded(models_gguf.minilm())


def test_sniff(tmp_path: Path) -> None:
    assert GgufEmbeddingBackend.sniff(models_gguf.minilm()).confidence == 1
    assert GgufEmbeddingBackend.sniff(models_gguf.minilm()).task == "embedding"
    for path in (models_gguf.smollm2(), models_gguf.reranker(), tmp_path, tmp_path / "none.gguf"):
        assert GgufEmbeddingBackend.sniff(path) == NO_MATCH
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(models_gguf.minilm().read_bytes()[:5000])
    assert 0 < GgufEmbeddingBackend.sniff(broken).confidence < 0.5
