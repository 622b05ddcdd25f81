"""What Ollama's clients are told of a model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backends.base import GenerationInfo, ModelInfo
from engine.api.ollama import catalog
from engine.types import ModelSpec

GENERATION = GenerationInfo(
    context_length=2048,
    sequences=4,
    chat_template="{{ messages }}",
    parameters=134_515_008,
    quantization="Q4_1",
    architecture="llama",
)


def spec(generation: GenerationInfo | None = GENERATION, task: str = "chat", **fields: Any) -> ModelSpec:
    info = ModelInfo(task=task, generation=generation, metadata={"general.name": "Tiny", "long": "x" * 2000})
    return ModelSpec(
        name="m",
        version=1,
        path="/models/tiny.gguf",
        sha256="ab" * 32,
        size_bytes=7,
        backend="gguf",
        task=task,
        config=fields,
        created=0.0,
        info=info,
    )


def changed(**fields: Any) -> GenerationInfo:
    return msgspec.structs.replace(GENERATION, **fields)


@pytest.mark.parametrize(
    ("generation", "task", "expected"),
    [
        (GENERATION, "chat", ["completion", "tools"]),
        (changed(chat_template=None, infill=True), "completion", ["completion", "insert"]),
        (changed(chat_template="<think></think>", images=True), "chat", ["completion", "tools", "vision", "thinking"]),
        (None, "embedding", ["embedding"]),
        (None, "image-classification", []),
    ],
)
def test_capabilities(generation: GenerationInfo | None, task: str, expected: list[str]) -> None:
    assert catalog.capabilities(spec(generation, task)) == expected


def test_a_model_is_described() -> None:
    described = catalog.describe(spec(sampling={"temperature": 0.5}, max_context_length=512), verbose=False)
    assert described.template == GENERATION.chat_template
    assert [line.split() for line in described.parameters.splitlines()] == [["temperature", "0.5"], ["num_ctx", "512"]]
    assert described.modelfile.splitlines() == [
        "FROM /models/tiny.gguf",
        "PARAMETER temperature 0.5",
        "PARAMETER num_ctx 512",
    ]
    assert described.model_info == {
        "general.name": "Tiny",
        "general.architecture": "llama",
        "general.parameter_count": 134_515_008,
        "llama.context_length": 2048,
    }
    assert described.details.format == "gguf"
    assert described.details.families == [described.details.family] == ["llama"]
    assert (described.details.parameter_size, described.details.quantization_level) == ("134.52M", "Q4_1")


def test_long_metadata_is_shown_when_asked_for() -> None:
    assert len(catalog.describe(spec(), verbose=True).model_info["long"]) == 2000


@pytest.mark.parametrize(("weights", "text"), [(0, ""), (999, "999"), (1_500_000, "1.50M"), (8_030_261_248, "8.0B")])
def test_numbers_of_weights_are_for_people(weights: int, text: str) -> None:
    assert catalog.human(weights) == text
