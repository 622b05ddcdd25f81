"""Zip archives that are not to be trusted: what reading them raises, and what they would unpack to."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

from backends.base import ModelFileError

_BOMB = 64 << 20
_RATIO = 100
"""A part of more than `_BOMB` bytes must not be more than `_RATIO` times as large as it is compressed, which weights
hardly can be."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises, besides `OSError`, when it reads an archive that is truncated or corrupt, encrypted or
compressed in an unusual way, or lacks the member that it was asked for."""


def check(archive: zipfile.ZipFile, name: str, texts: tuple[str, ...]) -> None:
    """Raises `ModelFileError` for an archive that would fill the memory, or unpack outside its folder. `name` is the
    file's; `texts` are the parts that are read whole as JSON, which takes many times their size."""
    for part in archive.infolist():
        if part.file_size > _BOMB and part.file_size > _RATIO * part.compress_size:
            raise ModelFileError(
                f"{name} is refused: {part.filename} in it would unpack to {part.file_size >> 20} MiB from "
                f"{part.compress_size >> 10} KiB."
            )
        if part.filename in texts and part.file_size > _BOMB:
            raise ModelFileError(f"{name} is damaged or malicious: its {part.filename} is larger than 64 MiB.")
        if part.filename.startswith("/") or ".." in part.filename.replace("\\", "/").split("/"):
            raise ModelFileError(f"{name} is refused: {part.filename!r} in it would unpack outside its folder.")
