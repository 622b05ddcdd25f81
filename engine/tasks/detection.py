"""Object detection: encoded images in, boxes with labels and scores out. Raw tensors are taken too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np

from backends.base import Finding, InvalidInput, ModelInfo, Sure, Tensors
from engine.codec import Form
from engine.model_options import DetectionOptions, ModelOptions, PreprocessOptions
from engine.tasks import boxes, labels, layouts
from engine.tasks.base import Parameters
from engine.tasks.boxes import Boxes, Layout
from engine.tasks.image import ImageTask
from engine.tasks.metadata import options_in
from engine.tasks.pixels import Placement
from engine.tasks.preprocess import LETTERBOX_GREY

T = TypeVar("T", bound=msgspec.Struct)

THRESHOLD = 0.25
OVERLAP = 0.45
MAX_BOXES = 300

YOLO = PreprocessOptions(size=640, border=LETTERBOX_GREY, mean=(0.0,), std=(255.0,))
_TENSORFLOW = PreprocessOptions(size=320, crop=False, mean=(127.5,), std=(127.5,))
_TORCHVISION = PreprocessOptions(size=640, border=LETTERBOX_GREY, mean=(0.0,), std=(255.0,))
_OTHER = PreprocessOptions(size=640, crop=False)
"""How models of a layout usually want their images."""


class ObjectDetectionTask(ImageTask):
    """A model with one image input, whose outputs are in one of the layouts of `engine.tasks.boxes`.

    The answer is for each image what was found, best first, its box in pixels of the image that was sent::

        [{"label": "dog", "index": 16, "score": 0.92, "box": {"xmin": 8.1, "ymin": 51.9, "xmax": 311.0, "ymax": 420.0}}]
    """

    name = "object-detection"
    takes = frozenset({"threshold", "top_k"})

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        own_options = options_in(info.metadata, layouts.METADATA_KEY, DetectionOptions) or DetectionOptions()
        self.detection = merged(own_options, options.detection)
        own = len(info.labels) if info.labels is not None else None
        self.labels = labels.load_labels(options.labels, info.labels, None)
        labelled = len(self.labels) if self.labels is not None else own
        self.layout = layouts.find(self.batched, self.detection, labelled)
        if info.task == self.name:  # its backend knows
            self.layout = replace(self.layout, source=layouts.METADATA)
        self.prepare(_usual(self.layout, info.inputs[0].dtype), "models whose outputs look so")
        self.findings = (
            _task_told(self.layout),
            labels.told(self.labels, options.labels, None),
            *self.findings,
            *_told(self.layout, own_options, options.detection),
        )

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """As `answer`, of tensors: boxes are in pixels of the model's own input."""
        return self.answer(form, outputs, single, parameters, None)

    def answer(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters, origin: Any) -> Any:
        """For each image its boxes; `origin` says where the images lie in the rows of the input."""
        outputs = self.in_batch(outputs)
        geometry = self.preprocess.geometry
        size = geometry.width, geometry.height
        placements: list[Placement] = origin or [Placement(size, (1, 1), (0, 0), size)] * self._rows(outputs)
        answers = [self._detections(outputs, row, placement, parameters) for row, placement in enumerate(placements)]
        return answers[0] if single and form == "input" else answers

    def check(self, parameters: Parameters) -> None:
        super().check(parameters)
        if parameters.threshold is not None and not 0 <= parameters.threshold <= 1:
            raise InvalidInput(
                f"threshold must be from 0 to 1; got {parameters.threshold:g}.", field="parameters.threshold"
            )
        if parameters.top_k is not None and parameters.top_k < 1:
            raise InvalidInput(f"top_k must be at least 1; got {parameters.top_k}.", field="parameters.top_k")

    def _rows(self, outputs: Tensors) -> int:
        rows = (len(outputs[s.name]) for s in self.batched.outputs if s.batch_axis == 0)
        return next(rows, 1)

    def _detections(
        self, outputs: Tensors, row: int, placement: Placement, parameters: Parameters
    ) -> list[dict[str, Any]]:
        """What was found in one image."""
        wanted = self.detection
        threshold = first(parameters.threshold, wanted.threshold, THRESHOLD)
        most = int(first(parameters.top_k, wanted.max_boxes, MAX_BOXES))
        found = self.layout.read(outputs, row, placement.picture, threshold)
        overlap = first(wanted.overlap, OVERLAP) if self.layout.overlapping else 1.0
        found = boxes.best(found, overlap, most) if overlap < 1 else Boxes(*(part[:most] for part in found))
        corners = (found.corners - np.tile(placement.offset, 2)) / np.tile(placement.scale, 2)
        corners = corners.clip(0, np.tile(placement.size, 2)).astype(np.float64).round(2)
        return [
            {
                "label": labels.name_of(index, self.labels),
                "index": index,
                "score": score,
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
            }
            for index, score, box in zip(found.classes.tolist(), found.scores.tolist(), corners.tolist(), strict=True)
        ]


def merged(own: T, given: T) -> T:
    """The options that the user gave, and the model's own for the rest."""
    chosen = msgspec.structs.asdict(given).items()
    return msgspec.structs.replace(own, **{name: value for name, value in chosen if value is not None})


def _usual(layout: Layout, dtype: str) -> PreprocessOptions:
    if layout.kind != "tensors":
        return YOLO
    if layout.corners == "yxyx":
        return _TENSORFLOW if dtype != "uint8" else msgspec.structs.replace(_TENSORFLOW, mean=None, std=None)
    return _TORCHVISION if not layout.fractions else _OTHER


def _task_told(layout: Layout) -> Finding:
    """Why the model is taken for what it is."""
    option = "--task tensor"
    if not layout.source:
        return Finding("task", ObjectDetectionTask.name, "given", "your options", option)
    return Finding("task", ObjectDetectionTask.name, _sure(layout), layout.source, option)


def _sure(layout: Layout) -> Sure:
    return "certain" if layout.source == layouts.METADATA else "likely"


def first(*values: float | None) -> float:
    """The first that is one."""
    return next(value for value in values if value is not None)


def _told(layout: Layout, own: DetectionOptions, given: DetectionOptions) -> list[Finding]:
    """How the outputs are read, and which boxes are given."""
    value: str = layout.kind if layout.kind != "tensors" else "an output each for boxes and scores"
    option = "--set detection.layout=NAME"
    outputs = (
        Finding("outputs", value, _sure(layout), layout.source, option)
        if layout.source
        else Finding("outputs", value, "given", "your options", option)
    )
    found = [outputs]
    usual = {"threshold": THRESHOLD, "overlap": OVERLAP} if layout.overlapping else {"threshold": THRESHOLD}
    for name, number in usual.items():
        subject = "least score" if name == "threshold" else "most overlap"
        sure: Sure = "guess"
        source = "the usual choice"
        if getattr(given, name) is not None:
            sure, source = "given", "your options"
        elif getattr(own, name) is not None:
            sure, source = "certain", layouts.METADATA
        value = f"{first(getattr(given, name), getattr(own, name), number):g}"
        found.append(Finding(subject, value, sure, source, f"--set detection.{name}=N"))
    return found
