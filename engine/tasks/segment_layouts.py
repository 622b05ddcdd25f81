"""What the outputs of a model that segments are: told by its metadata, by its labels or by their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from backends.base import InvalidOption, ModelInfo, TensorSpec
from engine.model_options import DetectionOptions, SegmentationOptions
from engine.tasks import layouts
from engine.tasks.boxes import Layout
from engine.tasks.segments import Kind, SegmentLayout

METADATA_KEY = "unimodel.segmentation"
"""Key in a model's own metadata that says what its outputs are: `SegmentationOptions` as JSON."""

KINDS: tuple[Kind, ...] = ("classes", "masks", "numbers")
"""Those that one output makes, which may be chosen."""
AXES = ("first", "last")

_SHAPES = "the shapes of its outputs"
_MOST_COLOURS = 4
"""Channels that an output may have which is a picture itself."""


def find(
    info: ModelInfo, options: SegmentationOptions, detection: DetectionOptions, labelled: int | None
) -> SegmentLayout:
    """The layout of a model that segments. Raises `InvalidOption` that says how to describe its outputs."""
    own = instances(info, detection, labelled) if options.layout is None and options.output is None else None
    found = own or queries(info) or _maps(info, options, labelled)
    if found is None:
        shapes = "; ".join(f"{s.name} [{', '.join(map(str, s.shape))}]" for s in info.outputs)
        raise InvalidOption(
            f"No output is a map of the image: {shapes}. The task image-segmentation needs one of 4 dimensions, or "
            "of 3 with the number of each pixel's class; name it with --set segmentation.output=NAME.",
            field="task",
        )
    if options.activation is not None:
        found = replace(found, activation=_one_of("activation", options.activation, layouts.ACTIVATIONS))
    return found


def recognise(info: ModelInfo, labelled: int | None) -> SegmentLayout | None:
    """The layout of a model that certainly or likely segments; `None` of any other.

    A map with as many channels as a picture may be one, so models that make such are not recognised by that.
    """
    if len(info.inputs) != 1 or not _is_image(info.inputs[0]):
        return None
    if (found := instances(info, DetectionOptions(), labelled)) is not None:
        return found
    (image,) = info.inputs
    if len(info.outputs) != 1 and not {s.name for s in info.outputs} <= {"out", "aux"}:
        return None
    found = _maps(info, SegmentationOptions(), labelled)
    if found is None:
        return None
    spec = next(s for s in info.outputs if s.name == found.maps)
    if found.kind == "numbers":
        return (
            replace(found, source=_SHAPES)
            if _plane(spec, last=found.last) == _plane(image, last=_last(image))
            else None
        )
    count = spec.shape[-1] if found.last else spec.shape[1]
    if isinstance(count, int) and count >= 2 and count == labelled and _smaller(spec, image, last=found.last):
        return replace(found, source="a map for each label")
    if (
        isinstance(count, int)
        and count > _MOST_COLOURS
        and _plane(spec, last=found.last) == _plane(image, last=_last(image))
    ):
        return replace(found, source=_SHAPES)
    return None


def may_be_mask(info: ModelInfo) -> bool:
    """Whether the first output is one map of the image's size, which may tell what is in it, or how far away it is."""
    if len(info.inputs) != 1 or not info.outputs or not _is_image(info.inputs[0]) or not _could_be_map(info.outputs[0]):
        return False
    (image,), spec = info.inputs, info.outputs[0]
    last = len(spec.shape) == 4 and _last(spec)
    single = len(spec.shape) == 4 and (spec.shape[-1] if last else spec.shape[1]) == 1
    return single and _plane(spec, last=last) == _plane(image, last=_last(image))


def instances(info: ModelInfo, options: DetectionOptions, labelled: int | None) -> SegmentLayout | None:
    """YOLO's two outputs: boxes, each followed by its shares of the maps of the other one."""
    boxes = [s for s in info.outputs if len(s.shape) == 3 and s.dtype.startswith("float")]
    maps = [s for s in info.outputs if len(s.shape) == 4 and s.dtype.startswith("float")]
    if len(info.outputs) != 2 or len(boxes) != 1 or len(maps) != 1:
        return None
    told = options.layout is not None or (info.metadata.get("task") == "segment" and "stride" in info.metadata)
    (spec,), (parts,) = boxes, maps
    last = _last(parts)
    count = parts.shape[-1] if last else parts.shape[1]
    if not isinstance(count, int):
        return None
    layout = _boxes(info, spec, count, labelled, told=told)
    if layout is None:
        return None
    return SegmentLayout("instances", parts.name, last, boxes=layout, source=layout.source)


def _boxes(info: ModelInfo, spec: TensorSpec, count: int, labelled: int | None, *, told: bool) -> Layout | None:
    """How boxes with so many more numbers are read."""
    plain = [n - count if isinstance(n, int) and n > count else n for n in spec.shape[1:]]
    for axis in (1, 0):  # the one of them that has a box's numbers, with those of the mask
        shape = list(spec.shape)
        shape[1 + axis] = plain[axis]
        if shape[1 + axis] == spec.shape[1 + axis]:
            continue
        bare = TensorSpec(spec.name, spec.dtype, tuple(shape), spec.batch_axis)
        layout = layouts.of_boxes(info, bare, labelled, told=told)
        if layout is not None and layout.last == bool(axis):
            numbers = shape[1 + axis]
            begin = {"yolo": 4, "yolov5": 5}.get(layout.kind)
            classes = numbers - begin if begin is not None and isinstance(numbers, int) else None
            return replace(layout, labelled=classes)
    return None


def queries(info: ModelInfo) -> SegmentLayout | None:
    """A map for each of a few queries, with its score and its class."""
    names = {s.name: s for s in info.outputs}
    if {"masks", "scores", "labels"} <= names.keys() and len(names["masks"].shape) == 4:
        return SegmentLayout("queries", "masks", scores="scores", classes="labels", source="the names of its outputs")
    return None


def _maps(info: ModelInfo, options: SegmentationOptions, labelled: int | None) -> SegmentLayout | None:
    """One output that is a map of the image."""
    kind = None if options.layout is None else _one_of("layout", options.layout, KINDS)
    axis = None if options.channels is None else _one_of("channels", options.channels, AXES)
    if options.output is not None and options.output not in {s.name for s in info.outputs}:
        known = ", ".join(s.name for s in info.outputs)
        raise InvalidOption(
            f"segmentation.output is {options.output!r}, but the outputs are {known}.",
            field="config.segmentation.output",
        )
    for spec in info.outputs:
        if options.output not in (None, spec.name) or not _could_be_map(spec):
            continue
        last = axis == "last" if axis is not None else len(spec.shape) == 4 and _last(spec, labelled)
        count = 1 if len(spec.shape) == 3 else spec.shape[-1] if last else spec.shape[1]
        numbered = len(spec.shape) == 3 or (count == 1 and spec.dtype.startswith(("int", "uint")))
        usual: Kind = "numbers" if numbered else "masks" if count == 1 else "classes"
        return SegmentLayout(kind or usual, spec.name, last)
    return None


def _could_be_map(spec: TensorSpec) -> bool:
    shape = spec.shape
    if len(shape) == 3:
        return spec.dtype.startswith(("int", "uint")) and all(not isinstance(d, int) or d > 1 for d in shape[1:])
    wide = [d for d in shape[1:] if not isinstance(d, int) or d > 1]
    return len(shape) == 4 and len(wide) >= 2 and spec.dtype.startswith(("float", "int", "uint"))


def _is_image(spec: TensorSpec) -> bool:
    return (
        len(spec.shape) == 4
        and spec.dtype.startswith(("float", "uint8"))
        and any(d in (1, 3) for d in (spec.shape[1], spec.shape[3]))
    )


def _last(spec: TensorSpec, channels: int | None = None) -> bool:
    """Whether channels are the last axis: there are so many of them, or fewer than there are rows."""
    first, last = spec.shape[1], spec.shape[3]
    if channels is not None and (first == channels) != (last == channels):
        return last == channels
    if isinstance(first, int) and isinstance(last, int):
        return last < first
    return isinstance(last, int) and not isinstance(first, int)


def _plane(spec: TensorSpec, *, last: bool) -> tuple[Any, ...]:
    """Height and width; free ones are alike, whatever they are called."""
    shape = spec.shape[1:] if len(spec.shape) == 3 else spec.shape[1:3] if last else spec.shape[2:]
    return tuple(d if isinstance(d, int) else "" for d in shape)


def _smaller(spec: TensorSpec, image: TensorSpec, *, last: bool) -> bool:
    """Whether a map is the image, or one of its even parts, in size."""
    pairs = zip(_plane(spec, last=last), _plane(image, last=_last(image)), strict=True)
    return all(m == i or not m or not i or (m > 1 and i % m == 0) for m, i in pairs)


def _one_of(name: str, value: str, known: Sequence[Any]) -> Any:
    if value not in known:
        raise InvalidOption(
            f"segmentation.{name} must be one of {', '.join(known)}; got {value!r}.",
            field=f"config.segmentation.{name}",
        )
    return value
