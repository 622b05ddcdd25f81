"""Serves models with TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from backends.base import (
    Build,
    Device,
    Finding,
    InvalidOption,
    Match,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
)
from backends.probing import Input, Signature, image_classes, looks_like, looks_like_images, probe, signature_finding
from backends.resources import resident_bytes
from backends.tensorflow import errors, examples, files, runtime
from backends.tensorflow.examples import Examples
from backends.tensorflow.files import Kind
from backends.tensorflow.keras_file import KerasProgram
from backends.tensorflow.program import Program, Slot
from backends.tensorflow.saved_model import DEFAULT, SavedModel

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM4YaOhYXOCQWOBza9fvwAjhgZLkGODKwAAAABJRU5ErkJggg=="
"""A tiny PNG: what an input in base64 holds in the example, as most of them are images."""


_CLASSIFY = "tensorflow/serving/classify"
_TEXTS = ("example", "def f(x): return x", "SELECT name FROM users", "The cat sat.", "42", "")


class TensorFlowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a TensorFlow model."""

    signature: str | None = None
    """Which signature of a SavedModel is served; `serving_default`, else the likeliest, when not given."""
    tags: tuple[str, ...] | None = None
    """The tags of the graph in a SavedModel that has several; the one for serving when not given."""
    threads: int | None = None
    """CPU threads of TensorFlow, which all its models in a process share; all of the worker's when not given, and never
    more. A model that differs from the others needs `isolated=true`."""
    dims: dict[str, int] = {}
    """Sizes of free dimensions for the example row, for a model that does not run on the ones that are tried."""
    shapes: dict[str, tuple[int | None, ...]] = {}
    """Shapes of inputs whose number of dimensions the file leaves open; null is a free dimension."""
    base64: tuple[str, ...] = ()
    """Names of string inputs and outputs that are bytes, such as images, and that requests and answers have in base64;
    those whose name ends in `_bytes` need not be named."""


class TensorFlowBackend(TensorBackend):
    """Owns one model, as a program that TensorFlow runs."""

    name = "tensorflow"
    summary = "TensorFlow SavedModel folders, Keras models (.keras, .h5)"
    package = "tensorflow"
    extra = "tensorflow"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    Options = TensorFlowOptions

    _program: Program | None = None

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return files.sniff(path)

    @classmethod
    def build(cls) -> Build:
        """By TensorFlow's record of how it was built."""
        return runtime.build()

    def load(self, path: Path, device: Device, options: TensorFlowOptions) -> ModelInfo:
        """Loads the model and finds the signature by running it. See `Backend.load` for the errors."""
        kind = _look(path)
        if kind is not Kind.SAVED_MODEL and (options.signature or options.tags):
            name = "signature" if options.signature else "tags"
            raise InvalidOption(f"{name} is for SavedModel folders; a Keras file has none.", field=f"config.{name}")
        tf, threads = runtime.tensorflow(device, options.threads)
        self.threads = threads if device.kind == "cpu" else 0
        before = resident_bytes()
        try:
            opened = self._open(tf, path, kind, options)
        except Exception as e:
            raise errors.of_file(e, path) from None
        self._program = opened.program
        signature = self._probe(opened.program, options)
        size = sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file())
        self._memory = max(size, resident_bytes() - before if device.kind == "cpu" else 0)
        return self._info(signature, opened, device, tf.__version__)

    def example(self) -> Tensors:
        """The made-up row on which the model was found to run."""
        return dict(self._example)

    def predict(self, batch: Tensors) -> Tensors:
        """Computes a batch. Raises `InvalidInput` when the model refuses the shapes or values, `OutOfMemory`."""
        assert self._program is not None
        given = [slot.to_tensor(batch[slot.name]) for slot in self._program.inputs]
        try:
            results = self._program.run(given)
        except Exception as e:
            raise errors.of_run(e) from None
        answer = {}
        for slot, result in zip(self._program.outputs, results, strict=True):
            array = slot.to_array(result)
            # what was only passed on may still be the caller's memory
            answer[slot.name] = array.copy() if any(np.may_share_memory(array, a) for a in given) else array
        return answer

    def memory(self) -> int:
        """The growth of the process while the model was loaded and tried, at least the size of its files."""
        return self._memory

    def close(self) -> None:
        if self._program is not None:
            self._program.close()
        self._program = None

    def _open(self, tf: Any, path: Path, kind: Kind, options: TensorFlowOptions) -> _Opened:
        if kind is not Kind.SAVED_MODEL:
            keras = KerasProgram(tf, path, kind, options.base64, trusted=self.trusted)
            metadata = {"format": f"{kind.value}, written by {keras.written_by}"}
            return _Opened(keras, metadata, brightest=255 if keras.scales_pixels else None)
        model = SavedModel(tf, path, options.tags)
        name = model.choose(options.signature)
        metadata = {"signature": name, "format": f"{kind.value}, written by {model.written_by}"}
        program = model.program(name, options.base64, trusted=self.trusted)
        opened = _Opened(program, metadata, model.method(name), program.brightest)
        opened.any_length = any(feed.any_length for feed in program.feeds)
        usual = name == DEFAULT or len(model.signatures) == 1
        opened.findings.append(signature_finding(name, model.signatures, options.signature is not None, usual))
        opened.findings += [_parsed(feed) for feed in program.feeds if isinstance(feed, Examples)]
        return opened

    def _probe(self, program: Program, options: TensorFlowOptions) -> Signature:
        _check_names(options, program)
        slots = [(slot, _shape(slot, options)) for slot in program.inputs]
        texts = {slot.name: slot.example or _PIXEL for slot in program.inputs if slot.base64}

        def run(row: Tensors) -> Tensors:
            return self.predict({n: np.full_like(a, texts[n]) if n in texts else a for n, a in row.items()})

        inputs = [Input(slot.name, slot.dtype, [-1 if dim is None else dim for dim in shape]) for slot, shape in slots]
        outputs = [(slot.name, slot.shape or ()) for slot in program.outputs]
        try:
            signature = probe(inputs, run, options.dims, outputs)
        except ModelFileError as e:
            strings = [slot.name for slot in program.inputs if slot.dtype == "string"]
            if len(strings) == 1 and examples.was_no_message(e):
                raise examples.unreadable(strings[0]) from None
            raise
        self._example = {n: np.full_like(a, texts[n]) if n in texts else a for n, a in signature.example.items()}
        return signature

    def _info(self, found: Signature, opened: _Opened, device: Device, version: str) -> ModelInfo:
        task, labels, findings, metadata = "tensor", None, opened.findings, opened.metadata
        if opened.brightest is not None and found.inputs[0].dtype != "uint8":
            metadata["unimodel.preprocess"] = json.dumps({"mean": [0], "std": [255 / opened.brightest]})
        image = image_classes(found.inputs, found.outputs)
        if image is not None:
            task = "image-classification"
            findings.append(looks_like_images(image))
        elif opened.method == _CLASSIFY:
            labels = self._text_labels(found)
            if labels is not None:
                task = "text-classification"
                findings.append(looks_like(task, f"the kind of its signature, with {len(labels)} classes"))
        return ModelInfo(
            task=task,
            inputs=found.inputs,
            outputs=found.outputs,
            batchable=found.unbatched_reason is None,
            unbatched_reason=found.unbatched_reason,
            unpadded_reason="it is told how long each row is" if opened.any_length else None,
            labels=labels,
            runtime=f"tensorflow {version}",
            device=str(device),
            metadata=metadata,
            findings=tuple(findings),
        )

    def _text_labels(self, found: Signature) -> tuple[str, ...] | None:
        """The names of the classes that an estimator for texts gives with its scores, the same ones for every text."""
        assert self._program is not None
        if [(s.dtype, len(s.shape)) for s in found.inputs] != [("string", 1)] or self._program.inputs[0].base64:
            return None
        outputs = {s.name: s for s in found.outputs}
        classes, scores = outputs.get("classes"), outputs.get("scores")
        if classes is None or scores is None or classes.dtype != "string" or classes.shape != scores.shape:
            return None
        if len(scores.shape) != 2 or scores.batch_axis != 0 or not scores.dtype.startswith("float"):
            return None
        texts = np.array(_TEXTS, object)
        rows = [
            self.predict({found.inputs[0].name: texts[i : i + 1]})["classes"][0].tolist() for i in range(len(texts))
        ]
        return tuple(rows[0]) if all(row == rows[0] for row in rows) else None


@dataclass(slots=True)
class _Opened:
    """A program, what is known of its file, and what was found out."""

    program: Program
    metadata: dict[str, str]
    method: str = ""
    """What kind of signature it is, in TensorFlow Serving's words."""
    brightest: int | None = None
    """The value of a white pixel, of a model that itself brings pixels into the range that its layers take."""
    any_length: bool = False
    """Whether it is told how long each row is."""
    findings: list[Finding] = field(default_factory=list)


def _parsed(feed: Examples) -> Finding:
    """What to tell a user of messages whose features are the inputs."""
    count = len(feed.slots)
    value = f"{count} feature{'s' if count > 1 else ''}, of which each row becomes a tf.Example in {feed.name!r}"
    return Finding("inputs", value, "certain", "its graph", f"""--set base64='["{feed.name}"]'""")


def _look(path: Path) -> Kind:
    try:
        kind = files.look(path)
        if kind is not Kind.FOREIGN:
            return kind
        if path.is_dir():
            inside = (
                "saved_model.cpb, which is in pieces" if (path / "saved_model.cpb").exists() else "no saved_model.pb"
            )
            raise ModelFileError(f"The folder {path} has {inside}; a SavedModel is a folder with a saved_model.pb.")
        size = path.stat().st_size
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist.") from None
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None
    problem = "empty" if not size else "truncated, corrupt, or no model of Keras"
    raise ModelFileError(f"{path} is {problem}. Copy it again.")


def _check_names(options: TensorFlowOptions, program: Program) -> None:
    """Raises `InvalidOption` for options that speak of inputs and outputs which the model has not."""
    inputs = [slot.name for slot in program.inputs]
    strings = [slot.name for slot in (*program.inputs, *program.outputs) if slot.dtype == "string"]
    for option, names, known in (("shapes", options.shapes, inputs), ("base64", options.base64, strings)):
        for name in names:
            if name not in known:
                what = "input" if option == "shapes" else "string input or output"
                raise InvalidOption(
                    f"{option} names {name!r}, which is no {what} of this model; it has: {', '.join(known) or 'none'}.",
                    field=f"config.{option}",
                )


def _shape(slot: Slot, options: TensorFlowOptions) -> Sequence[int | None]:
    """The shape of an input, by the file or by the user."""
    if slot.name in options.shapes:
        return options.shapes[slot.name]
    if slot.shape is None:
        raise ModelFileError(
            f"The file leaves open how many dimensions the input {slot.name!r} has; give its shape, with null for each "
            f"free dimension: --set 'shapes.{slot.name}=[null, 3]'."
        )
    return slot.shape
