"""The PyTorch backend on real models, and on small ones that were trained for what those do not show."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from backends.base import (
    BackendError,
    Device,
    InvalidInput,
    InvalidOption,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
    TensorSpec,
    UntrustedFile,
)
from backends.torch import TorchBackend, TorchOptions, archive, errors
from backends.torch.archive import Kind
from backends.torch.graph import Code
from engine import tasks
from engine.model_options import ModelOptions, PreprocessOptions
from engine.tasks.base import Parameters
from tests import models, models_torch
from tests.models_torch import numpy

CPU = Device("cpu", threads=2)


def load(path: Path, trusted: bool = True, **options: Any) -> tuple[TorchBackend, ModelInfo]:
    backend = TorchBackend()
    backend.trusted = trusted
    return backend, backend.load(path, CPU, msgspec.convert(options, TorchOptions))


def script(module: nn.Module, path: Path, **extra: str) -> Path:
    torch.jit.save(torch.jit.script(module.eval()), path, _extra_files=extra)
    return path


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], **added: bytes) -> Path:
    """A copy of an archive with other contents; `None` leaves a member out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in added.items():
            new.writestr(f"{root}/{name}", data)
    return target


def unchanged(name: str, data: bytes) -> bytes:
    return data


def shapes(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[Any, ...]]:
    return {s.name: s.shape for s in specs}


# --- sniffing -------------------------------------------------------------------------------------------------------


def test_sniff_tells_the_kinds_apart_under_any_name(tmp_path: Path) -> None:
    for name, kind in (
        ("dense.pt", Kind.TORCHSCRIPT),
        ("dense.pt2", Kind.EXPORTED),
        ("compiled.pt2", Kind.COMPILED),
    ):
        nameless = tmp_path / "model.bin"
        nameless.write_bytes(models_torch.path(name).read_bytes())
        assert archive.look(nameless).kind is kind
        assert TorchBackend.sniff(nameless).confidence == 0.9
        assert TorchBackend.sniff(models_torch.path(name)).confidence == 1.0
        assert (TorchBackend.sniff(nameless).runs_code is None) == (kind is Kind.TORCHSCRIPT)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_weights_without_a_program_are_refused_with_what_to_do(tmp_path: Path, new_format: bool, whole: bool) -> None:
    module = models_torch.module("dense")
    path = tmp_path / "weights.pth"
    torch.save(module if whole else module.state_dict(), path, _use_new_zipfile_serialization=new_format)
    assert TorchBackend.sniff(path).confidence == 0.7
    assert TorchBackend.sniff(path).runs_code is None  # it is not even unpickled
    with pytest.raises(ModelFileError, match=r"weights\.pth has weights only.*torch\.export\.save"):
        load(path)


# --- TorchScript ----------------------------------------------------------------------------------------------------


def test_efficientnet_answers_as_its_onnx_export_does() -> None:
    from backends.onnx import OnnxBackend, OnnxOptions

    reference = OnnxBackend()
    reference.load(models.efficientnet(), CPU, OnnxOptions())
    images = np.random.default_rng(3).random((3, 3, 224, 224), np.float32)
    expected = reference.predict({"image": images})["logits"]
    for path in (models_torch.efficientnet(), models_torch.efficientnet_exported()):
        backend, info = load(path)
        assert info.task == "image-classification"
        assert info.batchable
        got = backend.predict({"inputs": images})["output"]
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)
        assert (got.argmax(1) == expected.argmax(1)).all()


def test_labels_and_preprocessing_come_from_the_extra_files() -> None:
    _, info = load(models_torch.efficientnet())
    assert info.labels is not None
    assert info.labels[285] == "Egyptian cat"
    assert json.loads(info.metadata["unimodel.preprocess"])["resize"] == 256
    assert info.metadata["format"] == "TorchScript"


class Detector(nn.Module):
    """Finds a dog in the middle of every image, in the layout of YOLOv8."""

    def forward(self, images: Tensor) -> Tensor:
        found = torch.zeros(images.shape[0], 6, images.shape[2] * images.shape[3] * 21 // 1024)
        found[:, :, 0] = torch.tensor([32.0, 32.0, 16.0, 8.0, 0.1, 0.9])
        return found + 0.0 * images.mean()


ULTRALYTICS = {
    "description": "Ultralytics YOLOv8n model", "author": "Ultralytics", "task": "detect", "stride": 32, "batch": 1,
    "imgsz": [64, 64], "names": {"0": "cat", "1": "dog"},
}  # fmt: skip


def test_a_detector_as_ultralytics_exports_it(tmp_path: Path) -> None:
    """Its metadata lies in one extra file, as an object."""
    path = script(Detector(), tmp_path / "yolo.torchscript.pt", **{"config.txt": json.dumps(ULTRALYTICS)})
    backend, info = load(path)
    assert info.labels == ("cat", "dog")
    assert "config" not in info.metadata
    assert tasks.recognise(info, ModelOptions()) == "object-detection"
    task = tasks.create("object-detection", info, ModelOptions())
    picture = io.BytesIO()
    Image.new("RGB", (128, 128)).save(picture, "PNG")
    decoded = task.decode_bytes(memoryview(picture.getvalue()), "image/png")
    assert decoded.tensors["images"].shape == (1, 3, 64, 64)
    (dog,) = task.answer("input", backend.predict(decoded.tensors), True, Parameters(), decoded.origin)
    assert (dog["label"], dog["box"]) == ("dog", {"xmin": 48, "ymin": 56, "xmax": 80, "ymax": 72})


def test_silero_hears_speech_and_forgets_it_again() -> None:
    backend, info = load(models_torch.silero())
    assert shapes(info.inputs) == {"x": ("batch", "x_1"), "sr": ()}
    assert info.unbatched_reason == "There is no batch axis in the input 'sr'."
    assert any("remembers" in note for note in info.notes)
    rate = np.array(16000)
    quiet = {"x": np.zeros((1, 512), np.float32), "sr": rate}
    first = backend.predict(quiet)["output"]
    tone = np.sin(np.arange(512, dtype=np.float32) / 5)[None]
    backend.predict({"x": tone, "sr": rate})
    np.testing.assert_array_equal(backend.predict(quiet)["output"], first)
    assert first[0, 0] < 0.05
    several = backend.predict({"x": np.concatenate([quiet["x"], tone]), "sr": rate})["output"]
    np.testing.assert_allclose(several[0], first[0], atol=1e-6)
    for samples, reason in ((400, "Input audio chunk is too short"), (600, "Provided number of samples is 600 ")):
        with pytest.raises(InvalidInput, match=rf"^The model refused its input: {reason}.*\.$"):
            backend.predict({"x": np.zeros((1, samples), np.float32), "sr": rate})


def test_another_method_is_called_if_wanted() -> None:
    """Of the voice detector: the one that goes through a whole recording, and remembers from chunk to chunk."""
    sound = np.sin(np.arange(5 * 512, dtype=np.float32) ** 1.3 / 40)[None]
    module = torch.jit.load(models_torch.silero())
    with torch.inference_mode():
        expected = [module(torch.from_numpy(sound[:, i : i + 512].copy()), 16000).item() for i in range(0, 2560, 512)]
    backend, info = load(models_torch.silero(), method="audio_forward")
    assert shapes(info.inputs) == {"x": ("batch", "x_1"), "sr": ()}
    got = backend.predict({"x": sound, "sr": np.array(16000)})["output"]
    np.testing.assert_allclose(got, [expected], atol=1e-5)
    assert np.ptp(got) > 1e-3
    with pytest.raises(InvalidOption, match=r"no method 'hear'; it has: .*audio_forward.*forward"):
        load(models_torch.silero(), method="hear")
    with pytest.raises(InvalidOption, match="method is for TorchScript"):
        load(models_torch.path("dense.pt2"), method="other")


def test_silero_agrees_with_its_onnx_form() -> None:
    from backends.onnx import OnnxBackend, OnnxOptions

    reference = OnnxBackend()
    reference.load(models.silero(), CPU, OnnxOptions())
    backend, _ = load(models_torch.silero())
    chunks = np.random.default_rng(0).normal(0, 0.2, (4, 512)).astype(np.float32)
    for chunk in chunks:  # the ONNX form wants 64 samples of context before each chunk; a fresh one has zeros there
        given = np.concatenate([np.zeros((1, 64), np.float32), chunk[None]], axis=1)
        state = np.zeros((2, 1, 128), np.float32)
        expected = reference.predict({"input": given, "state": state, "sr": np.array(16000)})["output"]
        got = backend.predict({"x": chunk[None], "sr": np.array(16000)})["output"]
        np.testing.assert_allclose(got, expected, atol=4e-7)


@pytest.mark.parametrize("name", ["dense.pt", "named.pt", "fixed.pt", "noisy.pt", "dense.pt2", "compiled.pt2"])
def test_flowers_are_told_apart(name: str) -> None:
    backend, info = load(models_torch.path(name))
    features, kinds = models_torch.flowers()
    (spec,) = info.inputs
    rows = spec.shape[0] if isinstance(spec.shape[0], int) else 50
    results = [backend.predict({spec.name: numpy(features[i : i + rows])}) for i in range(0, 148, rows)]
    scores = np.concatenate([result[info.outputs[0].name] for result in results])
    right = scores.argmax(1) == kinds[: len(scores)].numpy()
    assert right.mean() > 0.95
    expected = models_torch.module("named" if name == "named.pt" else "dense")(features[: len(scores)])
    expected = expected["logits"] if name == "named.pt" else expected
    np.testing.assert_allclose(scores, numpy(expected), atol=1e-5)


def test_a_fixed_count_of_rows_is_found_and_said() -> None:
    backend, info = load(models_torch.path("fixed.pt"))
    assert shapes(info.inputs) == {"flowers": (4, 4)}
    assert info.unbatched_reason == "The file fixes the batch dimension at 4."
    with pytest.raises(InvalidInput, match="The model refused its input: "):
        backend.predict({"flowers": np.zeros((3, 4), np.float32)})


def test_several_inputs_and_outputs() -> None:
    backend, info = load(models_torch.path("several.pt"))
    assert shapes(info.inputs) == {"sepal": ("batch", 2), "petal": ("batch", 2)}
    assert shapes(info.outputs) == {"output_0": ("batch", 3), "output_1": ("batch", 3)}
    features, kinds = (numpy(t) for t in models_torch.flowers())
    answer = backend.predict({"sepal": features[:, :2].copy(), "petal": features[:, 2:].copy()})
    np.testing.assert_allclose(answer["output_1"].sum(1), 1, atol=1e-5)
    assert (answer["output_0"].argmax(1) == kinds).mean() > 0.95


def test_a_dict_of_outputs_keeps_its_keys() -> None:
    _, info = load(models_torch.path("named.pt"))
    assert [(s.name, s.dtype, s.shape) for s in info.outputs] == [
        ("logits", "float32", ("batch", 3)),
        ("kind", "int64", ("batch",)),
    ]


@pytest.mark.parametrize("name", ["words.pt", "words.pt2"])
def test_numbers_of_words_have_a_length_that_two_inputs_share(name: str) -> None:
    backend, info = load(models_torch.path(name))
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [
        ("ids", "int64", ("batch", "ids_1")),
        ("mask", "int64", ("batch", "ids_1")),
    ]
    for length in (5, 12, 40):
        ids, answers = models_torch.sentences(length)
        got = backend.predict({"ids": numpy(ids), "mask": np.ones_like(numpy(ids))})["output"].argmax(1)
        assert (got == answers.numpy()).mean() > 0.8
    with pytest.raises(InvalidInput, match="The model refused its input: "):
        backend.predict({"ids": np.full((1, 3), 50), "mask": np.ones((1, 3), np.int64)})


def test_pictures_of_any_size() -> None:
    backend, info = load(models_torch.path("pixels.jit"))
    assert info.task == "image-classification"
    assert shapes(info.inputs) == {"picture": ("batch", 1, "picture_2", "picture_3")}
    pictures, numbers = models_torch.digits()
    small = backend.predict({"picture": numpy(pictures[600:])})["output"].argmax(1)
    assert (small == numbers[600:].numpy()).mean() > 0.85
    larger = numpy(nn.functional.interpolate(pictures[:8], size=(12, 17)))
    assert backend.predict({"picture": larger})["output"].shape == (8, 10)


def test_the_state_of_a_recurrent_layer_is_an_input_with_its_rows_on_another_axis() -> None:
    backend, info = load(models_torch.path("recurrent.pt"))
    assert [(s.name, s.shape, s.batch_axis) for s in info.inputs] == [
        ("rows", ("batch", "rows_1", 8), 0),
        ("h", (1, "batch", 16), 1),
        ("c", (1, "batch", 16), 1),
    ]
    assert info.unbatched_reason is not None
    pictures, numbers = models_torch.digits()
    state = np.zeros((1, 600, 16), np.float32)
    got = backend.predict({"rows": numpy(pictures[:600, 0]), "h": state, "c": state})
    assert (got["output_0"].argmax(1) == numbers[:600].numpy()).mean() > 0.8
    half = backend.predict({"rows": numpy(pictures[:600, 0, :4]), "h": state, "c": state})
    rest = backend.predict({"rows": numpy(pictures[:600, 0, 4:]), "h": half["output_1"], "c": half["output_2"]})
    np.testing.assert_allclose(rest["output_0"], got["output_0"], atol=1e-5)


@pytest.mark.parametrize("name", ["remembering.pt", "counting.pt2"])
def test_what_a_model_remembers_is_put_back(name: str) -> None:
    backend, info = load(models_torch.path(name))
    row = {info.inputs[0].name: np.arange(4, dtype=np.float32)[None]}
    other = {info.inputs[0].name: np.full((2, 4), 7, np.float32)}
    first = backend.predict(row)["output"]
    backend.predict(other)
    np.testing.assert_array_equal(backend.predict(row)["output"], first)
    if name == "remembering.pt":
        np.testing.assert_array_equal(first, [1, 2, 3, 4])  # the mean of one row, and one call
    assert any("remembers earlier calls" in note for note in info.notes)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, factor: float, offset: float = 1.0, mask: Tensor | None = None) -> Tensor:
        y = self.layer(x) * factor + offset
        return y if mask is None else y * mask


def test_numbers_are_inputs_and_what_has_a_default_is_left(tmp_path: Path) -> None:
    backend, info = load(script(Scaled(), tmp_path / "scaled.pt"))
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [
        ("x", "float32", ("batch", 3)),
        ("factor", "float64", ()),
    ]
    assert "Arguments that are left at their defaults: offset, mask." in info.notes
    zero = backend.predict({"x": np.ones((1, 3), np.float32), "factor": np.array(0.0)})["output"]
    np.testing.assert_array_equal(zero, [[1, 1]])


class Listed(nn.Module):
    def forward(self, parts: dict[str, Tensor]) -> Tensor:
        return parts["a"]


def test_arguments_that_no_request_can_give_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"'parts' of the model's forward is a Dict\[str, Tensor\].*plain tensors"):
        load(script(Listed(), tmp_path / "listed.pt"))


class Worded(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x, "yes"


def test_complex_outputs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return torch.fft.rfft(rows)

    torch.jit.save(torch.jit.script(Spectrum()), tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match=r"complex numbers as 'output'.*view_as_real"):
        load(tmp_path / "m.pt")


def test_outputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"returns str as 'output_1'"):
        load(script(Worded(), tmp_path / "worded.pt"))


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


def test_a_program_that_writes_to_its_input_leaves_the_requests_alone(tmp_path: Path) -> None:
    backend, _ = load(script(Same(), tmp_path / "same.pt"))
    row = np.ones((1, 4), np.float32)
    row.setflags(write=False)
    assert (backend.predict({"x": row})["output"] == 2).all()
    assert (row == 1).all()


class Seven(nn.Module):
    """Nothing in its code says that it takes seven tokens of width 6."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.size(1) != 7 or x.size(2) != 6:
            raise ValueError("seven tokens of six numbers, please")
        return x.mean(1)


def test_inputs_that_cannot_be_found_are_asked_for_and_taken(tmp_path: Path) -> None:
    path = script(Seven(), tmp_path / "seven.pt")
    with pytest.raises(ModelFileError, match=r"seven tokens of six numbers, please.*inputs\.NAME\.shape"):
        load(path)
    backend, info = load(path, inputs={"x": {"shape": ["batch", 7, 6]}})
    assert shapes(info.inputs) == {"x": ("batch", 7, 6)}
    assert info.batchable
    assert backend.predict({"x": np.ones((2, 7, 6), np.float32)})["output"].shape == (2, 6)
    _, info = load(path, inputs={"x": {"shape": ["batch", "tokens", 6]}}, dims={"tokens": 7})
    assert shapes(info.inputs) == {"x": ("batch", "tokens", 6)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": {"y": {"dtype": "int64"}}}, r"The model has no input 'y'; it has: input\."),
        ({"inputs": {"input": {"dtype": "words"}}}, r"inputs\.input\.dtype is 'words'; it must be one of bool, "),
        ({"dims": {"length": 3}}, r"dims\.length is no free dimension of this model"),
        ({"threads": 0}, r"threads must be at least 1; got 0\."),
        ({"compile": True}, r"compile is for exported programs"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        load(models_torch.path("dense.pt"), **options)


@pytest.mark.parametrize("name", ["dense.pt", "dense.pt2"])
def test_half_precision_inside_and_float32_outside(name: str) -> None:
    exact, _ = load(models_torch.path(name))
    backend, info = load(models_torch.path(name), dtype="bfloat16")
    assert info.outputs[0].dtype == "float32"
    features = {info.inputs[0].name: numpy(models_torch.flowers()[0][:16])}
    got, expected = backend.predict(features)["output"], exact.predict(features)["output"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0.05, atol=0.2)
    assert not np.array_equal(got, expected)


def test_the_code_is_followed_to_the_layers(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(6, 4, 3, groups=2)

        def forward(self, channels_last: Tensor) -> Tensor:
            return self.convolution(torch.relu(channels_last).permute(0, 3, 1, 2)).flatten(1).sum(1)

    path = script(Turned(), tmp_path / "turned.pt")
    module = torch.jit.load(path)
    assert Code(module, module.forward).shapes("channels_last")[0].dims == (-1, -1, -1, 6)
    _, info = load(path)
    assert shapes(info.inputs) == {"channels_last": ("batch", "channels_last_1", "channels_last_2", 6)}


# --- exported and compiled ------------------------------------------------------------------------------------------


def test_nested_inputs_of_an_exported_program() -> None:
    backend, info = load(models_torch.path("nested.pt2"))
    assert shapes(info.inputs) == {"flower_sepal": ("batch", 2), "flower_petal": ("batch", 2)}
    assert shapes(info.outputs) == {"logits": ("batch", 3)}
    features, _ = models_torch.flowers()
    got = backend.predict({"flower_sepal": numpy(features[:5, :2]), "flower_petal": numpy(features[:5, 2:])})
    np.testing.assert_allclose(got["logits"], 2 * numpy(models_torch.module("dense")(features[:5])), atol=1e-5)


@pytest.mark.parametrize("name", ["dense.pt2", "compiled.pt2"])
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 40])
def test_batches_outside_of_the_files_limits_are_cut_or_filled_up(name: str, rows: int) -> None:
    backend, info = load(models_torch.path(name))
    assert info.batchable
    features, _ = models_torch.flowers()
    got = backend.predict({info.inputs[0].name: numpy(features[:rows])})["output"]
    np.testing.assert_allclose(got, numpy(models_torch.module("dense")(features[:rows])), atol=1e-5)


def test_limits_of_other_dimensions_are_said() -> None:
    backend, info = load(models_torch.path("words.pt2"))
    assert "The file limits ids_1 to sizes from 0 to 64." in info.notes
    with pytest.raises(InvalidInput, match="Guard failed"):
        backend.predict({"ids": np.zeros((1, 65), np.int64), "mask": np.ones((1, 65), np.int64)})


def test_a_wrong_shape_never_reaches_compiled_code() -> None:
    backend, _ = load(models_torch.path("compiled.pt2"))
    for wrong in (np.zeros((2, 5), np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float64)):
        with pytest.raises(InvalidInput, match="The model refused its input: input_handles"):
            backend.predict({"input": wrong})
    with pytest.raises(InvalidOption, match="compiled already"):
        load(models_torch.path("compiled.pt2"), dtype="bfloat16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('"AOTI_DEVICE_KEY": "cpu"', '"AOTI_DEVICE_KEY": "cuda"'),
            r"was compiled for the device cuda and cannot run on",
        ),
        (('"AOTI_CPU_ISA": "', '"AOTI_CPU_ISA": "AVX1024 '), r"it needs AVX1024, which this one lacks"),
        (('"AOTI_MACHINE": "', '"AOTI_MACHINE": "not-'), r"was compiled for another processor"),
    ],
)
def test_code_for_another_machine_is_never_loaded(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    def edit(name: str, data: bytes) -> bytes:
        return data.replace(*(each.encode() for each in change)) if name.endswith("_metadata.json") else data

    path = rewritten(models_torch.path("compiled.pt2"), tmp_path / "other.pt2", edit)
    with pytest.raises(ModelFileError, match=message):
        load(path)


def test_a_compiled_package_without_its_source_asks_for_its_inputs(tmp_path: Path) -> None:
    path = rewritten(
        models_torch.path("compiled.pt2"), tmp_path / "bare.pt2", lambda n, d: None if n.endswith(".cpp") else d
    )
    with pytest.raises(ModelFileError, match=r"does not say what its inputs are.*inputs\.input\.dtype=float32"):
        load(path)
    backend, info = load(path, inputs={"input": {"dtype": "float32", "shape": [2, 4]}})
    assert shapes(info.inputs) == {"input": (2, 4)}
    assert backend.predict(backend.example())["output"].shape == (2, 3)


WITHOUT_COMPILER = """
import sys
from pathlib import Path
from backends.base import Device, InvalidOption
from backends.torch import TorchBackend, TorchOptions

TorchBackend().load(Path(sys.argv[1]), Device("cpu"), TorchOptions())
try:
    TorchBackend().load(Path(sys.argv[2]), Device("cpu"), TorchOptions(compile=True))
except InvalidOption as e:
    print(e.message)
"""


def test_only_what_is_compiled_here_needs_a_compiler(tmp_path: Path) -> None:
    paths = [str(models_torch.path(name)) for name in ("compiled.pt2", "dense.pt2")]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, *paths],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "compile needs a compiler for C++, and there is none: install one (apt-get install g++)" in result.stdout


def test_an_exported_program_is_compiled_if_wanted() -> None:
    plain, _ = load(models_torch.path("dense.pt2"))
    backend, _ = load(models_torch.path("dense.pt2"), compile=True)
    features, _ = models_torch.flowers()
    for rows in (2, 7):
        row = {"input": numpy(features[:rows])}
        np.testing.assert_allclose(backend.predict(row)["output"], plain.predict(row)["output"], atol=1e-5)


# --- threads --------------------------------------------------------------------------------------------------------


def test_each_model_computes_with_its_own_threads() -> None:
    """Each on a thread of its own, as in a worker, whatever count the others have."""
    counts: dict[int, list[int]] = {1: [], 3: [], 2: []}
    turn = threading.Barrier(len(counts))

    def run(count: int) -> None:
        backend = TorchBackend()
        backend.load(models_torch.path("dense.pt"), Device("cpu", threads=4), TorchOptions(threads=count))
        for _ in range(3):
            turn.wait(60)
            backend.predict(backend.example())
            turn.wait(60)
            counts[count].append(torch.get_num_threads())

    runs = [threading.Thread(target=run, args=(count,)) for count in counts]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert counts == {count: [count] * 3 for count in counts}


def test_a_model_never_has_more_threads_than_its_worker() -> None:
    backend, _ = load(models_torch.path("dense.pt"), threads=64)
    assert backend.threads == CPU.threads


# --- hostile files --------------------------------------------------------------------------------------------------


class Saver(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "out")
        return x


class Reader(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("/etc/hostname", False, 1, dtype=torch.uint8).to(torch.float32)


@pytest.mark.parametrize(("module", "word"), [(Saver(), "save"), (Reader(), "from_file")])
def test_code_that_reaches_files_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: nn.Module, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = script(module, tmp_path / "reaching.pt")
    assert f"uses '{word}'" in (TorchBackend.sniff(path).runs_code or "")
    with pytest.raises(UntrustedFile, match=rf"reaching\.pt uses '{word}', which can reach files"):
        load(path, trusted=False)
    assert not Path("out").exists()
    load(path, trusted=True)
    assert Path("out").exists() == (word == "save")


@pytest.mark.parametrize(
    ("code", "reaching"),
    [
        (b'getattr(self, "0")', None),
        (b"self.saved = torch.add(x, 1)", None),
        (b'getattr(torch, "from\\x5ffile")', "getattr"),
        (b'getattr(torch, "from_file")', "from_file"),
        (b"_0 = ops.aten\n_1 = _0.save(x)", "save"),
        (b"ops.debugprims.load_tensor(x)", "debugprims"),
    ],
)
def test_names_that_reach_beyond_the_model_are_found_in_any_disguise(code: bytes, reaching: str | None) -> None:
    assert archive.reaching(code) == reaching


def test_a_pickle_in_an_exported_program_needs_trust() -> None:
    assert "unpickles" in (TorchBackend.sniff(models_torch.path("dense.pt2")).runs_code or "")
    assert "machine code" in (TorchBackend.sniff(models_torch.path("compiled.pt2")).runs_code or "")


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    data = bytearray(models_torch.path("dense.pt").read_bytes())
    weight = numpy(models_torch.module("dense")[0].weight).tobytes()
    data[data.index(weight) + 5] ^= 1
    path = tmp_path / "changed.pt"
    path.write_bytes(data)
    with pytest.raises(
        ModelFileError, match=r"changed\.pt is corrupt: Bad CRC-32 for file 'dense/data/\d'\. Copy it again\."
    ):
        load(path)


def test_archives_with_tricks_are_refused(tmp_path: Path) -> None:
    source = models_torch.path("dense.pt")
    root = zipfile.ZipFile(source).namelist()[0].partition("/")[0]
    tricks: dict[str, Callable[[zipfile.ZipFile], None]] = {
        "not a name": lambda z: z.writestr(f"{root}/../../evil", b"x"),
        "one name": lambda z: z.writestr(f"{root}/Data.pkl", b"x"),
        "one folder": lambda z: z.writestr("other/data.pkl", b"x"),
        "unpack to more": lambda z: z.writestr(f"{root}/bomb", bytes(300 << 20), zipfile.ZIP_DEFLATED),
        "unusual way": lambda z: z.writestr(f"{root}/odd", b"x" * 50, zipfile.ZIP_BZIP2),
        "bytes follow": lambda z: setattr(z, "comment", b"hello"),
    }
    for i, (message, trick) in enumerate(tricks.items()):
        path = tmp_path / f"trick{i}.pt"
        path.write_bytes(source.read_bytes())
        with zipfile.ZipFile(path, "a") as opened:
            trick(opened)
        with pytest.raises(ModelFileError, match=f"trick{i}.pt is corrupt: .*{message}"):
            load(path)


def test_members_that_are_missing_are_a_clear_error(tmp_path: Path) -> None:
    for missing in ("data/0", "data.pkl", ".py", "version", "weights_config.json", "sample_inputs/model.pt"):
        for name in ("dense.pt", "dense.pt2"):
            source = models_torch.path(name)
            path = tmp_path / f"without.{name}"
            rewritten(source, path, lambda n, d, missing=missing: None if n.endswith(missing) else d)  # type: ignore[misc]
            if len(zipfile.ZipFile(path).namelist()) < len(zipfile.ZipFile(source).namelist()):
                with pytest.raises(ModelFileError, match=r"without\.dense\.pt2?\b.*\.$"):
                    load(path)


FLIP = """
import random, sys
from pathlib import Path
from backends.base import BackendError, Device
from backends.torch import TorchBackend, TorchOptions
source, target, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
data = source.read_bytes()
chance = random.Random(5)
loaded = 0
for i in range(count):
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    target.write_bytes(changed if i % 3 else data[: chance.randrange(len(data))])
    backend = TorchBackend()
    assert 0 <= backend.sniff(target).confidence <= 1
    backend.trusted = True
    try:
        backend.load(target, Device("cpu"), TorchOptions())
        loaded += 1
    except BackendError as e:
        assert str(e).endswith(".") and target.name in str(e) or "example" in str(e), str(e)
print(loaded)
"""


@pytest.mark.parametrize(("name", "count"), [("dense.pt", 200), ("recurrent.pt", 60), ("words.pt2", 60)])
def test_damaged_files_are_refused_and_end_no_process(tmp_path: Path, name: str, count: int) -> None:
    target = tmp_path / f"damaged{Path(name).suffix}"
    command = [sys.executable, "-c", FLIP, str(models_torch.path(name)), str(target), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) < count / 2  # a change of the padding, or of a date, changes nothing


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cls", "message"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB.", OutOfMemory, "Tried to allocate"),
        (
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
            "bytes.",
            OutOfMemory,
            "memory: DefaultCPUAllocator",
        ),
        (
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later",
            BackendError,
            "The model failed: CUDA error: an illegal memory access was encountered.",
        ),
        ("mat1 and mat2 cannot be multiplied (1x5 and 4x3)", InvalidInput, "input: mat1 and mat2 cannot be multiplied"),
    ],
)
def test_errors_are_one_sentence_of_the_right_kind(text: str, cls: type[BackendError], message: str) -> None:
    found = errors.of_run(RuntimeError(text))
    assert type(found) is cls
    assert message in found.message
    assert found.message.endswith(".")
    assert isinstance(errors.of_run(torch.OutOfMemoryError("no room")), OutOfMemory)


def test_a_traceback_of_torchscript_becomes_its_reason() -> None:
    backend, _ = load(models_torch.path("dense.pt"))
    with pytest.raises(InvalidInput) as caught:
        backend.predict({"input": np.zeros((1, 5), np.float32)})
    assert caught.value.message == (
        "The model refused its input: mat1 and mat2 shapes cannot be multiplied (1x5 and 4x16)."
    )


# --- one image, without a batch axis --------------------------------------------------------------------------------


class Bright(nn.Module):
    """Which pixels of one image are bright."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.mean.weight, 1 / 3)
        nn.init.constant_(self.mean.bias, 0)

    def forward(self, image: Tensor) -> Tensor:
        return self.mean(image[None])[0, 0].gt(0.5).long()


class BrightBox(Bright):
    """The box around them."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        bright = self.mean(image[None])[0, 0].gt(0.5)
        rows, columns = torch.nonzero(bright.any(1)).flatten(), torch.nonzero(bright.any(0)).flatten()
        rows, columns = torch.cat([rows, torch.zeros(1)]), torch.cat([columns, torch.zeros(1)])
        box = torch.stack([columns[0], rows[0], columns.max() + 1, rows.max() + 1])
        return {"boxes": box[None], "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.long)}


@pytest.mark.parametrize("program", [BrightBox, Bright])
def test_one_image_without_a_batch_axis_is_an_image(program: type[torch.nn.Module], tmp_path: Path) -> None:
    backend, info = load(script(program(), tmp_path / "one.pt"))
    assert (info.inputs[0].shape[0], info.inputs[0].batch_axis, info.batchable) == (3, None, False)
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[20:40, 10:50] = 255
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    name = tasks.recognise(info, ModelOptions())
    assert name == ("object-detection" if program is BrightBox else "image-segmentation")
    options = PreprocessOptions(size=(60, 80), crop=False, mean=(0.0,), std=(255.0,), interpolation="nearest")
    task = tasks.create(name, info, ModelOptions(preprocess=options))
    decoded = task.decode_bytes(memoryview(file.getvalue()), "image/png")
    assert decoded.tensors[info.inputs[0].name].shape == (3, 60, 80)
    found = task.answer("input", backend.predict(decoded.tensors), decoded.single, Parameters(), decoded.origin)
    one = found[0] if program is BrightBox else next(each for each in found if each["label"] == "1")
    assert list(one["box"].values()) == [10, 20, 50, 40]
    encoded = base64.b64encode(file.getvalue()).decode()
    with pytest.raises(InvalidInput, match="takes exactly one image in a request; got 2"):
        task.decode("input", [encoded, encoded])


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = script(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(InvalidOption, match=r"device=cpu.*pip install --force-reinstall torch|update the driver"):
        TorchBackend().load(path, Device("cuda"), TorchOptions())


class Packed(nn.Module):
    """Sequences whose lengths are said: the output is as long as the longest of them."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.first = batch_first
        self.layer = nn.LSTM(3, 4, batch_first=batch_first)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=self.first, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=self.first)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences_are_found_and_their_rows_stay_apart(batch_first: bool, tmp_path: Path) -> None:
    module = Packed(batch_first)
    backend, info = load(script(module, tmp_path / "packed.pt"))
    shape = ("batch", "x_1", 3) if batch_first else ("sequence", "batch", 3)
    assert [(s.dtype, s.shape) for s in info.inputs] == [("float32", shape), ("int64", ("batch",))]
    assert not info.batchable
    x, lengths = np.random.default_rng(0).random((2, 5, 3), np.float32), np.array([4, 2])
    x = x if batch_first else np.ascontiguousarray(x.swapaxes(0, 1))
    found = backend.predict({"x": x, "lengths": lengths})["output"]
    np.testing.assert_allclose(found, module(torch.from_numpy(x), torch.from_numpy(lengths)).detach(), atol=1e-6)
    assert found.shape[1 if batch_first else 0] == 4
