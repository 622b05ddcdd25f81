"""Texts and their tokens by the vocabularies that llama.cpp itself is tested with: each text, each tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Device
from backends.gguf.library import library
from backends.gguf.model import Model
from backends.gguf.options import GgufOptions
from scripts import fetch_models

SEPARATOR = b"\n__ggml_vocab_test__\n"
VOCABULARIES = (
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
)


def path(name: str) -> Path:
    return Path(fetch_models.fetch("llama-vocabs") / f"ggml-vocab-{name}.gguf")


@pytest.fixture
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """The vocabulary of that name: the files have no weights."""
    params = library().api.llama_model_default_params()
    params.vocab_only = True
    monkeypatch.setattr(library().api, "llama_model_default_params", lambda: params)
    model = Model(library(), path(request.param), Device("cpu", 0), GgufOptions())
    yield model
    model.close()


def cases(file: Path) -> list[tuple[str, list[int]]]:
    """The texts, and the tokens of each."""
    texts = file.with_name(f"{file.name}.inp").read_bytes().removesuffix(SEPARATOR).split(SEPARATOR)
    rows = file.with_name(f"{file.name}.out").read_text().splitlines()
    return [(text.decode(), [int(token) for token in row.split()]) for text, row in zip(texts, rows, strict=True)]


def test_every_vocabulary_is_tried() -> None:
    files = fetch_models.fetch("llama-vocabs").glob("*.gguf")
    assert sorted(file.stem.removeprefix("ggml-vocab-") for file in files) == sorted(VOCABULARIES)


@pytest.mark.parametrize(("model", "name"), [(n, n) for n in VOCABULARIES], indirect=["model"], ids=VOCABULARIES)
def test_tokens_are_the_expected_ones(model: Model, name: str) -> None:
    tried = cases(path(name))
    assert len(tried) >= 40
    for text, tokens in tried:
        assert model.tokenize(text, special=False) == tokens, text


@pytest.mark.parametrize("model", ["gpt-2", "llama-bpe", "qwen2", "falcon"], indirect=True)
def test_the_text_of_tokens_is_the_text_that_they_are_of(model: Model) -> None:
    for text, tokens in cases(path("gpt-2")):
        assert model.detokenize(model.tokenize(text, special=False)) == text, tokens
