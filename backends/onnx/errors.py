"""onnxruntime's exceptions as ours: one sentence, without the names of its own source files."""

from __future__ import annotations

import re
from pathlib import Path

from backends.base import BackendError, InvalidInput, ModelFileError, OutOfMemory
from backends.onnx.file import Kind

_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |^Load model from .*? failed:\s*", re.DOTALL)
_PLACE = re.compile(  # "core/graph/graph.cc:182 void onnxruntime::Graph::Resolve(…) const [with T = float] "
    r"[\w./-]+\.(?:cc|cpp|cu|cuh|h|hpp):\d+ (?:[\w:<>,&*~ ]+\(.*?\)(?: const)?(?: \[.*?\])? |\w+ )", re.DOTALL
)
_CHECK = re.compile(r"^.*? was false\. ", re.DOTALL)
_NO_MEMORY = re.compile(r"failed to allocate|out of memory|bad_alloc|bad alloc|AllocateRawInternal", re.IGNORECASE)


def of_file(error: Exception, path: Path, kind: Kind) -> BackendError:
    """What went wrong with a file: `ModelFileError` or `OutOfMemory`."""
    if _is_memory(error):
        return OutOfMemory(f"{path.name} does not fit the memory of the device: {reason(error)}")
    if kind is Kind.TRUNCATED:
        return ModelFileError(f"{path} is truncated: it ends before the model does. Copy it again.")
    if kind is Kind.FOREIGN:
        return ModelFileError(f"{path} is not an ONNX model.")
    if isinstance(error, UnicodeDecodeError) or "Protobuf parsing failed" in str(error):
        return ModelFileError(f"{path} is corrupt: it cannot be parsed as an ONNX model. Copy it again.")
    return ModelFileError(f"onnxruntime cannot load {path.name}: {reason(error)}")


def of_run(error: Exception) -> BackendError:
    """What went wrong while computing: `InvalidInput`, `OutOfMemory` or `BackendError`."""
    if _is_memory(error):
        return OutOfMemory(f"The model ran out of memory: {reason(error)}")
    if type(error).__name__ == "InvalidArgument":
        return InvalidInput(f"The model refused its input: {reason(error)}", field="input")
    return BackendError(f"The model failed: {reason(error)}")


def reason(error: Exception) -> str:
    """The first line of the message that is meant for people, at most 300 characters, ending in a full stop."""
    text = str(error)
    for pattern in (_PREFIX, _PREFIX, _PLACE, _CHECK):
        text = pattern.sub("", text)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    line = line if len(line) <= 300 else f"{line[:299]}…"
    return line if line.endswith((".", "…")) else f"{line}."


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None
