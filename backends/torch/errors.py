"""PyTorch's exceptions as ours: one sentence, without tracebacks of the model's own code or PyTorch's source files."""

from __future__ import annotations

import re
from pathlib import Path

from backends.base import BackendError, InvalidInput, ModelFileError, OutOfMemory

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc|bad alloc", re.IGNORECASE)
_DEVICE = re.compile(r"CUDA error|CUDA driver|cuDNN error|CUBLAS_STATUS|NCCL error|device-side assert", re.IGNORECASE)
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)
_TRACEBACK = re.compile(r"Traceback of TorchScript|The following operation failed in the TorchScript interpreter")
_NAMED = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt): ", re.ASCII)
"""How the line of a traceback begins that says what went wrong."""
_PLACE = re.compile(
    r"^\[[^\]]*(?:fail|error)[^\]]*\]\s*(?:\. )?|^Expected .{0,120}? to be true, but got false\.\s*", re.IGNORECASE
)
_ADVICE = re.compile(
    r"\s*(?:This is an internal miniz|\(Could this error message be|Exception raised from|Compile with `TORCH_USE).*"
)


def of_file(error: Exception, path: Path) -> BackendError:
    """What went wrong with a file: `ModelFileError` or `OutOfMemory`."""
    if isinstance(error, BackendError):
        return error
    if _is_memory(error):
        return OutOfMemory(f"{path.name} does not fit the memory of the device: {reason(error)}")
    if "PytorchStreamReader" in str(error):  # of the archive, which passed our own checks
        return ModelFileError(f"{path.name} is corrupt: {reason(error)} Copy it again.")
    return ModelFileError(f"PyTorch cannot load {path.name}: {reason(error)}")


def of_run(error: Exception) -> BackendError:
    """What went wrong while computing: `InvalidInput`, `OutOfMemory` or `BackendError`.

    A program is a function of its input, so what stops it is the input, unless it is the device.
    """
    if isinstance(error, BackendError):
        return error
    if _is_memory(error):
        return OutOfMemory(f"The model ran out of memory: {reason(error)}")
    own = type(error).__module__ == "torch.jit"  # raised by the program's own code
    if _DEVICE.search(str(error)) or not (own or isinstance(error, _REFUSALS)):
        return BackendError(f"The model failed: {reason(error)}")
    return InvalidInput(f"The model refused its input: {reason(error)}", field="input")


def reason(error: Exception) -> str:
    """The line of the message that says what is wrong, at most 300 characters, ending in a full stop."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    if _TRACEBACK.search(text):  # the last line with the name of an exception
        line = next((line for line in reversed(lines) if _NAMED.match(line)), lines[-1])
    line = _NAMED.sub("", line, count=1) if _NAMED.match(line) else line
    line = _ADVICE.sub("", _PLACE.sub("", line)).strip() or type(error).__name__
    line = line if len(line) <= 300 else f"{line[:299]}…"
    return line if line.endswith((".", "…")) else f"{line}."


def _is_memory(error: Exception) -> bool:
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    return named or isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None
