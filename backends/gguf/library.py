"""llama.cpp in this process: imported when the first model needs it, started once, its messages in our log."""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import re
import threading
from typing import Any

from backends import builds
from backends.base import Build, Device, MissingRuntime

_REMEDY = "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
log = logging.getLogger("unimodel.llama")

_INFO, _WARNING, _ERROR = 2, 3, 4
"""Of ggml's levels."""
_BUFFER = re.compile(r" buffer size = +([\d.]+) MiB")


class Library:
    """The functions of llama.cpp, by llama-cpp-python's low-level bindings, and what it said last."""

    def __init__(self, api: Any, version: str) -> None:
        self.api = api
        self.version = version
        self._thread = threading.local()
        self._callback = api.llama_log_callback(self._note)  # kept: the library holds no reference to it
        api.llama_log_set(self._callback, None)
        api.llama_backend_init()

    def forget_errors(self) -> None:
        """Begins anew for `last_error`."""
        self._thread.error = ""

    def listen_to(self, set_log: Any) -> None:
        """Takes the messages of another library of llama.cpp's, by its function for that."""
        set_log(self._callback, None)

    @property
    def allocated(self) -> int:
        """Bytes of all buffers that the library ever said it allocated on this thread."""
        allocated: int = getattr(self._thread, "allocated", 0)
        return allocated

    @property
    def last_error(self) -> str:
        """What the library complained about last on this thread, as a sentence; else an empty text."""
        error: str = getattr(self._thread, "error", "")
        return error

    def _note(self, level: int, text: bytes | None, _data: Any) -> None:
        if level not in (_INFO, _WARNING, _ERROR) or not text:
            return
        line = text.decode("utf-8", "replace").strip()
        if level == _ERROR:
            log.warning("%s", line)  # whether it is an error for us, its caller knows
            self._thread.error = _sentence(line)
        elif level == _WARNING:
            log.info("%s", line)  # these are about tuning, and come with each load
        elif found := _BUFFER.search(line):
            self._thread.allocated = self.allocated + int(float(found[1]) * 2**20)


@functools.cache
def library() -> Library:
    """The library of this process. Raises `MissingRuntime`."""
    try:
        api = importlib.import_module("llama_cpp.llama_cpp")
        version = importlib.import_module("llama_cpp").__version__
    except ModuleNotFoundError as e:
        raise MissingRuntime("llama-cpp-python", "gguf") from e
    return Library(api, version)


def build() -> Build:
    """What the installed llama.cpp was built for, by the libraries in its package."""
    libraries = builds.folder("llama_cpp") / "lib"
    if any(libraries.glob("libggml-cuda.so*")):
        return Build(("cpu", "cuda"))
    others = {path.name.split(".")[0] for path in libraries.glob("libggml*")} - {"libggml", "libggml-base"}
    if others and all(name.startswith("libggml-cpu") for name in others):
        return Build(("cpu",), remedy=_REMEDY)
    return Build(("cpu",), ("cuda",))  # all in one library, which may come from elsewhere


def check_device(api: Any, device: Device) -> None:
    """Raises `InvalidOption` for a GPU that llama.cpp cannot use."""
    if device.kind == "cuda" and not api.llama_supports_gpu_offload():
        raise builds.no_gpu("llama-cpp-python", _REMEDY)


def text_of(value: bytes | None) -> str:
    """A C string as text; empty for a null pointer."""
    return value.decode("utf-8", "replace") if value else ""


def filled(call: Any, size: int = 256) -> bytes | None:
    """What a function of the kind ``f(buffer, size) -> length`` writes; `None` when it has nothing to say.

    A length that does not fit the buffer, or is negative, is the size that it needs.
    """
    buffer = ctypes.create_string_buffer(size)
    length = call(buffer, size)
    if length < -1 or length >= size:
        size = abs(length) + 1
        buffer = ctypes.create_string_buffer(size)
        length = call(buffer, size)
    return buffer.raw[:length] if length >= 0 else None


def _sentence(line: str) -> str:
    """Without the name of the C++ function that wrote it."""
    name, colon, rest = line.partition(": ")
    text = rest if colon and " " not in name and rest else line
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!")) else ".")
