"""Encoded images in: what the tasks of models that look at one share, and classification, which has labels out."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np

from backends.base import PIXEL_MASK, Finding, InvalidInput, InvalidOption, ModelInfo, Tensors, TensorSpec
from engine.codec import Decoded, Form, kind_of
from engine.model_options import ModelOptions, PreprocessOptions
from engine.tasks import labels, pixels
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.pixels import Placement
from engine.tasks.preprocess import UNKNOWN, Preprocess, resolve

SOFTMAX_KEY = "unimodel.softmax"
"""Key in a model's own metadata that is ``false`` where its scores are what an answer has."""
_MANY = 16
"""Classes."""
_EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM4YaOhYXOCQWOBza9fvwAjhgZLkGODKwAAAABJRU5ErkJggg=="
)


def with_batch(info: ModelInfo) -> ModelInfo:
    """A model of one image without a batch axis, such as [3, height, width], as one whose batches have one image."""
    (spec,) = info.inputs if len(info.inputs) == 1 else (None,)
    if (
        spec is None
        or spec.batch_axis is not None
        or len(spec.shape) != 3
        or not {1, 3} & {spec.shape[0], spec.shape[2]}
    ):
        return info

    def batched(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            msgspec.structs.replace(s, shape=(1, *s.shape), batch_axis=0) if s.batch_axis is None else s for s in specs
        )

    return msgspec.structs.replace(info, inputs=batched(info.inputs), outputs=batched(info.outputs))


class ImageTask(TensorTask):
    """Base of the tasks of models with one image input.

    Raises `InvalidOption` when the model has none, or an option does not fit it.
    """

    decodes_in_parallel = True
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self.batched = with_batch(info)
        """The model as one that has a batch axis."""
        self._has_batch = self.batched is info

    def prepare(self, usual: PreprocessOptions = UNKNOWN, source: str = "") -> None:
        """Finds the input, and how it wants its images; what is `usual` for models of this kind, as `source` tells."""
        self.input = self._image_input()
        self.preprocess: Preprocess
        own, metadata = self.options.preprocess, self.info.metadata
        self.preprocess, self.findings = resolve(self.input, own, metadata, usual, source)

    def decode(self, form: Form, value: Any) -> Decoded:
        """Base64 (also as a ``data:`` URL or TensorFlow Serving's ``{"b64": …}``), one or a list; else tensors."""
        where: str = form
        images = value
        if isinstance(value, dict) and value.keys() == {self.input.name}:
            where, images = f"{form}.{self.input.name}", value[self.input.name]
        if images is None:
            raise InvalidInput(f"{where} must be an image in base64, or a list of them; got null.", field=where)
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
        tensors, placements = self._tensors(encoded, where)
        return Decoded(tensors, form == "input" and not several, placements)

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
        """One encoded image as the whole body."""
        if not content_type.startswith("image/"):
            return super().decode_bytes(data, content_type)
        tensors, placements = self._tensors([(bytes(data), "input")], "input")
        return Decoded(tensors, True, placements)

    def example(self, row: Tensors) -> Any:  # noqa: ARG002
        """A tiny PNG, so that the example is a request that works."""
        return _EXAMPLE_PNG

    def _text(self, item: Any) -> str | None:
        """The base64 of one image, `None` when the item is something else."""
        while isinstance(item, dict) and len(item) == 1 and item.keys() <= {"b64", self.input.name}:
            (item,) = item.values()
        return item if isinstance(item, str) else None

    def in_batch(self, outputs: Tensors) -> Tensors:
        """The outputs with a batch axis, also of a model that has none."""
        return outputs if self._has_batch else {name: array[None] for name, array in outputs.items()}

    def _tensors(self, encoded: list[tuple[bytes, str]], where: str) -> tuple[Tensors, list[Placement]]:
        """The inputs for all images of a request, and where each lies in its row."""
        tensors, placements = self._tensor(encoded, where)
        return tensors if self._has_batch else {name: array[0] for name, array in tensors.items()}, placements

    def _tensor(self, encoded: list[tuple[bytes, str]], where: str) -> tuple[Tensors, list[Placement]]:
        """The input tensor of all images of a request, and where each lies in its row."""
        fixed = self.input.shape[0]
        if isinstance(fixed, int) and fixed != len(encoded):
            count = "one image" if fixed == 1 else f"{fixed} images"
            raise InvalidInput(f"The model takes exactly {count} in a request; got {len(encoded)}.", field=where)
        geometry = self.preprocess.geometry
        channels = len(geometry.mode)  # "RGB" has 3, "L" has 1
        if geometry.free is not None:
            return self._of_any_size([pixels.decode_placed(data, geometry, place) for data, place in encoded], where)
        batch = self._empty(len(encoded), (geometry.height, geometry.width), channels)
        placements = []
        for row, (data, place) in zip(batch, encoded, strict=True):
            image, placement = pixels.decode_placed(data, geometry, place)
            self._write(row, image)
            placements.append(placement)
        return {self.input.name: batch}, placements

    def _of_any_size(
        self, images: list[tuple[np.ndarray[Any, Any], Placement]], where: str
    ) -> tuple[Tensors, list[Placement]]:
        """Pictures that have kept their shapes: those that are smaller than others get empty space below and to the
        right, and a mask says where. Raises `InvalidInput` when the model takes no mask."""
        sizes = [image.shape[:2] for image, _ in images]
        height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
        batch = self._empty(len(images), (height, width), images[0][0].shape[2])
        found: Tensors = {self.input.name: batch}
        if {*sizes} != {(height, width)}:
            if PIXEL_MASK not in self.info.optional:
                raise InvalidInput(
                    "The images of one request must have one shape, since this model keeps it; send them one by one.",
                    field=where,
                )
            batch[...] = 0
            found[PIXEL_MASK.name] = np.zeros((len(images), height, width), PIXEL_MASK.dtype)
        for i, (image, _) in enumerate(images):
            rows, columns = sizes[i]
            self._write(batch[i, :, :rows, :columns] if self.preprocess.nchw else batch[i, :rows, :columns], image)
            if PIXEL_MASK.name in found:
                found[PIXEL_MASK.name][i, :rows, :columns] = 1
        spaces = [(width - columns, height - rows) for rows, columns in sizes]
        return found, [placement._replace(space=space) for (_, placement), space in zip(images, spaces, strict=True)]

    def _empty(self, rows: int, size: tuple[int, int], channels: int) -> np.ndarray[Any, Any]:
        shape = (channels, *size) if self.preprocess.nchw else (*size, channels)
        return np.empty((rows, *shape), self.input.dtype)

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

    def _image_input(self) -> TensorSpec:
        spec = self.batched.inputs[0] if len(self.batched.inputs) == 1 else None
        if spec is None or len(spec.shape) != 4:
            shapes = "; ".join(f"{s.name} [{', '.join(map(str, s.shape))}]" for s in self.info.inputs)
            raise InvalidOption(
                f"The task {self.name} needs a model with one input, an image of 4 dimensions; it has: {shapes}.",
                field="task",
            )
        if not spec.dtype.startswith(("float", "uint8")):
            raise InvalidOption(f"The task {self.name} needs a float or uint8 input; it is {spec.dtype}.", field="task")
        return spec


class ImageClassificationTask(ImageTask):
    """A model with one image input and one output of class scores."""

    name: ClassVar[str] = "image-classification"
    takes = frozenset({"top_k"})

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self.prepare()
        if len(info.outputs) != 1:
            names = ", ".join(s.name for s in info.outputs)
            raise InvalidOption(
                f"The task {self.name} needs a model with one output, the scores; it has: {names}.", field="task"
            )
        if any(dim != 1 for dim in info.outputs[0].shape[2:]):
            shape = ", ".join(map(str, info.outputs[0].shape))
            raise InvalidOption(
                f"The task {self.name} needs a score for each class, [batch, classes]; the output is [{shape}].",
                field="task",
            )
        classes = _classes(info)
        self.labels = labels.load_labels(options.labels, info.labels, classes) if classes is not None else info.labels
        self._final = info.metadata.get(SOFTMAX_KEY) == "false"
        self.findings = (
            labels.told(self.labels, options.labels, classes),
            *self.findings,
            _softmax_told(options, self._final),
        )

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """For each image the best labels with their scores, best first."""
        (scores,) = outputs.values()
        rows = scores.reshape(len(scores), -1)
        top_k = parameters.top_k if parameters.top_k is not None else self.options.top_k
        answers = [labels.ranked(row, self.labels, top_k) for row in self._probabilities(rows)]
        return answers[0] if single and form == "input" else answers

    def _probabilities(self, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The scores, through softmax if they are logits."""
        scores = scores.astype(np.float32) if scores.dtype == np.float16 else scores
        with np.errstate(invalid="ignore", over="ignore"):
            softmax = self.options.softmax
            if softmax is None:
                softmax = not self._final and not _probable(scores)
            return labels.softmax(scores) if softmax else scores


def _classes(info: ModelInfo) -> int | None:
    """How many scores a row has; `None` when the signature does not tell."""
    dims = info.outputs[0].shape[1:]
    return int(np.prod([d for d in dims if isinstance(d, int)])) if all(isinstance(d, int) for d in dims) else None


def _probable(scores: np.ndarray[Any, Any]) -> bool:
    """Whether scores [images, classes] are probabilities: of classes that exclude each other, or of so many that each
    has one of its own that logits would hardly all be from 0 to 1."""
    if not bool((scores >= 0).all()):
        return False
    return np.allclose(scores.sum(axis=1), 1, atol=1e-2) or (scores.shape[1] >= _MANY and bool((scores <= 1).all()))


def _softmax_told(options: ModelOptions, final: bool) -> Finding:
    option = "--set softmax=true|false"
    if options.softmax is not None:
        return Finding("softmax", "yes" if options.softmax else "no", "given", "your options", option)
    if final:
        return Finding("softmax", "no", "certain", "its files", option)
    return Finding("softmax", "for scores that are no probabilities", "likely", "each answer's scores", option)
