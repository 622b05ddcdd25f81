"""Image classification: encoded images in, labels out. Raw tensors are taken too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from backends.base import InvalidInput, InvalidOption, ModelFileError, ModelInfo, Tensors, TensorSpec
from engine.codec import Decoded, Form, kind_of
from engine.model_options import ModelOptions, PreprocessOptions
from engine.tasks import labels, pixels
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.pixels import Geometry

METADATA_KEY = "unimodel.preprocess"
"""Key in a model's own metadata that holds its preprocessing: `PreprocessOptions` as JSON."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of RGB in units of 0–255: what most published classifiers were trained with."""

_EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM4YaOhYXOCQWOBza9fvwAjhgZLkGODKwAAAABJRU5ErkJggg=="
)


class Preprocess(NamedTuple):
    """How an image becomes one row of the input tensor."""

    geometry: Geometry
    scale: np.ndarray[Any, Any]
    """float32 [channels, 1, 1]: what the pixels are multiplied with, and then `shift` is added."""
    shift: np.ndarray[Any, Any]
    bgr: bool
    nchw: bool


class ImageClassificationTask(TensorTask):
    """A model with one image input and one output of class scores.

    Raises `InvalidOption` when the model is none, or an option does not fit it.
    """

    name: ClassVar[str] = "image-classification"
    takes = frozenset({"top_k"})
    decodes_in_parallel = True
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self.input = _image_input(info)
        classes = _classes(info)
        self.labels = labels.load_labels(options.labels, info.labels, classes) if classes is not None else info.labels
        self.preprocess, self.notes = resolve(self.input, options.preprocess, info.metadata)

    def decode(self, form: Form, value: Any) -> Decoded:
        """Base64 (also as a ``data:`` URL or TensorFlow Serving's ``{"b64": …}``), one or a list; else tensors."""
        where: str = form
        images = value
        if isinstance(value, dict) and value.keys() == {self.input.name}:
            where, images = f"{form}.{self.input.name}", value[self.input.name]
        several = isinstance(images, list)
        items = images if several else [images]
        if not items or self._text(items[0]) is None:
            return super().decode(form, value)
        if form == "instances" and not several:
            raise InvalidInput("instances must be a list of images.", field="instances")
        encoded = []
        for i, item in enumerate(items):
            place = f"{where}[{i}]" if several else where
            text = self._text(item)
            if text is None:
                raise InvalidInput(
                    f"{place} must be an image in base64, as the first is; got {kind_of(item)}.", field=place
                )
            encoded.append((pixels.from_base64(text, place), place))
        return Decoded(self._tensor(encoded, where), form == "input" and not several)

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
        """One encoded image as the whole body."""
        if not content_type.startswith("image/"):
            return super().decode_bytes(data, content_type)
        return Decoded(self._tensor([(bytes(data), "input")], "input"), True)

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """For each image the best labels with their scores, best first."""
        (scores,) = outputs.values()
        rows = scores.reshape(len(scores), -1)
        top_k = parameters.top_k if parameters.top_k is not None else self.options.top_k
        answers = [labels.ranked(row, self.labels, top_k) for row in self._probabilities(rows)]
        return answers[0] if single and form == "input" else answers

    def example(self, row: Tensors) -> Any:  # noqa: ARG002
        """A tiny PNG, so that the example is a request that works."""
        return _EXAMPLE_PNG

    def _text(self, item: Any) -> str | None:
        """The base64 of one image, `None` when the item is something else."""
        while isinstance(item, dict) and len(item) == 1 and item.keys() <= {"b64", self.input.name}:
            (item,) = item.values()
        return item if isinstance(item, str) else None

    def _tensor(self, encoded: list[tuple[bytes, str]], where: str) -> Tensors:
        """The input tensor of all images of a request."""
        fixed = self.input.shape[0]
        if isinstance(fixed, int) and fixed != len(encoded):
            raise InvalidInput(f"The model takes exactly {fixed} images in a request; got {len(encoded)}.", field=where)
        geometry = self.preprocess.geometry
        size, channels = (geometry.height, geometry.width), len(geometry.mode)  # "RGB" has 3, "L" has 1
        shape = (channels, *size) if self.preprocess.nchw else (*size, channels)
        batch = np.empty((len(encoded), *shape), self.input.dtype)
        for row, (data, place) in zip(batch, encoded, strict=True):
            self._write(row, pixels.decode(data, geometry, place))
        return {self.input.name: batch}

    def _write(self, row: np.ndarray[Any, Any], image: np.ndarray[Any, Any]) -> None:
        """Normalizes uint8 [height, width, channels] into one row of the batch."""
        planes = image.transpose(2, 0, 1)
        planes = planes[::-1] if self.preprocess.bgr else planes
        target = row if self.preprocess.nchw else row.transpose(2, 0, 1)
        if row.dtype == np.uint8:
            target[...] = planes
            return
        values = target if row.dtype == np.float32 else np.empty(target.shape, np.float32)
        values[...] = planes
        values *= self.preprocess.scale
        values += self.preprocess.shift
        if values is not target:
            target[...] = values

    def _probabilities(self, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The scores, through softmax if they are logits."""
        scores = scores.astype(np.float32) if scores.dtype == np.float16 else scores
        with np.errstate(invalid="ignore", over="ignore"):
            softmax = self.options.softmax
            if softmax is None:
                softmax = not ((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-2))
            return labels.softmax(scores) if softmax else scores


# --- what the model is ----------------------------------------------------------------------------------------------


def _image_input(info: ModelInfo) -> TensorSpec:
    if len(info.inputs) != 1 or len(info.inputs[0].shape) != 4 or len(info.outputs) != 1:
        shapes = "; ".join(f"{s.name} [{', '.join(map(str, s.shape))}]" for s in (*info.inputs, *info.outputs))
        raise InvalidOption(
            f"The task image-classification needs one image input of 4 dimensions and one output; it has: {shapes}.",
            field="task",
        )
    spec = info.inputs[0]
    if not spec.dtype.startswith(("float", "uint8")):
        raise InvalidOption(
            f"The task image-classification needs a float or uint8 input; it is {spec.dtype}.", field="task"
        )
    return spec


def _classes(info: ModelInfo) -> int | None:
    """How many scores a row has; `None` when the signature does not tell."""
    dims = info.outputs[0].shape[1:]
    return int(np.prod([d for d in dims if isinstance(d, int)])) if all(isinstance(d, int) for d in dims) else None


# --- how it wants its images ----------------------------------------------------------------------------------------


def resolve(
    spec: TensorSpec, options: PreprocessOptions, metadata: Mapping[str, str]
) -> tuple[Preprocess, tuple[str, ...]]:
    """The preprocessing in force, and what of it is a guess.

    Each part comes from the user's `options`, else from the model's own metadata, else from the signature or the
    common choice. Raises `InvalidOption` when it does not fit the input `spec`, `ModelFileError` for bad metadata.
    """
    own = _of_model(metadata)
    chosen = {**_given(own), **_given(options)}
    notes: list[str] = []
    nchw = _nchw(spec, chosen.get("layout"))
    channels = spec.shape[1] if nchw else spec.shape[3]
    if channels not in (1, 3) and isinstance(channels, int):
        raise _bad("layout", f"makes {channels} channels of the input {list(spec.shape)}, but an image has 1 or 3")
    height, width = _size(spec, nchw, chosen.get("size"), notes)
    normalized = spec.dtype != "uint8"
    if not normalized and ("mean" in chosen or "std" in chosen):
        raise _bad("mean", "and std do not fit a model that takes uint8 pixels as they are")
    if normalized and "mean" not in chosen and "std" not in chosen:
        notes.append(
            "The file does not say how pixels are normalized; ImageNet's mean and standard deviation are used. "
            "Others are set with --set preprocess.mean=… and --set preprocess.std=… in units of 0 to 255."
        )
    grey = channels == 1
    color = str(chosen.get("color", "rgb")).lower()
    if color not in ("rgb", "bgr"):
        raise _bad("color", f"must be rgb or bgr; got {color!r}")
    bgr = color == "bgr" and not grey
    mean, std = _normalization(chosen, 1 if grey else 3, bgr)
    geometry = Geometry(height, width, _resize(chosen, height, width), _interpolation(chosen), "L" if grey else "RGB")
    return Preprocess(geometry, 1 / std, -mean / std, bgr, nchw), tuple(notes)


def _of_model(metadata: Mapping[str, str]) -> PreprocessOptions:
    """What the model's file says of its preprocessing."""
    if METADATA_KEY in metadata:
        try:
            return msgspec.json.decode(metadata[METADATA_KEY], type=PreprocessOptions)
        except msgspec.DecodeError as e:
            raise ModelFileError(f"The model's metadata {METADATA_KEY} is not valid: {e}.") from None
    if metadata.get("author") == "Ultralytics":  # its classifiers take pixels of 0 to 1, cut from a tight square
        return PreprocessOptions(mean=(0.0,), std=(255.0,))
    return PreprocessOptions()


def _given(options: PreprocessOptions) -> dict[str, Any]:
    """The parts that were chosen."""
    fields = msgspec.structs.fields(options)
    return {f.name: v for f in fields if (v := getattr(options, f.name)) is not None and v != f.default}


def _nchw(spec: TensorSpec, layout: str | None) -> bool:
    if layout is not None and layout.lower() not in ("nchw", "nhwc"):
        raise _bad("layout", f"must be nchw or nhwc; got {layout!r}")
    return layout.lower() == "nchw" if layout is not None else spec.shape[3] not in (1, 3) or spec.shape[1] in (1, 3)


def _size(spec: TensorSpec, nchw: bool, chosen: int | tuple[int, int] | None, notes: list[str]) -> tuple[int, int]:
    """Height and width, which the signature fixes or leaves free."""
    dims = spec.shape[2:4] if nchw else spec.shape[1:3]
    wanted = (chosen, chosen) if isinstance(chosen, int) else chosen
    if wanted is not None and min(wanted) < 1:
        raise _bad("size", f"must be at least 1; got {min(wanted)}")
    if wanted is None and not all(isinstance(d, int) for d in dims):
        notes.append(
            "The file does not fix the size of images; 224 is used. Another is set with --set preprocess.size=N."
        )
    fallback = wanted or (224, 224)
    height, width = (d if isinstance(d, int) else free for d, free in zip(dims, fallback, strict=True))
    if wanted is not None and wanted != (height, width):
        raise _bad("size", f"is {list(wanted)}, but the model takes {[height, width]}")
    return height, width


def _resize(chosen: Mapping[str, Any], height: int, width: int) -> int | None:
    """Length of the short side before the centre is cut out; `None` when nothing is cut."""
    resize: int | None = chosen.get("resize")
    if not chosen.get("crop", True):
        if resize is not None:
            raise _bad("resize", "has no meaning with preprocess.crop=false, which squeezes the whole image")
        return None
    least = max(height, width)
    if resize is not None and resize < least:
        raise _bad("resize", f"must be at least the size that is cut out, {least}; got {resize}")
    return resize if resize is not None else round(least * 256 / 224)


def _interpolation(chosen: Mapping[str, Any]) -> str:
    name = str(chosen.get("interpolation", "bilinear")).lower()
    if name not in pixels.INTERPOLATIONS:
        raise _bad("interpolation", f"must be one of {', '.join(pixels.INTERPOLATIONS)}; got {name!r}")
    return name


def _normalization(chosen: Mapping[str, Any], channels: int, bgr: bool) -> tuple[np.ndarray[Any, Any], ...]:
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


def _bad(name: str, problem: str) -> InvalidOption:
    return InvalidOption(f"preprocess.{name} {problem}.", field=f"config.preprocess.{name}")
