"""What the outputs of an object detector mean: boxes, scores and classes. `engine.tasks.layouts` finds out which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from backends.base import Tensors
from engine.tasks.labels import softmax

Array = np.ndarray[Any, Any]
Kind = Literal["yolo", "yolov5", "rows", "tensors"]
_MOST_BOXES = 4096
"""Boxes, the best ones, that are compared with one another."""


class Boxes(NamedTuple):
    """What was found in one picture."""

    corners: Array
    """float32 [boxes, 4]: left, top, right and bottom, in pixels of the picture that the model saw."""
    scores: Array
    classes: Array
    origins: Array
    """Which of the model's boxes each is."""


@dataclass(frozen=True)
class Layout:
    """Which output holds what, and how."""

    kind: Kind
    boxes: str
    """The output with the boxes, or with everything."""
    scores: str = ""
    classes: str = ""
    """Empty where each box has a score for each class."""
    count: str = ""
    """The output that says how many boxes a picture has; empty where none does."""
    corners: str = "xyxy"
    fractions: bool = False
    """Whether coordinates are fractions of the picture's sides; of the YOLO layouts the numbers tell."""
    first_class: int = 0
    """The number of the first class."""
    activation: str = "none"
    """What makes probabilities of the scores."""
    labelled: int | None = None
    """How many classes have labels; what follows their scores is none."""
    last: bool = True
    """Whether the numbers of one box are the last axis, not the one before it."""
    overlapping: bool = False
    """Whether one object is found many times, and the best box has yet to be picked."""
    source: str = ""
    """How it was recognised; empty when it was not, but chosen."""

    def read(self, outputs: Tensors, row: int, size: tuple[int, int], threshold: float) -> Boxes:
        """The boxes of one picture of this width and height, of at least this score, best first."""
        found = self._tensors(outputs, row) if self.kind == "tensors" else self._columns(outputs[self.boxes][row], size)
        keep = np.flatnonzero(found.scores >= threshold)
        keep = keep[np.argsort(-found.scores[keep], kind="stable")]
        boxes, classes = found.corners[keep], found.classes[keep] - self.first_class
        if self.kind == "tensors" and self.fractions:
            boxes = boxes * np.array([*size, *size], np.float32)
        return Boxes(boxes, found.scores[keep], classes, found.origins[keep])

    def _columns(self, values: Array, size: tuple[int, int]) -> Boxes:
        """From one array with everything."""
        table = values.astype(np.float32) if self.last else values.T.astype(np.float32)
        boxes = table[:, :4]
        if self.kind == "rows":
            scores, classes = table[:, 4], table[:, 5].astype(np.int64)
        else:
            begin = 4 if self.kind == "yolo" else 5
            each = table[:, begin : None if self.labelled is None else begin + self.labelled]
            classes = each.argmax(axis=1)
            scores = each.max(axis=1) * (table[:, 4] if self.kind == "yolov5" else 1)
        if len(boxes) and boxes.max() <= 2:  # a picture is more than two pixels wide, so these are fractions
            boxes = boxes * np.array([*size, *size], np.float32)
        return Boxes(_corners(boxes, self.corners), scores, classes, np.arange(len(boxes)))

    def _tensors(self, outputs: Tensors, row: int) -> Boxes:
        """From an array for each of boxes, scores and classes."""
        boxes, scores = self._row(outputs[self.boxes], 2, row), outputs[self.scores]
        if self.classes:
            scores = self._row(scores, 1, row)
            classes = self._row(outputs[self.classes], 1, row).astype(np.int64)
        else:
            each = self._row(scores, 2, row).astype(np.float32)
            if self.activation == "sigmoid":
                each = (1 / (1 + np.exp(-np.clip(each, -80, 80)))).astype(np.float32)
            elif self.activation == "softmax":
                each = softmax(each)[:, :-1]  # the last class stands for none
            each = each[:, : self.labelled] if self.labelled is not None else each
            classes, scores = each.argmax(axis=1), each.max(axis=1)
        count = len(boxes) if not self.count else int(outputs[self.count].reshape(-1)[row])
        corners = _corners(boxes[:count].astype(np.float32), self.corners)
        return Boxes(corners, scores[:count].astype(np.float32), classes[:count], np.arange(len(corners)))

    @staticmethod
    def _row(array: Array, rank: int, row: int) -> Array:
        """One picture's share of an output, which has no batch axis in models of one picture."""
        return array[row] if array.ndim > rank else array


def best(found: Boxes, overlap: float, most: int) -> Boxes:
    """The boxes, which come best first, without those that overlap a better one of their class by more than `overlap`.

    Overlap is the area that two boxes share divided by the area that they cover together.
    """
    left, top, right, bottom = found.corners[:_MOST_BOXES].T
    areas = (right - left).clip(0) * (bottom - top).clip(0)
    open_ = np.ones(len(areas), bool)
    kept: list[int] = []
    while len(kept) < most and open_.any():
        i = int(open_.argmax())
        kept.append(i)
        width = (np.minimum(right, right[i]) - np.maximum(left, left[i])).clip(0)
        height = (np.minimum(bottom, bottom[i]) - np.maximum(top, top[i])).clip(0)
        shared = width * height
        covered = areas + areas[i] - shared
        same = found.classes[: len(areas)] == found.classes[i]
        open_ &= ~(same & (shared > overlap * covered))
        open_[i] = False
    return Boxes(*(part[kept] for part in found))


def _corners(boxes: Array, form: str) -> Array:
    """Any form of boxes as left, top, right and bottom."""
    a, b, c, d = boxes.T
    if form == "yxyx":
        a, b, c, d = b, a, d, c
    elif form == "xywh":
        c, d = a + c, b + d
    elif form == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return np.stack([a, b, c, d], axis=1)
