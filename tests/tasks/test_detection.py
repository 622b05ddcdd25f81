"""Object detection: a real detector's boxes, every layout of outputs, and where boxes lie in what was sent."""

from __future__ import annotations

import base64
import io
from typing import Any

import msgspec
import numpy as np
import pytest
import skimage.data
from PIL import Image

from backends.base import Device, InvalidInput, InvalidOption, ModelInfo, TensorSpec
from backends.onnx import OnnxBackend, OnnxOptions
from engine import model_options, tasks
from engine.errors import InvalidOption as EngineInvalidOption
from engine.model_options import DetectionOptions, ModelOptions, PreprocessOptions
from engine.tasks import boxes, layouts
from engine.tasks.base import Parameters
from engine.tasks.boxes import Boxes
from engine.tasks.detection import ObjectDetectionTask
from tests.models import yolo

Outputs = dict[str, Any]


def detector(*outputs: TensorSpec, shape: tuple[int | str, ...] = ("batch", 3, 64, 64), **changes: Any) -> ModelInfo:
    dtype = changes.pop("dtype", "float32")
    info = ModelInfo(task="tensor", inputs=(TensorSpec("image", dtype, shape),), outputs=outputs)
    return msgspec.structs.replace(info, **changes)


def floats(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", shape, 0)


def created(info: ModelInfo, **options: Any) -> ObjectDetectionTask:
    task = tasks.create("object-detection", info, ModelOptions(**options))
    assert isinstance(task, ObjectDetectionTask)
    return task


def png(width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def found(task: ObjectDetectionTask, outputs: Outputs, size: tuple[int, int] = (64, 64), **parameters: Any) -> Any:
    """The answer for one image of this width and height, as (label, score, corners)."""
    asked = Parameters(**parameters)
    task.check(asked)
    decoded = task.decode("input", png(*size))
    arrays = {name: np.asarray(value, np.float32) for name, value in outputs.items()}
    answer = task.answer("input", arrays, True, asked, decoded.origin)
    return [(one["label"], round(one["score"], 3), list(one["box"].values())) for one in answer]


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> tuple[OnnxBackend, ObjectDetectionTask]:
    backend = OnnxBackend()
    info = backend.load(yolo(), Device("cpu", threads=2), OnnxOptions())
    assert tasks.recognise(info, ModelOptions()) == "object-detection"
    return backend, created(info)


def detect(real: tuple[OnnxBackend, ObjectDetectionTask], image: Image.Image) -> Any:
    backend, task = real
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    decoded = task.decode_bytes(memoryview(buffer.getvalue()), "image/png")
    return task.answer("input", backend.predict(decoded.tensors), True, Parameters(), decoded.origin)


def test_a_face_is_found_where_it_is(real: tuple[OnnxBackend, ObjectDetectionTask]) -> None:
    (face,) = detect(real, Image.fromarray(skimage.data.astronaut()))
    assert face["label"] == "FACE_FEMALE"
    assert face["score"] > 0.7
    np.testing.assert_allclose(list(face["box"].values()), [173, 83, 274, 180], atol=4)
    assert detect(real, Image.fromarray(skimage.data.coffee())) == []


def test_it_is_found_in_the_same_place_of_a_larger_picture(real: tuple[OnnxBackend, ObjectDetectionTask]) -> None:
    picture = Image.new("RGB", (1024, 600), "grey")
    picture.paste(Image.fromarray(skimage.data.astronaut()), (400, 50))
    (face,) = detect(real, picture)
    np.testing.assert_allclose(list(face["box"].values()), [573, 133, 674, 230], atol=12)


def test_what_the_file_says_is_told(real: tuple[OnnxBackend, ObjectDetectionTask]) -> None:
    told = {f.subject: (f.value, f.sure) for f in real[1].findings}
    assert told["task"] == ("object-detection", "certain")
    assert told["image size"] == ("320 × 320", "certain")
    assert told["image fit"] == ("whole, between grey borders (114)", "certain")
    assert told["pixel values"] == ("0 to 1", "certain")
    assert told["outputs"] == ("yolo", "certain")
    assert told["labels"][0].startswith("18: ")
    assert told["least score"] == ("0.25", "guess")


# --- the layouts ----------------------------------------------------------------------------------------------------

CELLS = 8 * 8 + 4 * 4 + 2 * 2  # of grids of 8, 16 and 32 pixels on an image of 64


def grid(*columns: tuple[float, ...], rows: int = CELLS) -> np.ndarray[Any, Any]:
    """[rows, columns]: these boxes, and nothing in the others."""
    table = np.zeros((rows, len(columns[0])), np.float32)
    table[:, :2] = 60  # somewhere in the picture
    for i, column in enumerate(columns):
        table[i] = column
    return table


ONE = [("1", 0.9, [10.0, 20.0, 30.0, 40.0])]


@pytest.mark.parametrize(
    ("outputs", "values"),
    [
        ((floats("out", "batch", 6, CELLS),), {"out": grid((20, 30, 20, 20, 0.1, 0.9)).T[None]}),
        ((floats("out", "batch", CELLS, 6),), {"out": grid((20, 30, 20, 20, 0.1, 0.9))[None]}),
        ((floats("out", "batch", 3 * CELLS, 7),), {"out": grid((20, 30, 20, 20, 0.9, 0, 1), rows=3 * CELLS)[None]}),
        (
            (floats("boxes", "n", 4), floats("labels", "n"), floats("scores", "n")),
            {"boxes": [[10, 20, 30, 40]], "labels": [1], "scores": [0.9]},
        ),
        (
            (
                floats("detection_boxes", "batch", 2, 4),
                floats("detection_classes", "batch", 2),
                floats("detection_scores", "batch", 2),
                floats("num_detections", "batch"),
            ),
            {
                "detection_boxes": [[[20 / 64, 10 / 64, 40 / 64, 30 / 64], [0, 0, 1, 1]]],
                "detection_classes": [[2, 1]],
                "detection_scores": [[0.9, 0.8]],
                "num_detections": [1],
            },
        ),
        (
            (
                floats("TFLite_Detection_PostProcess", 1, 1, 4),
                floats("TFLite_Detection_PostProcess:1", 1, 1),
                floats("TFLite_Detection_PostProcess:2", 1, 1),
                floats("TFLite_Detection_PostProcess:3", 1),
            ),
            {
                "TFLite_Detection_PostProcess": [[[20 / 64, 10 / 64, 40 / 64, 30 / 64]]],
                "TFLite_Detection_PostProcess:1": [[1]],
                "TFLite_Detection_PostProcess:2": [[0.9]],
                "TFLite_Detection_PostProcess:3": [1],
            },
        ),
        (
            (floats("dets", "batch", 1, 4), floats("labels", "batch", 1, 2)),
            {"dets": [[[20 / 64, 30 / 64, 20 / 64, 20 / 64]]], "labels": [[[-9, np.log(9)]]]},
        ),
        (
            (floats("logits", "batch", 1, 3), floats("pred_boxes", "batch", 1, 4)),
            {"pred_boxes": [[[20 / 64, 30 / 64, 20 / 64, 20 / 64]]], "logits": [[[-9, np.log(9), -30]]]},
        ),
    ],
    ids=["yolo", "yolo-last", "yolov5", "torchvision", "tensorflow", "tflite", "rf-detr", "detr"],
)
def test_each_layout_is_recognised_and_read(outputs: tuple[TensorSpec, ...], values: Outputs) -> None:
    info = detector(*outputs)
    assert tasks.recognise(info, ModelOptions()) == "object-detection"
    answer = found(created(info), values)
    assert [label for label, _, _ in answer] == ["1"]
    assert answer[0][1] == pytest.approx(0.9, abs=1e-3)
    np.testing.assert_allclose(answer[0][2], [10, 20, 30, 40], atol=0.02)


def test_one_box_a_row() -> None:
    info = detector(floats("output0", "batch", 300, 6), metadata={"task": "detect", "stride": "32"})
    rows = np.zeros((300, 6), np.float32)
    rows[7] = (10, 20, 30, 40, 0.9, 1)
    assert found(created(info), {"output0": rows[None]}) == ONE


def test_fractions_of_yolo_are_told_from_pixels() -> None:
    info = detector(floats("out", "batch", 6, CELLS))
    table = grid((20, 30, 20, 20, 0.1, 0.9))
    table[:, :4] /= 64
    assert found(created(info), {"out": table.T[None]}) == ONE


def test_masks_behind_the_scores_are_no_classes() -> None:
    """A model that segments has 32 more numbers for each box."""
    names = ("cat", "dog")
    metadata = {"task": "segment", "stride": "32"}
    info = detector(
        floats("output0", "batch", 38, CELLS), floats("output1", "batch", 32, 16, 16), labels=names, metadata=metadata
    )
    row = (20.0, 30.0, 20.0, 20.0, 0.1, 0.9, *[5.0] * 32)
    values = {"output0": grid(row).T[None], "output1": np.zeros((1, 32, 16, 16))}
    assert found(created(info), values) == [("dog", 0.9, [10, 20, 30, 40])]


def test_the_last_class_of_detr_is_none_where_the_labels_are_one_fewer() -> None:
    info = detector(
        floats("logits", "batch", 2, 3), floats("pred_boxes", "batch", 2, 4), labels=("cat", "dog"), dtype="float32"
    )
    values = {"pred_boxes": [[[0.5] * 4] * 2], "logits": [[[0, 9, 0], [0, 0, 9]]]}
    ((label, score, _),) = found(created(info), values)
    assert (label, score) == ("dog", 1.0)


@pytest.mark.parametrize(
    "outputs",
    [
        (floats("scores", "batch", 10, 6625),),  # reads text
        (floats("map", "batch", 1, 64, 64),),
        (floats("features", "batch", 7, 12),),
        (floats("boxes", "batch", 7, 12), floats("scores", "batch", 7)),
    ],
)
def test_what_is_no_detector_stays_what_it_is(outputs: tuple[TensorSpec, ...]) -> None:
    info = detector(*outputs)
    assert tasks.recognise(info, ModelOptions()) == "tensor"
    with pytest.raises(InvalidOption, match=r"detection\.layout=yolo\|yolov5\|rows"):
        created(info)


def test_outputs_can_be_named() -> None:
    info = detector(floats("a", "batch", 2, 4), floats("b", "batch", 2), floats("c", "batch", 2))
    options = DetectionOptions(boxes="a", scores="b", classes="c", corners="xywh")
    assert tasks.recognise(info, ModelOptions(detection=options)) == "object-detection"
    values = {"a": [[[10, 20, 20, 20], [0, 0, 9, 9]]], "b": [[0.9, 0.1]], "c": [[1, 0]]}
    assert found(created(info, detection=options), values) == ONE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "yolo9"}, "detection.layout must be one of yolo, yolov5, rows, tensors; got 'yolo9'."),
        ({"corners": "xyz"}, "detection.corners must be one of xyxy, yxyx, xywh, cxcywh; got 'xyz'."),
        ({"boxes": "nope", "scores": "out"}, "detection.boxes is 'nope', but the outputs are out."),
        ({"boxes": "out"}, "detection.scores is missing; name that output, too."),
        ({"layout": "tensors"}, "detection.layout is tensors, but the model does not name its outputs so."),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as error:
        created(detector(floats("out", "batch", 6, CELLS)), detection=DetectionOptions(**options))
    assert error.value.message == message


@pytest.mark.parametrize("option", ["threshold", "overlap"])
def test_parts_are_from_0_to_1(option: str) -> None:
    with pytest.raises(EngineInvalidOption, match=f"detection.{option} must be from 0 to 1; got 2"):
        model_options.split({"detection": {option: 2}}, msgspec.Struct)


def test_a_detector_is_no_classifier() -> None:
    with pytest.raises(InvalidOption, match=r"needs a score for each class, \[batch, classes\]; the output is"):
        tasks.create("image-classification", detector(floats("out", "batch", 6, CELLS)), ModelOptions())


# --- which boxes are given ------------------------------------------------------------------------------------------


def test_of_boxes_that_overlap_the_best_of_each_class_is_kept() -> None:
    corners = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 20, 30, 30]], np.float32)
    kept = boxes.best(Boxes(corners, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]), np.arange(4)), 0.45, 10)
    assert kept.scores.tolist() == [0.9, 0.7, 0.6]
    assert (
        len(
            boxes.best(
                Boxes(corners, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]), np.arange(4)), 0.45, 2
            ).scores
        )
        == 2
    )


def test_it_agrees_with_the_definition_on_many_boxes() -> None:
    """Against the plain definition, one pair after the other."""
    rng = np.random.default_rng(0)
    start = rng.random((200, 2)) * 50
    corners = np.concatenate([start, start + 5 + rng.random((200, 2)) * 20], axis=1)
    classes, scores = rng.integers(0, 3, 200), -np.sort(-rng.random(200))

    def overlap(a: Any, b: Any) -> float:
        width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
        areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        return width * height / (areas - width * height)

    kept: list[int] = []
    for i in range(200):
        if all(classes[i] != classes[j] or overlap(corners[i], corners[j]) <= 0.45 for j in kept):
            kept.append(i)
    assert (
        boxes.best(Boxes(corners, scores, classes, np.arange(200)), 0.45, 300).scores.tolist() == scores[kept].tolist()
    )


def test_threshold_and_count_are_the_requests() -> None:
    task = created(detector(floats("boxes", "n", 4), floats("labels", "n"), floats("scores", "n")))
    values = {"boxes": [[0, 0, 9, 9], [20, 20, 40, 40]], "labels": [0, 0], "scores": [0.3, 0.2]}
    assert len(found(task, values)) == 1
    assert len(found(task, values, threshold=0.1)) == 2
    assert len(found(task, values, threshold=0.1, top_k=1)) == 1
    assert found(task, values, threshold=0.5) == []
    with pytest.raises(InvalidInput, match="threshold must be from 0 to 1"):
        found(task, values, threshold=2)


@pytest.mark.parametrize(("size", "scale"), [((128, 64), 2.0), ((32, 64), 1.0), ((640, 640), 10.0)])
def test_boxes_are_in_pixels_of_the_image_that_was_sent(size: tuple[int, int], scale: float) -> None:
    """Of an image between borders, and boxes do not leave it."""
    task = created(detector(floats("boxes", "n", 4), floats("labels", "n"), floats("scores", "n")))
    shown = [round(side / scale) for side in size]
    left, top = ((64 - side) / 2 for side in shown)
    values = {"boxes": [[left + 4, top + 4, 99, 99]], "labels": [0], "scores": [0.9]}
    ((_, _, box),) = found(task, values, size)
    np.testing.assert_allclose(box, [4 * scale, 4 * scale, *size], atol=0.02)


def test_a_squeezed_image_is_not_square() -> None:
    usual = PreprocessOptions(crop=False)
    task = created(detector(floats("boxes", "n", 4), floats("labels", "n"), floats("scores", "n")), preprocess=usual)
    ((_, _, box),) = found(task, {"boxes": [[32, 16, 48, 32]], "labels": [0], "scores": [0.9]}, (128, 64))
    assert box == [64, 16, 96, 32]


def test_what_is_cut_out_lies_in_the_middle() -> None:
    cut = PreprocessOptions(resize=64)
    task = created(detector(floats("boxes", "n", 4), floats("labels", "n"), floats("scores", "n")), preprocess=cut)
    ((_, _, box),) = found(task, {"boxes": [[0, 16, 32, 64]], "labels": [0], "scores": [0.9]}, (256, 128))
    assert box == [64, 32, 128, 128]


def test_tensors_are_answered_in_pixels_of_the_input() -> None:
    task = created(detector(floats("out", "batch", 6, CELLS)))
    values = {"out": grid((20, 30, 20, 20, 0.1, 0.9)).T[None]}
    (one,) = task.encode("input", values, True, Parameters())
    assert list(one["box"].values()) == [10, 20, 30, 40]


def test_own_metadata_describes_outputs() -> None:
    text = msgspec.json.encode({"boxes": "a", "scores": "b", "fractions": True, "threshold": 0.5}).decode()
    info = detector(floats("a", "batch", 1, 4), floats("b", "batch", 1, 2), metadata={layouts.METADATA_KEY: text})
    assert tasks.recognise(info, ModelOptions()) == "object-detection"
    task = created(info)
    values = {"a": [[[10 / 64, 20 / 64, 30 / 64, 40 / 64]]], "b": [[[0.4, 0.9]]]}
    assert found(task, values) == ONE
    assert task.detection.threshold == 0.5
