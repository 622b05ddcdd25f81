"""PyTorch's own files: TorchScript, exported programs and AOTInductor packages, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from backends import labels, pytorch
from backends.base import (
    NO_MATCH,
    PIXEL_MASK,
    BackendError,
    Build,
    Device,
    InvalidOption,
    Match,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
    TensorSpec,
)
from backends.probing import Input, Signature, image_classes, looks_like_images, probe
from backends.pytorch import bound_memory, check_device, limit_threads
from backends.resources import cpu_threads, resident_bytes
from backends.torch import archive, candidates, errors, lists
from backends.torch.archive import Kind
from backends.torch.compiled import CompiledProgram
from backends.torch.options import TorchOptions
from backends.torch.programs import ExportedProgram, Program, ScriptProgram, Source


class TorchBackend(TensorBackend):
    """Owns one program."""

    name = "torch"
    summary = "TorchScript (.pt, .jit), exported programs and AOTInductor packages (.pt2) of PyTorch"
    package = "torch"
    extra = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    Options = TorchOptions

    _program: Program | None = None

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the members of the archive; the extension alone is a guess, and tells of truncated files."""
        named = path.suffix.lower() in archive.SUFFIXES
        try:
            if not path.is_file():
                return NO_MATCH
            found = archive.look(path)
            runs_code = archive.runs_code(path, found)
        except (OSError, ValueError):
            return Match(0.5) if named else NO_MATCH
        if found.kind in (Kind.TRUNCATED, Kind.FOREIGN):
            return Match(0.5) if named else NO_MATCH
        if found.kind is Kind.WEIGHTS:  # so that loading can say what is missing
            return Match(0.7)
        return Match(1.0 if named else 0.9, runs_code)

    @classmethod
    def build(cls) -> Build:
        """By PyTorch's version."""
        return pytorch.build()

    def load(self, path: Path, device: Device, options: TorchOptions) -> ModelInfo:
        """Loads the program and finds the signature by running it. See `Backend.load` for the errors."""
        found = archive.check(path)
        torch = _runtime(device)
        before = _used(torch, device)
        self._torch = torch
        self._threads = cpu_threads(device, options.threads)
        self.threads = self._threads if device.kind == "cpu" else 0
        try:
            program = _open(Source(torch, path, found, device, options, self.trusted))
            extra = labels.unfolded(archive.texts(path, found))
        except Exception as e:
            raise errors.of_file(e, path) from None
        with self._ready(self._threads):
            signature = _signature(program, options)
        self._program = program
        self.parallel = self.threads > 1 and program.parallel
        self._example = signature.example
        self._memory = max(path.stat().st_size, _used(torch, device) - before)
        return _info(program, signature, extra, device, torch.__version__)

    def example(self) -> Tensors:
        """The made-up row on which the program was found to run."""
        return dict(self._example)

    def predict(self, batch: Tensors) -> Tensors:
        """Computes a batch. Raises `InvalidInput` when the program refuses the shapes or values, `OutOfMemory`."""
        return self._predict(batch, self._threads)

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        """As `predict`, on the thread that calls."""
        return self._predict(batch, 1)

    def memory(self) -> int:
        """The growth of the process, or of PyTorch's memory on the GPU, in loading; at least the size of the file."""
        return self._memory

    def close(self) -> None:
        """Frees the program, and the memory of the GPU that PyTorch keeps for the next one."""
        on_gpu = self._program is not None and self._program.source.device.kind == "cuda"
        self._program = None
        if on_gpu:
            self._torch.cuda.empty_cache()

    def _predict(self, batch: Tensors, threads: int) -> Tensors:
        assert self._program is not None
        with self._ready(threads):
            return self._program(batch)

    def _ready(self, threads: int) -> Any:
        """The calling thread computes with so many threads; what is computed in the context needs no gradients."""
        limit_threads(self._torch, threads)
        return self._torch.inference_mode()


# --- the runtime ----------------------------------------------------------------------------------------------------


def _runtime(device: Device) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingRuntime("PyTorch", "torch") from None
    check_device(torch, device)
    bound_memory(torch, device)
    return torch


def _used(torch: Any, device: Device) -> int:
    """Bytes of the device that are in use: by this process, or by PyTorch on the GPU."""
    return int(torch.cuda.memory_allocated(device.index)) if device.kind == "cuda" else resident_bytes()


def _open(source: Source) -> Program:
    if source.archive.kind is Kind.TORCHSCRIPT:
        return ScriptProgram(source)
    if source.archive.kind is Kind.EXPORTED:
        return ExportedProgram(source)
    return CompiledProgram(source)


# --- the signature --------------------------------------------------------------------------------------------------


def _signature(program: Program, options: TorchOptions) -> Signature:
    """The signature with the first inputs on which the program runs. Raises `ModelFileError` when there are none."""
    first: BackendError | None = None
    for inputs in program.inputs():
        try:
            found = _probe(program, inputs, {**program.sizes, **options.dims})
        except (ModelFileError, InvalidOption) as e:
            if program.refusal is not None:  # other inputs would not help
                raise program.refusal from None
            first = first or e
            continue
        program.settle()
        if candidates.tie(inputs, found.example, program):
            found = _probe(program, inputs, {**program.sizes, **options.dims})
        if program.row_lists is not None:
            found.outputs = lists.told(found.outputs)
        return found
    assert first is not None
    if options.dtype != "float32":
        raise InvalidOption(f"With dtype={options.dtype}: {first.message}", field="config.dtype")
    if isinstance(first, InvalidOption) or options.inputs:
        raise first
    raise ModelFileError(
        f"{first.message} If its inputs are others, say what they are: --set 'inputs.NAME.shape=[batch, 3, 224, 224]' "
        "and --set inputs.NAME.dtype=float32."
    )


def _probe(program: Program, inputs: list[Input], sizes: dict[str, int]) -> Signature:
    dims = [list(tensor.dims) for tensor in inputs]
    filled = program.row_lists is not None
    try:
        return probe(inputs, program, sizes, filled=filled)
    except ModelFileError:
        if program.rows.declared <= program.rows.least:
            raise
    program.rows.least = program.rows.declared  # one row alone is filled up
    for tensor, before in zip(inputs, dims, strict=True):
        tensor.dims, tensor.batch_axis = before, None
    return probe(inputs, program, sizes, filled=filled)


def _of_any_size(inputs: Sequence[TensorSpec]) -> bool:
    """Whether a program's one input are pictures of any size."""
    shapes = [spec.shape for spec in inputs]
    return len(shapes) == 1 and len(shapes[0]) == 4 and all(isinstance(dim, str) for dim in shapes[0][2:])


def _info(program: Program, found: Signature, extra: dict[str, str], device: Device, version: str) -> ModelInfo:
    image = image_classes(found.inputs, found.outputs)
    names = labels.named(extra) if image is None else None
    notes = list(program.notes)
    kept = program.list_input is not None and _of_any_size(found.inputs)
    if kept:
        extra = {"unimodel.preprocess": json.dumps({"keep_size": True}), **extra}
    if image is not None:
        names, label_note = labels.find(extra, image)
        notes += [label_note] if label_note else []
    return ModelInfo(
        task="tensor" if image is None else "image-classification",
        inputs=found.inputs,
        outputs=found.outputs,
        optional=(PIXEL_MASK,) if kept else (),
        batchable=found.unbatched_reason is None,
        unbatched_reason=found.unbatched_reason,
        labels=names,
        runtime=f"torch {version}",
        device=str(device),
        metadata={"format": program.kind, **labels.others(extra)},
        findings=(program.told(found.inputs), *(() if image is None else (looks_like_images(image),))),
        notes=tuple(notes),
    )
