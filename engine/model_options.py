"""The options of one model (``config`` at registration, ``--set`` on the command line): the engine's share of them.

What is not named here belongs to the model's backend. An unknown option is an error that names the nearest one.
"""

from __future__ import annotations

import re
import typing
from typing import Any

import msgspec

from engine.errors import InvalidOption
from engine.settings import nearest


class PaddingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rows of different lengths are padded, for one input."""

    value: float = 0.0
    """What the missing places are filled with."""
    buckets: tuple[int, ...] = ()
    """Lengths that rows are padded up to, ascending; without any, to the longest row of the batch."""


class BatchingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests are batched. `None` means the server's default."""

    max_batch_size: int | None = None
    """Most rows in one batch, 1 for none; ``engine.default_batch_size`` when not given."""
    max_batch_wait_ms: float | None = None
    """Longest that a request waits for company; ``engine.max_batch_wait_ms`` when not given."""
    dynamic_padding: bool | None = None
    """Whether rows of different lengths are padded together; ``engine.dynamic_padding`` when not given."""
    padding: dict[str, PaddingOptions] = {}
    """By input name."""
    self_check: bool = True
    """Whether rows computed alone and in a batch are compared when the model is loaded."""


class QueueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a request is refused with 429 instead of queued. `None` means the server's default."""

    max_requests: int | None = None
    """Requests that may wait; ``engine.max_queue_requests`` when not given."""
    max_mb: int | None = None
    """MiB of inputs that may wait; ``engine.max_queue_mb`` when not given."""
    max_wait_ms: float | None = None
    """Longest predicted wait; unset, only the request's own deadline bounds it."""


class PreprocessOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an encoded image becomes the model's input tensor. `None` means found by probing, or the common choice."""

    size: int | tuple[int, int] | None = None
    """Height and width fed to the model; one number is both."""
    resize: int | None = None
    """Length that the short side is scaled to before the centre crop."""
    crop: bool | None = None
    """Whether the middle is cut out, rather than the whole squeezed."""
    interpolation: str | None = None
    """``bilinear``, ``bicubic``, ``lanczos``, ``nearest`` …"""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel, in units of 0–255."""
    std: tuple[float, ...] | None = None
    """Divides each channel after the mean, in units of 0–255."""
    color: str | None = None
    """``rgb`` or ``bgr``."""
    layout: str | None = None
    """``nchw`` or ``nhwc``; found from the signature."""
    border: int | None = None
    """Keeps the shape of an image and shows all of it, between borders of this grey of 0–255 (letterbox)."""
    longest: int | None = None
    """Keeps the shape of an image, of models that take any size: its short side becomes `preprocess.size`, or less
    where the long one would be longer than this."""
    multiple: int | None = None
    """With `preprocess.longest`: both sides become multiples of this, by leaving out the rest."""
    multiple_up: bool | None = None
    """Whether they become the next larger multiples instead."""
    keep_size: bool | None = None
    """Leaves images as large as they are, of models that take any size."""


class DetectionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the outputs of an object detector are, and which boxes an answer has. `None` means found by probing."""

    threshold: float | None = None
    """Least score of a box, unless the request's parameters say; 0.25 when not given."""
    overlap: float | None = None
    """Of two boxes of one class that share more than this part of the area they cover, the better one is kept; 1 keeps
    both. 0.45 when not given; models that give one box for each object are not asked."""
    max_boxes: int | None = None
    """Most boxes of an image in an answer; 300 when not given."""
    layout: str | None = None
    """``yolo`` (a box is 4 numbers and a score for each class), ``yolov5`` (with the score of the box between them),
    ``rows`` (corners, score, class) or ``tensors`` (an output for each)."""
    boxes: str | None = None
    """Name of the output with the boxes, for ``tensors``."""
    scores: str | None = None
    """Name of the output with the scores, for ``tensors``."""
    classes: str | None = None
    """Name of the output with the classes, for ``tensors``; without one, there is a score for each class."""
    corners: str | None = None
    """What the numbers of a box are: ``xyxy``, ``yxyx``, ``xywh`` or ``cxcywh``."""
    fractions: bool | None = None
    """Whether they are fractions of the image's sides, not pixels."""
    activation: str | None = None
    """What makes probabilities of scores by class: ``none``, ``sigmoid`` or ``softmax`` (whose last class is none)."""
    first_class: int | None = None
    """The number of the first class."""


class SegmentationOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the outputs of a model that segments images are, and which regions an answer has. `None` means found by
    probing."""

    mask_threshold: float | None = None
    """Least probability of a pixel of a mask, unless the request's parameters say; 0.5 when not given. Of models that
    give each pixel to one class it is not asked."""
    threshold: float | None = None
    """Least score of a region, of models that score each (Mask2Former and its kin), unless the request's parameters
    say; 0.9 when not given. Of YOLO's models, `detection.threshold` is that."""
    layout: str | None = None
    """``classes`` (a map of scores for each class, of which the best one counts), ``masks`` (a map for each class, by
    itself) or ``numbers`` (one map with the number of each pixel's class)."""
    output: str | None = None
    """Name of the output with the maps; the first that could be one when not given."""
    channels: str | None = None
    """``first`` or ``last``: whether the axis of classes is before height and width, or behind them."""
    activation: str | None = None
    """What makes probabilities of a map's values: ``none``, ``sigmoid`` or ``softmax``; the values tell when it is not
    given."""


class ModelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All options that the engine itself understands."""

    batching: BatchingOptions = BatchingOptions()
    queue: QueueOptions = QueueOptions()
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    replicas: int = 1
    """Copies of the model, on as many workers."""
    isolated: bool = False
    """Gives the model a process of its own."""
    memory_limit: int | str | None = None
    """Of an isolated model: what its process may hold, in bytes or as in ``512MiB`` or ``2GiB``. One that holds more is
    killed and replaced; mapped files do not count."""
    python: str | None = None
    """Of an isolated model: the folder of a virtual environment, or a Python interpreter, that its process runs on."""
    deadline_ms: int | None = None
    """Deadline of a request that brings none; ``server.deadline_ms`` when not given."""
    labels: str | tuple[str, ...] | None = None
    """Class names: a list, or a text file with one a line."""
    top_k: int = 5
    """How many of the best classes an answer has, unless the request's parameters say."""
    softmax: bool | None = None
    """Whether scores are passed through softmax; found by probing (outputs that are no probabilities are logits)."""
    preprocess: PreprocessOptions = PreprocessOptions()
    detection: DetectionOptions = DetectionOptions()
    segmentation: SegmentationOptions = SegmentationOptions()
    max_audio_s: float = 14_400.0
    """Seconds that a recording may have which is to be transcribed; a longer one is refused. An hour takes the worker
    about 400 MB while it is read, and then 110 MB until its text is there."""

    @property
    def memory_bytes(self) -> int | None:
        """`memory_limit` in bytes. Raises `InvalidOption`."""
        return None if self.memory_limit is None else _size(self.memory_limit)


OF_ISOLATED = ("memory_limit", "python")
"""Options that only mean something for an isolated model."""


_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _size(given: int | str) -> int:
    """Bytes, or a number and a unit, as bytes."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*([KMGT]?i?B)?", str(given).strip())
    if match is None or (match[2] or "B") not in _UNITS or float(match[1]) == 0:
        raise InvalidOption(
            "Model option memory_limit must be a number of bytes above 0, or a size such as 512MiB or 2GiB; "
            f"got {given!r}.",
            field="config.memory_limit",
        )
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def _paths(cls: type[msgspec.Struct], prefix: str = "") -> list[str]:
    paths = []
    for f in msgspec.structs.fields(cls):
        paths.append(prefix + f.name)
        if typing.get_origin(f.type) is dict:  # keys of the user's choice, which msgspec's messages show as [...]
            inner, path = typing.get_args(f.type)[1], f"{prefix}{f.name}[...]."
        else:
            inner, path = f.type, f"{prefix}{f.name}."
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            paths.extend(_paths(inner, path))
    return paths


def convert(cls: type[msgspec.Struct], raw: dict[str, Any], known: list[str]) -> Any:
    """`raw` as an instance of `cls`. Raises `InvalidOption` that names the option; `known` feeds the suggestion."""
    try:
        return msgspec.convert(raw, cls)
    except msgspec.ValidationError as e:
        problem, _, where = str(e).partition(" - at `$")
        parent = where.rstrip("`").lstrip(".")
        if "unknown field" in problem:
            name = problem.split("`")[1]
            path = f"{parent}.{name}" if parent else name
            raise InvalidOption(
                f"Unknown model option {path!r}.{nearest(path, known)}", field=f"config.{path}"
            ) from None
        subject, field = (f"Model option {parent}", f"config.{parent}") if parent else ("Model options", "config")
        raise InvalidOption(f"{subject}: {problem[0].lower()}{problem[1:]}.", field=field) from None


BackendOptions = type[msgspec.Struct] | type[dict[str, Any]]
"""What a backend declares: a struct of its options, or `dict` when they are its user's own, as a plugin's are."""


def split(config: dict[str, Any], backend_options: BackendOptions) -> tuple[ModelOptions, Any]:
    """The engine's and the backend's options of a model's `config`. Raises `InvalidOption`."""
    own_names = {f.name for f in msgspec.structs.fields(ModelOptions)}
    own = {k: v for k, v in config.items() if k in own_names}
    rest = {k: v for k, v in config.items() if k not in own_names}
    struct = backend_options if issubclass(backend_options, msgspec.Struct) else None
    known = _paths(ModelOptions) + (_paths(struct) if struct is not None else [])
    options: ModelOptions = convert(ModelOptions, own, known)
    for name, value, least in (
        ("batching.max_batch_size", options.batching.max_batch_size, 1),
        ("batching.max_batch_wait_ms", options.batching.max_batch_wait_ms, 0),
        ("queue.max_requests", options.queue.max_requests, 1),
        ("queue.max_mb", options.queue.max_mb, 1),
        ("queue.max_wait_ms", options.queue.max_wait_ms, 0),
        ("replicas", options.replicas, 1),
        ("deadline_ms", options.deadline_ms, 1),
        ("top_k", options.top_k, 1),
        ("detection.max_boxes", options.detection.max_boxes, 1),
        ("max_audio_s", options.max_audio_s, 1),
    ):
        if value is not None and value < least:
            raise InvalidOption(f"Model option {name} must be at least {least}; got {value}.", field=f"config.{name}")
    for name, part in (
        ("detection.threshold", options.detection.threshold),
        ("detection.overlap", options.detection.overlap),
        ("segmentation.threshold", options.segmentation.threshold),
        ("segmentation.mask_threshold", options.segmentation.mask_threshold),
    ):
        if part is not None and not 0 <= part <= 1:
            raise InvalidOption(f"Model option {name} must be from 0 to 1; got {part:g}.", field=f"config.{name}")
    for name in OF_ISOLATED:
        if getattr(options, name) is not None and not options.isolated:
            raise InvalidOption(
                f"Model option {name} is for a model with a process of its own; set isolated=true, too.",
                field=f"config.{name}",
            )
    _ = options.memory_bytes  # is it a size?
    backends_own = rest if struct is None else convert(struct, rest, known)
    for name, value in config.items():
        try:
            msgspec.msgpack.encode(value)  # as it goes to a worker
        except OverflowError:
            message = f"Model option {name} has an integer of more than 64 bits."
            raise InvalidOption(message, field=f"config.{name}") from None
    return options, backends_own
