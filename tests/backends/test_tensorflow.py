"""The TensorFlow backend: SavedModels of every writer, Keras' files, and files that are out to harm."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import (
    BackendError,
    Device,
    InvalidInput,
    InvalidOption,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
    UntrustedFile,
)
from backends.tensorflow import TensorFlowBackend, TensorFlowOptions, errors, files, runtime
from backends.tensorflow.graph import _OUTSIDE
from engine import tasks
from engine.model_options import ModelOptions
from tests import models
from tests.models_tensorflow import images, path

CPU = Device("cpu", threads=2)
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM4YaOhYXOCQWOBza9fvwAjhgZLkGODKwAAAABJRU5ErkJggg=="
SOURCES = {
    "py": "import os\n\ndef main(argv):\n    for name in argv:\n        print(os.path.join('a', name))\n",
    "c": '#include <stdio.h>\n\nint main(int argc, char **argv) {\n    printf("%d\\n", argc);\n    return 0;\n}\n',
    "sql": "SELECT name, COUNT(*) FROM users LEFT JOIN orders ON users.id = orders.user GROUP BY name ORDER BY 2;\n",
    "go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tx := []int{1, 2}\n\tfmt.Println(len(x))\n}\n',
}


def load(source: Path, *, trusted: bool = False, **options: Any) -> tuple[TensorFlowBackend, ModelInfo]:
    backend = TensorFlowBackend()
    backend.trusted = trusted
    return backend, backend.load(source, CPU, TensorFlowOptions(**options))


def strings(*texts: str) -> np.ndarray[Any, Any]:
    return np.array(texts, object)


# --- real answers ---------------------------------------------------------------------------------------------------


def test_guesslang_tells_languages_apart() -> None:
    backend, info = load(models.guesslang())
    assert (info.task, len(info.labels or ())) == ("text-classification", 54)
    assert info.metadata["format"] == "a SavedModel folder, written by TensorFlow 2.5.0"
    assert [(f.value, f.sure) for f in info.findings] == [
        ("serving_default (there are classification, predict, too)", "certain"),
        ("text-classification", "likely"),
    ]
    answer = backend.predict({"inputs": strings(*SOURCES.values())})
    best = answer["scores"].argmax(axis=1)
    assert [answer["classes"][i, n] for i, n in enumerate(best)] == list(SOURCES)
    assert [(info.labels or ())[n] for n in best] == list(SOURCES)


def test_another_signature_of_guesslang() -> None:
    backend, info = load(models.guesslang(), signature="predict")
    assert info.task == "tensor"
    assert [(f.subject, f.sure) for f in info.findings] == [("signature", "given")]
    answer = backend.predict({"content": strings(*SOURCES.values())})
    assert answer["classes"].ravel().tolist() == list(SOURCES)
    assert answer["class_ids"].dtype == np.int64


@pytest.mark.parametrize("name", ["digits", "digits.keras", "digits.h5"])
def test_a_classifier_answers_as_keras_does(name: str) -> None:
    backend, info = load(path(name))
    assert info.task == "image-classification"
    pixels, labels = images()
    (scores,) = backend.predict({info.inputs[0].name: pixels}).values()
    np.testing.assert_allclose(scores, np.load(path("digits.npy")), rtol=1e-4, atol=1e-5)
    assert (scores.argmax(axis=1) == labels).mean() > 0.9
    backend.close()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras, where it saves
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("scale", [1 / 255, 2.0])
def test_a_model_that_scales_pixels_itself_is_given_them_as_they_are(suffix: str, scale: float, tmp_path: Path) -> None:
    import keras

    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(scale), keras.layers.Conv2D(4, 3)])
    layers = [keras.Input((8, 8, 3)), inner, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(tmp_path / f"m{suffix}")
    _, info = load(tmp_path / f"m{suffix}")
    assert info.task == "image-classification"
    found = {finding.subject: finding for finding in tasks.create(info.task, info, ModelOptions()).findings}
    told = (found["pixel values"].value, found["pixel values"].sure)
    assert (told == ("0 to 255", "certain")) == (scale < 1)
    assert (told[1] == "guess") == (scale > 1)


def test_several_named_inputs_and_outputs_of_keras() -> None:
    backend, info = load(path("several.keras"))
    assert [(s.name, s.shape) for s in info.inputs] == [("left", ("batch", 3)), ("right", ("batch", "right_1", 2))]
    assert [(s.name, s.shape) for s in info.outputs] == [("double", ("batch", "right_1", 2)), ("sum", ("batch", 2))]
    right = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    answer = backend.predict({"left": np.array([[1, 2, 3]], np.float32), "right": right})
    np.testing.assert_array_equal(answer["double"], right * 2)
    np.testing.assert_array_equal(answer["sum"], [[6, 6]])


def test_texts_in_a_keras_file() -> None:
    backend, _ = load(path("words.keras"))
    answer = backend.predict({"text": strings("a cat", "the cat sat here now")})
    assert answer["text_vectorization"].tolist() == [[2, 3, 0, 0], [1, 3, 4, 1]]


# --- SavedModels ----------------------------------------------------------------------------------------------------


def test_names_that_are_no_identifiers() -> None:
    backend, info = load(path("tf1_odd"))
    assert [s.name for s in info.inputs] == ["1st", "class", "input/x:0", "self"]
    ones = {s.name: np.full((2, 2), i, np.float32) for i, s in enumerate(info.inputs)}
    assert backend.predict(ones)["out/y:0"].tolist() == [[18, 18]] * 2
    assert info.metadata["signature"] == "my signature"


def test_a_fixed_batch_without_variables_from_another_machine() -> None:
    backend, info = load(path("tf1_constant"))
    assert (info.batchable, info.unbatched_reason) == (False, "The file fixes the batch dimension at 4.")
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    answer = backend.predict({"x": x})
    np.testing.assert_array_equal(answer["y"], x * 2)
    np.testing.assert_array_equal(answer["x"], x)
    assert not np.shares_memory(answer["x"], x)


@pytest.mark.parametrize(("name", "source"), [("tf1_words", "word"), ("texts", "text")])
def test_a_vocabulary_beside_the_model(name: str, source: str, tmp_path: Path) -> None:
    """Its table reads a file, which is the model's own, wherever the folder lies."""
    folder = shutil.copytree(path(name), tmp_path / "moved")
    (folder / "assets" / "words.txt").write_text("bird\ncat\n")
    backend, _ = load(folder)
    assert backend.predict({source: strings("cat", "bird", "dog")})["id"].tolist() == [1, 0, -1]
    (folder / "assets" / "words.txt").unlink()
    with pytest.raises(ModelFileError, match=r"assets lacks words\.txt\. Copy the whole folder\.$"):
        load(folder)


def test_mixed_types_and_free_dimensions() -> None:
    backend, info = load(path("module"), signature="mixed")
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [
        ("flags", "bool", ("batch", "flags_1")),
        ("n", "int32", ("batch",)),
        ("x", "float32", ("batch", 4)),
    ]
    flags = np.array([[True, False, True], [False, False, True]])
    row = {"flags": flags, "n": np.array([3, 4], np.int32), "x": np.eye(4, dtype=np.float32)[:2]}
    answer = backend.predict(row)
    assert answer["next"].tolist() == [4, 5]
    assert answer["not"].tolist() == (~flags).tolist()
    assert answer["product"].tolist() == [[0, 1], [2, 3]]
    assert load(path("module"), signature="mixed", dims={"flags_1": 7})[0].example()["flags"].shape == (1, 7)
    with pytest.raises(InvalidOption, match=r"dims\.z is no free dimension"):
        load(path("module"), signature="mixed", dims={"z": 7})


def test_texts_in_and_out() -> None:
    backend, _ = load(path("texts"))
    answer = backend.predict({"text": strings("cat", "ärger", "")})
    assert answer["upper"].tolist() == ["CAT", "ÄRGER", ""]
    with pytest.raises(InvalidInput, match="'text' holds a string that is no text"):
        backend.predict({"text": strings("\ud800")})


def test_a_guess_says_that_it_is_one() -> None:
    _, info = load(path("module"))
    (found,) = info.findings
    assert (found.subject, found.sure, found.option) == ("signature", "guess", "--set signature=NAME")
    assert found.value.startswith("brain (there are fixed, ")


def test_bfloat16_is_given_and_taken_as_float32() -> None:
    backend, info = load(path("module"), signature="brain")
    assert {s.dtype for s in (*info.inputs, *info.outputs)} == {"float32"}
    assert backend.predict({"x": np.full((1, 4), 1.5, np.float32)})["double"].tolist() == [[3] * 4]


def test_an_input_of_any_rank_needs_a_shape() -> None:
    with pytest.raises(ModelFileError, match="input 'x' has; give its shape"):
        load(path("module"), signature="ranks")
    backend, info = load(path("module"), signature="ranks", shapes={"x": (None, 3)})
    assert info.inputs[0].shape == ("batch", 3)
    assert backend.predict({"x": np.ones((2, 3), np.float32)})["double"].tolist() == [[2] * 3] * 2


def test_bytes_go_in_and_out_in_base64() -> None:
    with pytest.raises(ModelFileError, match="'same' holds bytes that are no UTF-8 text; register the model with"):
        load(path("module"), signature="pictures")
    backend, _ = load(path("module"), signature="pictures", base64=("same",))
    answer = backend.predict({"image_bytes": strings(PNG)})
    assert answer["shape"].tolist() == [[2, 2, 3]]
    assert answer["same"].tolist() == [PNG]
    with pytest.raises(InvalidInput, match="'image_bytes' holds a string that is no base64"):
        backend.predict({"image_bytes": strings("@")})
    with pytest.raises(InvalidInput, match="Unknown image file format"):
        backend.predict({"image_bytes": strings(base64.b64encode(b"no image").decode())})


@pytest.mark.parametrize(
    ("name", "options", "message", "field"),
    [
        (
            "module",
            {"signature": "nothing"},
            "There is no signature 'nothing' in this model; it has: brain",
            "signature",
        ),
        ("module", {"tags": ("train",)}, r"module has no graph tagged \['train'\]; it has \['serve'\]", "tags"),
        ("module", {"shapes": {"z": (1,)}}, "shapes names 'z', which is no input of this model; it has: x", "shapes"),
        ("module", {"base64": ("x",)}, "base64 names 'x', which is no string input or output .* none", "base64"),
        ("digits.keras", {"signature": "a"}, "signature is for SavedModel folders", "signature"),
        ("digits", {"threads": 0}, "threads must be at least 1; got 0", "threads"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, Any], message: str, field: str) -> None:
    with pytest.raises(InvalidOption, match=message) as caught:
        load(path(name), **options)
    assert caught.value.field == f"config.{field}"


def test_types_and_files_that_cannot_be_served() -> None:
    with pytest.raises(ModelFileError, match="Input 'x' has the type complex64, which cannot be served"):
        load(path("module"), signature="imaginary")
    with pytest.raises(ModelFileError, match="bare has no signature, so nothing in it can be called"):
        load(path("bare"))
    with pytest.raises(ModelFileError, match="uses 'Own', which is no part of Keras, and its code is not in the file"):
        load(path("own.keras"))


def test_a_ragged_tensor_is_a_clear_error(tmp_path: Path) -> None:
    folder, message = edited(path("module"), tmp_path)
    info = message.meta_graphs[0].signature_def["same"].inputs["x"]
    info.ClearField("name")
    info.composite_tensor.type_spec.type_spec_class_name = "RaggedTensorSpec"
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    with pytest.raises(ModelFileError, match="Input 'x' is a ragged or sparse tensor in a form that cannot be served"):
        load(folder, signature="same")


def test_what_the_model_refuses_is_the_callers_fault() -> None:
    backend, _ = load(path("module"), signature="picky")
    with pytest.raises(InvalidInput, match=r"^The model refused its input: assertion failed: \[too large for me\]"):
        backend.predict({"x": np.full((1, 2), 20, np.float32)})
    with pytest.raises(InvalidInput, match="Cannot feed value of shape"):
        backend.predict({"x": np.zeros((1, 3), np.float32)})


def test_threads_are_of_the_process() -> None:
    backend, _ = load(path("digits"))
    assert backend.threads == 2
    with pytest.raises(InvalidOption, match=r"TensorFlow has 2 threads in this process, .* --set isolated=true\.$"):
        load(path("digits"), threads=1)


def test_a_text_graph(tmp_path: Path) -> None:
    from google.protobuf import text_format

    folder, message = edited(path("tf1_constant"), tmp_path)
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    assert files.look(folder) is files.Kind.SAVED_MODEL
    assert load(folder)[1].metadata["signature"] == "predict"
    (folder / "saved_model.pbtxt").write_text("meta_graphs { nonsense")
    with pytest.raises(ModelFileError, match="is truncated or corrupt"):
        load(folder)


def test_several_graphs_in_a_file(tmp_path: Path) -> None:
    folder, message = edited(path("tf1_constant"), tmp_path)
    other = message.meta_graphs.add()
    other.CopyFrom(message.meta_graphs[0])
    del other.meta_info_def.tags[:]
    other.meta_info_def.tags.extend(["train", "gpu"])
    other.signature_def["training"].CopyFrom(other.signature_def.pop("predict"))
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    assert load(folder)[1].metadata["signature"] == "predict"
    assert load(folder, tags=("gpu", "train"))[1].metadata["signature"] == "training"


def edited(source: Path, target: Path) -> tuple[Path, Any]:
    """A copy of a SavedModel, and its graph to be changed."""
    from tensorflow.core.protobuf import saved_model_pb2

    folder = shutil.copytree(source, target / source.name)
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    return folder, message


# --- what is out to harm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "operation"),
    [("reads", "ReadFile"), ("writes", "WriteFile"), ("prints", "PrintV2"), ("branches", "ReadFile")],
)
def test_a_graph_that_reaches_outside_needs_trust(signature: str, operation: str) -> None:
    with pytest.raises(UntrustedFile, match=rf"other machines by {operation}\. .* --trust\.$"):
        load(path("hostile"), signature=signature)
    assert not Path("/tmp/unimodel-was-here").exists()


def test_what_is_not_run_does_no_harm() -> None:
    backend, _ = load(path("hostile"), signature="innocent")
    assert backend.predict({"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[1, 1]]


def test_a_trusted_graph_may_do_what_it_does(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("hello")
    backend, _ = load(path("hostile"), signature="branches", trusted=True)
    assert backend.predict({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[1, 1]]


def test_a_table_of_a_foreign_file_needs_trust() -> None:
    with pytest.raises(UntrustedFile, match="InitializeTableFromTextFileV2"):
        load(path("hostile_table"))


def test_an_asset_outside_the_folder(tmp_path: Path) -> None:
    for i, name in enumerate(("/etc/passwd", "../../secret", "../saved_model.pb")):
        folder, message = edited(path("texts"), tmp_path / str(i))
        message.meta_graphs[0].asset_file_def[0].filename = name
        (folder / "saved_model.pb").write_bytes(message.SerializeToString())
        with pytest.raises(ModelFileError, match="texts names a file outside its folder"):
            load(folder)


def test_a_variable_that_is_given_another_path_too_needs_trust(tmp_path: Path) -> None:
    folder, message = edited(path("texts"), tmp_path)
    graph = message.meta_graphs[0].graph_def
    (assign,) = (node for node in graph.node if node.op == "AssignVariableOp")
    other = graph.node.add()
    other.CopyFrom(assign)
    other.name = "another"
    other.input[1] = "Const_1"
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    with pytest.raises(UntrustedFile, match="InitializeTableFromTextFileV2"):
        load(folder)


def test_an_initialization_that_saves_needs_trust(tmp_path: Path) -> None:
    """Every SavedModel has operations that write files; none of them may be on the way to what is run."""
    folder, message = edited(path("texts"), tmp_path)
    meta = message.meta_graphs[0]
    meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = meta.saver_def.save_tensor_name
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    with pytest.raises(UntrustedFile, match="SaveV2"):
        load(folder)


def test_every_operation_with_a_path_or_an_address_is_known() -> None:
    """Of the installed TensorFlow: when a new version brings one, it has to be looked at."""
    from tensorflow.core.framework.op_def_pb2 import OpList
    from tensorflow.python.client import pywrap_tf_session

    operations = OpList()
    operations.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    telling = {"file", "filename", "filenames", "file_pattern", "path", "address", "logdir", "db_uri", "patterns",
               "directory", "server_address", "ckpt_path", "vocab_file", "prefix", "destination_prefix", "chunk_file",
               "snapshot_path", "shard_dir", "output_file_path", "log_dir_path", "memory_region_name", "new_vocab_file",
               "descriptor_source", "token", "graph_def"}  # fmt: skip
    harmless = {"GetElementAtIndex"}
    for operation in operations.op:
        names = {argument.name for argument in operation.input_arg}
        names |= {attribute.name for attribute in operation.attr if attribute.type == "string"}
        if names & telling and operation.name not in harmless:
            assert _OUTSIDE.fullmatch(operation.name), operation.name
    for name in (
        "MatMul",
        "LookupTableFindV2",
        "RangeDataset",
        "ParseExampleV2",
        "DecodePng",
        "StatefulPartitionedCall",
    ):
        assert not _OUTSIDE.fullmatch(name)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_layers_with_code_need_trust(suffix: str) -> None:
    file = path(f"lambda{suffix}")
    with pytest.raises(UntrustedFile, match=r"has a Lambda layer, which is Python code\. .* --trust\.$"):
        load(file)
    if suffix == ".keras":
        assert files.sniff(file).runs_code == "lambda.keras has a Lambda layer, which is Python code."
    backend, info = load(file, trusted=True)
    assert next(iter(backend.predict({info.inputs[0].name: np.ones((1, 2), np.float32)}).values())).tolist() == [[2, 2]]


def archive(file: Path, parts: dict[str, bytes]) -> Path:
    """A copy of the digits' Keras file with other or more parts, compressed."""
    with zipfile.ZipFile(path("digits.keras")) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in ({n: source.read(n) for n in source.namelist()} | parts).items():
            target.writestr(name, data)
    return file


def test_archives_that_would_unpack_where_they_should_not(tmp_path: Path) -> None:
    for i, name in enumerate(("../evil", "/evil", "assets/../../evil", "assets\\..\\evil")):
        with pytest.raises(ModelFileError, match="would unpack outside its folder"):
            load(archive(tmp_path / f"{i}.keras", {name: b"x"}))


def test_archives_that_would_unpack_to_too_much(tmp_path: Path) -> None:
    for name in ("config.json", "model.weights.h5", "assets/a"):
        with pytest.raises(ModelFileError, match=rf"{name} in it would unpack to 80 MiB from \d+ KiB\.$"):
            load(archive(tmp_path / "bomb.keras", {name: bytes(80 << 20)}))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"config.json": b"{"}, "is truncated or corrupt"),
        ({"config.json": b"[1]"}, "its config.json is no object"),
        ({"config.json": b"[" * 100_000}, "is truncated or corrupt"),
        ({"config.json": b'{"module": "os", "class_name": "system", "config": {}}'}, "cannot load|no part of Keras"),
        ({"config.json": b'{"module": "keras.utils", "class_name": "get_file", "config": {}}'}, "cannot load"),
        ({"model.weights.h5": b"no weights"}, "cannot load"),
    ],
)
def test_archives_that_make_no_sense(parts: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        load(archive(tmp_path / "bad.keras", parts))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_whose_content_is_damaged(compression: int, tmp_path: Path) -> None:
    file = tmp_path / "damaged.keras"
    with zipfile.ZipFile(file, "w", compression) as written:
        written.writestr("config.json", json.dumps({"class_name": "Functional", "config": list(range(100))}))
        written.writestr("metadata.json", "{}")
    content = bytearray(file.read_bytes())
    begin = content.index(b"config.json") + len(b"config.json")
    content[begin : begin + 30] = b"\xff" * 30
    file.write_bytes(content)
    assert files.sniff(file).confidence == 1.0
    with pytest.raises(ModelFileError, match=r"is truncated or corrupt|cannot be read: Invalid data"):
        load(file)


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    import h5py

    file = tmp_path / "model.weights.h5"
    with h5py.File(file, "w") as weights:
        weights.attrs["keras_version"] = "2.4.0"
    with pytest.raises(ModelFileError, match="has weights alone, and not the model that they are for"):
        load(file)


def test_damaged_files_are_errors_and_nothing_worse(tmp_path: Path) -> None:
    """Bits are flipped all over a model: it is refused in a sentence, or still runs."""
    rng = random.Random(0)
    refused = 0
    for i in range(40):
        source = (path("digits.keras"), models.guesslang(), path("texts"), path("digits.h5"))[i % 4]
        copy = tmp_path / f"{i}{source.suffix}"
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
        parts = [file for file in copy.rglob("*") if file.name.startswith(("saved_model", "variables."))]
        file = rng.choice(sorted(parts)) if parts else copy
        data = bytearray(file.read_bytes())
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            load(copy)[0].close()
        except BackendError as e:
            refused += 1
            assert e.message.endswith((".", "…")), e.message
            assert "Traceback" not in e.message
    assert refused > 10


# --- recognising, and errors ----------------------------------------------------------------------------------------


def test_looking_needs_no_tensorflow() -> None:
    code = """
import sys
from pathlib import Path
from backends.tensorflow import TensorFlowBackend
print(*(TensorFlowBackend.sniff(Path(p)).confidence for p in sys.argv[1:]))
assert not {"tensorflow", "keras", "h5py"} & set(sys.modules)
"""
    cases = [str(path(name)) for name in ("digits", "digits.keras", "digits.h5", "words.txt")]
    done = subprocess.run([sys.executable, "-c", code, *cases], capture_output=True, text=True, check=True)
    assert [float(word) for word in done.stdout.split()] == [0.95, 1.0, 0.9, 0.0]


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has no saved_model\.pb; a SavedModel is a folder"):
        load(tmp_path)
    (tmp_path / "saved_model.cpb").touch()
    with pytest.raises(ModelFileError, match="which is in pieces"):
        load(tmp_path)


def test_a_folder_without_its_variables(tmp_path: Path) -> None:
    folder = shutil.copytree(path("texts"), tmp_path / "texts")
    shutil.rmtree(folder / "variables")
    with pytest.raises(ModelFileError, match=r"lacks variables\.index\. Copy the whole folder\.$"):
        load(folder)


def test_a_missing_runtime_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingRuntime, match=r"pip install 'unimodel\[tensorflow\]'"):
        load(path("digits"))


def test_stderr_stays_clean_and_other_lines_pass() -> None:
    code = """
import sys, os
from pathlib import Path
from backends.base import Device
from backends.tensorflow import TensorFlowBackend, TensorFlowOptions
TensorFlowBackend().load(Path(sys.argv[1]), Device("cpu"), TensorFlowOptions())
os.write(2, b"mine\\n")
"""
    done = subprocess.run([sys.executable, "-c", code, str(path("digits"))], capture_output=True, text=True, check=True)
    assert done.stderr == "mine\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Graph execution error:\n\nDetected at node 'a' defined at (most recent call last):\nNode: 'a'\nno good\n"
         "\t [[{{node a}}]] [Op:__inference_f_1]", "no good."),
        ("2 root error(s) found.\n  (0) INVALID_ARGUMENT: bad\n", "bad."),
        ("plain", "plain."),
        ("x" * 400, "x" * 299 + "…"),
    ],
)  # fmt: skip
def test_reasons_are_one_sentence(text: str, expected: str) -> None:
    assert errors.reason(ValueError(text)) == expected


def test_memory_that_runs_out_is_told_apart() -> None:
    class ResourceExhaustedError(Exception):
        pass

    assert isinstance(errors.of_run(ResourceExhaustedError("OOM when allocating")), OutOfMemory)
    assert isinstance(errors.of_file(MemoryError(), Path("a")), OutOfMemory)
    assert json.dumps(errors.of_run(RuntimeError("odd")).message) == '"The model failed: odd."'


def test_a_gpu_that_is_not_there() -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is one")
    with pytest.raises(InvalidOption, match=r"device=cpu.*pip install 'tensorflow\[and-cuda\]'"):
        runtime.tensorflow(Device("cuda"), None)
