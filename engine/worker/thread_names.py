"""Names the threads of a worker, for `top -H` and its like: after their model, with a mark while they compute."""

from __future__ import annotations

import ctypes

RUN = "/run"
"""Marks threads that compute whenever they are runnable: those that a runtime made always, and those that call it only
in the turn of their model."""
_LONGEST = 15
"""Bytes that Linux has for a name."""
_SET_NAME, _GET_NAME = 15, 16
_prctl = ctypes.PyDLL(None).prctl  # keeps the interpreter's lock, which may take long to get back
_prctl.argtypes = [ctypes.c_int, ctypes.c_char_p]


def name_thread(name: str, mark: str = "") -> None:
    """Names this thread. Those that it makes inherit the name."""
    _set(name.encode(), mark.encode())


def mark_thread(mark: str) -> bytes:
    """Adds a mark, unless it is there already, to the name of this thread. The name as it was, for `restore_name`."""
    name = ctypes.create_string_buffer(_LONGEST + 1)
    _prctl(_GET_NAME, name)
    _set(name.value.removesuffix(mark.encode()), mark.encode())
    return name.value


def restore_name(name: bytes) -> None:
    """Names this thread as it was before it was marked."""
    _prctl(_SET_NAME, name)


def _set(name: bytes, mark: bytes) -> None:
    _prctl(_SET_NAME, name[: _LONGEST - len(mark)] + mark)
