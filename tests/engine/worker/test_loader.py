"""Loading tiny real models with the real backends: what the server is told of them, and that they answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from backends.base import BackendError, Device, Tensors
from backends.sklearn import SklearnBackend
from engine.errors import InvalidOption
from engine.transport.batchqueue import Slots
from engine.transport.messages import Load, RunBatch, decode_batch_down, decode_batch_up
from engine.transport.packing import pack_batch, unpack_answers
from engine.types import JsonAnswer, JsonInput, Request
from engine.worker.gate import Gate, ModelGate
from engine.worker.loader import LoadedModel, load
from tests import models_sklearn

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
PLUGINS = Path(__file__).parents[2] / "plugins"

Loader = Callable[..., LoadedModel]


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.create(2, 1 << 20)
    yield made
    made.close()


@pytest.fixture
def loader(slots: Slots) -> Iterator[Loader]:
    loaded: list[LoadedModel] = []

    def make(path: Path | str, backend: str, task: str | None = None, **given: Any) -> LoadedModel:
        settings = {"batch_rows": 8, "dynamic_padding": True, "trusted": True} | given
        config = settings.pop("config", {})
        message = Load(
            key="m#1",
            path=str(path),
            backend=backend,
            task=task,
            config=config,
            device=Device("cpu", threads=1),
            slots=2,
            slot_bytes=slots.slot_bytes,
            **settings,
        )
        loaded.append(load(message, slots, ModelGate(Gate(1))))
        return loaded[-1]

    yield make
    for model in loaded:
        model.backend.close()


def ask(model: LoadedModel, slots: Slots, *inputs: Any) -> list[Any]:
    """The answers to one batch of JSON inputs; errors as they are."""
    requests = [Request(JsonInput(json.dumps(i).encode()), "id", 0.0) for i in inputs]
    message = decode_batch_down(pack_batch(1, 0, slots, requests))
    assert isinstance(message, RunBatch)
    done: Any = decode_batch_up(model.runner.run(model.runner.prepare(message)))
    answers = unpack_answers(done, slots, requests)
    return [json.loads(a.data) if isinstance(a, JsonAnswer) else a for a in answers]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes an ONNX model of one node, ``x`` → ``y``, unless more nodes are given."""

    def write(
        *nodes: onnx.NodeProto, x: Any = ("n", 4), y: Any = ("n", 4), kind: int = FLOAT, out: int | None = None
    ) -> Path:
        weights = [numpy_helper.from_array(np.array([axis], np.int64), f"axis{axis}") for axis in (0, 1)]
        graph = helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("x", kind, x)],
            [helper.make_tensor_value_info("y", out or kind, y)],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


DOUBLE = helper.make_node("Add", ["x", "x"], ["y"])
CENTRE = [helper.make_node("ReduceMean", ["x", "axis0"], ["m"]), helper.make_node("Sub", ["x", "m"], ["y"])]
ROW_SUM = helper.make_node("ReduceSum", ["x", "axis1"], ["y"], keepdims=0)
ROW_MEAN = helper.make_node("ReduceMean", ["x", "axis1"], ["y"], keepdims=0)


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_a_model_that_can_do_everything(loader: Loader, save: Callable[..., Path], slots: Slots) -> None:
    model = loader(save(DOUBLE), "onnx")
    reply = model.reply
    assert (reply.key, reply.task, reply.accepts_values) == ("m#1", "tensor", False)
    assert (reply.batch_reason, reply.padding_reason) == (None, "its rows have a fixed shape")
    assert (reply.plain_answers, reply.decodes_json) == (True, True)
    assert reply.info.batchable
    assert reply.seconds > 0
    example = json.loads(reply.example)["input"]
    assert np.shape(example) == (1, 4)
    assert ask(model, slots, example, [1, 2, 3, 4]) == [(2 * np.array(example)).tolist(), [2, 4, 6, 8]]


def test_a_model_whose_rows_depend_on_their_batch_is_served_unbatched(
    loader: Loader, save: Callable[..., Path], slots: Slots
) -> None:
    model = loader(save(*CENTRE), "onnx")
    assert model.reply.batch_reason is not None
    assert model.reply.batch_reason.startswith("a row computed in a batch differs from the same row computed alone")
    assert model.reply.padding_reason == "the model is served unbatched"
    assert not model.reply.info.batchable
    assert model.reply.info.unbatched_reason == model.reply.batch_reason
    assert ask(model, slots, [1, 2, 3, 4], [5, 6, 7, 8]) == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_whoever_switches_the_check_off_gets_batches(loader: Loader, save: Callable[..., Path]) -> None:
    model = loader(save(*CENTRE), "onnx", config={"batching": {"self_check": False}})
    assert model.reply.batch_reason is None
    assert model.reply.info.batchable


def test_a_file_that_fixes_the_batch_says_why_it_is_not_batched(loader: Loader, save: Callable[..., Path]) -> None:
    reply = loader(save(DOUBLE, x=(1, 4), y=(1, 4)), "onnx").reply
    assert not reply.info.batchable
    assert reply.batch_reason == reply.info.unbatched_reason
    assert reply.batch_reason


def test_batches_of_one_row_are_none(loader: Loader, save: Callable[..., Path]) -> None:
    reply = loader(save(DOUBLE), "onnx", batch_rows=1).reply
    assert reply.batch_reason == "batching.max_batch_size is 1"
    assert reply.padding_reason == "the model is served unbatched"


@pytest.mark.parametrize(
    ("node", "settings", "reason"),
    [
        (ROW_SUM, {}, None),
        (ROW_SUM, {"dynamic_padding": False}, "dynamic_padding is off"),
        (ROW_SUM, {"config": {"batching": {"padding": {"x": {"value": 1}}}}}, "padding changes the result"),
        (ROW_MEAN, {}, "padding changes the result"),
    ],
)
def test_padding_is_tried(
    loader: Loader, save: Callable[..., Path], node: onnx.NodeProto, settings: dict[str, Any], reason: str | None
) -> None:
    found = loader(save(node, x=("n", "length"), y=("n",)), "onnx", **settings).reply.padding_reason
    assert found is None if reason is None else found is not None and found.startswith(reason)


@pytest.mark.parametrize("padded", [True, False])
def test_rows_of_different_lengths_get_their_own_answers(
    loader: Loader, save: Callable[..., Path], slots: Slots, padded: bool
) -> None:
    model = loader(save(ROW_SUM, x=("n", "length"), y=("n",)), "onnx", dynamic_padding=padded)
    assert ask(model, slots, [1, 2], [[1, 2, 3], [4, 5, 6]], [7]) == [3, [6, 15], 7]


@pytest.mark.parametrize(
    ("config", "task", "message", "field"),
    [
        ({"batching": {"padding": {"z": {}}}}, None, "batching.padding names ['z'], which are no inputs", "config"),
        ({"bacthing": {}}, None, "Unknown model option 'bacthing'", "config.bacthing"),
        ({}, "tenser", "Unknown task 'tenser'", "task"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    loader: Loader, save: Callable[..., Path], config: dict[str, Any], task: str | None, message: str, field: str
) -> None:
    with pytest.raises((InvalidOption, BackendError)) as e:
        loader(save(DOUBLE), "onnx", task, config=config)
    assert message in str(e.value)
    assert getattr(e.value, "field", None) == field


def test_a_warm_up_that_fails_fails_the_load(loader: Loader, save: Callable[..., Path]) -> None:
    reshape = helper.make_node("Reshape", ["x", "axis1"], ["y"])  # to one element, which four are not
    with pytest.raises(BackendError, match="cannot be reshaped"):
        loader(save(reshape, y=("m",)), "onnx")


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iris", "iris_frame", "diabetes", "clusters"])
def test_tables(loader: Loader, slots: Slots, name: str) -> None:
    model = loader(models_sklearn.path(name), "sklearn")
    assert model.reply.task == "tabular"
    assert model.reply.batch_reason is None
    example = json.loads(model.reply.example)["input"]
    alone = [ask(model, slots, e)[0] for e in (example, example)]
    assert ask(model, slots, example, example) == alone


@pytest.mark.parametrize(("chosen", "sizes"), [(None, [1024, 476]), (1000, [1000, 500])])
def test_many_rows_of_a_table_are_computed_in_few_calls(
    loader: Loader, slots: Slots, monkeypatch: pytest.MonkeyPatch, chosen: int | None, sizes: list[int]
) -> None:
    config = {"batching": {"max_batch_size": chosen}} if chosen else {}
    model = loader(models_sklearn.path("iris"), "sklearn", config=config, batch_rows=chosen or 8)
    seen: list[int] = []
    predict = SklearnBackend.predict

    def counted(self: SklearnBackend, batch: Tensors) -> Tensors:
        seen.append(len(batch["input"]))
        return predict(self, batch)

    monkeypatch.setattr(SklearnBackend, "predict", counted)
    (answer,) = ask(model, slots, [[5.1, 3.5, 1.4, 0.2]] * 1500)
    assert len(answer) == 1500
    assert seen == sizes


def test_a_table_that_knows_its_categories_only(loader: Loader, slots: Slots, tmp_path: Path) -> None:
    """A category that is stored as a number has no neighbours: rows between two of them are unknown to the model."""
    features, target = load_iris(return_X_y=True)
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(features.round(), target)
    joblib.dump(estimator, tmp_path / "categories.joblib")
    given = features.round()[0].tolist()
    model = loader(tmp_path / "categories.joblib", "sklearn")
    assert model.reply.batch_reason is None
    (answer,) = ask(model, slots, given)
    assert answer


# -- plugins ----------------------------------------------------------------------------------------------------------


def test_a_plugin(loader: Loader, slots: Slots) -> None:
    model = loader(f"{PLUGINS / 'echo.py'}:Echo", "python", config={"prefix": "> "})
    reply = model.reply
    assert (reply.task, reply.accepts_values, reply.decodes_json, reply.plain_answers) == ("custom", True, False, False)
    assert json.loads(reply.example) == {"input": "hello"}
    assert ask(model, slots, {"input": "a"}, {"input": "b"}) == [{"output": "> a"}, {"output": "> b"}]


def test_a_plugin_that_batches_computes_together(loader: Loader, slots: Slots) -> None:
    model = loader(f"{PLUGINS / 'echo.py'}:BatchEcho", "python")
    assert model.reply.batch_reason is None
    answers = ask(model, slots, {"input": "a"}, {"input": "b"})
    assert answers == [{"output": "a", "together": 2}, {"output": "b", "together": 2}]
    alone = loader(f"{PLUGINS / 'echo.py'}:BatchEcho", "python", batch_rows=1)
    assert alone.reply.batch_reason == "batching.max_batch_size is 1"


def test_a_plugin_whose_example_fails_does_not_load(loader: Loader, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "from unimodel.plugins import BasePlugin\n"
        "class Bad(BasePlugin):\n"
        "    example = {'input': 1}\n"
        "    def load_model(self, config): pass\n"
        "    def predict(self, body): return 1 / 0\n"
    )
    with pytest.raises(ZeroDivisionError):
        loader(file, "python")
