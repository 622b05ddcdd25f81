"""Image segmentation: encoded images in, regions with labels, scores and masks out. Raw tensors are taken too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from backends.base import Finding, InvalidInput, ModelInfo, Sure, Tensors
from engine.codec import Form
from engine.model_options import DetectionOptions, ModelOptions, PreprocessOptions, SegmentationOptions
from engine.tasks import labels, layouts, segment_layouts
from engine.tasks.base import Parameters
from engine.tasks.detection import MAX_BOXES, OVERLAP, THRESHOLD, YOLO, first, merged
from engine.tasks.image import ImageTask
from engine.tasks.masks import Painter
from engine.tasks.metadata import options_in
from engine.tasks.pixels import Placement
from engine.tasks.segments import SegmentLayout, Wanted

_THRESHOLD = 0.9
"""Of regions with a score of their own: that of the library that makes such models."""
_MASK_THRESHOLD = 0.5
_FOREGROUND = "foreground"
"""What the one mask of a model without labels is called."""

_USUAL = PreprocessOptions(crop=False)
"""A mask is of the whole image."""

_SAID = {
    "classes": "a map of scores for each class",
    "masks": "a mask for each class",
    "numbers": "the number of each pixel's class",
    "instances": "boxes, and maps that masks are mixed of",
    "queries": "a map for each region",
}


class ImageSegmentationTask(ImageTask):
    """A model with one image input, whose outputs are in one of the layouts of `engine.tasks.segments`.

    The answer is for each image its regions, each with a mask of the image's size (a PNG in base64, white where the
    region is), its share of the image, and its box in pixels of the image that was sent::

        [{"label": "cat", "index": 8, "score": 0.97, "share": 0.31,
          "box": {"xmin": 121.0, "ymin": 5.0, "xmax": 330.0, "ymax": 299.0}, "mask": "iVBORw0KGgo…"}]
    """

    name = "image-segmentation"

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        own = options_in(info.metadata, segment_layouts.METADATA_KEY, SegmentationOptions) or SegmentationOptions()
        self.segmentation = merged(own, options.segmentation)
        own_boxes = options_in(info.metadata, layouts.METADATA_KEY, DetectionOptions) or DetectionOptions()
        self.detection = merged(own_boxes, options.detection)
        self.labels = labels.load_labels(options.labels, info.labels, None)
        labelled = len(self.labels) if self.labels is not None else None
        self.layout = segment_layouts.find(self.batched, self.segmentation, self.detection, labelled)
        if info.task == self.name or segment_layouts.METADATA_KEY in info.metadata:
            self.layout = replace(self.layout, source=layouts.METADATA)
        else:
            seen = segment_layouts.recognise(self.batched, len(info.labels) if info.labels is not None else None)
            self.layout = replace(self.layout, source=seen.source) if seen is not None else self.layout
        self.takes = _takes(self.layout)
        found = self.layout.kind == "instances"
        self.prepare(YOLO if found else _USUAL, "models whose outputs look so" if found else "models that segment")
        self.findings = (
            self._task_told(),
            self._labels_told(),
            *self.findings,
            *self._told(own, own_boxes),
        )

    def check(self, parameters: Parameters) -> None:
        super().check(parameters)
        for name in ("threshold", "mask_threshold"):
            value = getattr(parameters, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidInput(f"{name} must be from 0 to 1; got {value:g}.", field=f"parameters.{name}")
        if parameters.top_k is not None and parameters.top_k < 1:
            raise InvalidInput(f"top_k must be at least 1; got {parameters.top_k}.", field="parameters.top_k")

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """As `answer`, of tensors: masks are of the size of the model's own input."""
        return self.answer(form, outputs, single, parameters, None)

    def answer(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters, origin: Any) -> Any:
        """For each image its regions; `origin` says where the images lie in the rows of the input."""
        outputs = self.in_batch(outputs)
        placements: list[Placement] = origin or self._of_tensors(outputs)
        painter = Painter()
        answers = [
            self._regions(outputs, row, placement, parameters, painter) for row, placement in enumerate(placements)
        ]
        return answers[0] if single and form == "input" else answers

    def _of_tensors(self, outputs: Tensors) -> list[Placement]:
        """Where images lie that came as tensors: they are the model's input, or what its maps show of that."""
        dims = self.input.shape[2:4] if self.preprocess.nchw else self.input.shape[1:3]
        shown = self.layout.shape(outputs)
        height, width = (d if isinstance(d, int) else own for d, own in zip(dims, shown, strict=True))
        placement = Placement((width, height), (1, 1), (0, 0), (width, height))
        return [placement] * len(outputs[self.layout.maps])

    def _regions(
        self, outputs: Tensors, row: int, placement: Placement, parameters: Parameters, painter: Painter
    ) -> list[dict[str, Any]]:
        """What is in one image."""
        most = parameters.top_k or self.detection.max_boxes or MAX_BOXES
        wanted = Wanted(
            first(parameters.threshold, *self._thresholds()),
            first(parameters.mask_threshold, self.segmentation.mask_threshold, _MASK_THRESHOLD),
            first(self.detection.overlap, OVERLAP),
            int(most),
        )
        found: list[dict[str, Any]] = []
        for region in self.layout.read(outputs, row, placement, wanted):
            if len(found) == most:
                break
            mask = painter.paint(region.mask, region.window, region.size, placement.size)
            found.append(
                {
                    "label": self._label(region.number),
                    "index": region.number,
                    "score": region.score,
                    "share": mask.share,
                    "box": mask.box,
                    "mask": mask.png,
                }
            )
        return found

    def _label(self, index: int) -> str:
        """The name of a class. The one mask of a model that tells something from the background is the former."""
        if self.layout.kind == "masks" and self._maps() == 1:
            return self.labels[-1] if self.labels is not None and len(self.labels) <= 2 else _FOREGROUND
        return labels.name_of(index, self.labels)

    def _labels_told(self) -> Finding:
        told = labels.told(self.labels, self.options.labels, None)
        if self.labels is None and self.layout.kind == "masks" and self._maps() == 1:
            return msgspec.structs.replace(told, value=f"none, so its one mask is called {_FOREGROUND}")
        return told

    def _maps(self) -> Any:
        shape = next(spec.shape for spec in self.batched.outputs if spec.name == self.layout.maps)
        return shape[-1] if self.layout.last else shape[1]

    def _thresholds(self) -> tuple[float | None, ...]:
        """The least score of a region: the first that is given."""
        if self.layout.kind == "instances":
            return self.detection.threshold, THRESHOLD
        return self.segmentation.threshold, _THRESHOLD

    def _task_told(self) -> Finding:
        """Why the model is taken for what it is."""
        option = "--task tensor"
        if not self.layout.source:
            return Finding("task", self.name, "given", "your options", option)
        return Finding("task", self.name, self._sure, self.layout.source, option)

    @property
    def _sure(self) -> Sure:
        return "certain" if self.layout.source == layouts.METADATA else "likely"

    def _told(self, own: SegmentationOptions, own_boxes: DetectionOptions) -> list[Finding]:
        """How the outputs are read, and what is given of them."""
        given = self.options.segmentation
        value = f"{_SAID[self.layout.kind]} ({self.layout.maps})"
        chosen = given.layout is not None or given.output is not None
        origin: tuple[Sure, str] = ("given", "your options") if chosen else (self._sure, self.layout.source)
        if not chosen and not self.layout.source:
            origin = ("likely", "its shape")
        found = [Finding("outputs", value, *origin, "--set segmentation.output=NAME")]
        if "threshold" in self.takes:
            name = "detection" if self.layout.kind == "instances" else "segmentation"
            parts = (self.options.detection, own_boxes) if name == "detection" else (given, own)
            found.append(_number("least score", f"{name}.threshold", parts, first(*self._thresholds())))
        if "mask_threshold" in self.takes and self.layout.kind != "queries":
            least = first(self.segmentation.mask_threshold, _MASK_THRESHOLD)
            found.append(_number("least probability", "segmentation.mask_threshold", (given, own), least))
        return found


def _takes(layout: SegmentLayout) -> frozenset[str]:
    """The parameters that mean something to models of a layout."""
    scored = {"threshold"} if layout.kind in ("instances", "queries") else set()
    soft = {"mask_threshold"} if layout.kind in ("masks", "instances", "queries") else set()
    return frozenset({"top_k", *scored, *soft})


def _number(subject: str, option: str, parts: tuple[msgspec.Struct, msgspec.Struct], value: float) -> Finding:
    """What is shown of a limit: the user's, else the model's own, else the usual one."""
    name = option.rpartition(".")[2]
    given, own = (getattr(part, name) is not None for part in parts)
    origin: tuple[Sure, str] = ("guess", "the usual choice")
    if given or own:
        origin = ("given", "your options") if given else ("certain", layouts.METADATA)
    return Finding(subject, f"{value:g}", *origin, f"--set {option}=N")
