"""A TensorFlow Lite model in LiteRT's interpreter: one signature of it, for inputs of any shape that it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends import chatter
from backends.base import (
    BackendError,
    InvalidInput,
    InvalidOption,
    MissingRuntime,
    ModelFileError,
    OutOfMemory,
    Tensors,
)
from backends.tflite.tensors import Array, Quantized, describe

DEFAULT = "serving_default"
"""The signature that most files have."""
_CHATTER = re.compile(rb"INFO: |WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d{2}\S* +\d+ [\w./-]+:")
_SOURCE = re.compile(r"(?:\./)?[\w/.-]+\.(?:cc|h):\d+ ")
_SELECT = re.compile(r"Select TensorFlow op\(s\)|Flex")
_CUSTOM = re.compile(r"(?:unresolved custom op|custom op): (\S+)", re.IGNORECASE)


class LiteModel:
    """Owns one interpreter.

    It prepares itself for the shapes of its inputs, and keeps the memory of the largest: going back to a smaller batch
    costs next to nothing. Raises `ModelFileError`, `InvalidOption` or `MissingRuntime`; a file that is damaged may end
    the process (see `backends.tflite.rehearsal`).
    """

    def __init__(self, path: Path, threads: int, signature: str | None, quantized: Quantized) -> None:
        interpreter = _interpreter_class()
        try:
            with chatter.without(_CHATTER):
                self._interpreter = interpreter(model_path=str(path), num_threads=threads)
                self.signatures = sorted(self._interpreter.get_signature_list())
                self._interpreter.allocate_tensors()
        except Exception as e:
            raise _of_file(e, path) from None
        self.signature = _choose(self.signatures, signature)
        self._runner = self._interpreter.get_signature_runner(self.signature) if self.signature else None
        inputs, outputs = self._details()
        self.inputs = tuple(describe("Input", name, each, quantized) for name, each in inputs)
        self.outputs = tuple(describe("Output", name, each, quantized) for name, each in outputs)
        if not self.inputs or not self.outputs:
            raise ModelFileError(
                f"{path.name} has no {'outputs' if self.inputs else 'inputs'}, so it cannot be served."
            )
        if self._runner is not None and self._is_main(inputs, outputs):
            self._runner = None  # the interpreter's own functions mind no name of an input
        self._shapes: list[tuple[int, ...]] = []

    def run(self, batch: Tensors) -> Tensors:
        """The outputs for a batch, as arrays of their own."""
        given = [tensor.to_model(batch[tensor.name]) for tensor in self.inputs]
        try:
            results = self._compute(given)
        except Exception as e:
            raise _of_run(e) from None
        return {t.name: t.to_user(result) for t, result in zip(self.outputs, results, strict=True)}

    def _compute(self, given: Sequence[Array]) -> list[Array]:
        if self._runner is not None:
            answer = self._runner(**{t.name: array for t, array in zip(self.inputs, given, strict=True)})
            return [answer[tensor.name] for tensor in self.outputs]
        shapes = [array.shape for array in given]
        if shapes != self._shapes:
            self._shapes = []
            for tensor, shape in zip(self.inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(tensor.index, shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        self._interpreter.reset_all_variables()  # a call knows nothing of the one before
        for tensor, array in zip(self.inputs, given, strict=True):
            self._interpreter.set_tensor(tensor.index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(tensor.index) for tensor in self.outputs]

    def _details(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        """Names and LiteRT's details of inputs and outputs: the signature's, if there is one."""
        if self._runner is not None:
            return sorted(self._runner.get_input_details().items()), sorted(self._runner.get_output_details().items())
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        return _named(inputs), _named(outputs)

    def _is_main(self, inputs: list[tuple[str, Any]], outputs: list[tuple[str, Any]]) -> bool:
        """Whether the signature is of the graph that the interpreter itself runs."""
        own = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        return all(
            {(d["index"], d["name"]) for _, d in named} == {(d["index"], d["name"]) for d in details}
            for named, details in zip((inputs, outputs), own, strict=True)
        )


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingRuntime("ai-edge-litert", "tflite") from None
    return Interpreter


def version() -> str:
    """LiteRT's."""
    from importlib.metadata import version

    return version("ai-edge-litert")


def _choose(signatures: Sequence[str], wanted: str | None) -> str | None:
    if wanted is not None and wanted not in signatures:
        raise InvalidOption(
            f"There is no signature {wanted!r} in this model; it has: {', '.join(signatures) or 'none'}.",
            field="config.signature",
        )
    return wanted or next((name for name in (DEFAULT, *signatures) if name in signatures), None)


def _named(details: Sequence[Any]) -> list[tuple[str, Any]]:
    """Tensors by their names, made different where they are not."""
    named: dict[str, Any] = {}
    for each in details:
        name = next(
            n for i in range(len(details) + 1) if (n := f"{each['name']}_{i}" if i else each["name"]) not in named
        )
        named[name] = each
    return list(named.items())


# --- errors ---------------------------------------------------------------------------------------------------------


def _of_file(error: Exception, path: Path) -> BackendError:
    text = str(error)
    if isinstance(error, BackendError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory(f"{path.name} does not fit the memory.")
    if _SELECT.search(text):
        return ModelFileError(
            f"{path.name} uses operations of TensorFlow itself (Select TF ops), which LiteRT lacks. Convert it with "
            "builtin operations alone, or serve the SavedModel that it was converted from."
        )
    custom = _CUSTOM.search(text)
    if custom:
        return ModelFileError(f"{path.name} uses the custom operation {custom[1].rstrip('.')!r}, which LiteRT lacks.")
    if "not a valid Flatbuffer" in text or "model allocation is null" in text:
        return ModelFileError(f"{path} is truncated or corrupt: it is no TensorFlow Lite model. Copy it again.")
    return ModelFileError(f"LiteRT cannot load {path.name}: {_reason(error)}")


def _of_run(error: Exception) -> BackendError:
    if isinstance(error, BackendError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("The model ran out of memory.")
    return InvalidInput(f"The model refused its input: {_reason(error)}", field="input")


def _reason(error: Exception) -> str:
    """The first line of the message, without the names of LiteRT's source files, ending in a full stop."""
    lines = [line.strip() for line in _SOURCE.sub("", str(error)).splitlines() if line.strip()]
    line = lines[0][:300] if lines else type(error).__name__
    line = re.sub(r"(?<=[.)\w])(Node number \d+ \(\w+\))", r". \1", line)
    return line if line.endswith(".") else f"{line}."
