"""Tests of TorchScript programs of lists of tensors, whose entries are rows that may differ in size."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from backends.base import Device, InvalidInput, ModelFileError, ModelInfo
from backends.torch import TorchBackend, TorchOptions
from backends.torch.programs import with_operators
from engine import tasks
from engine.model_options import ModelOptions, PreprocessOptions
from engine.tasks import pixels
from engine.tasks.base import Parameters
from tests import models_torch
from tests.models_torch import colours

CPU = Device("cpu", threads=2)
SCENES = (
    colours(40, 60, red=(5, 6, 20, 30)),
    colours(64, 48, green=(0, 0, 10, 10), blue=(20, 30, 48, 64)),
    colours(30, 30),
)
"""With one box, with two, and with none."""


def load(path: Path, **options: Any) -> tuple[TorchBackend, ModelInfo]:
    backend = TorchBackend()
    return backend, backend.load(path, CPU, msgspec.convert(options, TorchOptions))


def script(module: nn.Module, folder: Path) -> Path:
    path = folder / "program.pt"
    torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def png(picture: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def finder() -> tuple[TorchBackend, ModelInfo]:
    return load(models_torch.path("colours.pt"))


def test_a_list_of_images_is_a_batch_of_them(finder: tuple[TorchBackend, ModelInfo]) -> None:
    _, info = finder
    assert [(s.name, s.dtype, s.shape) for s in info.inputs] == [("images", "float32", ("batch", 3, "height", "width"))]
    assert [s.name for s in info.optional] == ["pixel_mask"]
    assert [(s.name, s.shape, s.batch_axis, s.fill) for s in info.outputs] == [
        ("boxes", ("batch", "items", 4), 0, -1),
        ("labels", ("batch", "items"), 0, -1),
        ("scores", ("batch", "items"), 0, -1),
    ]
    assert info.batchable
    assert info.labels == ("background", "red", "green", "blue")
    assert tasks.recognise(info, ModelOptions()) == "object-detection"


def test_answers_are_the_programs_own_whatever_else_is_in_the_batch(finder: tuple[TorchBackend, ModelInfo]) -> None:
    backend, _ = finder
    images = [torch.from_numpy(scene).permute(2, 0, 1).float() / 255 for scene in SCENES]
    _, expected = models_torch.ColourFinder()(images)
    batch, mask = torch.zeros(3, 3, 64, 60), torch.zeros(3, 64, 60, dtype=torch.int64)
    for row, image in enumerate(images):
        batch[row, :, : image.shape[1], : image.shape[2]] = image
        mask[row, : image.shape[1], : image.shape[2]] = 1
    found = backend.predict({"images": batch.numpy(), "pixel_mask": mask.numpy()})
    assert found["boxes"].shape == (3, 2, 4)
    for row, wanted in enumerate(expected):
        count = len(wanted["scores"])
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name][row, :count], value.numpy())
            assert (found[name][row, count:] == -1).all()
    alone = backend.predict({"images": images[2][None].numpy()})
    assert alone["boxes"].shape == (1, 0, 4)


def test_images_keep_their_size_and_boxes_are_in_their_pixels(finder: tuple[TorchBackend, ModelInfo]) -> None:
    backend, info = finder
    task = tasks.create("object-detection", info, ModelOptions())
    told = {finding.subject: finding.value for finding in task.findings}
    assert (told["image size"], "image scaling" in told) == ("each its own", False)
    decoded = task.decode("input", [base64.b64encode(png(scene)).decode() for scene in SCENES])
    assert decoded.tensors["images"].shape == (3, 3, 64, 60)
    answer = task.answer("input", backend.predict(decoded.tensors), decoded.single, Parameters(), decoded.origin)
    boxes = [[(found["label"], tuple(found["box"].values())) for found in each] for each in answer]
    assert boxes == [
        [("red", (5, 6, 20, 30))],
        [("green", (0, 0, 10, 10)), ("blue", (20, 30, 48, 64))],
        [],
    ]
    everything = task.answer("input", backend.predict(decoded.tensors), False, Parameters(threshold=0), decoded.origin)
    assert [len(each) for each in everything] == [1, 2, 0]


def test_images_are_scaled_if_so_wanted_and_refused_if_gigantic(
    finder: tuple[TorchBackend, ModelInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, info = finder
    monkeypatch.setattr(pixels, "MAX_KEPT", 50 * 50)
    kept = tasks.create("object-detection", info, ModelOptions())
    with pytest.raises(InvalidInput, match=r"60 × 45 pixels.*as they are.*preprocess.longest") as error:
        kept.decode_bytes(memoryview(png(colours(45, 60))), "image/png")
    assert error.value.field == "input"
    options = PreprocessOptions(size=20, longest=30)
    scaled = tasks.create("object-detection", info, ModelOptions(preprocess=options))
    decoded = scaled.decode_bytes(memoryview(png(colours(45, 60))), "image/png")
    assert decoded.tensors["images"].shape == (1, 3, 20, 26)


def test_a_mask_of_another_size_is_refused(finder: tuple[TorchBackend, ModelInfo]) -> None:
    backend, _ = finder
    batch = {"images": np.zeros((1, 3, 8, 8), np.float32), "pixel_mask": np.ones((1, 8, 9), np.int64)}
    with pytest.raises(InvalidInput, match=r"pixel_mask must be \[1, 8, 8\]"):
        backend.predict(batch)


class Lengths(nn.Module):
    """Of texts as numbers of words; a vector and a number for each."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)

    def forward(self, texts: list[Tensor]) -> list[tuple[Tensor, int]]:
        found: list[tuple[Tensor, int]] = []
        for text in texts:
            found.append((self.words(text).mean(0), len(text)))
        return found


def test_lists_of_other_things_than_images(tmp_path: Path) -> None:
    module = Lengths()
    backend, info = load(script(module, tmp_path))
    assert [(s.dtype, s.shape) for s in info.inputs] == [("int64", ("batch", "texts_1"))]
    assert [(s.name, s.shape, s.fill) for s in info.outputs] == [
        ("output_0", ("batch", 4), None),
        ("output_1", ("batch",), None),
    ]
    assert not info.optional
    found = backend.predict({"texts": np.array([[1, 2, 3], [3, 3, 3]])})
    np.testing.assert_array_equal(found["output_1"], [3, 3])
    np.testing.assert_allclose(found["output_0"][1], module.words.weight[3].detach(), atol=1e-6)


class Joined(nn.Module):
    """Makes one thing of all images, and a list of as many as it likes."""

    def forward(self, images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        whole = torch.stack(images).mean(0)
        return whole, [whole[0], whole[1]]


def test_a_list_that_has_no_entry_for_each_row_is_several_outputs(tmp_path: Path) -> None:
    backend, info = load(script(Joined(), tmp_path))
    assert [s.name for s in info.outputs] == ["output_0", "output_1_0", "output_1_1"]
    assert not info.batchable
    images = np.random.default_rng(0).random((2, 3, 5, 7), np.float32)
    found = backend.predict({"images": images})
    np.testing.assert_allclose(found["output_1_1"], images.mean(0)[1], atol=1e-6)


class Uneven(nn.Module):
    """Forgets the last of three images."""

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [image.mean() for image in images[:2]]


def test_a_row_without_a_result_is_an_error_and_no_wrong_answer(tmp_path: Path) -> None:
    backend, _ = load(script(Uneven(), tmp_path))
    assert backend.predict({"images": np.ones((2, 3, 4, 4), np.float32)})["output"].shape == (2,)
    with pytest.raises(ModelFileError, match="does not return a result for each row"):
        backend.predict({"images": np.ones((3, 3, 4, 4), np.float32)})


class Two(nn.Module):
    def forward(self, left: list[Tensor], right: list[Tensor]) -> Tensor:
        return left[0] + right[0]


def test_two_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"'right' of the model's forward is a List\[Tensor\].*plain tensors"):
        load(script(Two(), tmp_path))


def test_operators_of_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> None:
        raise RuntimeError("Unknown builtin op: torchvision::nms.")

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModelFileError, match=r"m\.pt needs .* torchvision, which is not installed.*pip install"):
        with_operators(torch, Path("m.pt"), read)
