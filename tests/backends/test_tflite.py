"""The TensorFlow Lite backend: answers, quantized tensors, shapes, and files that crash LiteRT."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import rehearsal
from backends.base import BackendError, Device, InvalidInput, InvalidOption, MissingRuntime, ModelFileError, ModelInfo
from backends.tflite import TfliteBackend, TfliteOptions, model
from backends.tflite.tensors import describe
from tests.models_tensorflow import images, path

CPU = Device("cpu", threads=2)
ROOT = Path(__file__).parents[2]


def load(file: Path, **options: Any) -> tuple[TfliteBackend, ModelInfo]:
    backend = TfliteBackend()
    return backend, backend.load(file, CPU, TfliteOptions(**options))


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_classifier_answers_as_keras_does() -> None:
    backend, info = load(path("digits.tflite"))
    assert (info.task, info.batchable, backend.threads) == ("image-classification", True, 2)
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [("image", "float32", ("batch", 8, 8, 1))]
    assert info.outputs[0].shape == ("batch", 10)
    pixels, _ = images()
    (scores,) = backend.predict({"image": pixels}).values()
    np.testing.assert_allclose(scores, np.load(path("digits.npy")), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("own", ["int8", "uint8"])
def test_a_quantized_classifier_takes_and_gives_the_numbers_that_are_meant(own: str) -> None:
    backend, info = load(path(f"digits_{own}.tflite"), quantized="float")
    assert (info.inputs[0].dtype, info.outputs[0].dtype) == ("float32", "float32")
    assert re.search(
        rf"served as floats: 'image' \({own}: 0\.00392\d+ × \(n [+-]\d+\)\), 'output_0' \(", info.notes[-1]
    )
    pixels, labels = images()
    (scores,) = backend.predict({"image": pixels}).values()
    expected = np.load(path("digits.npy"))
    assert np.abs(scores - expected).max() < 0.15
    assert (scores.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


def test_an_image_of_bytes_is_taken_as_it_is() -> None:
    backend, info = load(path("digits_uint8.tflite"))
    assert info.task == "image-classification"
    assert (info.inputs[0].dtype, info.outputs[0].dtype) == ("uint8", "float32")
    pixels, labels = images()
    (scores,) = backend.predict({"image": np.rint(pixels * 255).astype(np.uint8)}).values()
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


def test_raw_numbers_are_those_of_the_file() -> None:
    raw, info = load(path("digits_int8.tflite"), quantized="raw")
    assert (info.inputs[0].dtype, info.outputs[0].dtype, info.task) == ("int8", "int8", "tensor")
    assert info.notes == ()
    meant, _ = load(path("digits_int8.tflite"))
    pixels, _ = images()
    own = np.clip(np.rint(pixels[:50] / np.float32(0.003921568859368563)) - 128, -128, 127).astype(np.int8)
    numbers, scores = next(iter(raw.predict({"image": own}).values())), meant.predict({"image": pixels[:50]})
    np.testing.assert_array_equal((numbers.astype(np.float32) + 128) / 256, next(iter(scores.values())))


def test_numbers_beyond_what_is_quantized_are_the_nearest() -> None:
    details = {
        "dtype": np.int8,
        "shape_signature": [-1, 3],
        "index": 0,
        "quantization_parameters": {"scales": np.float32([0.5]), "zero_points": [10]},
    }
    tensor = describe("Input", "x", details, "auto")
    values = np.array([[-1e9, np.nan, 1e9], [0.24, 0.26, -5]], np.float32)
    assert tensor.to_model(values).tolist() == [[-128, 10, 127], [10, 11, 0]]
    assert tensor.to_user(np.array([[10, 12, -128]], np.int8)).tolist() == [[0, 1, -69]]
    per_channel = {**details, "quantization_parameters": {"scales": np.float32([0.5, 1]), "zero_points": [1, 2]}}
    assert describe("Input", "x", per_channel, "auto").dtype == "int8"
    with pytest.raises(ModelFileError, match="Input 'x' has the type complex64, which cannot be served"):
        describe("Input", "x", {**details, "dtype": np.complex64}, "auto")


def test_signatures() -> None:
    backend, info = load(path("several.tflite"))
    assert info.metadata["signature"] == "one"
    assert [(f.value, f.sure, f.option) for f in info.findings] == [
        ("one (there is two, too)", "guess", "--set signature=NAME")
    ]
    assert backend.predict({"x": np.ones((1, 4), np.float32)})["sum"].tolist() == [4]
    backend, info = load(path("several.tflite"), signature="two")
    assert [(s.name, s.dtype) for s in info.inputs] == [("ids", "int32"), ("x", "float32")]
    assert [(s.name, s.dtype) for s in info.outputs] == [("large", "bool"), ("next", "int32"), ("product", "float32")]
    for rows in (3, 1, 2):
        x = np.eye(4, dtype=np.float32)[:rows]
        answer = backend.predict({"ids": np.full((rows, 4), 7, np.int32), "x": x})
        assert answer["next"].tolist() == [[8] * 4] * rows
        assert answer["product"].tolist() == [[0, 1], [2, 3], [4, 5]][:rows]
        assert answer["large"].tolist() == (x > 0.5).tolist()
    with pytest.raises(InvalidOption, match="There is no signature 'three' in this model; it has: one, two"):
        load(path("several.tflite"), signature="three")


def test_texts() -> None:
    backend, info = load(path("look.tflite"))
    assert info.inputs[0].dtype == "string"
    assert backend.predict({"word": np.array(["dog", "größe", "cat"], object)})["id"].tolist() == [2, -1, 1]


def test_free_dimensions() -> None:
    backend, info = load(path("free.tflite"))
    assert [s.shape for s in info.inputs] == [("batch", "x_1")]
    assert {s.name: s.shape for s in info.outputs} == {"square": ("batch", "x_1"), "sum": ("batch",)}
    for rows, columns in ((2, 3), (5, 2), (1, 7), (2, 3)):
        x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
        answer = backend.predict({"x": x})
        np.testing.assert_array_equal(answer["square"], x * x)
        np.testing.assert_array_equal(answer["sum"], x.sum(axis=1))


def test_a_file_for_one_row_takes_several() -> None:
    backend, info = load(path("one.tflite"))
    assert (info.batchable, info.inputs[0].shape) == (True, ("batch", 4))
    assert backend.predict({"x": np.arange(12, dtype=np.float32).reshape(3, 4)})["sum"].tolist() == [6, 22, 38]


def test_a_call_knows_nothing_of_the_one_before() -> None:
    backend, info = load(path("lstm.tflite"))
    row = {s.name: np.random.default_rng(0).random((1, 5, 3), np.float32) for s in info.inputs}
    first, again = (next(iter(backend.predict(row).values())) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() > 0.01


@pytest.mark.parametrize("name", ["digits.tflite", "digits_int8.tflite"])
def test_rows_that_are_spread_over_threads(name: str) -> None:
    backend, info = load(path(name), spread_rows=True)
    plain, _ = load(path(name), spread_rows=False)
    assert (backend.parallel, plain.parallel) == (True, False)
    assert backend.memory() >= plain.memory()
    pixels, _ = images()
    batches = [{"image": pixels[i : i + 1 + i % 5]} for i in range(40)]
    if info.inputs[0].dtype == "uint8":
        batches = [{"image": np.rint(batch["image"] * 255).astype(np.uint8)} for batch in batches]
    with ThreadPoolExecutor(4) as pool:  # more than there are interpreters
        found = list(pool.map(backend.predict_on_one_thread, batches))
    for batch, scores in zip(batches, found, strict=True):
        for output, array in plain.predict(batch).items():
            np.testing.assert_allclose(scores[output], array, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput):
        backend.predict_on_one_thread({"image": np.zeros((1, 3, 3, 1), np.float32)})
    assert len(backend.predict_on_one_thread(batches[4]).popitem()[1]) == 5


def test_what_the_model_refuses_is_the_callers_fault() -> None:
    backend, _ = load(path("digits.tflite"))
    with pytest.raises(InvalidInput, match=r"^The model refused its input: .*\.$"):
        backend.predict({"image": np.zeros((1, 2, 2, 1), np.float32)})
    assert backend.predict(backend.example()).keys()
    looker, _ = load(path("look.tflite"))
    with pytest.raises(InvalidInput, match="'word' holds a string that is no text"):
        looker.predict({"word": np.array(["\ud800"], object)})


def test_labels_that_are_packed_with_the_model(tmp_path: Path) -> None:
    file = tmp_path / "labelled.tflite"
    file.write_bytes(path("digits.tflite").read_bytes())
    names = [f"digit {i}" for i in range(10)]
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr("notes.txt", "of no use")
        packed.writestr("labels.txt", "\n".join(names) + "\n")
    _, info = load(file)
    assert info.labels == tuple(names)
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr("other.txt", "\n".join(names[::-1]))
    assert load(file)[1].labels is None


def test_labels_in_the_metadata_that_ultralytics_packs_with_the_model(tmp_path: Path) -> None:
    file = tmp_path / "labelled.tflite"
    file.write_bytes(path("digits.tflite").read_bytes())
    names = {i: f"digit {i}" for i in range(10)}
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr("temp_meta.txt", str({"author": "Ultralytics", "task": "classify", "names": names}))
    _, info = load(file)
    assert info.labels == tuple(names.values())
    assert (info.metadata["author"], info.metadata["task"]) == ("Ultralytics", "classify")


# --- damaged files --------------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data with a few numbers overwritten."""
    copy = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(copy) - 8)
        if rng.random() < 0.5:
            copy[at] ^= 1 << rng.randrange(8)
        else:
            struct.pack_into("<i", copy, at & ~3, rng.choice((-1, 0, 1, 2**31 - 1, -(2**31), 100, 65536)))
    return bytes(copy)


def test_damaged_files_are_errors_and_nothing_worse(tmp_path: Path) -> None:
    rng = random.Random(1)
    refused = 0
    for i in range(24):
        source = path(("several.tflite", "look.tflite", "digits_int8.tflite")[i % 3])
        file = tmp_path / f"{i}.tflite"
        file.write_bytes(damaged(source.read_bytes(), rng))
        try:
            load(file)[0].close()
        except BackendError as e:
            refused += 1
            assert e.message.endswith("."), e.message
    assert refused > 5


DEADLY = """
import os, random, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tests.backends.test_tflite import damaged

def compute(data):
    model = Interpreter(model_content=data)
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], np.array([b"cat"], object))
    model.invoke()

source, rng = sys.stdin.buffer.read(), random.Random(7)
for _ in range(2000):
    data = damaged(source, rng)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            compute(data)
        finally:
            os._exit(0)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        sys.stdout.buffer.write(data)
        break
"""
"""Damages a file until LiteRT dies of it, and writes that one."""


def test_a_file_that_crashes_litert_is_refused(tmp_path: Path) -> None:
    source = path("look.tflite").read_bytes()
    found = subprocess.run([sys.executable, "-c", DEADLY], input=source, stdout=subprocess.PIPE, cwd=ROOT, check=True)
    assert found.stdout
    file = tmp_path / "deadly.tflite"
    file.write_bytes(found.stdout)
    with pytest.raises(ModelFileError, match=r"is damaged, or of a kind that LiteRT cannot run: it crashes"):
        load(file)


def test_a_file_that_hangs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.tflite.rehearsal._SECONDS", 0.001)
    with pytest.raises(ModelFileError, match=r"did not compute a row in 0\.001 seconds"):
        load(path("digits.tflite"))


def test_a_model_that_crashes_on_two_rows_is_served_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    endings = iter(("died", "well"))
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_, **__: rehearsal.Outcome(next(endings), ""))
    backend, info = load(path("one.tflite"), spread_rows=True)
    assert (info.batchable, info.inputs[0].shape) == (False, (1, 4))
    assert not backend.parallel


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Select TensorFlow op(s), included in the given model, is(are) not supported",
            "uses operations of TensorFlow",
        ),
        ("Encountered unresolved custom op: Detect.\nSee instructions", "uses the custom operation 'Detect'"),
        ("tflite/kernels/pack.cc:38 NumInputs(node) != 2 (3 != 2)Node number 3 (PACK) failed", r"\(3 != 2\)\. Node"),
        ("", "LiteRT cannot load m.tflite: RuntimeError."),
    ],
)
def test_errors_of_litert_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        raise model._of_file(RuntimeError(text), Path("m.tflite"))
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_out_of_range(threads: int) -> None:
    with pytest.raises(InvalidOption, match="threads must be at least 1"):
        load(path("digits.tflite"), threads=threads)


def test_a_missing_runtime_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingRuntime, match=r"pip install 'unimodel\[tflite\]'"):
        load(path("digits.tflite"))
