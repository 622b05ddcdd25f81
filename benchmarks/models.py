"""The model files that the workloads serve, written once into the bench cache, and the inputs they are called with.

Every system serves the same file. Weights are random (seeded) where no trained ones are needed: speed does not
depend on them, while answers do, so that every answer can be compared with a call in this process.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def cache() -> Path:
    """``UNIMODEL_BENCH_CACHE`` or ``~/.cache/unimodel-bench``: the peers' environments and the model files."""
    return Path(os.environ.get("UNIMODEL_BENCH_CACHE", Path.home() / ".cache" / "unimodel-bench"))


@dataclass(frozen=True)
class Model:
    """One served model file or folder. `shape` is that of one row, without the batch axis; numbers are float32."""

    name: str
    file: str
    shape: tuple[int, ...]
    write: Callable[[Path], None]
    trust: bool = False
    """Whether loading it can run code, so that UniModel must be told to trust it."""

    @property
    def is_image(self) -> bool:
        """Whether it classifies images."""
        return len(self.shape) == 3

    @property
    def path(self) -> Path:
        """The file in the cache, written when it is not there yet."""
        path = cache() / "models" / self.file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name("unfinished-" + path.name)
            self.write(unfinished)
            unfinished.replace(path)
        return path

    def row(self) -> Array:
        """One valid input: shape (1, *shape), float32, the same at every call."""
        if self.shape == (4,):
            return np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)
        # Three decimals keep JSON as small as a client could send it.
        return np.random.default_rng(7).standard_normal((1, *self.shape), np.float32).round(3)


def iris_onnx() -> Model:
    """A logistic regression of iris in three ONNX nodes: [N,4] -> probabilities [N,3]. It computes next to nothing."""
    return Model("iris", "iris.onnx", (4,), _write_iris_onnx)


def iris_sklearn() -> Model:
    """The same regression as a scikit-learn pipeline in a joblib file; ``predict_proba``."""
    return Model("iris-sklearn", "iris.joblib", (4,), _write_iris_joblib, trust=True)


def profanity() -> Model:
    """Texts → whether they swear, a trained vectorizer and classifier of scikit-learn in one pipeline."""
    return Model("profanity", "profanity.joblib", (), _write_profanity, trust=True)


def mobilenet_lite() -> Model:
    """MobileNetV2 with random weights, as Keras makes it, in TensorFlow Lite's format: NHWC."""
    return Model("mobilenet-lite", "mobilenet.tflite", (224, 224, 3), _write_mobilenet_lite)


def minilm() -> Model:
    """A Hugging Face folder that embeds: a text of up to 256 tokens -> [384]."""
    return Model("minilm", "minilm", (), _copy_minilm)


def resnet50() -> Model:
    """ResNet-50's graph with random weights and a free batch dimension: [N,3,224,224] -> probabilities [N,1000]."""
    return Model("resnet50", "resnet50.onnx", (3, 224, 224), _write_resnet50)


def efficientnet(name: str) -> Model:
    """A trained EfficientNet-Lite0 under any name: [N,3,224,224] -> logits [N,1000]."""
    return Model(name, "efficientnet.onnx", (3, 224, 224), _copy_efficientnet)


def row_mean(floats: int) -> Model:
    """[N,floats] -> [N,1], the mean of each row: a large input, a tiny answer."""
    return Model("mean", "mean.onnx", (floats,), lambda path: _write_reducer(path, "ReduceMean"))


def echo(floats: int) -> Model:
    """[N,floats] -> the same: a large input and a large answer."""
    return Model("echo", "echo.onnx", (floats,), lambda path: _write_reducer(path, "Identity"))


def jpeg() -> bytes:
    """A photograph of 451 × 300 pixels as a JPEG of about 40 kB."""
    from PIL import Image
    from skimage import data

    buffer = io.BytesIO()
    Image.fromarray(data.chelsea()).save(buffer, "JPEG", quality=90)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def jpeg_base64() -> str:
    """`jpeg` in base64, as it stands in a JSON body."""
    return base64.b64encode(jpeg()).decode()


def _copy_efficientnet(path: Path) -> None:
    from scripts import fetch_models

    shutil.copy(fetch_models.fetch("efficientnet") / "model.onnx", path)


def _copy_minilm(path: Path) -> None:
    from scripts import fetch_models

    shutil.copytree(fetch_models.fetch("minilm"), path, dirs_exist_ok=True)


def _fitted_iris() -> Any:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_iris()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return pipeline.fit(data.data.astype(np.float32), data.target)


def _write_iris_joblib(path: Path) -> None:
    import joblib

    joblib.dump(_fitted_iris(), path)


def _write_mobilenet_lite(path: Path) -> None:
    """In a process of its own, as TensorFlow's threads and messages would stay."""
    code = (
        "import pathlib, sys, keras, tensorflow as tf; keras.utils.set_random_seed(50); "
        "model = keras.applications.MobileNetV2(weights=None); "
        "pathlib.Path(sys.argv[1]).write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, check=True)


def _write_profanity(path: Path) -> None:
    import joblib
    from sklearn.pipeline import Pipeline

    from scripts import fetch_models

    folder = fetch_models.fetch("profanity")
    steps = [(name, joblib.load(folder / f"{name}.joblib")) for name in ("vectorizer", "model")]
    joblib.dump(Pipeline(steps), path)


def _write_iris_onnx(path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    scaler, regression = (step for _, step in _fitted_iris().steps)
    weights = (regression.coef_ / scaler.scale_).astype(np.float32).T
    bias = (regression.intercept_ - (regression.coef_ * scaler.mean_ / scaler.scale_).sum(axis=1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["scores"]),
            helper.make_node("Add", ["scores", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["output"], axis=1),
        ],
        "iris",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    _save(graph, path)


def _write_reducer(path: Path, operation: str) -> None:
    from onnx import TensorProto, helper

    attributes: dict[str, Any] = {"axes": [1], "keepdims": 1} if operation == "ReduceMean" else {}
    width = 1 if operation == "ReduceMean" else "floats"
    graph = helper.make_graph(
        [helper.make_node(operation, ["input"], ["output"], **attributes)],
        operation,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "floats"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", width])],
    )
    _save(graph, path)


def _save(graph: Any, path: Path) -> None:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _write_resnet50(path: Path) -> None:
    """Takes the graph from onnx's own test data, whose weights are constants that a runtime folds, and gives it random
    ones; frees the batch dimension, which that file fixes at 1."""
    import onnx
    from onnx import helper, numpy_helper

    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    model = onnx.load(str(light))
    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    rng = np.random.default_rng(50)
    fills = {n.output[0]: tuple(constants[n.input[0]]) for n in graph.node if n.op_type == "ConstantOfShape"}
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    shapes = fills | {name: array.shape for name, array in constants.items()}
    weights = {name: _random_weights(name, shapes[name], rng) for n in nodes for name in n.input if name in shapes}
    flat_shape = next(n.input[1] for n in nodes if n.op_type == "Reshape")
    weights[flat_shape] = np.array([-1, 2048], np.int64)
    old_input, old_output = graph.input[0].name, graph.output[0].name
    for node in nodes:
        node.input[:] = ["input" if n == old_input else n for n in node.input]
        node.output[:] = ["output" if n == old_output else n for n in node.output]
    float32 = onnx.TensorProto.FLOAT
    whole = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", float32, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("output", float32, ["batch", 1000])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    rewritten = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    onnx.checker.check_model(rewritten)
    onnx.save(rewritten, str(path))


def _random_weights(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Weights that keep activations near 1 through 50 layers, so that no number is denormal, infinite or NaN."""
    if name.endswith(("_s_0", "_riv_0")):
        return np.ones(shape, np.float32)
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    fan_in = int(np.prod(shape[1:]))
    weights: Array = (rng.standard_normal(shape) * np.sqrt(1.0 / fan_in)).astype(np.float32)
    return weights
