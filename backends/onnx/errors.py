"""onnxruntime's exceptions as ours: one sentence, without the names of its own source files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.base import BackendError, InvalidInput, ModelFileError, OutOfMemory
from backends.onnx.file import Kind

_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |^Load model from .*? failed:\s*", re.DOTALL)
_PLACE = re.compile(  # "core/graph/graph.cc:182 void onnxruntime::Graph::Resolve(…) const [with T = float] "
    r"[\w./-]+\.(?:cc|cpp|cu|cuh|h|hpp):\d+ (?:[\w:<>,&*~ ]+\(.*?\)(?: const)?(?: \[.*?\])? |\w+ )", re.DOTALL
)
_CHECK = re.compile(r"^.*? was false\. ", re.DOTALL)
_NO_MEMORY = re.compile(r"failed to allocate|out of memory|bad_alloc|bad alloc|AllocateRawInternal", re.IGNORECASE)


@contextmanager
def of_file(path: Path, kind: Kind = Kind.ONNX) -> Iterator[None]:
    """Turns what goes wrong with a file into `ModelFileError` or `OutOfMemory`."""
    try:
        yield
    except BackendError:
        raise
    except Exception as e:
        if _is_memory(e):
            raise OutOfMemory(f"{path.name} does not fit the memory of the device: {reason(e)}") from None
        if kind is Kind.TRUNCATED:
            raise ModelFileError(f"{path} is truncated: it ends before the model does. Copy it again.") from None
        if kind is Kind.FOREIGN:
            raise ModelFileError(f"{path} is not an ONNX model.") from None
        if isinstance(e, UnicodeDecodeError) or "Protobuf parsing failed" in str(e):
            raise ModelFileError(f"{path} is corrupt: it cannot be parsed as an ONNX model. Copy it again.") from None
        raise ModelFileError(f"onnxruntime cannot load {path.name}: {reason(e)}") from None


@contextmanager
def of_run() -> Iterator[None]:
    """Turns what goes wrong while computing into `InvalidInput`, `OutOfMemory` or `BackendError`."""
    try:
        yield
    except Exception as e:
        if _is_memory(e):
            raise OutOfMemory(f"The model ran out of memory: {reason(e)}") from None
        if type(e).__name__ == "InvalidArgument":
            raise InvalidInput(f"The model refused its input: {reason(e)}", field="input") from None
        raise BackendError(f"The model failed: {reason(e)}") from None


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
