"""What a look at a ``.tflite`` file tells: whether it is one, and the labels that are packed with it."""

from __future__ import annotations

import zipfile
from pathlib import Path

SUFFIX = ".tflite"
_MAGIC = b"TFL3"
_LARGEST_LABELS = 1 << 20


def is_model(path: Path) -> bool:
    """Whether a file has the identifier of TensorFlow Lite. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return file.read(8)[4:] == _MAGIC


def labels(path: Path, count: int) -> tuple[str, ...] | None:
    """The names of `count` classes, if a text file with as many lines is packed with the model.

    Tools for TensorFlow Lite append such files as a zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [
                archive.read(part).decode().splitlines()
                for part in archive.infolist()
                if part.filename.endswith(".txt") and part.file_size <= _LARGEST_LABELS
            ]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError):
        return None
    fitting = [tuple(line.strip() for line in lines) for lines in texts if len(lines) == count]
    return fitting[0] if len(fitting) == 1 else None
