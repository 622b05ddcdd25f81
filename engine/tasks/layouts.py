"""Which layout the outputs of an object detector have: told by its metadata, by their names or by their shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from backends.base import InvalidOption, ModelInfo, TensorSpec
from engine.model_options import DetectionOptions
from engine.tasks.boxes import Kind, Layout

METADATA_KEY = "unimodel.detection"
"""Key in a model's own metadata that says what its outputs are: `DetectionOptions` as JSON."""

KINDS: tuple[Kind, ...] = ("yolo", "yolov5", "rows", "tensors")
CORNERS = ("xyxy", "yxyx", "xywh", "cxcywh")
ACTIVATIONS = ("none", "sigmoid", "softmax")

METADATA = "its files"
"""How a layout was recognised that its file tells."""

_STRIDES = (8, 16, 32, 64)
"""Pixels between the cells of YOLO's grids."""


def find(info: ModelInfo, options: DetectionOptions, labelled: int | None) -> Layout:
    """The layout of an object detector. Raises `InvalidOption` that says how to describe its outputs."""
    found = recognise(info, labelled)
    if options.layout is not None and (found is None or found.kind != options.layout):
        found = _of_kind(_one_of("layout", options.layout, KINDS), info, labelled)
    if options.boxes is not None or options.scores is not None or options.classes is not None:
        found = _named(info, options)
    if found is None:
        shapes = "; ".join(f"{s.name} [{', '.join(map(str, s.shape))}]" for s in info.outputs)
        raise InvalidOption(
            "The outputs are in no known layout of an object detector: "
            f"{shapes}. Say what they are with --set detection.layout={'|'.join(KINDS[:3])}, or name them with --set "
            "detection.boxes=NAME, detection.scores=NAME and detection.classes=NAME.",
            field="task",
        )
    changes: dict[str, Any] = {}
    if options.corners is not None:
        changes["corners"] = _one_of("corners", options.corners, CORNERS)
    if options.fractions is not None:
        changes["fractions"] = options.fractions
    if options.activation is not None:
        changes["activation"] = _one_of("activation", options.activation, ACTIVATIONS)
    if options.first_class is not None:
        changes["first_class"] = options.first_class
    return replace(found, **changes)


def recognise(info: ModelInfo, labelled: int | None) -> Layout | None:
    """The layout of a model that is certainly an object detector; `None` of any other.

    `labelled` is how many labels the model's own file has.
    """
    images = [s for s in info.inputs if len(s.shape) == 4 and s.dtype.startswith(("float", "uint8"))]
    if len(info.inputs) != 1 or not images or not any(d in (1, 3) for d in images[0].shape[1::2]):
        return None
    by_name = _by_name(info, labelled)
    if by_name is not None:
        return by_name
    told = info.metadata.get("task") in ("detect", "segment") and "stride" in info.metadata
    if not told and len(info.outputs) != 1:
        return None
    return of_boxes(info, info.outputs[0], labelled, told=told)


def of_boxes(info: ModelInfo, spec: TensorSpec, labelled: int | None, *, told: bool) -> Layout | None:
    """The layout of one output with everything about boxes; `told` is whether the model's metadata say that it is."""
    if told:
        kind = _yolo_kind(spec, labelled)
        return kind and replace(kind, source=METADATA)
    return _by_anchors(info, spec, labelled)


def _by_name(info: ModelInfo, labelled: int | None) -> Layout | None:
    """By the names of outputs that the tools of TensorFlow, torchvision and DETR's kin give."""
    names = {s.name.rpartition("/")[2].removesuffix(":0").lower(): s for s in info.outputs}

    def layout(parts: Sequence[str], **more: Any) -> Layout:
        boxes, scores, classes, count = (names[part].name if part in names else "" for part in parts)
        return Layout("tensors", boxes, scores, classes, count, source="the names of its outputs", **more)

    if {"detection_boxes", "detection_scores", "detection_classes"} <= names.keys():
        parts = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
        return layout(parts, corners="yxyx", fractions=True, first_class=1)
    lite = ["tflite_detection_postprocess", *(f"tflite_detection_postprocess:{i}" for i in (2, 1, 3))]
    if names.keys() >= set(lite):
        return layout(lite, corners="yxyx", fractions=True)
    if {"boxes", "scores", "labels"} <= names.keys() and names["boxes"].shape[-1] == 4:
        return layout(("boxes", "scores", "labels", ""))
    for boxes, scores in (("pred_boxes", "logits"), ("pred_boxes", "pred_logits"), ("dets", "labels")):
        if {boxes, scores} <= names.keys() and names[boxes].shape[-1] == 4 and len(names[scores].shape) == 3:
            none = boxes != "dets" and labelled is not None and names[scores].shape[2] == labelled + 1
            activation = "softmax" if none else "sigmoid"
            return layout(
                (boxes, scores, "", ""), labelled=labelled, corners="cxcywh", fractions=True, activation=activation
            )
    return None


def _yolo_kind(spec: TensorSpec, labelled: int | None) -> Layout | None:
    """By the number of classes, which tells which axis has the numbers of a box."""
    if len(spec.shape) != 3:
        return None
    _, first, last = spec.shape
    rows = Layout("rows", spec.name)
    whole = Layout("yolo", spec.name, corners="cxcywh", labelled=labelled, overlapping=True)
    if last == 6 and isinstance(first, int) and first <= 1000:
        return rows
    if labelled is not None and last == 5 + labelled:
        return replace(whole, kind="yolov5")
    if labelled is not None and last == 4 + labelled:
        return whole
    if isinstance(first, int) and first >= 5 and (labelled is None or first >= 4 + labelled):
        return replace(whole, last=False)
    return None


def _by_anchors(info: ModelInfo, spec: TensorSpec, labelled: int | None) -> Layout | None:
    """By the count of boxes, which is that of the cells of YOLO's grids."""
    sides = [d for d in info.inputs[0].shape[1:] if isinstance(d, int) and d >= 32]
    if len(spec.shape) != 3 or not spec.dtype.startswith("float") or len(sides) != 2:
        return None
    cells = {sum(math.prod(d // s for d in sides) for s in _STRIDES[:n]) for n in (3, 4)}
    _, first, last = spec.shape
    whole = Layout(
        "yolo", spec.name, corners="cxcywh", labelled=labelled, overlapping=True, source="the count of its boxes"
    )
    if last in cells and isinstance(first, int) and 5 <= first < 4096:
        return replace(whole, last=False)
    if first in {3 * c for c in cells} and isinstance(last, int) and last >= 6:
        return replace(whole, kind="yolov5")
    if first in cells and isinstance(last, int) and 5 <= last < 4096:
        return whole
    return None


def _of_kind(kind: Kind, info: ModelInfo, labelled: int | None) -> Layout:
    """The layout that the user names."""
    wide = [s for s in info.outputs if len(s.shape) == 3 and s.dtype.startswith("float")]
    if kind == "tensors" or not wide:
        found = _by_name(info, labelled)
        if kind != "tensors" or found is None:
            problem = "has no output with three axes" if kind != "tensors" else "does not name its outputs so"
            raise InvalidOption(f"detection.layout is {kind}, but the model {problem}.", field="config.detection")
        return found
    spec = wide[0]
    _, first, last = spec.shape
    if kind == "rows":
        return Layout("rows", spec.name)
    across = isinstance(first, int) and (not isinstance(last, int) or first < last)
    return Layout(kind, spec.name, corners="cxcywh", labelled=labelled, last=not across, overlapping=True)


def _named(info: ModelInfo, options: DetectionOptions) -> Layout:
    """The outputs that the user names."""
    by_name = {s.name: s for s in info.outputs}
    for option in ("boxes", "scores", "classes"):
        name = getattr(options, option)
        if name is None and option != "classes":
            raise InvalidOption(f"detection.{option} is missing; name that output, too.", field="config.detection")
        if name is not None and name not in by_name:
            known = ", ".join(by_name)
            raise InvalidOption(
                f"detection.{option} is {name!r}, but the outputs are {known}.", field=f"config.detection.{option}"
            )
    return Layout("tensors", str(options.boxes), str(options.scores), options.classes or "", overlapping=True)


def _one_of(name: str, value: str, known: Sequence[Any]) -> Any:
    if value not in known:
        raise InvalidOption(
            f"detection.{name} must be one of {', '.join(known)}; got {value!r}.", field=f"config.detection.{name}"
        )
    return value
