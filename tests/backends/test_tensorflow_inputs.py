"""Inputs of SavedModels that are not what the graph is fed: features of messages, ragged tensors, and pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tensorflow import edited, load, strings

from backends.base import InvalidInput, ModelFileError, ModelInfo
from engine import tasks
from engine.model_options import ModelOptions
from tests.models_tensorflow import IRIS, path


def iris() -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """The flowers by the names of their features, and scikit-learn's own probabilities of their species."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, species = load_iris(return_X_y=True)
    ordered = features[:, [2, 3, 0, 1]].astype(np.float32)
    expected = LogisticRegression(max_iter=1000).fit(features[:, [2, 3, 0, 1]], species).predict_proba(ordered)
    return {name: ordered[:, i] for i, name in enumerate(IRIS)}, expected


# --- messages -------------------------------------------------------------------------------------------------------


def test_features_of_an_estimator_are_its_inputs() -> None:
    backend, info = load(path("estimator"), signature="predict")
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [
        ("counts", "int64", ("batch", 2)),
        *((name, "float32", ("batch",)) for name in IRIS),
        ("tags", "string", ("batch", "tags_1")),
    ]
    assert info.batchable
    (found,) = (f for f in info.findings if f.subject == "inputs")
    assert found.value == "6 features, of which each row becomes a tf.Example in 'examples'"
    assert (found.sure, found.option) == ("certain", """--set base64='["examples"]'""")
    flowers, expected = iris()
    rows = len(expected)
    tags = np.full((rows, 3), "größe", object)
    counts = np.stack([np.arange(rows), np.full(rows, -(2**40))], axis=1)
    answer = backend.predict({**flowers, "tags": tags, "counts": counts})
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-4, atol=1e-5)
    assert answer["tags"].tolist() == [3] * rows
    assert answer["total"].tolist() == counts.sum(axis=1).tolist()
    none = backend.predict({**flowers, "tags": tags[:, :0], "counts": counts})
    assert none["tags"].tolist() == [0] * rows


def test_an_estimator_that_classifies() -> None:
    backend, info = load(path("estimator"))
    flowers, expected = iris()
    given = {**flowers, "tags": np.full((150, 1), "", object), "counts": np.zeros((150, 2), np.int64)}
    answer = backend.predict(given)
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-4, atol=1e-5)
    assert answer["classes"][0].tolist() == ["setosa", "versicolor", "virginica"]
    assert info.metadata["signature"] == "serving_default"


def test_the_older_operation_that_parses() -> None:
    backend, info = load(path("estimator"), signature="old")
    assert info.unpadded_reason is None
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [
        ("x", "float32", ("batch", 2)),
        ("y", "int64", ("batch", 3)),
    ]
    answer = backend.predict({"x": np.array([[1, 2]], np.float32), "y": np.array([[1, 2, 3]])})
    assert answer["x"].tolist() == [[2, 4]]


def test_messages_that_are_parsed_in_a_function() -> None:
    backend, info = load(path("pipeline"))
    assert info.unpadded_reason == "it is told how long each row is"
    assert [s.name for s in info.inputs] == ["ids", *IRIS]
    flowers, expected = iris()
    ids = np.arange(300).reshape(150, 2)
    answer = backend.predict({**flowers, "ids": ids})
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-4, atol=1e-5)
    assert answer["sum"].tolist() == ids.sum(axis=1).tolist()


def test_messages_themselves_in_base64() -> None:
    backend, info = load(path("estimator"), base64=("inputs",))
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [("inputs", "string", ("batch",))]
    (message,) = backend.example()["inputs"]
    assert backend.predict({"inputs": strings(message, message)})["scores"].shape == (2, 3)
    with pytest.raises(InvalidInput, match=r"The model refused its input: .*parse"):
        backend.predict({"inputs": strings("bm9uZQ==")})
    with pytest.raises(InvalidInput, match="'inputs' holds a string that is no base64"):
        backend.predict({"inputs": strings("a text")})


@pytest.mark.parametrize("signature", ["each", "alone"])
def test_messages_whose_features_are_not_told(signature: str) -> None:
    with pytest.raises(ModelFileError, match=r"takes serialized messages .* export the model with the features"):
        load(path("pipeline"), signature=signature)


def test_features_whose_names_are_no_text(tmp_path: Path) -> None:
    folder, message = edited(path("estimator"), tmp_path)
    for node in message.meta_graphs[0].graph_def.node:
        values = node.attr["value"].tensor.string_val
        values[:] = [b"\xff" if value == b"tags" else value for value in values]
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    with pytest.raises(ModelFileError, match="whose features cannot be read off the graph"):
        load(folder)


# --- ragged tensors -------------------------------------------------------------------------------------------------


def test_a_ragged_input_is_rows_of_any_length() -> None:
    backend, info = load(path("ragged"))
    assert info.unpadded_reason == "it is told how long each row is"
    assert [(s.name, s.shape) for s in info.inputs] == [("factor", ("batch",)), ("words", ("batch", "words_1"))]
    for length in (0, 1, 5):
        words = np.arange(2 * length, dtype=np.float32).reshape(2, length)
        answer = backend.predict({"words": words, "factor": np.array([1, 10], np.float32)})
        assert answer["sum"].tolist() == [words[0].sum(), words[1].sum() * 10]


def test_ragged_in_two_dimensions_and_whole_in_the_third() -> None:
    backend, info = load(path("ragged"), signature="deep")
    assert info.inputs[0].shape == ("batch", "x_1", "x_2", 2)
    x = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(backend.predict({"x": x})["sum"], x.sum(axis=2))


def test_ragged_texts() -> None:
    backend, _ = load(path("ragged"), signature="texts")
    assert backend.predict({"words": np.array([["a", "cat"], ["ein", "bär"]], object)})["joined"].tolist() == [
        "a cat",
        "ein bär",
    ]


def test_a_sparse_input_is_a_clear_error() -> None:
    with pytest.raises(ModelFileError, match="Input 'x' is a ragged or sparse tensor in a form that cannot be served"):
        load(path("ragged"), signature="sparse")


# --- pixels ---------------------------------------------------------------------------------------------------------


def told(info: ModelInfo) -> tuple[str, str]:
    """What is said of the pixels, and how sure it is."""
    found = {finding.subject: finding for finding in tasks.create(info.task, info, ModelOptions()).findings}
    return found["pixel values"].value, found["pixel values"].sure


MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BYTES, FRACTIONS = ("0 to 255", "certain"), ("0 to 1", "certain")
USUAL = ("less 123.68, 116.28, 103.53, divided by 58.395, 57.12, 57.375", "guess")
LAYERS = {
    "a factor": (lambda layers: layers.Rescaling(1 / 127.5, -1), BYTES),
    "a mean of bytes": (lambda layers: layers.Normalization(mean=[123.7, 116.3, 103.5], variance=[3400.0] * 3), BYTES),
    "a mean": (lambda layers: layers.Normalization(mean=MEAN, variance=[d * d for d in DEVIATION]), FRACTIONS),
    "fractions to -1 and 1": (lambda layers: layers.Rescaling(2.0, -1.0), FRACTIONS),
    "nothing telling": (lambda layers: layers.Rescaling(2.0), USUAL),
    "nothing": (lambda layers: layers.Activation("relu"), USUAL),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras, where it saves
@pytest.mark.parametrize("name", LAYERS)
def test_pixels_that_a_saved_model_wants(name: str, tmp_path: Path) -> None:
    import keras

    layer, expected = LAYERS[name]
    inner = keras.Sequential([keras.Input((8, 8, 3)), layer(keras.layers), keras.layers.Conv2D(4, 3)])
    layers = [keras.Input((8, 8, 3)), inner, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    keras.Sequential(layers).export(tmp_path / "m", verbose=False)
    _, info = load(tmp_path / "m")
    assert info.task == "image-classification"
    assert told(info) == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras, where it saves
def test_bytes_of_pixels_need_no_range(tmp_path: Path) -> None:
    import keras

    layers = [keras.Input((8, 8, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3)]
    model = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    model.export(tmp_path / "m", verbose=False)
    model.save(tmp_path / "m.keras")
    for source in ("m", "m.keras"):
        assert told(load(tmp_path / source)[1]) == ("0 to 255, as they are", "certain")


def test_the_first_graph_of_tensorflow_1(tmp_path: Path) -> None:
    """A classifier of channels first that turns colours round and takes off their means, as Caffe's do."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, [None, 8, 8, 3])
        centred = image[..., ::-1] - tf.constant([103.9, 116.8, 123.7])
        scores = tf.nn.softmax(tf.reduce_mean(centred, [1, 2]))
        v1.saved_model.simple_save(session, str(tmp_path / "m"), {"image": image}, {"scores": scores})
    _, info = load(tmp_path / "m")
    assert json.loads(info.metadata["unimodel.preprocess"]) == {"mean": [0], "std": [1.0]}
    assert told(info) == ("0 to 255", "certain")


def test_rows_whose_size_follows_their_text_are_computed_together_or_alone_as_they_came(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.split = tf.function(
        lambda text: {"words": tf.strings.split(text).to_tensor("")},
        input_signature=[tf.TensorSpec([None], tf.string, name="text")],
    )
    tf.saved_model.save(module, str(tmp_path / "split"), signatures={"serving_default": module.split})
    backend, info = load(tmp_path / "split")
    assert info.outputs[0].shape == ("batch", "words_1")
    assert (info.batchable, info.unbatched_reason) == (
        False,
        "The size of the output 'words' depends on what is in a row.",
    )
    assert backend.predict({"text": np.array(["d"], object)})["words"].tolist() == [["d"]]
    together = backend.predict({"text": np.array(["a b c", "d"], object)})["words"].tolist()
    assert together == [["a", "b", "c"], ["d", "", ""]]
