"""Segmentation: real models' masks, every layout of outputs, and where masks lie in what was sent."""

from __future__ import annotations

import base64
import io
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
import skimage.data
from PIL import Image

from backends.base import Device, InvalidInput, InvalidOption, ModelInfo, TensorSpec
from backends.onnx import OnnxBackend, OnnxOptions
from engine import tasks
from engine.model_options import ModelOptions, PreprocessOptions, SegmentationOptions
from engine.tasks import masks, segment_layouts
from engine.tasks.base import Parameters
from engine.tasks.segmentation import ImageSegmentationTask
from tests.models import selfie, u2netp

ROWS, COLUMNS = np.mgrid[0:64, 0:64]
DISC = (ROWS - 20) ** 2 + (COLUMNS - 40) ** 2 < 15**2
"""A region of a picture of 64 by 64."""


def segmenter(*outputs: TensorSpec, shape: tuple[int | str, ...] = ("batch", 3, 64, 64), **changes: Any) -> ModelInfo:
    dtype = changes.pop("dtype", "float32")
    info = ModelInfo(task="tensor", inputs=(TensorSpec("image", dtype, shape),), outputs=outputs)
    return msgspec.structs.replace(info, **changes)


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def created(info: ModelInfo, **options: Any) -> ImageSegmentationTask:
    task = tasks.create("image-segmentation", info, ModelOptions(**options))
    assert isinstance(task, ImageSegmentationTask)
    return task


def png(picture: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def blank(width: int, height: int) -> str:
    return png(np.zeros((height, width, 3), np.uint8))


def mask(region: dict[str, Any]) -> Any:
    """bool [height, width]"""
    image = Image.open(io.BytesIO(base64.b64decode(region["mask"])))
    assert (image.format, image.mode) == ("PNG", "1")
    return np.asarray(image)


def found(task: ImageSegmentationTask, outputs: dict[str, Any], picture: str, **parameters: Any) -> Any:
    asked = Parameters(**parameters)
    task.check(asked)
    decoded = task.decode("input", picture)
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    answer = task.answer("input", arrays, True, asked, decoded.origin)
    return msgspec.json.decode(msgspec.json.encode(answer))  # it is to be JSON


# --- real models ----------------------------------------------------------------------------------------------------


def told(task: ImageSegmentationTask) -> dict[str, tuple[str, str]]:
    return {f.subject: (f.value, f.sure) for f in task.findings}


@pytest.fixture(scope="module")
def standing_out() -> tuple[OnnxBackend, ImageSegmentationTask]:
    backend = OnnxBackend()
    info = backend.load(u2netp(), Device("cpu", threads=2), OnnxOptions())
    assert tasks.recognise(info, ModelOptions()) == "tensor"  # a grey picture might be one of depth, too
    return backend, created(info)


def segmented(served: tuple[Any, ImageSegmentationTask], picture: Any, **parameters: Any) -> tuple[Any, Any]:
    """The answer, and the model's outputs."""
    backend, task = served
    outputs = backend.predict(task.decode("input", png(picture)).tensors)
    return found(task, outputs, png(picture), **parameters), outputs


def test_what_stands_out_is_found(standing_out: tuple[OnnxBackend, ImageSegmentationTask]) -> None:
    coffee = skimage.data.coffee()
    (cup,), outputs = segmented(standing_out, coffee)
    assert (cup["label"], cup["index"]) == ("foreground", 0)
    assert cup["score"] > 0.95
    np.testing.assert_allclose(list(cup["box"].values()), [76, 18, 480, 391], atol=6)
    assert mask(cup).shape == coffee.shape[:2]
    assert mask(cup)[200, 300]  # the cup
    assert not mask(cup)[10, 590]  # the table
    assert cup["share"] == pytest.approx(mask(cup).mean(), abs=1e-6)
    # Pillow's own enlargement of the same map
    wide = np.asarray(Image.fromarray(outputs["1959"][0, 0]).resize(coffee.shape[1::-1], Image.Resampling.BILINEAR))
    assert np.mean(mask(cup) != (wide > 0.5)) < 1e-3
    less = segmented(standing_out, coffee, mask_threshold=0.999)[0][0]
    assert 0 < less["share"] < cup["share"]
    assert not (mask(less) & ~mask(cup)).any()


def test_findings_of_one_mask(standing_out: tuple[OnnxBackend, ImageSegmentationTask]) -> None:
    findings = told(standing_out[1])
    assert findings["task"] == ("image-segmentation", "given")
    assert findings["outputs"] == ("a mask for each class (1959)", "likely")
    assert findings["image fit"] == ("whole, squeezed", "likely")
    assert findings["labels"][0] == "none, so its one mask is called foreground"
    assert findings["least probability"] == ("0.5", "guess")
    named = created(standing_out[1].info, labels=("cup",))
    assert told(named)["labels"] == ("1: cup", "given")
    assert segmented((standing_out[0], named), skimage.data.coffee())[0][0]["label"] == "cup"


def test_two_models_see_the_same_person(standing_out: tuple[OnnxBackend, ImageSegmentationTask]) -> None:
    tflite = pytest.importorskip("backends.tflite.backend")
    backend = tflite.TfliteBackend()
    info = backend.load(selfie(), Device("cpu", threads=2), tflite.TfliteOptions())
    pixels = PreprocessOptions(mean=(0.0,), std=(255.0,))
    person = backend, created(info, preprocess=pixels)
    astronaut = skimage.data.astronaut()
    (one,), (other,) = segmented(standing_out, astronaut)[0], segmented(person, astronaut)[0]
    both, either = mask(one) & mask(other), mask(one) | mask(other)
    assert both.sum() / either.sum() > 0.9
    assert mask(one)[100, 220]  # her face
    assert not mask(one)[40, 40]


# --- the layouts ----------------------------------------------------------------------------------------------------


def maps(*regions: Any, low: float = 0.0, high: float = 1.0) -> Any:
    """[classes, 64, 64] of these regions, and what is in none of them first."""
    each = np.stack([~np.any(regions, axis=0), *regions])
    return np.where(each, high, low).astype(np.float32)


@pytest.mark.parametrize(
    ("outputs", "values", "options"),
    [
        ((spec("out", "batch", 2, 64, 64),), {"out": maps(DISC, low=-4, high=4)[None]}, {}),
        ((spec("out", "batch", 2, 64, 64),), {"out": maps(DISC)[None]}, {}),
        ((spec("out", "batch", 64, 64, 2),), {"out": np.moveaxis(maps(DISC), 0, -1)[None]}, {}),
        ((spec("out", "batch", 1, 64, 64),), {"out": DISC[None, None].astype(np.float32)}, {}),
        ((spec("out", "batch", 1, 64, 64),), {"out": np.where(DISC, 6.0, -6.0)[None, None]}, {}),
        ((spec("out", "batch", 64, 64, 1),), {"out": DISC[None, :, :, None].astype(np.float32)}, {}),
        ((spec("out", "batch", 64, 64, dtype="int64"),), {"out": DISC[None].astype(np.int64)}, {}),
        ((spec("out", "batch", 1, 64, 64, dtype="uint8"),), {"out": DISC[None, None].astype(np.uint8)}, {}),
        ((spec("out", "batch", 64, 64, 1, dtype="int32"),), {"out": DISC[None, :, :, None].astype(np.int32)}, {}),
        (
            (spec("features", "batch", 8, 2, 2), spec("out", "batch", 2, 64, 64)),
            {"features": np.zeros((1, 8, 2, 2)), "out": maps(DISC)[None]},
            {"segmentation": SegmentationOptions(output="out")},
        ),
        (
            (spec("out", "batch", 2, 64, 64),),
            {"out": maps(DISC, low=-4, high=4)[None]},
            {"segmentation": SegmentationOptions(layout="masks", activation="sigmoid")},
        ),
    ],
)
def test_each_layout_gives_the_same_region(
    outputs: tuple[TensorSpec, ...], values: dict[str, Any], options: dict[str, Any]
) -> None:
    task = created(segmenter(*outputs), labels=("ground", "disc"), **options)
    regions = {each["label"]: each for each in found(task, values, blank(64, 64))}
    disc = regions["disc"]
    np.testing.assert_array_equal(mask(disc), DISC)
    assert disc["box"] == {"xmin": 26, "ymin": 6, "xmax": 55, "ymax": 35}
    assert disc["share"] == pytest.approx(DISC.mean(), abs=1e-6)
    if "ground" in regions:
        np.testing.assert_array_equal(mask(regions["ground"]), ~DISC)
        assert list(regions) == ["ground", "disc"]  # the largest first
    if task.layout.kind == "numbers":
        assert disc["score"] is None
    else:
        assert disc["score"] > 0.95


def test_scores_are_means_of_probabilities() -> None:
    task = created(segmenter(spec("out", "batch", 3, 64, 64)))
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (1, 3, 64, 64)).astype(np.float32)
    likely = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=0)
    best = likely.argmax(axis=0)
    for each in found(task, {"out": logits}, blank(64, 64)):
        np.testing.assert_array_equal(mask(each), best == each["index"])
        assert each["score"] == pytest.approx(likely[each["index"]][best == each["index"]].mean(), abs=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (31, 47)])
def test_maps_are_enlarged_as_torch_does_it(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    task = created(segmenter(spec("out", "batch", 5, 16, 16)))
    logits = np.random.default_rng(1).normal(0, 2, (1, 5, 16, 16)).astype(np.float32)
    wide = torch.nn.functional.interpolate(torch.from_numpy(logits), size=size[::-1], mode="bilinear")[0]
    best = wide.argmax(0).numpy()
    near = np.sort(wide.numpy(), axis=0)
    clear = near[-1] - near[-2] > 1e-4
    for each in found(task, {"out": logits}, blank(*size)):
        np.testing.assert_array_equal(mask(each)[clear], (best == each["index"])[clear])


@pytest.mark.parametrize(("size", "scale"), [((128, 64), 2), ((64, 192), 3)])
def test_masks_lie_where_the_image_was(size: tuple[int, int], scale: int) -> None:
    """Between borders: what is on them is in no mask."""
    task = created(segmenter(spec("out", "batch", 1, 64, 64)), preprocess=PreprocessOptions(border=114))
    width, height = (side // scale for side in size)
    left, top = (64 - width) // 2, (64 - height) // 2
    seen = np.zeros((64, 64), np.float32)
    seen[top + 4 : top + 12, left + 2 : left + 10] = 1
    (one,) = found(task, {"out": seen[None, None]}, blank(*size))
    assert mask(one).shape == size[::-1]
    expected = [2 * scale, 4 * scale, 10 * scale, 12 * scale]
    np.testing.assert_allclose(list(one["box"].values()), expected, atol=scale / 2)


def test_what_was_cut_off_is_in_no_region() -> None:
    task = created(segmenter(spec("out", "batch", 64, 64, dtype="int64")), preprocess=PreprocessOptions(resize=64))
    (one,) = found(task, {"out": np.full((1, 64, 64), 3)}, blank(128, 64))
    assert (one["label"], one["share"]) == ("3", 0.5)
    assert one["box"] == {"xmin": 32, "ymin": 0, "xmax": 96, "ymax": 64}


def test_tensors_are_answered_in_the_size_of_the_input() -> None:
    task = created(segmenter(spec("out", "batch", 2, 32, 32)))
    values = {"out": maps(DISC)[None, :, ::2, ::2]}
    answers = task.encode("input", values, False, Parameters())
    assert [mask(each).shape for each in answers[0]] == [(64, 64)] * 2


# --- YOLO -----------------------------------------------------------------------------------------------------------

CELLS = 8 * 8 + 4 * 4 + 2 * 2
YOLO = {"task": "segment", "stride": "32", "imgsz": "[64, 64]", "author": "Ultralytics"}


def yolo(kind: str) -> tuple[tuple[TensorSpec, ...], dict[str, Any]]:
    """One object, whose mask is a mixture of four maps: 2 × the first, less the second."""
    parts = np.zeros((1, 4, 16, 16), np.float32)
    parts[0, 0] = np.where(np.mgrid[0:16, 0:16][1] < 8, 1, -1)  # the left half
    parts[0, 1] = np.where(np.mgrid[0:16, 0:16][0] < 8, 1, -1)  # the upper half
    share = [2, -1, 0, 0]
    if kind == "rows":
        boxes = np.array([[[8, 8, 56, 56, 0.9, 1, *share]]], np.float32)
        return (spec("boxes", "batch", 1, 10), spec("parts", "batch", 4, 16, 16)), {"boxes": boxes, "parts": parts}
    boxes = np.zeros((1, CELLS, 10), np.float32)
    boxes[0, :, :4] = 30
    boxes[0, 7] = [32, 32, 48, 48, 0.1, 0.9, *share]
    boxes[0, 8] = [33, 32, 48, 48, 0.1, 0.8, *share]  # the same once more, which is not given
    if kind == "last":
        specs = (spec("boxes", "batch", 10, CELLS), spec("parts", "batch", 16, 16, 4))
        return specs, {"boxes": boxes.transpose(0, 2, 1), "parts": parts.transpose(0, 2, 3, 1)}
    specs = (spec("boxes", "batch", 10, CELLS), spec("parts", "batch", 4, 16, 16))
    return specs, {"boxes": boxes.transpose(0, 2, 1), "parts": parts}


@pytest.mark.parametrize("kind", ["first", "last", "rows"])
def test_masks_of_yolo_are_mixed_of_its_maps(kind: str) -> None:
    outputs, values = yolo(kind)
    info = segmenter(*outputs, metadata=YOLO, labels=("cat", "dog"))
    assert tasks.recognise(info, ModelOptions()) == "image-segmentation"
    task = created(info)
    (one,) = found(task, values, blank(128, 128))
    assert (one["label"], one["index"], one["score"]) == ("dog", 1, pytest.approx(0.9))
    shown = mask(one)
    assert shown.shape == (128, 128)
    np.testing.assert_array_equal(shown[16:112, 16:60], True)  # the left half of the box
    assert not shown[:, 68:].any()
    assert not shown[:16].any()
    assert not shown[112:].any()
    assert told(task)["outputs"] == ("boxes, and maps that masks are mixed of (parts)", "certain")
    assert told(task)["image fit"] == ("whole, between grey borders (114)", "certain")
    assert found(task, values, blank(128, 128), threshold=0.95) == []


def test_masks_of_yolo_by_the_definition() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    parts = rng.normal(0, 1, (1, 4, 16, 16)).astype(np.float32)
    boxes = np.array([[[8, 4, 40, 60, 0.9, 0, *rng.normal(0, 1, 4)], [30, 30, 64, 64, 0.8, 1, *rng.normal(0, 1, 4)]]])
    info = segmenter(spec("a", "batch", 2, 10), spec("b", "batch", 4, 16, 16), metadata=YOLO, labels=("x", "y"))
    answers = found(created(info), {"a": boxes.astype(np.float32), "b": parts}, blank(192, 192))
    for each, row in zip(answers, boxes[0].astype(np.float32), strict=True):
        mixed = torch.from_numpy(np.tensordot(row[6:], parts[0], 1)[None, None])
        wide = torch.nn.functional.interpolate(mixed, size=(192, 192), mode="bilinear")[0, 0].numpy()
        left, top, right, bottom = (row[:4] * 3).astype(int)
        expected = np.zeros((192, 192), bool)
        expected[top:bottom, left:right] = wide[top:bottom, left:right] > 0
        assert np.mean(mask(each) != expected) < 1e-4


def test_yolos_boxes_alone_may_be_asked_for() -> None:
    outputs, values = yolo("first")
    info = segmenter(*outputs, metadata=YOLO, labels=("cat", "dog"))
    task = tasks.create("object-detection", info, ModelOptions())
    decoded = task.decode("input", blank(64, 64))
    (one,) = task.answer("input", values, True, Parameters(), decoded.origin)
    assert (one["label"], list(one["box"].values())) == ("dog", [8, 8, 56, 56])


# --- what is recognised, refused and bounded ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "labels", "task"),
    [
        ((spec("out", "batch", 21, 64, 64),), None, "image-segmentation"),
        ((spec("out", "batch", 21, 16, 16),), None, "tensor"),
        ((spec("out", "batch", 2, 16, 16),), ("a", "b"), "image-segmentation"),
        ((spec("out", "batch", 64, 64, dtype="int64"),), None, "image-segmentation"),
        ((spec("out", "batch", 21, 64, 64), spec("aux", "batch", 21, 64, 64)), None, "image-segmentation"),
        ((spec("out", "batch", 3, 64, 64),), None, "tensor"),  # another picture
        ((spec("out", "batch", 1, 64, 64),), None, "tensor"),  # how far away things are
        ((spec("out", "batch", 21, 1, 1),), None, "tensor"),
        ((spec("out", "batch", 512, 8, 8),), None, "tensor"),  # features
    ],
)
def test_what_is_taken_for_a_segmenter(outputs: tuple[TensorSpec, ...], labels: Any, task: str) -> None:
    assert tasks.recognise(segmenter(*outputs, labels=labels), ModelOptions()) == task


def test_options_and_metadata_say_so_too() -> None:
    info = segmenter(spec("out", "batch", 1, 64, 64))
    options = ModelOptions(segmentation=SegmentationOptions(mask_threshold=0.4))
    assert tasks.recognise(info, options) == "image-segmentation"
    text = msgspec.json.encode({"mask_threshold": 0.7}).decode()
    info = msgspec.structs.replace(info, metadata={segment_layouts.METADATA_KEY: text})
    assert tasks.recognise(info, ModelOptions()) == "image-segmentation"
    assert told(created(info))["least probability"] == ("0.7", "certain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "rows"}, "segmentation.layout must be one of classes, masks, numbers; got 'rows'."),
        ({"output": "nope"}, "segmentation.output is 'nope', but the outputs are out."),
        ({"channels": "middle"}, "segmentation.channels must be one of first, last; got 'middle'."),
        ({"activation": "relu"}, "segmentation.activation must be one of none, sigmoid, softmax; got 'relu'."),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{message}$"):
        created(segmenter(spec("out", "batch", 2, 64, 64)), segmentation=SegmentationOptions(**options))


def test_a_model_without_maps_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"No output is a map of the image: out \[batch, 10\]"):
        created(segmenter(spec("out", "batch", 10)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mask_threshold": 2}, "mask_threshold must be from 0 to 1; got 2."),
        ({"top_k": 0}, "top_k must be at least 1; got 0."),
        ({"threshold": 0.5}, "threshold means nothing to a model of this task."),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        created(segmenter(spec("out", "batch", 1, 64, 64))).check(Parameters(**parameters))


def test_huge_images_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks keep the image's size, but are computed coarser where the work would be too much."""
    monkeypatch.setattr(masks, "MOST_SAMPLES", 2 * 100 * 100)
    task = created(segmenter(spec("out", "batch", 2, 64, 64)), labels=("ground", "disc"))
    _, disc = found(task, {"out": maps(DISC)[None]}, blank(400, 400))
    exact = (np.mgrid[0:400, 0:400][0] / 6.25 - 20) ** 2 + (np.mgrid[0:400, 0:400][1] / 6.25 - 40) ** 2 < 15**2
    assert mask(disc).shape == (400, 400)
    assert np.mean(mask(disc) != exact) < 0.02
    monkeypatch.setattr(masks, "MOST_PIXELS", 200_000)
    with pytest.raises(InvalidInput, match=r"The masks of this answer have more than 200,000 pixels; send smaller"):
        found(task, {"out": maps(DISC)[None]}, blank(400, 400))
    assert len(found(task, {"out": maps(DISC)[None]}, blank(400, 400), top_k=1)) == 1


def test_a_large_photo_takes_little_memory() -> None:
    """Its maps in full would take 3.8 GB."""
    task = created(segmenter(spec("out", "batch", 40, 32, 32)))
    logits = np.random.default_rng(0).normal(0, 1, (1, 40, 32, 32)).astype(np.float32)
    decoded = task.decode("input", blank(6000, 4000))
    tracemalloc.start()
    answer = task.answer("input", {"out": logits}, True, Parameters(top_k=3), decoded.origin)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300e6
    assert [mask(each).shape for each in answer] == [(4000, 6000)] * 3
