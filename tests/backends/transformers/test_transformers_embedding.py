"""Tests of embedding with Hugging Face folders: real vectors, alone and in company, and what a folder may ask for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import resources
from backends.base import Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo, OutOfMemory
from backends.transformers.embedding import TransformersEmbeddingBackend, TransformersEmbeddingOptions
from backends.transformers.tokens import groups
from tests import models_transformers
from tests.models_transformers import as_sentence_transformer, bert, copied, edit

pytest.importorskip("transformers")

CPU = Device("cpu", threads=1)
HAPPY = ["That is a happy person", "That is a very happy person", "Today is a sunny day"]
MEAN = ("Pooling", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})


def load(path: Path, device: Device = CPU, **options: Any) -> tuple[TransformersEmbeddingBackend, ModelInfo]:
    backend = TransformersEmbeddingBackend()
    return backend, backend.load(path, device, TransformersEmbeddingOptions(**options))


@pytest.fixture(scope="module")
def minilm() -> Iterator[TransformersEmbeddingBackend]:
    backend, _ = load(models_transformers.minilm())
    yield backend
    backend.close()


def ask(backend: TransformersEmbeddingBackend, *texts: str, **optional: Any) -> Any:
    return backend.predict({"text": np.array(texts, dtype=object), **optional})


def states(folder: Path, text: str) -> Any:
    """The vectors of a text's tokens, computed by the library alone."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()


# --- a real model ---------------------------------------------------------------------------------------------------


def test_the_signature() -> None:
    backend, info = load(models_transformers.minilm())
    assert (info.task, info.batchable, info.notes) == ("embedding", True, ())
    assert [(s.name, s.dtype, s.shape) for s in info.outputs] == [
        ("embedding", "float32", ("batch", 384)),
        ("tokens", "int32", ("batch",)),
    ]
    assert info.metadata["pooling"] == "mean"
    assert (info.metadata["architecture"], info.metadata["context_length"]) == ("BertModel", "256")
    assert info.metadata["parameters"] == "22713728"
    assert backend.threads == 1
    assert 90e6 < backend.memory() < 92e6


def test_known_cosines(minilm: TransformersEmbeddingBackend) -> None:
    vectors = ask(minilm, *HAPPY)["embedding"]
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.943, abs=5e-4)
    assert cosines[0, 2] == pytest.approx(0.257, abs=5e-4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


def test_texts_of_all_lengths_are_embedded_as_alone(minilm: TransformersEmbeddingBackend) -> None:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "near", "the", "river", "bank"]
    texts = [" ".join(words[i % len(words)] for i in range(n)) for n in (1, 200, 3, 40, 41, 7, 120, 2, 90, 15)]
    together = ask(minilm, *texts)
    for i, text in enumerate(texts):
        alone = ask(minilm, text)
        assert together["embedding"][i] == pytest.approx(alone["embedding"][0], abs=1e-5)
        assert together["tokens"][i] == alone["tokens"][0]


def test_a_text_that_is_too_long(minilm: TransformersEmbeddingBackend) -> None:
    with pytest.raises(InvalidInput, match=r"^Text 1 has 302 tokens; the model takes at most 256\.") as caught:
        ask(minilm, "a", "a " * 300)
    assert caught.value.field == "input"
    cut = ask(minilm, "a " * 300, "a", truncate=np.array([True, False]))
    assert cut["tokens"].tolist() == [256, 3]
    assert cut["embedding"][0] == pytest.approx(ask(minilm, "a " * 254)["embedding"][0], abs=1e-5)
    backend, _ = load(models_transformers.minilm(), truncate=True, max_context_length=16)
    assert ask(backend, "a " * 300)["tokens"].tolist() == [16]
    with pytest.raises(InvalidInput, match="at most 16"):
        ask(backend, "a " * 300, truncate=np.array([False]))


def test_half_precision_is_close() -> None:
    backend, info = load(models_transformers.minilm(), dtype="bfloat16")
    vectors = ask(backend, *HAPPY)["embedding"]
    assert info.metadata["dtype"] == "bfloat16"
    assert vectors.dtype == np.float32
    assert vectors[0] @ vectors[1] == pytest.approx(0.943, abs=2e-2)
    assert backend.memory() < 46e6


# --- what a folder may ask for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("cls_token", lambda s: s[0]),
        ("mean_tokens", lambda s: s.mean(0)),
        ("max_tokens", lambda s: s.max(0)),
        ("mean_sqrt_len_tokens", lambda s: s.sum(0) / np.sqrt(len(s))),
        ("weightedmean_tokens", lambda s: np.average(s, 0, np.arange(1, len(s) + 1))),
        ("lasttoken", lambda s: s[-1]),
    ],
)
def test_ways_of_pooling(mode: str, pool: Any, tmp_path: Path) -> None:
    folder = as_sentence_transformer(bert(tmp_path / "m"), ("Pooling", {f"pooling_mode_{mode}": True}))
    backend, info = load(folder)
    answer = ask(backend, "a cat", "a cat sat on the mat")["embedding"]
    assert answer[0] == pytest.approx(pool(states(folder, "a cat")), abs=1e-4)
    assert answer[1] == pytest.approx(pool(states(folder, "a cat sat on the mat")), abs=1e-4)
    assert info.notes == ()


def test_several_ways_are_joined_in_their_order(tmp_path: Path) -> None:
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    backend, info = load(as_sentence_transformer(bert(tmp_path / "m"), ("Pooling", modes)))
    tokens = states(tmp_path / "m", "a cat")
    assert ask(backend, "a cat")["embedding"][0] == pytest.approx(np.r_[tokens[0], tokens.mean(0)], abs=1e-4)
    assert info.metadata["pooling"] == "cls+mean"


def test_layers_and_normalization(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dense = ("Dense", {"activation_function": "torch.nn.modules.activation.Tanh"})
    folder = as_sentence_transformer(bert(tmp_path / "m"), MEAN, dense, ("Normalize", {}))
    layer = {"linear.weight": torch.randn(8, 32, generator=torch.manual_seed(0)), "linear.bias": torch.ones(8)}
    save_file(layer, folder / "2_Dense" / "model.safetensors")
    backend, info = load(folder)
    expected = np.tanh(layer["linear.weight"].numpy() @ states(folder, "a cat").mean(0) + 1)
    assert ask(backend, "a cat")["embedding"][0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)
    assert info.outputs[0].shape == ("batch", 8)
    with pytest.raises(ModelFileError, match="no weights"):
        (folder / "2_Dense" / "model.safetensors").unlink()
        load(folder)


def test_a_plain_encoder_is_pooled_by_the_mean_and_says_so(tmp_path: Path) -> None:
    folder = bert(tmp_path / "m")
    backend, info = load(folder)
    mean = states(folder, "a cat").mean(0)
    assert ask(backend, "a cat")["embedding"][0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-4)
    assert "their mean is taken" in info.notes[0]
    backend, info = load(folder, pooling="cls", normalize=False)
    assert ask(backend, "a cat")["embedding"][0] == pytest.approx(states(folder, "a cat")[0], abs=1e-4)
    assert info.notes == ()


def test_prompts(tmp_path: Path) -> None:
    folder = as_sentence_transformer(bert(tmp_path / "m"), MEAN)
    prompts = {"prompts": {"query": "find this: ", "text": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    tokens = states(folder, "find this: a cat")
    backend, info = load(folder)
    assert ask(backend, "a cat")["embedding"][0] == pytest.approx(tokens.mean(0), abs=1e-4)
    assert info.metadata["prompt"] == "find this: "
    plain = ask(load(folder, prompt="text")[0], "find this: a cat")["embedding"]
    assert plain[0] == pytest.approx(tokens.mean(0), abs=1e-4)
    own = ask(load(folder, prompt="find this:")[0], " a cat ")["embedding"]
    assert own.shape == (1, 32)
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    assert ask(load(folder)[0], "a cat")["embedding"][0] == pytest.approx(tokens[4:].mean(0), abs=1e-4)


def test_how_texts_are_read(tmp_path: Path) -> None:
    folder = as_sentence_transformer(bert(tmp_path / "m"), MEAN)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10, "do_lower_case": True}))
    backend, info = load(folder)
    assert info.metadata["context_length"] == "10"
    assert ask(backend, "  A CAT ")["embedding"][0] == pytest.approx(states(folder, "a cat").mean(0), abs=1e-4)


def test_the_encoder_of_a_t5(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=30522, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    models_transformers.save(transformers.T5EncoderModel(config), tmp_path / "t5")
    for name in models_transformers.TOKENIZER:
        (tmp_path / "t5" / name).symlink_to(models_transformers.minilm() / name)
    backend, info = load(tmp_path / "t5")
    assert info.metadata["architecture"] == "T5EncoderModel"
    vectors = ask(backend, "a cat", "a cat sat on the mat")["embedding"]
    assert vectors[0] == pytest.approx(ask(backend, "a cat")["embedding"][0], abs=1e-4)


def test_positions_that_begin_behind_the_padding(tmp_path: Path) -> None:
    """RoBERTa's first position is 2, so it takes two tokens less than it has positions."""
    import transformers

    config = transformers.RobertaConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=34, type_vocab_size=1,
    )  # fmt: skip
    models_transformers.save(transformers.RobertaModel(config), tmp_path / "m")
    for name in models_transformers.TOKENIZER:
        (tmp_path / "m" / name).symlink_to(models_transformers.minilm() / name)
    (tmp_path / "m" / "tokenizer_config.json").unlink()
    (tmp_path / "m" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    backend, info = load(tmp_path / "m", truncate=True)
    assert info.metadata["context_length"] == "32"
    assert ask(backend, "a " * 40)["tokens"].tolist() == [32]


# --- options and room -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "Option threads must be at least 1; got 0."),
        ({"max_context_length": 4}, "Option max_context_length must be at least 8; got 4."),
        ({"max_context_length": 1000}, "at most 512, for which the model was trained; got 1000."),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        load(models_transformers.minilm(), **options)


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(InvalidOption, match=r"computes on the CPU only.*device=cpu"):
        load(models_transformers.minilm(), Device("cuda"))


def test_it_is_loaded_as_stored_if_it_only_fits_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(models_transformers.minilm(), dtype=torch.bfloat16)
    folder = copied(models_transformers.minilm(), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    models_transformers.save(model, folder)
    assert load(folder)[1].metadata["dtype"] == "float32"
    monkeypatch.setattr(resources, "available", lambda: 60_000_000)
    assert load(folder)[1].metadata["dtype"] == "bfloat16"
    with pytest.raises(OutOfMemory, match=r"needs 91 MB in float32, and 60 MB are left.*dtype=bfloat16"):
        load(folder, dtype="float32")
    with pytest.raises(OutOfMemory, match="needs 91 MB in float32, and 60 MB are left"):
        load(models_transformers.minilm())


def test_groups_are_of_like_length() -> None:
    lengths = [100, 5, 6, 99, 5, 300]
    found = groups(lengths, most=400, cost=10)
    assert found == [[1, 4, 2], [3, 0], [5]]
    assert sorted(i for group in groups([7] * 100, most=70, cost=10) for i in group) == list(range(100))
    assert max(len(group) for group in groups([7] * 100, most=70, cost=10)) == 10
    assert groups([], most=10, cost=1) == []


@given(
    lengths=st.lists(st.integers(1, 60), max_size=9),
    most=st.sampled_from([40, 150, 5000]),
    cost=st.sampled_from([0, 3, 20, 500]),
)
def test_no_other_groups_cost_less(lengths: list[int], most: int, cost: int) -> None:
    def total(cut: list[list[int]]) -> int:
        return sum(len(group) * max(lengths[i] for i in group) + cost for group in cut)

    def fits(cut: list[list[int]]) -> bool:
        return all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= most for group in cut)

    found, order = groups(lengths, most, cost), sorted(range(len(lengths)), key=lambda i: lengths[i])
    ways = [
        [order[a:b] for a, b in itertools.pairwise([0, *ends, len(order)])]
        for count in range(len(order))
        for ends in itertools.combinations(range(1, len(order)), count)
    ]
    assert fits(found)
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    assert total(found) == min((total(way) for way in ways if fits(way)), default=0)
