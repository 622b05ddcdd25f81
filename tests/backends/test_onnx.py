"""The ONNX backend on real models, and on small ones made here for what real ones do not show."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends import labels
from backends.base import (
    BackendError,
    Device,
    InvalidInput,
    InvalidOption,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
    TensorSpec,
)
from backends.onnx import OnnxBackend, OnnxOptions, errors
from engine import digest
from tests.models import efficientnet, magika, model, silero

CPU = Device("cpu", threads=2)
F, I64 = TensorProto.FLOAT, TensorProto.INT64

Shape = Sequence[int | str | None]
Value = tuple[str, int, Shape]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of the given nodes, inputs, outputs and weights, and returns its path."""

    def write(
        nodes: list[onnx.NodeProto],
        inputs: list[Value],
        outputs: list[Value | onnx.ValueInfoProto],
        weights: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        name: str = "model.onnx",
        opset: int = 17,
    ) -> Path:
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(*v) for v in inputs],
            [v if isinstance(v, onnx.ValueInfoProto) else helper.make_tensor_value_info(*v) for v in outputs],
            [numpy_helper.from_array(np.asarray(w), k) for k, w in (weights or {}).items()],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        if metadata:
            helper.set_model_props(proto, metadata)
        onnx.save(proto, tmp_path / name)
        return tmp_path / name

    return write


def load(path: Path, **options: Any) -> tuple[OnnxBackend, ModelInfo]:
    backend = OnnxBackend()
    return backend, backend.load(path, CPU, OnnxOptions(**options))


def linear(rows: Shape = ("n", 4), out: Shape = ("n", 2)) -> tuple[list[Any], list[Value], list[Value], dict[str, Any]]:
    """y = x·w with a 4 × 2 matrix."""
    weights = {"w": np.arange(8, dtype=np.float32).reshape(4, 2)}
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", F, rows)], [("y", F, out)], weights


# --- sniffing -------------------------------------------------------------------------------------------------------


def test_sniff_knows_a_model_by_its_structure_under_any_name(tmp_path: Path) -> None:
    assert OnnxBackend.sniff(efficientnet()).confidence == 1.0
    nameless = tmp_path / "weights.bin"
    nameless.write_bytes(magika().read_bytes())
    assert OnnxBackend.sniff(nameless).confidence == 0.9
    assert OnnxBackend.sniff(nameless).runs_code is None


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_sniff_takes_a_truncated_model_so_that_loading_can_say_so(tmp_path: Path, share: float) -> None:
    data = magika().read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    assert OnnxBackend.sniff(path).confidence == 0.6
    with pytest.raises(ModelFileError, match=r"cut\.onnx is truncated"):
        load(path)


FOREIGN = {
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "zip": b"PK\x03\x04" + bytes(60),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "json": b'{"error": "not found"}',
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
    "gguf": b"GGUF\x03\x00\x00\x00" + bytes(64),
    "other protobuf": b"\x08\x01\x12\x04abcd",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_told_apart(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(FOREIGN[kind])
    assert OnnxBackend.sniff(tmp_path / "x").confidence == 0
    named = tmp_path / "x.onnx"
    named.write_bytes(FOREIGN[kind])
    assert OnnxBackend.sniff(named).confidence == 0.5
    with pytest.raises(ModelFileError, match="is not an ONNX model"):
        load(named)


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        load(tmp_path / "no.onnx")
    assert OnnxBackend.sniff(tmp_path / "no.onnx").confidence == 0
    with pytest.raises(ModelFileError, match=r"is a folder; give the path of the \.onnx file"):
        load(tmp_path)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelFileError, match="is empty"):
        load(tmp_path / "empty.onnx")


def test_onnxruntimes_own_format(save: Callable[..., Path], tmp_path: Path) -> None:
    import onnxruntime

    path = save(*linear())
    config = onnxruntime.SessionOptions()
    config.optimized_model_filepath = str(tmp_path / "model.bin")
    config.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(path), config)
    assert OnnxBackend.sniff(tmp_path / "model.bin").confidence == 0.9
    backend, info = load(tmp_path / "model.bin")
    assert info.inputs == (TensorSpec("x", "float32", ("n", 4)),)
    np.testing.assert_array_equal(backend.predict({"x": np.eye(4, dtype=np.float32)})["y"][1], [2, 3])


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    """Flipped bits load, or fail with one sentence that names no source file of onnxruntime."""
    source = model("silero", "sequence.onnx").read_bytes()
    chance = random.Random(7)
    path = tmp_path / "damaged.onnx"
    failures = 0
    for _ in range(60):
        data = bytearray(source)
        for _ in range(chance.choice((1, 3, 20))):
            ends = (chance.randrange(2000), len(data) - 1 - chance.randrange(4000), chance.randrange(len(data)))
            data[chance.choice(ends)] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            load(path)
        except (ModelFileError, OutOfMemory) as e:
            failures += 1
            assert ".cc" not in e.message
            assert "\n" not in e.message
    assert failures > 10


# --- real models ----------------------------------------------------------------------------------------------------


def test_image_classifier() -> None:
    backend, info = load(efficientnet())
    assert info.task == "image-classification"
    assert info.inputs == (TensorSpec("image", "float32", ("batch", 3, 224, 224)),)
    assert info.outputs == (TensorSpec("logits", "float32", ("batch", 1000)),)
    assert info.batchable
    assert info.labels is not None
    assert (info.labels[282], info.labels[967], len(info.labels)) == ("tiger cat", "espresso", 1000)
    assert len(set(info.labels)) == 1000 - 1  # the data set itself has two classes called "maillot"
    assert json.loads(info.metadata["unimodel.preprocess"])["resize"] == 256
    assert info.runtime.startswith("onnxruntime ")
    assert [(f.subject, f.value, f.sure, f.option) for f in info.findings] == [
        ("task", "image-classification", "likely", "--task tensor")
    ]
    assert backend.memory() >= efficientnet().stat().st_size
    row = backend.example()["image"]
    two = backend.predict({"image": np.concatenate([row, row * 0.5])})["logits"]
    np.testing.assert_allclose(two[:1], backend.predict({"image": row})["logits"], atol=1e-4)
    backend.close()


def test_integer_input_and_real_answers() -> None:
    backend, info = load(magika())
    assert info.task == "tensor"
    assert info.inputs == (TensorSpec("bytes", "int32", ("batch", 2048)),)
    assert info.outputs == (TensorSpec("target_label", "float32", ("batch", 214)),)
    kinds = json.loads(model("magika", "config.json").read_text())["target_labels_space"]
    samples = {
        "python": b"import os\n\n\ndef main() -> None:\n    for name in os.listdir('.'):\n        print(name)\n" * 3,
        "c": b'#include <stdio.h>\n\nint main(void) {\n    printf("hello\\n");\n    return 0;\n}\n' * 3,
        "sql": b"SELECT name, count(*) FROM users WHERE age > 30 GROUP BY name ORDER BY 2 DESC;\n" * 3,
    }
    batch = np.full((len(samples), 2048), 256, np.int32)
    for row, text in zip(batch, samples.values(), strict=True):
        part = np.frombuffer(text.strip(), np.uint8)[:1024]
        row[: len(part)] = part
        row[2048 - len(part) :] = part
    scores = backend.predict({"bytes": batch})["target_label"]
    assert [kinds[i] for i in scores.argmax(axis=1)] == list(samples)


def test_state_with_its_batch_on_another_axis() -> None:
    backend, info = load(silero())
    assert info.inputs == (
        TensorSpec("input", "float32", ("batch", "input_1"), 0),
        TensorSpec("state", "float32", (2, "batch", 128), 1),
        TensorSpec("sr", "int64", (), None),
    )
    assert info.outputs == (
        TensorSpec("output", "float32", ("batch", 1), 0),
        TensorSpec("stateN", "float32", (2, "batch", 128), 1),
    )
    assert not info.batchable
    assert info.unbatched_reason == "There is no batch axis in the input 'sr'."
    example = backend.example()
    assert example["input"].shape == (1, 512)
    assert example["sr"] == 16000
    silence = {"input": np.zeros((2, 512), np.float32), "state": np.zeros((2, 2, 128), np.float32), "sr": example["sr"]}
    outputs = backend.predict(silence)
    assert outputs["output"].shape == (2, 1)
    assert outputs["output"].max() < 0.05
    with pytest.raises(InvalidInput, match="refused its input") as caught:
        backend.predict({**silence, "input": np.zeros((2, 100), np.float32)})
    assert ".cc" not in caught.value.message


def test_sequence_that_looks_like_a_batch() -> None:
    _, info = load(model("silero", "sequence.onnx"))
    assert info.inputs[0] == TensorSpec("input", "float32", ("sequence_length", 576), None)
    assert info.outputs[0] == TensorSpec("speech_probs", "float32", ("sequence_length",), None)
    assert not info.batchable


def test_everything_fixed() -> None:
    _, info = load(model("silero", "openvino.onnx"))
    assert not info.batchable
    assert info.unbatched_reason == "The file fixes every dimension."


# --- the batch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [("n", 4), ("batch_size", 4), (None, 4), ("unk__12", 4)])
def test_free_first_dimension_is_the_batch(save: Callable[..., Path], rows: Shape) -> None:
    _, info = load(save(*linear(rows, (None, None))))
    name = rows[0] if rows[0] in ("n", "batch_size") else "batch"
    assert info.inputs == (TensorSpec("x", "float32", (name, 4)),)
    assert info.outputs == (TensorSpec("y", "float32", (name, 2)),)
    assert info.batchable


def test_name_of_an_input_says_nothing_of_its_dimensions(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Relu", ["token_sequence"], ["y"])]
    _, info = load(save(nodes, [("token_sequence", F, (None, 3))], [("y", F, (None, 3))]))
    assert info.inputs[0] == TensorSpec("token_sequence", "float32", ("batch", 3))


def test_fixed_batch_of_one(save: Callable[..., Path]) -> None:
    backend, info = load(save(*linear((1, 4), (1, 2))))
    assert info.inputs == (TensorSpec("x", "float32", (1, 4), 0),)
    assert info.outputs == (TensorSpec("y", "float32", (1, 2), 0),)
    assert not info.batchable
    assert info.unbatched_reason == "The file fixes the batch dimension at 1."
    with pytest.raises(InvalidInput):
        backend.predict({"x": np.zeros((2, 4), np.float32)})


def test_fixed_batch_of_several(save: Callable[..., Path]) -> None:
    _, info = load(save(*linear((8, 4), (8, 2))))
    assert [s.batch_axis for s in (*info.inputs, *info.outputs)] == [0, 0]
    assert info.unbatched_reason == "The file fixes the batch dimension at 8."


def test_file_that_declares_an_output_wrongly(save: Callable[..., Path]) -> None:
    """Exporters often write the batch of the example into the output: running it tells the truth."""
    _, info = load(save(*linear(("batch", 4), (1, 2))))
    assert info.outputs == (TensorSpec("y", "float32", ("batch", 2)),)
    assert info.batchable


def test_file_that_declares_a_batch_but_takes_one_row(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    _, info = load(save(nodes, [("x", F, ("batch", 4))], [("y", F, (2, 2))], {"shape": np.array([2, 2])}))
    assert info.inputs == (TensorSpec("x", "float32", (1, 4), 0),)
    assert not info.batchable
    assert (info.unbatched_reason or "").startswith("The model fails on two rows at once:")


def test_output_without_rows(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    backend, info = load(save(nodes, [("x", F, ("batch", 4))], [("y", F, ())]))
    assert info.outputs == (TensorSpec("y", "float32", (), None),)
    assert info.unbatched_reason == "The output 'y' does not have one row for each row of the input."
    result = backend.predict({"x": np.ones((1, 4), np.float32)})["y"]
    assert isinstance(result, np.ndarray)
    assert result.shape == ()


def test_several_inputs_and_outputs(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    path = save(
        nodes,
        [("a", F, ("batch", 3)), ("b", F, ("batch", 3))],
        [("sum", F, ("batch", 3)), ("difference", F, ("batch", 3))],
    )
    backend, info = load(path)
    assert info.batchable
    assert [s.name for s in info.outputs] == ["sum", "difference"]
    outputs = backend.predict({"b": np.ones((2, 3), np.float32), "a": np.full((2, 3), 3, np.float32)})
    np.testing.assert_array_equal(outputs["sum"], np.full((2, 3), 4))
    np.testing.assert_array_equal(outputs["difference"], np.full((2, 3), 2))


def test_input_that_all_rows_share(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    _, info = load(save(nodes, [("x", F, ("batch", 3)), ("factor", F, (1,))], [("y", F, ("batch", 3))]))
    assert info.inputs[0].batch_axis == 0
    assert info.inputs[1].batch_axis is None
    assert info.unbatched_reason == "There is no batch axis in the input 'factor'."


# --- free dimensions ------------------------------------------------------------------------------------------------


def test_output_dimension_that_follows_an_input(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Transpose", ["y"], ["z"], perm=[0, 2, 1])]
    weights = {"w": np.ones((4, 2), np.float32)}
    path = save(nodes, [("x", F, (None, None, 4))], [("y", F, (None,) * 3), ("z", F, (None,) * 3)], weights)
    backend, info = load(path)
    assert info.inputs[0].shape == ("batch", "x_1", 4)
    assert [s.shape for s in info.outputs] == [("batch", "x_1", 2), ("batch", 2, "x_1")]
    assert backend.example()["x"].shape == (1, 16, 4)


def test_output_dimension_that_is_a_part_of_an_input(save: Callable[..., Path]) -> None:
    weights = {"starts": np.array([0]), "ends": np.array([2**62]), "axes": np.array([1]), "steps": np.array([2])}
    nodes = [helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])]
    _, info = load(save(nodes, [("x", F, ("batch", "sequence"))], [("y", F, ("batch", "sequence"))], weights))
    assert info.inputs[0].shape == ("batch", "sequence")
    assert info.outputs[0].shape == ("batch", "y_1")


def test_pooled_dimension_is_fixed(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)]
    path = save(nodes, [("x", F, ("batch", "tokens", 6))], [("y", F, (None, None))], opset=13)
    assert load(path)[1].outputs[0].shape == ("batch", 6)


def test_sizes_that_only_the_user_knows(save: Callable[..., Path]) -> None:
    """The model runs on 37 columns only, and its file does not say so."""
    weights = {"w": np.ones((37, 2), np.float32), "shape": np.array([0, 37])}
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["z"]), helper.make_node("MatMul", ["z", "w"], ["y"])]
    path = save(nodes, [("x", F, ("batch", "columns"))], [("y", F, ("batch", 2))], weights)
    with pytest.raises(ModelFileError, match=r"set them: dims\.columns=N"):
        load(path)
    backend, info = load(path, dims={"columns": 37})
    assert backend.example()["x"].shape == (1, 37)
    assert info.batchable
    with pytest.raises(InvalidOption, match=r"dims\.rows is no free dimension of this model; it has: columns"):
        load(path, dims={"rows": 37})


def test_free_image_size(save: Callable[..., Path]) -> None:
    weights = {"w": np.ones((5, 3, 3, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    path = save(nodes, [("x", F, ("batch", 3, "height", "width"))], [("y", F, ("batch", 5))], weights)
    backend, info = load(path)
    assert info.task == "image-classification"
    assert backend.example()["x"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("rows", [1, 3])
def test_integers_that_are_indices_or_counts(save: Callable[..., Path], rows: int) -> None:
    """A table of one row takes index 0 only; a count must not be 0."""
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"], axis=0)]
    _, info = load(save(nodes, [("i", I64, ("batch",))], [("y", F, ("batch", 2))], {"table": np.ones((rows, 2), "f4")}))
    assert info.batchable
    count = [helper.make_node("TopK", ["table", "k"], ["v", "j"], axis=0)]
    backend, _ = load(save(count, [("k", I64, (1,))], [("v", F, (None,))], {"table": np.arange(4, dtype=np.float32)}))
    assert backend.example()["k"] == [1]


# --- types ----------------------------------------------------------------------------------------------------------

TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_goes_in_and_out(save: Callable[..., Path], dtype: str) -> None:
    shape = ("batch", 2)
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    backend, info = load(save(nodes, [("x", TYPES[dtype], shape)], [("y", TYPES[dtype], shape)]))
    assert info.inputs == (TensorSpec("x", dtype, shape),)
    assert info.outputs == (TensorSpec("y", dtype, shape),)
    x = np.array([["é", "b"], ["", "d\n"]], object) if dtype == "string" else np.array([[0, 1], [1, 1]], dtype)
    y = backend.predict({"x": x})["y"]
    assert y.dtype == x.dtype
    assert y.tolist() == x.tolist()


def test_outputs_do_not_point_into_the_inputs(save: Callable[..., Path]) -> None:
    """Inputs may be shared memory that is used again after the call."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Flatten", ["x"], ["z"])]
    path = save(nodes, [("x", F, ("batch", 2))], [("y", F, ("batch", 2)), ("z", F, ("batch", 2))])
    backend, _ = load(path)
    x = np.ones((3, 2), np.float32)
    outputs = backend.predict({"x": x})
    x[:] = 7
    assert outputs["y"].max() == outputs["z"].max() == 1


@pytest.mark.parametrize("keys", [{"classlabels_int64s": [3, 5, 7]}, {"classlabels_strings": ["ant", "bee", "cat"]}])
def test_scores_in_dicts_become_a_table(save: Callable[..., Path], keys: dict[str, Any]) -> None:
    """scikit-learn's converters end classifiers with ZipMap: one dict a row."""
    classes = next(iter(keys.values()))
    key_type = TensorProto.INT64 if isinstance(classes[0], int) else TensorProto.STRING
    label_keys = {"classlabels_ints" if key_type == TensorProto.INT64 else "classlabels_strings": classes}
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[1.0, 0.0, 0.0, 1.0, -1.0, -1.0],
            intercepts=[0.0, 0.0, 0.0],
            post_transform="SOFTMAX",
            **label_keys,
        ),
        helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **keys),
    ]
    value = helper.make_tensor_type_proto(F, ())
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(key_type, value))
    path = save(
        nodes, [("x", F, (None, 2))], [("label", key_type, (None,)), helper.make_value_info("probabilities", kind)]
    )
    backend, info = load(path)
    assert info.task == "tensor"
    assert info.labels == tuple(map(str, classes))
    assert info.outputs == (
        TensorSpec("label", "int64" if key_type == TensorProto.INT64 else "string", ("batch",)),
        TensorSpec("probabilities", "float32", ("batch", 3)),
    )
    assert info.batchable
    outputs = backend.predict({"x": np.array([[5, 0], [0, 5]], np.float32)})
    assert outputs["label"].tolist() == classes[:2]
    assert info.notes == (f"The columns of 'probabilities' are the classes {', '.join(map(str, classes))}.",)
    assert outputs["probabilities"].argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-6)


def test_types_that_cannot_be_served(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    bfloat16 = save(nodes, [("x", TensorProto.BFLOAT16, ("n",))], [("y", TensorProto.BFLOAT16, ("n",))])
    with pytest.raises(ModelFileError, match=r"'x' has the type tensor\(bfloat16\)"):
        load(bfloat16)
    optional = helper.make_value_info("y", helper.make_optional_type_proto(helper.make_tensor_type_proto(F, None)))
    with pytest.raises(ModelFileError, match=r"'y' has the type optional\(tensor\(float\)\)"):
        load(save([helper.make_node("Optional", ["x"], ["y"])], [("x", F, ("n",))], [optional]))


def sequence_of(kind: int) -> Any:
    """The output `y`, a sequence of tensors."""
    return helper.make_value_info("y", helper.make_sequence_type_proto(helper.make_tensor_type_proto(kind, None)))


@pytest.mark.parametrize("kind", [F, TensorProto.INT64, TensorProto.STRING])
def test_a_sequence_of_tensors_over_the_rows(save: Callable[..., Path], kind: int) -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=0, keepdims=0)
    backend, info = load(save([node], [("x", kind, (None, 3))], [sequence_of(kind)]))
    assert info.outputs == (TensorSpec("y", info.inputs[0].dtype, ("batch", 3)),)
    assert info.unbatched_reason == "The output 'y' is a sequence of tensors, whose shapes may differ between rows."
    x = np.arange(12).reshape(4, 3).astype(backend.example()["x"].dtype)
    x = x.astype(str).astype(object) if kind == TensorProto.STRING else x
    np.testing.assert_array_equal(backend.predict({"x": x})["y"], x)


def test_a_sequence_of_as_many_tensors_as_there_are_columns(save: Callable[..., Path]) -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=1, keepdims=0)
    backend, info = load(save([node], [("x", F, (None, 3))], [sequence_of(F)]))
    assert info.outputs == (TensorSpec("y", "float32", (3, "batch"), 1),)
    assert not info.batchable
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(backend.predict({"x": x})["y"], x.T)


def test_a_sequence_without_tensors(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("SequenceEmpty", [], ["y"], dtype=TensorProto.INT64)]
    nodes.append(helper.make_node("Identity", ["x"], ["z"]))
    backend, _ = load(save(nodes, [("x", F, (None, 3))], [sequence_of(TensorProto.INT64), ("z", F, (None, 3))]))
    empty = backend.predict({"x": np.zeros((2, 3), np.float32)})["y"]
    assert (empty.shape, empty.dtype) == ((0,), np.int64)


def test_a_sequence_of_tensors_of_different_shapes(save: Callable[..., Path]) -> None:
    node = helper.make_node("SplitToSequence", ["x", "two"], ["y"], axis=1)
    path = save([node], [("x", F, (None, 3))], [sequence_of(F)], {"two": np.array(2, np.int64)})
    with pytest.raises(
        ModelFileError, match=r"'y' is a sequence of tensors of different shapes, here \[1, 1\] and \[1, 2\]"
    ):
        load(path)


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("labels", '["cat", "dog"]'),
        ("unimodel.labels", "cat\ndog\n"),
        ("classes", "cat, dog"),
        ("names", "{0: 'cat', 1: 'dog'}"),
        ("id2label", '{"1": "dog", "0": "cat"}'),
    ],
)
def test_labels_are_found_however_they_are_written(save: Callable[..., Path], key: str, text: str) -> None:
    assert load(image_model(save, {key: text}))[1].labels == ("cat", "dog")


def test_labels_that_do_not_fit(save: Callable[..., Path]) -> None:
    _, info = load(image_model(save, {"labels": '["cat", "dog", "cow"]'}))
    assert info.labels is None
    assert any("labels holds 3 labels for 2 classes" in note for note in info.notes)


@pytest.mark.parametrize("text", ["{'a': 1", "[" * 5000, "{'x': 'y'}", '{"x": 1}', ""])
def test_labels_that_are_nonsense_are_not_fatal(text: str) -> None:
    assert labels.find({"labels": text}, 2)[0] is None


def image_model(save: Callable[..., Path], metadata: dict[str, str]) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    weights = {"w": np.ones((2, 3, 8, 8), np.float32)}
    return save(nodes, [("x", F, ("batch", 3, 8, 8))], [("y", F, ("batch", 2, 1, 1))], weights, metadata)


@pytest.mark.parametrize(
    ("shape", "classes"), [(("batch", 3, 8, 8), 1), (("batch", 4, 8, 8), 2), (("batch", 8, 8, 4), 2)]
)
def test_what_is_no_image_classifier(save: Callable[..., Path], shape: Shape, classes: int) -> None:
    size = int(np.prod([d for d in shape if isinstance(d, int)]))
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    path = save(nodes, [("x", F, shape)], [("y", F, ("batch", classes))], {"w": np.ones((size, classes), np.float32)})
    assert load(path)[1].task == "tensor"


# --- weights beside the file ----------------------------------------------------------------------------------------


def with_weights_beside(path: Path, location: str) -> Path:
    """A linear model whose weights are in a file of their own."""
    nodes, inputs, outputs, weights = linear()
    tensors = [numpy_helper.from_array(w, k) for k, w in weights.items()]
    values = [[helper.make_tensor_value_info(*v) for v in group] for group in (inputs, outputs)]
    proto = helper.make_model(helper.make_graph(nodes, "g", *values, tensors), ir_version=9)
    proto.opset_import[0].version = 17
    onnx.save(proto, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


@pytest.mark.parametrize("location", ["model.onnx.data", "weights.bin", "w" * 200])
def test_weights_beside_the_file_are_part_of_the_model(tmp_path: Path, location: str) -> None:
    path = with_weights_beside(tmp_path / "model.onnx", location)
    assert OnnxBackend.parts(path) == (path, tmp_path / location)
    before = digest.of_model(OnnxBackend, str(path))
    (tmp_path / location).write_bytes(bytes((tmp_path / location).stat().st_size))
    assert digest.of_model(OnnxBackend, str(path)) != before


def test_files_elsewhere_are_no_part_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = with_weights_beside(tmp_path / "here" / "model.onnx", "elsewhere.x")
    path.write_bytes(path.read_bytes().replace(b"elsewhere.x", b"../elsewher"))
    (tmp_path / "elsewher").write_bytes((tmp_path / "here" / "elsewhere.x").read_bytes())
    assert OnnxBackend.parts(path) == ()
    with pytest.raises(ModelFileError, match="escapes model directory"):
        load(path)


def test_external_weights(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path / "model.onnx", "model.onnx.data")
    backend, _ = load(path)
    np.testing.assert_array_equal(backend.predict({"x": np.eye(4, dtype=np.float32)})["y"][3], [6, 7])
    assert backend.memory() >= path.stat().st_size + (tmp_path / "model.onnx.data").stat().st_size
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx\.data") as caught:
        load(path)
    assert ".cc" not in caught.value.message


# --- failures while computing ---------------------------------------------------------------------------------------


def test_values_that_the_model_refuses(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"], axis=0)]
    backend, _ = load(save(nodes, [("i", I64, ("batch",))], [("y", F, ("batch", 2))], {"table": np.ones((3, 2), "f4")}))
    with pytest.raises(InvalidInput, match="out of data bounds") as caught:
        backend.predict({"i": np.array([99])})
    assert caught.value.field == "input"


def test_more_memory_than_there_is(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["x"], ["y"])]
    backend, _ = load(save(nodes, [("x", I64, (3,))], [("y", F, (None,) * 3)]))
    with pytest.raises(OutOfMemory, match="out of memory"):
        backend.predict({"x": np.array([1 << 20, 1 << 20, 1 << 5])})
    assert backend.predict({"x": np.array([1, 2, 3])})["y"].shape == (1, 2, 3)  # it goes on


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /a b/m.onnx failed:/onnxruntime_src/onnxruntime/core/"
            "graph/model.cc:182 onnxruntime::Model::Model(onnx::ModelProto&&, const Path&, const L*) Unsupported model "
            "IR version: 99, max supported IR version: 13\n",
            "Unsupported model IR version: 99, max supported IR version: 13.",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /m.onnx failed:[ONNXRuntimeError] : 1 : FAIL : "
            "tensorprotoutils.cc:2746 ConstantNodeProtoToTensorProto NodeProto for Constant should have 1 output. "
            "Got:0",
            "NodeProto for Constant should have 1 output. Got:0.",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code: /onnxruntime_src/onnxruntime/core/math/"
            "element_wise_ops.h:560 void onnxruntime::BroadcastIterator::Init(ptrdiff_t, ptrdiff_t) axis == 1 || axis "
            "== largest was false. Attempting to broadcast an axis by a dimension other than 1. 2 by 3\n",
            "Attempting to broadcast an axis by a dimension other than 1. 2 by 3.",
        ),
    ],
)
def test_messages_are_for_people(raw: str, clean: str) -> None:
    assert errors.reason(RuntimeError(raw)) == clean


def test_other_failures_are_the_models(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    backend, _ = load(save(nodes, [("a", F, ("batch", "i")), ("b", F, ("batch", "j"))], [("y", F, ("batch", None))]))
    with pytest.raises(BackendError, match="broadcast") as caught:
        backend.predict({"a": np.ones((1, 2), np.float32), "b": np.ones((1, 3), np.float32)})
    assert caught.value.code in ("model_error", "invalid_input")
    assert ".h:" not in caught.value.message


# --- options and devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["all", "extended", "basic", "off"])
def test_graph_optimization(level: str, save: Callable[..., Path]) -> None:
    backend, _ = load(save(*linear()), graph_optimization=level)
    np.testing.assert_array_equal(backend.predict({"x": np.eye(4, dtype=np.float32)})["y"][0], [0, 1])


def test_threads(save: Callable[..., Path]) -> None:
    """A call computes on as many threads as the worker has, its own among them, or on fewer, as the user says."""
    path = save(*linear())
    with pytest.raises(InvalidOption, match="threads must be at least 1"):
        load(path, threads=0)
    code = (
        "import os, sys; from pathlib import Path; import onnxruntime\n"
        "from backends.base import Device; from backends.onnx import OnnxBackend, OnnxOptions\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "kept = []\n"
        "for options in (OnnxOptions(), OnnxOptions(threads=1), OnnxOptions(threads=4)):\n"
        "    before = count(); kept.append(OnnxBackend())\n"
        "    kept[-1].load(Path(sys.argv[1]), Device('cpu', threads=3), options); print(count() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=os.curdir
    )
    assert result.stdout.split() == ["2", "0", "2"]


def test_cuda_needs_its_own_onnxruntime(save: Callable[..., Path]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(InvalidOption, match=r"uninstall -y onnxruntime && pip install 'unimodel\[gpu\]'"):
        OnnxBackend().load(save(*linear()), Device("cuda", index=0), OnnxOptions())
