"""Tests of packed linear layers: the same numbers, whatever comes in, and models that must stay as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.base import Device, Tensors
from backends.transformers import packing
from backends.transformers.embedding import TransformersEmbeddingBackend, TransformersEmbeddingOptions
from tests import models_transformers

torch = pytest.importorskip("torch")


def two_layers(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(24, 40, **arguments), torch.nn.Tanh(), torch.nn.Linear(40, 8)).eval()


def packed(model: Any, answer: Any = None) -> bool:
    example = torch.ones(3, 24)
    return packing.pack(torch, packing.linear_layers(torch, model), answer or (lambda: ask(model, example)))


def ask(model: Any, x: Any) -> Tensors:
    with torch.inference_mode():
        return {"y": model(x).numpy()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        torch.linspace(-1, 1, 24),
        torch.linspace(-1, 1, 24 * 5).reshape(5, 24),
        torch.linspace(-1, 1, 24 * 5).reshape(24, 5).t(),
        torch.linspace(-1, 1, 24 * 12).reshape(2, 24, 6).transpose(1, 2),
        torch.linspace(-1, 1, 24 * 12).reshape(6, 2, 24)[::2, :, :],
    ],
    ids=["a row", "rows", "columns", "batches of columns", "every other"],
)
def test_packed_layers_give_the_same(x: Any, bias: bool) -> None:
    model = two_layers(bias=bias)
    before = ask(model, x)["y"]
    assert packed(model)
    assert model[0].weight.numel() == 0
    np.testing.assert_allclose(ask(model, x)["y"], before, rtol=1e-5, atol=1e-6)


def test_only_plain_layers_with_weights_of_their_own_are_packed() -> None:
    tied, half, own = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8).bfloat16(), torch.nn.Linear(8, 8)
    embedding = torch.nn.Embedding(8, 8)
    tied.weight = embedding.weight
    attention = torch.nn.MultiheadAttention(8, 2)  # it computes with the weights of its layer by itself
    assert packing.linear_layers(torch, torch.nn.ModuleList([tied, half, own, embedding, attention])) == [own]


def test_a_model_that_reads_weights_by_itself_stays_as_it_was() -> None:
    class Direct(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = two_layers()

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x, self.layers[0].weight, self.layers[0].bias)

    model, x = Direct().eval(), torch.ones(2, 24)
    before = ask(model, x)["y"]
    assert not packed(model, lambda: ask(model, x))
    np.testing.assert_array_equal(ask(model, x)["y"], before)
    np.testing.assert_array_equal(model.layers(x).detach(), two_layers()(x).detach())


def test_a_model_that_answers_something_else_stays_as_it_was() -> None:
    model, answers = two_layers(), iter([np.zeros(3), np.ones(3)])
    assert not packed(model, lambda: {"y": next(answers)})
    assert model[0].weight.shape == (40, 24)


def test_a_loaded_model_is_packed_and_counts_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> tuple[int, Any]:
        backend = TransformersEmbeddingBackend()
        backend.load(models_transformers.minilm(), Device("cpu", threads=1), TransformersEmbeddingOptions())
        texts = ["A boat.", "A small boat waits on the river for the wind that comes over the hill.", "No"]
        found = backend.predict({"text": np.array(texts, dtype=object)})["embedding"]
        layers = packing.linear_layers(torch, backend._network.model)  # type: ignore[union-attr]
        sizes = {layer.weight.numel() == 0 for layer in layers}
        memory = backend.memory()
        backend.close()
        return memory, (found, sizes)

    memory, (found, sizes) = load()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain_memory, (plain, plain_sizes) = load()
    assert (sizes, plain_sizes) == ({True}, {False})
    assert memory == plain_memory
    np.testing.assert_allclose(found, plain, atol=1e-5)
