"""Small real models of TensorFlow, Keras and LiteRT for the tests: ``python -m tests.models_tensorflow FOLDER``.

They are made once, all together and in a process of their own, and kept in the cache of the fetched ones, under the
versions of the libraries.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scripts import fetch_models
from tests import models

REVISION = 3
"""Raise it when a builder changes, so that models in the cache are made anew."""


def path(name: str) -> Path:
    """A file or folder in `folder`."""
    return folder() / name


def folder() -> Path:
    """Where the models are, made now unless they are there."""
    cache = fetch_models.cache_folder()
    made = cache / f"tensorflow-{version('tensorflow-cpu')}-{version('keras')}-{REVISION}"
    if not made.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "tensorflow.lock").open("a") as lock, tempfile.TemporaryDirectory(dir=cache) as unfinished:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.is_dir():
                target = Path(unfinished) / "models"
                target.mkdir()
                _build(target)
                target.rename(made)
    return made


def _build(target: Path) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.models_tensorflow", str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The digits as float32 [n, 8, 8, 1] of 0 to 1, and which they are."""
    from sklearn.datasets import load_digits

    features, target = load_digits(return_X_y=True)
    return (features / 16).astype(np.float32).reshape(-1, 8, 8, 1), target


# --- Keras and TensorFlow Lite --------------------------------------------------------------------------------------


def digits(target: Path) -> None:
    """A trained classifier in every format, and Keras' own answers for all images."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    pixels, labels = images()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pixels, labels, epochs=8, batch_size=64, verbose=0)
    np.save(target / "digits.npy", model.predict(pixels, verbose=0))
    model.save(target / "digits.keras")
    model.save(target / "digits.h5")
    model.export(target / "digits", verbose=False)

    def convert(name: str, kind: Any = None) -> None:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(target / "digits"))
        if kind is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([pixels[i : i + 1]] for i in range(100))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = kind
        (target / name).write_bytes(converter.convert())

    convert("digits.tflite")
    convert("digits_int8.tflite", tf.int8)
    convert("digits_uint8.tflite", tf.uint8)


def keras_others(target: Path) -> None:
    """Several inputs and outputs by name, texts, and layers that bring code."""
    import keras

    left, right = keras.Input((3,), name="left"), keras.Input((None, 2), name="right")
    total = keras.layers.Dense(2, kernel_initializer="ones", name="sums")(left)
    model = keras.Model({"left": left, "right": right}, {"double": right * 2, "sum": total})
    model.save(target / "several.keras")
    words = keras.layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "cat", "sat"])
    text = keras.Input((), dtype="string", name="text")
    keras.Model(text, words(text)).save(target / "words.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)]).save(target / "lambda.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)]).save(target / "lambda.h5")

    class Own(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    keras.Sequential([keras.Input((2,)), Own()]).save(target / "own.keras")


def lite_others(target: Path) -> None:
    """Two signatures, texts, a state, and dimensions that are free."""
    import keras
    import tensorflow as tf

    class Several(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(tf.reshape(tf.range(8.0), [4, 2]))
            ids = tf.constant([1, 2], tf.int64)
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(tf.constant(["cat", "dog"]), ids), -1
            )

        @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4], tf.int32)])
        def two(self, x: Any, ids: Any) -> Any:
            return {"product": tf.matmul(x, self.weights), "next": ids + 1, "large": x > 0.5}

        @tf.function(input_signature=[tf.TensorSpec([1, 4])])
        def one(self, x: Any) -> Any:
            return {"sum": tf.reduce_sum(x, 1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def look(self, word: Any) -> Any:
            return {"id": self.table.lookup(word)}

        @tf.function(input_signature=[tf.TensorSpec([None, None])])
        def free(self, x: Any) -> Any:
            return {"square": x * x, "sum": tf.reduce_sum(x, 1)}

    module = Several()
    with tempfile.TemporaryDirectory() as folder:
        signatures = {"two": module.two, "one": module.one, "look": module.look, "free": module.free}
        tf.saved_model.save(module, folder, signatures=signatures)
        for name, keys in (("several", ["one", "two"]), ("look", ["look"]), ("free", ["free"]), ("one", ["one"])):
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=keys)
            (target / f"{name}.tflite").write_bytes(converter.convert())
    keras.utils.set_random_seed(0)
    recurrent = keras.Sequential([keras.Input((5, 3), batch_size=1), keras.layers.LSTM(4)])
    (target / "lstm.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(recurrent).convert())


# --- SavedModels ----------------------------------------------------------------------------------------------------


def tf1(target: Path) -> None:
    """As TensorFlow 1 wrote them: with variables, without, with names that are no identifiers, with a vocabulary."""
    import tensorflow as tf

    v1 = tf.compat.v1
    build = v1.saved_model.build_signature_def
    info = v1.saved_model.utils.build_tensor_info

    def save(name: str, make: Callable[[Any], dict[str, Any]], **options: Any) -> None:
        anywhere = v1.ConfigProto(allow_soft_placement=True)
        with v1.Graph().as_default() as graph, v1.Session(graph=graph, config=anywhere) as session:
            signatures = make(session)
            builder = v1.saved_model.builder.SavedModelBuilder(str(target / name))
            session.run(v1.global_variables_initializer())
            ready = {k: each() if callable(each) else each for k, each in options.items()}
            builder.add_meta_graph_and_variables(session, ["serve"], signatures, **ready)
            builder.save()

    def odd(_: Any) -> dict[str, Any]:
        names = ["input/x:0", "class", "self", "1st"]
        inputs = {name: v1.placeholder(tf.float32, [None, 2]) for name in names}
        weight = v1.get_variable("weight", initializer=3.0, use_resource=False)
        outputs = {"out/y:0": tf.add_n(list(inputs.values())) * weight}
        return {
            "my signature": build({n: info(t) for n, t in inputs.items()}, {n: info(t) for n, t in outputs.items()})
        }

    def constant(_: Any) -> dict[str, Any]:
        with tf.device("/device:GPU:3"):
            x = v1.placeholder(tf.float32, [4, 2])
            y = x * 2.0
        return {"predict": build({"x": info(x)}, {"y": info(y), "x": info(x)})}

    vocabulary = target / "words.txt"
    vocabulary.write_text("cat\ndog\n")

    def words(_: Any) -> dict[str, Any]:
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, tf.constant(str(vocabulary)))
        (asset,) = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        word = v1.placeholder(tf.string, [None])
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                asset, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            -1,
        )
        return {"serving_default": build({"word": info(word)}, {"id": info(table.lookup(word))})}

    save("tf1_odd", odd)
    save("tf1_constant", constant)
    assets = {
        "assets_collection": lambda: v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        "main_op": v1.tables_initializer,
    }
    save("tf1_words", words, **assets)


def module(target: Path) -> None:
    """One module with many signatures, which do what small models seldom show."""
    import tensorflow as tf

    spec = tf.TensorSpec
    vocabulary = str(target / "words.txt")

    class Many(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(tf.reshape(tf.range(8.0), [4, 2]))
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(
                    vocabulary,
                    tf.string,
                    tf.lookup.TextFileIndex.WHOLE_LINE,
                    tf.int64,
                    tf.lookup.TextFileIndex.LINE_NUMBER,
                ),
                -1,
            )

        @tf.function(input_signature=[spec([None, 4]), spec([None], tf.int32), spec([None, None], tf.bool)])
        def mixed(self, x: Any, n: Any, flags: Any) -> Any:
            return {"product": tf.matmul(x, self.weights), "next": n + 1, "not": tf.logical_not(flags)}

        @tf.function(input_signature=[spec([None], tf.string)])
        def texts(self, text: Any) -> Any:
            return {"upper": tf.strings.upper(text, "utf-8"), "id": self.table.lookup(text)}

        @tf.function(input_signature=[spec([2, 4])])
        def fixed(self, x: Any) -> Any:
            return {"product": tf.matmul(x, self.weights)}

        @tf.function(input_signature=[spec([None, 4], tf.bfloat16)])
        def brain(self, x: Any) -> Any:
            return {"double": x * 2}

        @tf.function(input_signature=[spec(None)])
        def ranks(self, x: Any) -> Any:
            return {"double": x * 2}

        @tf.function(input_signature=[spec([None], tf.string)])
        def pictures(self, image_bytes: Any) -> Any:
            def shape(data: Any) -> Any:
                return tf.shape(tf.io.decode_png(data))

            return {"shape": tf.map_fn(shape, image_bytes, fn_output_signature=tf.int32), "same": image_bytes}

        @tf.function(input_signature=[spec([None, 2], tf.complex64)])
        def imaginary(self, x: Any) -> Any:
            return {"y": x}

        @tf.function(input_signature=[spec([None, 2])])
        def same(self, x: Any) -> Any:
            return {"same": x}

        @tf.function(input_signature=[spec([None, 2])])
        def picky(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less(x, 10.0, message="too large for me")]):
                return {"y": tf.identity(x)}

    many = Many()
    names = ("mixed", "texts", "fixed", "brain", "ranks", "pictures", "imaginary", "same", "picky")
    signatures = {name: getattr(many, name) for name in names}
    tf.saved_model.save(many, str(target / "module"), signatures=signatures)
    tf.saved_model.save(many, str(target / "texts"), signatures={"serving_default": many.texts})
    tf.saved_model.save(many, str(target / "bare"), signatures={})


IRIS = ("petal length", "petal width", "sepal length", "sepal width")


def messages(target: Path) -> None:
    """Signatures of serialized `tf.Example` messages: of an estimator, with the old operation, and of TensorFlow 2."""
    import tensorflow as tf
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    v1 = tf.compat.v1
    features, species = load_iris(return_X_y=True)
    trained = LogisticRegression(max_iter=1000).fit(features[:, [2, 3, 0, 1]], species)
    weights, bias = trained.coef_.T.astype(np.float32), trained.intercept_.astype(np.float32)
    number = tf.io.FixedLenFeature([], tf.float32)
    more = {"counts": tf.io.FixedLenFeature([2], tf.int64, [1, 2]), "tags": tf.io.VarLenFeature(tf.string)}

    def answers(x: Any) -> tuple[Any, Any]:
        scores = tf.nn.softmax(tf.stack(x, 1) @ weights + bias)
        return scores, tf.tile(tf.constant([["setosa", "versicolor", "virginica"]]), [tf.shape(scores)[0], 1])

    def estimator(session: Any) -> None:
        serialized = v1.placeholder(tf.string, [None], name="input_example_tensor")
        parsed = v1.io.parse_example(serialized, {**dict.fromkeys(IRIS, number), **more})
        scores, classes = answers([parsed[name] for name in IRIS])
        tags = parsed["tags"]
        found = tf.scatter_nd(tags.indices[:, :1], tf.ones_like(tags.values, tf.int32), tags.dense_shape[:1])
        _, _, _, old = tf.raw_ops.ParseExample(
            serialized=serialized,
            names=[],
            sparse_keys=[],
            dense_keys=[b"x", b"y"],
            dense_defaults=[tf.constant([], tf.float32), tf.constant([0, 0, 0], tf.int64)],
            sparse_types=[],
            dense_shapes=[[2], [3]],
        )
        info = v1.saved_model.utils.build_tensor_info
        build = v1.saved_model.build_signature_def
        given = {"inputs": info(serialized)}
        classify = build(given, {"scores": info(scores), "classes": info(classes)}, "tensorflow/serving/classify")
        predict = build(
            {"examples": info(serialized)},
            {"scores": info(scores), "tags": info(found), "total": info(tf.reduce_sum(parsed["counts"], 1))},
        )
        signatures = {"serving_default": classify, "predict": predict, "old": build(given, {"x": info(old[0] * 2)})}
        builder = v1.saved_model.builder.SavedModelBuilder(str(target / "estimator"))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()

    with v1.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        estimator(session)

    ragged = tf.io.RaggedFeature(tf.int64)

    class Pipeline(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.one = tf.Variable(1.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, examples: Any) -> Any:
            parsed = tf.io.parse_example(examples, {**dict.fromkeys(IRIS, number), "ids": ragged})
            scores, _ = answers([parsed[name] for name in IRIS])
            return {"scores": scores * self.one, "sum": tf.reduce_sum(parsed["ids"], 1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def each(self, examples: Any) -> Any:
            def parse(one: Any) -> Any:
                return tf.io.parse_single_example(one, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

            return {"x": tf.map_fn(parse, examples, fn_output_signature=tf.float32)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def alone(self, example: Any) -> Any:
            return {"x": tf.io.parse_example(example, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]}

    pipeline = Pipeline()
    signatures = {"serving_default": pipeline.serve, "each": pipeline.each, "alone": pipeline.alone}
    tf.saved_model.save(pipeline, str(target / "pipeline"), signatures=signatures)


def ragged(target: Path) -> None:
    """Signatures with ragged tensors, which TensorFlow writes as their parts, and with a sparse one."""
    import tensorflow as tf

    class Ragged(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.one = tf.Variable(1.0)

        @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.float32, 1), tf.TensorSpec([None])])
        def sums(self, words: Any, factor: Any) -> Any:
            return {"sum": tf.reduce_sum(words, 1) * factor * self.one}

        @tf.function(input_signature=[tf.RaggedTensorSpec([None, None, None, 2], tf.float32, 2, tf.int32)])
        def deep(self, x: Any) -> Any:
            return {"sum": tf.reduce_sum(x, 2).to_tensor()}

        @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.string, 1)])
        def texts(self, words: Any) -> Any:
            return {"joined": tf.strings.reduce_join(words, 1, separator=" ")}

        @tf.function(input_signature=[tf.SparseTensorSpec([None, 3])])
        def sparse(self, x: Any) -> Any:
            return {"sum": tf.sparse.reduce_sum(x, 1)}

    module = Ragged()
    signatures = {"serving_default": module.sums, "deep": module.deep, "texts": module.texts, "sparse": module.sparse}
    tf.saved_model.save(module, str(target / "ragged"), signatures=signatures)


def colours(target: Path) -> None:
    """A SavedModel and a Keras file that give scores for each pixel of pictures of any size: `models.COLOUR_SCORES`."""
    import keras

    weights, bias = models.COLOUR_SCORES
    layer = keras.layers.Conv2D(5, 1, name="scores")
    model = keras.Sequential([keras.Input((None, None, 3), name="picture"), layer])
    layer.set_weights([np.array(weights, np.float32).T.reshape(1, 1, 3, 5), np.array(bias, np.float32)])
    model.export(target / "colours", verbose=False)
    model.save(target / "colours.keras")


def hostile(target: Path) -> None:
    """Graphs that do more than compute: when they are called, when they are initialized, in a function's function."""
    import tensorflow as tf

    spec = tf.TensorSpec

    class Hostile(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[spec([None], tf.string)])
        def reads(self, name: Any) -> Any:
            return {"data": tf.map_fn(tf.io.read_file, name)}

        @tf.function(input_signature=[spec([None, 2])])
        def writes(self, x: Any) -> Any:
            tf.io.write_file("/tmp/unimodel-was-here", tf.io.serialize_tensor(x))
            return {"y": x}

        @tf.function(input_signature=[spec([None, 2])])
        def prints(self, x: Any) -> Any:
            tf.print("hello", output_stream="file:///tmp/unimodel-was-here")
            return {"y": x}

        @tf.function(input_signature=[spec([None, 2])])
        def branches(self, x: Any) -> Any:
            return {
                "y": tf.cond(
                    tf.reduce_sum(x) > 0,
                    lambda: x,
                    lambda: tf.fill(
                        tf.shape(x), tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)
                    ),
                )
            }

        @tf.function(input_signature=[spec([None, 2])])
        def innocent(self, x: Any) -> Any:
            return {"y": x + 1}

    each = Hostile()
    names = ("reads", "writes", "prints", "branches", "innocent")
    tf.saved_model.save(each, str(target / "hostile"), signatures={name: getattr(each, name) for name in names})

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.string, [None])
        table = tf.lookup.StaticHashTable(  # of a file that is not the model's
            tf.lookup.TextFileInitializer(
                "/etc/passwd",
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            "",
        )
        lines = table.lookup(tf.strings.to_number(x, tf.int64))
        info = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.build_signature_def({"line": info(x)}, {"text": info(lines)})
        builder = v1.saved_model.builder.SavedModelBuilder(str(target / "hostile_table"))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=v1.tables_initializer()
        )
        builder.save()


BUILDERS: Sequence[Callable[[Path], None]] = (
    digits,
    keras_others,
    lite_others,
    tf1,
    module,
    messages,
    ragged,
    colours,
    hostile,
)


def main() -> None:
    for build in BUILDERS:
        build(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
