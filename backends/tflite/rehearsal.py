"""Tries out a model in a process of its own: LiteRT ends the process on some files that are damaged.

It checks that a file is a flatbuffer, but not all of what its operations take for granted of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from backends import rehearsal
from backends.base import Device, ModelFileError

_SECONDS = 120.0


def free_batch(path: Path, options: msgspec.Struct) -> bool:
    """Whether the model may be asked to take any number of rows, where its file says one: some crash on that.

    Raises `ModelFileError` if the model crashes or hangs anyway.
    """
    for free in (True, False):
        arguments = [str(path), msgspec.json.encode(options).decode(), str(int(free))]
        ending = rehearsal.rehearse(__name__, arguments, seconds=_SECONDS).ending
        if ending == "hung":
            raise ModelFileError(f"{path} is damaged, or too slow: it did not compute a row in {_SECONDS:g} seconds.")
        if ending != "died":
            return free
    raise ModelFileError(f"{path} is damaged, or of a kind that LiteRT cannot run: it crashes. Copy it again.")


def main() -> None:
    """Loads and runs; in the child."""
    from backends.tflite.backend import TfliteBackend, TfliteOptions

    path, options, free = sys.argv[1:]
    backend = TfliteBackend()
    own = msgspec.json.decode(options, type=TfliteOptions)
    rehearsal.perform(lambda: backend.open(Path(path), Device("cpu"), own, free_batch=free == "1"))


if __name__ == "__main__":
    main()
