"""Serves TensorFlow Lite models."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue

import msgspec

from backends import labels
from backends.base import (
    NO_MATCH,
    Device,
    Match,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
)
from backends.probing import Input, Signature, image_classes, looks_like_images, probe, signature_finding
from backends.resources import cpu_threads, resident_bytes, spreads_rows
from backends.tflite import file, model, rehearsal
from backends.tflite.model import DEFAULT, LiteModel
from backends.tflite.tensors import Quantized


class TfliteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a TensorFlow Lite model."""

    signature: str | None = None
    """Which of the file's signatures is served; `serving_default`, else the first, when not given."""
    threads: int | None = None
    """CPU threads for one call; all of the worker's when not given, and never more."""
    quantized: Quantized = "auto"
    """Whether quantized inputs and outputs are given and taken as the numbers that they stand for (`float`) or as they
    are (`raw`). `auto` is `float`, except that an image of uint8 is taken as it is."""
    spread_rows: bool | None = None
    """Whether the rows of a batch may be spread over the threads, each of which then has an interpreter of its own; if
    not given, for a model of at most 1 GiB whose rows take more than a millisecond."""
    dims: dict[str, int] = {}
    """Sizes of free dimensions for the example row, for a model that does not run on the ones that are tried."""


class TfliteBackend(TensorBackend):
    """Owns one model in LiteRT: an interpreter of several threads, and for spread rows one for each thread.

    Interpreters share the file, which is mapped to memory, but not what they make of its weights.
    """

    name = "tflite"
    summary = "TensorFlow Lite models (.tflite)"
    package = "ai_edge_litert"
    extra = "tflite"
    Options = TfliteOptions

    _model: LiteModel | None = None
    _lone: SimpleQueue[LiteModel] | None = None
    """Interpreters that compute on the thread that calls them, as far as they are idle."""

    @classmethod
    def sniff(cls, path: Path) -> Match:
        named = path.suffix.lower() == file.SUFFIX
        try:
            if not path.is_file():
                return NO_MATCH
            found = file.is_model(path)
        except (OSError, ValueError):
            return NO_MATCH
        if found:
            return Match(1.0 if named else 0.9)
        return Match(0.5) if named else NO_MATCH

    def load(self, path: Path, device: Device, options: TfliteOptions) -> ModelInfo:
        """Tries the model out in a process of its own, then opens it here. See `Backend.load` for the errors."""
        cpu_threads(device, options.threads)  # before anything is tried
        _look(path)
        signature = self.open(path, device, options, free_batch=rehearsal.free_batch(path, options))
        batches = self.threads > 1 and signature.unbatched_reason is None
        if batches and spreads_rows(options.spread_rows, self._memory, lambda: self.predict(signature.example)):
            self._open_lone(path, options, signature.example)
        return self._info(signature, path, options.signature is not None)

    def open(self, path: Path, device: Device, options: TfliteOptions, *, free_batch: bool) -> Signature:
        """Opens the model and finds its signature by running it.

        Most files say that they take one row, and take any number of them if they are asked to: `free_batch` tries.
        """
        _look(path)
        self.threads = cpu_threads(device, options.threads)
        self._model = LiteModel(path, self.threads, options.signature, options.quantized)
        tensors = self._model.inputs
        one_row = bool(tensors) and all(t.shape and t.shape[0] == 1 for t in tensors)
        inputs = [
            Input(t.name, t.dtype, list((-1, *t.shape[1:]) if free_batch and one_row else t.shape)) for t in tensors
        ]
        declared = [(t.name, () if free_batch and one_row else t.shape) for t in self._model.outputs]
        signature = probe(inputs, self.predict, options.dims, declared)
        self._example = signature.example
        activations = sum(array.nbytes for array in signature.example.values())
        self._memory = path.stat().st_size + activations
        return signature

    def example(self) -> Tensors:
        """The made-up row on which the model was found to run."""
        return dict(self._example)

    def predict(self, batch: Tensors) -> Tensors:
        """Computes a batch. Raises `InvalidInput` when the model refuses the shapes or values."""
        assert self._model is not None
        return self._model.run(batch)

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        """As `predict`, in an interpreter of one thread."""
        assert self._lone is not None
        lone = self._lone.get()
        try:
            return lone.run(batch)
        finally:
            self._lone.put(lone)

    def memory(self) -> int:
        """The size of the file and of a row, and what the process grew by for spread rows."""
        return self._memory

    def close(self) -> None:
        """Frees the interpreters, and with them the weights."""
        self._model = self._lone = None

    def _open_lone(self, path: Path, options: TfliteOptions, example: Tensors) -> None:
        before = resident_bytes()
        self._lone = SimpleQueue()
        for _ in range(self.threads):
            lone = LiteModel(path, 1, options.signature, options.quantized)
            lone.run(example)
            self._lone.put(lone)
        self._memory += max(0, resident_bytes() - before)
        self.parallel = True

    def _info(self, found: Signature, path: Path, given: bool) -> ModelInfo:
        assert self._model is not None
        findings = []
        if self._model.signature:
            known = self._model.signatures
            usual = self._model.signature == DEFAULT or len(known) == 1
            findings.append(signature_finding(self._model.signature, known, given, usual))
        packed = labels.unfolded(file.texts(path))
        ultralytics = {"names": packed["names"]} if "names" in packed else {}
        task, names = "tensor", labels.named(ultralytics)
        image = image_classes(found.inputs, found.outputs)
        if image is not None:
            task, names = "image-classification", file.labels(path, image) or labels.find(ultralytics, image)[0]
            findings.append(looks_like_images(image))
        return ModelInfo(
            task=task,
            inputs=found.inputs,
            outputs=found.outputs,
            batchable=found.unbatched_reason is None,
            unbatched_reason=found.unbatched_reason,
            labels=names,
            runtime=f"litert {model.version()}",
            metadata={
                **labels.others(packed),
                **({"signature": self._model.signature} if self._model.signature else {}),
            },
            findings=tuple(findings),
            notes=tuple(_quantization(self._model)),
        )


def _quantization(model: LiteModel) -> list[str]:
    """A note that says which tensors are quantized, and how, if any are not served as they are in the file."""
    scales = [
        f"{tensor.name!r} ({tensor.own.name}: {tensor.scale:.9g} × (n {-tensor.zero_point:+d}))"
        for tensor in (*model.inputs, *model.outputs)
        if tensor.scale
    ]
    if not scales:
        return []
    return [f"Quantized in the file, and served as floats: {', '.join(scales)}; --set quantized=raw serves the n."]


def _look(path: Path) -> None:
    """Raises `ModelFileError` unless `path` is a file of TensorFlow Lite."""
    try:
        if path.is_dir():
            raise ModelFileError(f"{path} is a folder; give the path of the .tflite file in it.")
        if path.stat().st_size == 0:
            raise ModelFileError(f"{path} is empty.")
        if not file.is_model(path):
            raise ModelFileError(f"{path} is no TensorFlow Lite model, or its beginning is lost.")
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist.") from None
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None
