"""What a look at a ``.tflite`` file tells: whether it is one, and the labels that are packed with it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from backends import archives

SUFFIX = ".tflite"
_MAGIC = b"TFL3"
_LARGEST_LABELS = 1 << 20
_MOST_FILES = 16


def is_model(path: Path) -> bool:
    """Whether a file has the identifier of TensorFlow Lite. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return file.read(8)[4:] == _MAGIC


def labels(path: Path, count: int) -> tuple[str, ...] | None:
    """The names of `count` classes, if just one text file with as many lines is packed with the model."""
    lists = (tuple(line.strip() for line in text.splitlines()) for text in texts(path).values())
    fitting = [lines for lines in lists if len(lines) == count]
    return fitting[0] if len(fitting) == 1 else None


def texts(path: Path) -> dict[str, str]:
    """The texts that are packed with the model, by the name of their file without its suffix.

    Tools for TensorFlow Lite append such files as a zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()[:_MOST_FILES]
            named = [part for part in parts if part.filename.endswith((".txt", ".json"))]
            short = [part for part in named if part.file_size <= _LARGEST_LABELS]
            return {Path(part.filename).stem: archive.read(part).decode() for part in short}
    except (OSError, *archives.DAMAGE):
        return {}
