"""Tests of packed linear layers: the same numbers, whatever comes in, and models that must stay as they were."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from backends.base import Device, Tensors
from backends.transformers import packing
from backends.transformers.backend import TransformersBackend, TransformersGenerationOptions
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
    one, other, half, own = (torch.nn.Linear(8, 8) for _ in range(4))
    one.weight = other.weight
    half.bfloat16()
    attention = torch.nn.MultiheadAttention(8, 2)  # it computes with the weights of its layer by itself
    assert packing.linear_layers(torch, torch.nn.ModuleList([one, other, half, own, attention])) == [own]


def test_the_weights_of_a_table_are_packed_beside_it() -> None:
    class Tied(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9)
            self.head.weight = self.table.weight

        def forward(self, x: Any) -> Any:
            return self.head(self.table(x))

    model, x = Tied().eval(), torch.tensor([[3, 1, 4]])
    before = ask(model, x)["y"]
    assert packed(model, lambda: ask(model, x))
    assert (model.table.weight.shape, model.head.weight.numel()) == ((9, 8), 0)
    np.testing.assert_allclose(ask(model, x)["y"], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("after", "same"),
    [
        ([40.0, 0.001], True),  # what an order of sums changes in 40 is more than the small number
        ([40.0, 0.1], False),
        ([40.0, math.nan], False),
        ([-math.inf, 0.0], False),
    ],
)
def test_what_counts_as_the_same_answer(after: list[float], same: bool) -> None:
    before = {"y": np.array([40.0, 0.0], np.float32)}
    assert packing.alike(before, {"y": np.array(after, np.float32)}, 1e-3) == same
    masked = {"y": np.array([-math.inf, 1.0], np.float32)}
    assert packing.alike(masked, masked, 1e-3)


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


def test_a_loaded_decoder_is_packed_and_counts_its_head() -> None:
    backend = TransformersBackend()
    backend.load(models_transformers.smollm2(), Device("cpu", threads=1), TransformersGenerationOptions())
    model = backend._network.model  # type: ignore[union-attr]
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert (table.weight.numel(), head.weight.numel()) == (49152 * 576, 0)
    assert backend.memory() == pytest.approx(4 * (134_515_008 + 49152 * 576), rel=1e-3)
    backend.close()
