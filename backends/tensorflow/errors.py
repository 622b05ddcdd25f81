"""TensorFlow's exceptions as ours: one sentence, without nodes and stacks."""

from __future__ import annotations

import re
from pathlib import Path

from backends.base import BackendError, InvalidInput, ModelFileError, OutOfMemory

_NOISE = re.compile(
    r"\s*(\[\[.*?\]\]|\[Op:[^\]]*\]|\(?(?:defined at|Original stack trace for) .*|Hint: If you want to see.*)\s*",
    re.DOTALL,
)
_NODE = re.compile(r"^Node: '.*'$", re.MULTILINE)
_NO_OP = re.compile(r"Op type not registered '([^']*)'")


def of_file(error: Exception, path: Path) -> BackendError:
    """What went wrong with a file: `ModelFileError` or `OutOfMemory`."""
    if isinstance(error, BackendError):
        return error
    if _is_memory(error):
        return OutOfMemory(f"{path.name} does not fit the memory of the device: {reason(error)}")
    found = _NO_OP.search(str(error))
    if found:
        return ModelFileError(
            f"{path.name} needs the operation {found[1]!r}, which the installed TensorFlow does not have: it is of "
            "another package or version, or the file is corrupt."
        )
    return ModelFileError(f"TensorFlow cannot load {path.name}: {reason(error)} If it was copied, copy it again.")


def of_run(error: Exception) -> BackendError:
    """What went wrong while computing: `InvalidInput`, `OutOfMemory` or `BackendError`."""
    if isinstance(error, BackendError):
        return error
    if _is_memory(error):
        return OutOfMemory(f"The model ran out of memory: {reason(error)}")
    if type(error).__name__ in ("InvalidArgumentError", "ValueError", "TypeError", "OutOfRangeError"):
        return InvalidInput(f"The model refused its input: {reason(error)}", field="input")
    return BackendError(f"The model failed: {reason(error)}")


def reason(error: Exception) -> str:
    """The line of the message that is meant for people, at most 300 characters, ending in a full stop."""
    text = str(getattr(error, "message", None) or error)
    nodes = list(_NODE.finditer(text))
    if nodes:
        text = text[nodes[-1].end() :]
    text = text.replace("Graph execution error:", "")
    lines = (re.sub(r"^\(\d+\) \w+: ", "", line.strip()) for line in _NOISE.sub("\n", text).splitlines())
    line = next((line for line in lines if line and "root error(s) found" not in line), type(error).__name__)
    line = line if len(line) <= 300 else f"{line[:299]}…"
    return line if line.endswith((".", "…")) else f"{line}."


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
