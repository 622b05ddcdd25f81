"""What the outputs of a model that segments mean: regions of a picture, each with a class, a score and a mask.
`engine.tasks.segment_layouts` finds out which kind they are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from backends.base import Tensors
from engine.tasks import boxes
from engine.tasks.boxes import Boxes, Layout
from engine.tasks.masks import Sampler, Window, best
from engine.tasks.pixels import Placement

Array = np.ndarray[Any, Any]
Kind = Literal["classes", "masks", "numbers", "instances", "queries"]

_LEAST_KEPT = 0.5
"""Of a region that others cover: the part of it that must be left, which is the usual choice."""


class Segment(NamedTuple):
    """One region."""

    number: int
    """Of its class."""
    score: float | None
    mask: Array
    """bool: the pixels of the window that belong to it."""
    window: Window
    size: tuple[int, int]
    """Width and height of what the window is a part of."""


class Wanted(NamedTuple):
    """Which regions an answer has."""

    threshold: float
    """Least score."""
    mask_threshold: float
    """Least probability of a pixel."""
    overlap: float
    """Most that two boxes of a class may share."""
    most: int


@dataclass(frozen=True)
class SegmentLayout:
    """Which output holds what, and how."""

    kind: Kind
    maps: str
    """The output with the maps; those that masks are mixed of, of ``instances``."""
    last: bool = False
    """Whether the axis of classes is the last, not the one before height and width."""
    activation: str | None = None
    """What makes probabilities of the maps' values; `None` when the values tell."""
    scores: str = ""
    """Of ``queries``: the outputs with the score, and with the class, of each map."""
    classes: str = ""
    boxes: Layout | None = None
    """Of ``instances``: how boxes are read."""
    source: str = ""
    """How it was recognised; empty when it was not, but chosen."""

    def shape(self, outputs: Tensors) -> tuple[int, int]:
        """Height and width of the maps."""
        shape = outputs[self.maps].shape
        return (shape[-3], shape[-2]) if self.last else (shape[-2], shape[-1])

    def read(self, outputs: Tensors, row: int, placement: Placement, wanted: Wanted) -> Iterator[Segment]:
        """The regions of one picture, the largest first, or those with a score of their own by that."""
        maps = self._maps(outputs[self.maps], row)
        if self.kind == "numbers":
            return _numbered(maps, placement)
        if self.kind == "masks":
            return _several(maps, placement, self.activation, wanted.mask_threshold)
        if self.kind == "instances":
            return self._instances(outputs, row, maps, placement, wanted)
        if self.kind == "queries":
            return self._queries(outputs, row, maps, placement, wanted)
        return _best(maps, placement, self.activation)

    def _maps(self, values: Array, row: int) -> Array:
        """One picture's maps [maps, height, width]."""
        if values.ndim == 3 and self.kind == "numbers":
            return values[row : row + 1]
        maps: Array = values[row]
        return np.moveaxis(maps, -1, 0) if self.last else maps

    def _instances(
        self, outputs: Tensors, row: int, parts: Array, placement: Placement, wanted: Wanted
    ) -> Iterator[Segment]:
        """A mask in each box: a mixture of the maps, by the numbers that follow the box's own."""
        layout = self.boxes
        assert layout is not None, "instances have boxes"
        found = layout.read(outputs, row, placement.picture, wanted.threshold)
        if layout.overlapping and wanted.overlap < 1:
            found = boxes.best(found, wanted.overlap, wanted.most)
        found = Boxes(*(part[: wanted.most] for part in found))
        table = outputs[layout.boxes][row]
        shares = (table if layout.last else table.T)[found.origins, -len(parts) :].astype(np.float32)
        sampler = Sampler(placement, parts.shape[1:], 1)
        least = _logit(wanted.mask_threshold)
        corners = (found.corners - np.tile(placement.offset, 2)) / np.tile(placement.scale, 2)
        corners *= np.tile(np.divide(sampler.size, placement.size), 2)
        for share, box, index, score in zip(
            shares, corners, found.classes.tolist(), found.scores.tolist(), strict=True
        ):
            edges = np.ceil(box).clip(0, np.tile(sampler.size, 2)).astype(int).tolist()
            window = Window(*edges)
            mixed = np.einsum("m,mhw->hw", share, parts.astype(np.float32, copy=False))[None]
            pieces = [values[0] > least for _, values in sampler.strips(mixed, window)]
            if pieces:
                yield Segment(index, score, np.concatenate(pieces), window, sampler.size)

    def _queries(
        self, outputs: Tensors, row: int, maps: Array, placement: Placement, wanted: Wanted
    ) -> Iterator[Segment]:
        """Maps with a score and a class each, as Mask2Former's kin and DETR make them: a pixel belongs to the one
        that is best there, and regions of which others cover most are dropped."""
        scores, classes = outputs[self.scores][row].astype(np.float32), outputs[self.classes][row]
        kept = np.flatnonzero((scores > wanted.threshold) & (classes >= 0))
        if not len(kept):
            return
        scores, classes = scores[kept], classes[kept]
        weighed = maps[kept] * scores[:, None, None]
        sampler = Sampler(placement, weighed.shape[1:], len(kept))
        owners = np.empty(sampler.size[::-1], np.int32)
        covered = np.zeros(len(kept), np.int64)
        inside = sampler.inside()
        for rows, values in sampler.strips(weighed):
            owners[rows], _ = best(values)
            covered += np.count_nonzero((values >= wanted.mask_threshold) & inside[rows], axis=(1, 2))
        owners[~inside] = len(kept)
        areas = np.bincount(owners.ravel(), minlength=len(kept) + 1)
        for i in np.argsort(-scores, kind="stable").tolist():
            if covered[i] and areas[i] / covered[i] > _LEAST_KEPT:
                yield Segment(int(classes[i]), float(scores[i]), owners == i, sampler.whole, sampler.size)


def _best(maps: Array, placement: Placement, activation: str | None) -> Iterator[Segment]:
    """Each pixel belongs to the class with the best score there. A region's score is the mean of its pixels'
    probabilities."""
    sampler = Sampler(placement, maps.shape[1:], len(maps))
    if activation is None:
        probable = bool((maps >= 0).all() and np.allclose(maps.sum(axis=0), 1, atol=1e-2))
        activation = "none" if probable else "softmax"
    owners = np.empty(sampler.size[::-1], np.int32)
    sure = np.empty(sampler.size[::-1], np.float32)
    for rows, values in sampler.strips(maps):
        owners[rows], most = best(values)
        if activation == "softmax":
            values -= most
            np.exp(values, out=values)
            most = 1 / values.sum(axis=0)
        sure[rows] = _sigmoid(most) if activation == "sigmoid" else most
    owners[~sampler.inside()] = len(maps)
    areas = np.bincount(owners.ravel(), minlength=len(maps) + 1)[:-1]
    sums = np.bincount(owners.ravel(), sure.ravel(), minlength=len(maps) + 1)
    for index in _largest(areas):
        yield Segment(index, float(sums[index] / areas[index]), owners == index, sampler.whole, sampler.size)


def _several(maps: Array, placement: Placement, activation: str | None, least: float) -> Iterator[Segment]:
    """Each class has a mask of its own, and a pixel may belong to several."""
    sampler = Sampler(placement, maps.shape[1:], len(maps))
    if activation is None:
        activation = "none" if bool(((maps >= 0) & (maps <= 1)).all()) else "sigmoid"
    inside = sampler.inside()
    found: list[Segment] = []
    for index, values in enumerate(maps):
        values = values.astype(np.float32)
        values = _sigmoid(values) if activation == "sigmoid" else values
        total = 0.0
        mask = np.empty(sampler.size[::-1], bool)
        for rows, (strip,) in sampler.strips(values[None]):
            mask[rows] = (strip > least) & inside[rows]
            total += float(strip[mask[rows]].sum())
        count = np.count_nonzero(mask)
        if count:
            found.append(Segment(index, float(total / count), mask, sampler.whole, sampler.size))
    yield from sorted(found, key=lambda each: -np.count_nonzero(each.mask))


def _numbered(maps: Array, placement: Placement) -> Iterator[Segment]:
    """Each pixel has the number of its class."""
    sampler = Sampler(placement, maps.shape[1:], 1)
    numbers = sampler.nearest(maps[0])
    inside = sampler.inside()
    found, counts = np.unique(numbers[inside], return_counts=True)
    for position in _largest(counts):
        number = int(found[position])
        yield Segment(number, None, (numbers == number) & inside, sampler.whole, sampler.size)


def _largest(areas: Array) -> list[int]:
    """Positions of the areas that are any, the largest first."""
    order: list[int] = [i for i in np.argsort(-areas, kind="stable").tolist() if areas[i]]
    return order


def _sigmoid(values: Array) -> Array:
    found: Array = (1 / (1 + np.exp(-np.clip(values, -80, 80)))).astype(np.float32)
    return found


def _logit(probability: float) -> float:
    """The value of which a sigmoid makes this probability."""
    with np.errstate(divide="ignore"):
        return float(np.log(np.float64(probability)) - np.log1p(-np.float64(probability)))
