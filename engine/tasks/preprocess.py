"""How a model wants its images: from the user's options, the model's own files, its signature, or the common choice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from backends.base import Finding, InvalidOption, Sure, TensorSpec
from engine.model_options import PreprocessOptions
from engine.tasks import pixels
from engine.tasks.metadata import options_in
from engine.tasks.pixels import Free, Geometry

Array = np.ndarray[Any, Any]

METADATA_KEY = "unimodel.preprocess"
"""Key in a model's own metadata that holds its preprocessing: `PreprocessOptions` as JSON."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of RGB in units of 0–255: what most published classifiers were trained with."""


class Preprocess(NamedTuple):
    """How an image becomes one row of the input tensor."""

    geometry: Geometry
    scale: Array
    """float32 [channels, 1, 1]: what the pixels are multiplied with, and then `shift` is added."""
    shift: Array
    bgr: bool
    nchw: bool


class _Choice:
    """The options in force, and where each is from: the user, the model's own files, or what is usual for its kind."""

    def __init__(
        self, options: PreprocessOptions, own: PreprocessOptions, usual: PreprocessOptions, usual_source: str
    ) -> None:
        self._given = _given(options)
        self._own = _given(own)
        self._usual = _given(usual)
        if "size" in self._given and "size" in self._own:  # what suits one size says nothing of another
            for name in ("resize", "longest"):
                self._own.pop(name, None)
        self._usual_source = usual_source

    def get(self, name: str, default: Any = None) -> Any:
        """The value of one option."""
        for values in (self._given, self._own, self._usual):
            if name in values:
                return values[name]
        return default

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def from_user(self, name: str) -> bool:
        """Whether the user gave it."""
        return name in self._given

    def is_told(self, name: str) -> bool:
        """Whether the user or the model's own files give it."""
        return name in self._given or name in self._own

    def told(self, subject: str, value: str, names: tuple[str, ...], option: str, tacit: Origin) -> Finding:
        """What is shown of a part that these options make; `tacit` says where it is from without any of them."""
        origin = tacit
        if any(name in self._given for name in names):
            origin = Origin("given", "your options")
        elif any(name in self._own for name in names):
            origin = Origin("certain", "its files")
        elif any(name in self._usual for name in names):
            origin = Origin("likely", self._usual_source)
        return Finding(subject, value, origin.sure, origin.source, option)


class Origin(NamedTuple):
    """How sure something is, and why."""

    sure: Sure
    source: str


UNKNOWN = PreprocessOptions()
_FITS = ("size", "crop", "resize", "border", "longest")
"""The options that say how large an image becomes."""
LETTERBOX_GREY = 114
"""Of the borders with which YOLO's family was trained."""

_SIGNATURE = Origin("certain", "its shape")
_USUAL = Origin("guess", "the usual choice")


def resolve(
    spec: TensorSpec,
    options: PreprocessOptions,
    metadata: Mapping[str, str],
    usual: PreprocessOptions = UNKNOWN,
    usual_source: str = "",
) -> tuple[Preprocess, tuple[Finding, ...]]:
    """The preprocessing in force, and where each part of it is from.

    That is the user's `options`, else the model's own metadata, else what is `usual` for models of its kind (and
    `usual_source`, how the kind was told), else the signature or the common choice. Raises `InvalidOption` when it does
    not fit the input `spec`, `ModelFileError` for bad metadata.
    """
    chosen = _Choice(options, _of_model(metadata), usual, usual_source)
    nchw = _nchw(spec, chosen.get("layout"))
    channels = spec.shape[1] if nchw else spec.shape[3]
    if channels not in (1, 3) and isinstance(channels, int):
        raise _bad("layout", f"makes {channels} channels of the input {list(spec.shape)}, but an image has 1 or 3")
    height, width = _size(spec, nchw, chosen)
    normalized = spec.dtype != "uint8"
    if not normalized and (chosen.is_told("mean") or chosen.is_told("std")):
        raise _bad("mean", "and std do not fit a model that takes uint8 pixels as they are")
    grey = channels == 1
    color = str(chosen.get("color", "rgb")).lower()
    if color not in ("rgb", "bgr"):
        raise _bad("color", f"must be rgb or bgr; got {color!r}")
    bgr = color == "bgr" and not grey
    mean, std = _normalization(chosen, 1 if grey else 3, bgr)
    free = _free(spec, nchw, chosen)
    border = None if free is not None else _border(chosen)
    resize = None if border is not None or free is not None else _resize(chosen, height, width)
    geometry = Geometry(height, width, resize, _interpolation(chosen), "L" if grey else "RGB", border, free)
    found = Preprocess(geometry, 1 / std, -mean / std, bgr, nchw)
    return found, tuple(_findings(found, spec, chosen, mean, std))


def _of_model(metadata: Mapping[str, str]) -> PreprocessOptions:
    """What the model's file says of its preprocessing."""
    own = options_in(metadata, METADATA_KEY, PreprocessOptions)
    if own is not None:
        return own
    return _ultralytics(metadata) if metadata.get("author") == "Ultralytics" else PreprocessOptions()


def _ultralytics(metadata: Mapping[str, str]) -> PreprocessOptions:
    """Ultralytics' models take pixels of 0 to 1: classifiers cut from a tight square, the others of the whole image."""
    sides = tuple(int(side) for side in re.findall(r"\d{1,5}", metadata.get("imgsz", "")))
    size = (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
    plain = PreprocessOptions(size=size, mean=(0.0,), std=(255.0,), color="rgb", interpolation="bilinear")
    if metadata.get("task") == "classify":
        return msgspec.structs.replace(plain, resize=max(size) if size else None)
    return msgspec.structs.replace(plain, border=LETTERBOX_GREY)


def _given(options: PreprocessOptions) -> dict[str, Any]:
    """The parts that were chosen."""
    fields = msgspec.structs.fields(options)
    return {f.name: v for f in fields if (v := getattr(options, f.name)) is not None and v != f.default}


def _nchw(spec: TensorSpec, layout: str | None) -> bool:
    if layout is not None and layout.lower() not in ("nchw", "nhwc"):
        raise _bad("layout", f"must be nchw or nhwc; got {layout!r}")
    return layout.lower() == "nchw" if layout is not None else spec.shape[3] not in (1, 3) or spec.shape[1] in (1, 3)


def _size(spec: TensorSpec, nchw: bool, chosen: _Choice) -> tuple[int, int]:
    """Height and width, which the signature fixes or leaves free."""
    dims = spec.shape[2:4] if nchw else spec.shape[1:3]
    given: int | tuple[int, int] = chosen.get("size", 224)
    wanted = (given, given) if isinstance(given, int) else given
    if min(wanted) < 1:
        raise _bad("size", f"must be at least 1; got {min(wanted)}")
    height, width = (d if isinstance(d, int) else free for d, free in zip(dims, wanted, strict=True))
    if chosen.is_told("size") and wanted != (height, width):
        raise _bad("size", f"is {list(wanted)}, but the model takes {[height, width]}")
    return height, width


def _border(chosen: _Choice) -> int | None:
    """The grey of the borders; `None` when an image gets none."""
    border: int | None = chosen.get("border")
    others = [name for name in ("crop", "resize") if chosen.from_user(name)]
    if border is None or (others and not chosen.from_user("border")):
        return None
    if others:
        raise _bad(others[0], "and preprocess.border exclude each other; give one of them")
    if not 0 <= border <= 255:
        raise _bad("border", f"must be from 0 to 255; got {border}")
    return border


def _free(spec: TensorSpec, nchw: bool, chosen: _Choice) -> Free | None:
    """How an image keeps its shape in a model that takes any; `None` where all get the same size."""
    if _keeps_size(spec, nchw, chosen):
        return Free(0, as_it_is=True)
    longest: int | None = chosen.get("longest")
    others = [name for name in ("crop", "resize", "border") if chosen.from_user(name)]
    if longest is None or (others and not chosen.from_user("longest")):
        return None
    if others:
        raise _bad(others[0], "and preprocess.longest exclude each other; give one of them")
    if any(isinstance(d, int) for d in (spec.shape[2:4] if nchw else spec.shape[1:3])):
        raise _bad("longest", f"is for models that take images of any size; this one takes {list(spec.shape)}")
    height, width = _size(spec, nchw, chosen)
    if height != width:
        raise _bad("size", f"must be one number, the short side, with preprocess.longest; got {[height, width]}")
    if longest < height:
        raise _bad("longest", f"must be at least the short side, {height}; got {longest}")
    multiple: int = chosen.get("multiple", 1)
    if not 1 <= multiple <= height:
        raise _bad("multiple", f"must be from 1 to the short side, {height}; got {multiple}")
    return Free(longest, multiple, bool(chosen.get("multiple_up")))


def _keeps_size(spec: TensorSpec, nchw: bool, chosen: _Choice) -> bool:
    """Whether images are left as large as they are."""
    others = [name for name in _FITS if chosen.from_user(name)]
    if not chosen.get("keep_size") or (others and not chosen.from_user("keep_size")):
        return False
    if others:
        raise _bad(others[0], "and preprocess.keep_size exclude each other; give one of them")
    if any(isinstance(d, int) for d in (spec.shape[2:4] if nchw else spec.shape[1:3])):
        raise _bad("keep_size", f"is for models that take images of any size; this one takes {list(spec.shape)}")
    return True


def _resize(chosen: _Choice, height: int, width: int) -> int | None:
    """Length of the short side before the centre is cut out; `None` when nothing is cut."""
    resize: int | None = chosen.get("resize")
    asked = chosen.from_user("resize")
    if not chosen.get("crop", True) and (chosen.from_user("crop") or not asked):
        if asked:
            raise _bad("resize", "has no meaning with preprocess.crop=false, which squeezes the whole image")
        return None
    least = max(height, width)
    if resize is not None and resize < least:
        raise _bad("resize", f"must be at least the size that is cut out, {least}; got {resize}")
    return resize if resize is not None else round(least * 256 / 224)


def _interpolation(chosen: _Choice) -> str:
    name = str(chosen.get("interpolation", "bilinear")).lower()
    if name not in pixels.INTERPOLATIONS:
        raise _bad("interpolation", f"must be one of {', '.join(pixels.INTERPOLATIONS)}; got {name!r}")
    return name


def _normalization(chosen: _Choice, channels: int, bgr: bool) -> tuple[Array, ...]:
    """Mean and standard deviation in the model's own order of channels, each float32 [channels, 1, 1]."""
    if "mean" in chosen or "std" in chosen:
        values = chosen.get("mean", (0.0,)), chosen.get("std", (1.0,))
    elif channels == 1:
        values = (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    else:
        values = (IMAGENET_MEAN[::-1], IMAGENET_STD[::-1]) if bgr else (IMAGENET_MEAN, IMAGENET_STD)
    arrays = []
    for name, each in zip(("mean", "std"), values, strict=True):
        if len(each) not in (1, channels):
            raise _bad(name, f"must have 1 value or {channels}, one for each channel; got {len(each)}")
        arrays.append(np.broadcast_to(np.array(each, np.float32), channels).reshape(channels, 1, 1))
    if not arrays[1].all():
        raise _bad("std", "must not be 0")
    return tuple(arrays)


def _findings(found: Preprocess, spec: TensorSpec, chosen: _Choice, mean: Array, std: Array) -> Iterator[Finding]:
    """Each part of the preprocessing, where it is from, and the option that changes it."""
    geometry = found.geometry
    fixed = all(isinstance(d, int) for d in (spec.shape[2:4] if found.nchw else spec.shape[1:3]))
    size = f"{geometry.height} × {geometry.width}"
    if fixed:
        yield Finding("image size", size, *_SIGNATURE)
    elif geometry.free is not None and geometry.free.as_it_is:
        yield chosen.told("image size", "each its own", ("keep_size",), "--set preprocess.size=N", _USUAL)
    elif geometry.free is not None:
        size = f"short side {geometry.height}, long side at most {geometry.free.longest}"
        yield chosen.told("image size", size, ("longest",), "--set preprocess.size=N", _USUAL)
    else:
        yield chosen.told("image size", size, ("size",), "--set preprocess.size=N", _USUAL)
    fit, other = "whole, squeezed", "true"
    if geometry.free is not None:
        fit, other = "whole, in its own shape", "false"
    elif geometry.border is not None:
        fit, other = f"whole, between grey borders ({geometry.border})", "false"
    elif geometry.resize is not None:
        fit, other = f"short side to {geometry.resize}, centre cut out", "false"
    yield chosen.told(
        "image fit", fit, ("border", "crop", "resize", "longest", "keep_size"), f"--set preprocess.crop={other}", _USUAL
    )
    if geometry.free is None or not geometry.free.as_it_is:
        names = "--set preprocess.interpolation=NAME"
        yield chosen.told("image scaling", geometry.interpolation, ("interpolation",), names, _USUAL)
    if spec.dtype == "uint8":
        yield Finding("pixel values", "0 to 255, as they are", "certain", "the input's dtype")
    else:
        option = "--set preprocess.mean=[…] --set preprocess.std=[…]"
        yield chosen.told("pixel values", _values_told(mean, std), ("mean", "std"), option, _USUAL)
    if geometry.mode == "L":
        yield Finding("colours", "grey", *_SIGNATURE)
    else:
        order, other = ("blue, green, red", "rgb") if found.bgr else ("red, green, blue", "bgr")
        yield chosen.told("colours", order, ("color",), f"--set preprocess.color={other}", _USUAL)
    layout, other = ("channels first", "nhwc") if found.nchw else ("channels last", "nchw")
    yield chosen.told("layout", layout, ("layout",), f"--set preprocess.layout={other}", _SIGNATURE)


def _values_told(mean: Array, std: Array) -> str:
    """What pixels of 0 to 255 become."""
    means, stds = mean.reshape(-1).tolist(), std.reshape(-1).tolist()
    if len({*means}) == 1 and len({*stds}) == 1:
        return f"{-means[0] / stds[0] + 0.0:.4g} to {(255 - means[0]) / stds[0]:.4g}"
    both = (", ".join(f"{value:.5g}" for value in values) for values in (means, stds))
    return "less {}, divided by {}".format(*both)


def _bad(name: str, problem: str) -> InvalidOption:
    return InvalidOption(f"preprocess.{name} {problem}.", field=f"config.preprocess.{name}")
