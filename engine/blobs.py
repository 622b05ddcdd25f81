"""Files that clients upload, named by their SHA-256, in the server's home::

    blobs/sha256-HEX           a file, whole and checked
    blobs/upload-XXXXXXXX      one that is coming in
    blobs/models/NAME-XXXX/    the files of a model under names of their own: links to those above

A model is registered from its folder of links. What no registered model is loaded from goes when the server starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from engine.errors import BodyTooLarge, InsufficientStorage, InvalidInput
from engine.types import ModelSpec

RESERVE = 256 << 20
"""Bytes of the disk that uploads leave free."""

_BLOCK = 1 << 20
"""Bytes that are written at once."""
_UPLOAD = "upload-"
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PART = re.compile(r"[^./\\\0][^/\\\0]*")
"""Of a file's name: no part of it is hidden, or leads anywhere else."""
_LONGEST_PART = 200
_MOST_PARTS = 8


class Blobs:
    """The uploaded files of one server."""

    def __init__(self, home: Path) -> None:
        self._folder = home.absolute() / "blobs"
        self._models = self._folder / "models"

    def find(self, digest: str) -> Path | None:
        """The file of a digest, if it is here. Raises `InvalidInput` for what is no digest."""
        path = self._path(digest)
        return path if path.is_file() else None

    def _path(self, digest: str) -> Path:
        return self._folder / f"sha256-{_hex(digest)}"

    async def store(self, digest: str, pieces: AsyncIterator[bytes], announced: int, limit: int) -> None:
        """Takes in a file of at most `limit` bytes, or nothing of it; `announced` is its size, 0 if nobody says.

        Raises `InvalidInput` when its digest is another, `BodyTooLarge`, or `InsufficientStorage`.
        """
        wanted = _hex(digest)
        _check_size(announced, limit)
        upload = await asyncio.to_thread(_Upload, self._folder, announced)
        try:
            block = bytearray()
            async for piece in pieces:
                block += piece
                _check_size(upload.size + len(block), limit)
                if len(block) >= _BLOCK:
                    await asyncio.to_thread(upload.write, block)
                    block = bytearray()
            await asyncio.to_thread(upload.finish, block, wanted)
        finally:
            await asyncio.to_thread(upload.close)

    def link(self, model: str, files: Mapping[str, str], field: str) -> Path:
        """A new folder with files under names of their own, given as names with digests.

        Raises `InvalidInput` for a name that is none, or a file that is not here.
        """
        for name, digest in files.items():
            _check_name(name, field)
            folder_of_it = next((str(p) for p in PurePosixPath(name).parents if str(p) in files), None)
            if folder_of_it is not None:
                raise InvalidInput(f"{name} lies in {folder_of_it}, which is a file itself.", field=field)
            if self.find(digest) is None:
                raise InvalidInput(
                    f"The file {digest} of {name} is not here; upload it to /api/blobs/{digest} first.", field=field
                )
        with _storing(self._folder):
            self._models.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{model}-", dir=self._models))
            try:
                for name, digest in files.items():
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.hardlink_to(self._path(digest))
            except BaseException:
                self.unlink(folder)
                raise
        return folder

    def unlink(self, folder: Path) -> None:
        """Removes a folder that `link` made."""
        shutil.rmtree(folder, ignore_errors=True)

    def prune(self, specs: Iterable[ModelSpec]) -> None:
        """Removes what none of these models is loaded from, and uploads that broke off. Not while any is coming in."""
        if not self._folder.is_dir():
            return
        used = {
            text for spec in specs for text in (spec.path, *_texts(spec.config)) if text.startswith(str(self._folder))
        }
        with contextlib.suppress(OSError):  # of a disk that is read-only: then all of it stays
            for folder in self._models.iterdir() if self._models.is_dir() else ():
                if not any(text == str(folder) or text.startswith(f"{folder}{os.sep}") for text in used):
                    self.unlink(folder)
            for file in self._folder.iterdir():
                if file.is_file() and file.stat().st_nlink == 1 and str(file) not in used:
                    file.unlink()


class _Upload:
    """One file that is coming in. Its methods run in threads; the lock keeps a late one off a closed file."""

    def __init__(self, folder: Path, announced: int) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._sha = hashlib.sha256()
        self.size = 0
        with _storing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_room(announced)
            self._path = folder / f"{_UPLOAD}{secrets.token_hex(8)}"
            self._file = self._path.open("xb", buffering=0)

    def _check_room(self, more: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < more + RESERVE:
            raise InsufficientStorage(
                f"The file needs {more >> 20} MiB more, and the disk of {self._folder} has {free >> 20} MiB free, of "
                f"which {RESERVE >> 20} MiB must stay so."
            )

    def write(self, block: bytes | bytearray) -> None:
        """Adds to the file."""
        with self._lock, _storing(self._folder):
            self._check_room(len(block))
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
            self._sha.update(block)
            self.size += len(block)

    def finish(self, block: bytes | bytearray, wanted: str) -> None:
        """Adds the last of it, and gives it its name. Raises `InvalidInput` when its digest is another."""
        self.write(block)
        found = self._sha.hexdigest()
        if found != wanted:
            raise InvalidInput(
                f"The file has the digest sha256:{found}, and sha256:{wanted} was announced.", field="digest"
            )
        with self._lock, _storing(self._folder):
            os.fsync(self._file.fileno())
            self._path.replace(self._folder / f"sha256-{wanted}")

    def close(self) -> None:
        """Removes it, unless it was finished."""
        with self._lock:
            self._file.close()
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "its disk is full" if full else str(e.strerror)
        raise InsufficientStorage(f"The file cannot be stored in {folder}: {reason}.") from None


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(
            f"The file has more than {limit >> 20} MiB; upload a smaller one or raise server.max_upload_mb.",
            field="body",
        )


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidInput(f"A digest is sha256: and 64 hexadecimal digits; got {digest[:100]!r}.", field="digest")
    return match[1].lower()


def _check_name(name: str, field: str) -> None:
    """Raises `InvalidInput` unless a file of that name stays below its folder."""
    parts = name.split("/")
    if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(p) and len(p.encode()) <= _LONGEST_PART for p in parts):
        raise InvalidInput(
            f"{name[:100]!r} cannot be the name of a file: it is a relative path without hidden parts.", field=field
        )


def _texts(value: Any) -> Iterator[str]:
    """All texts in the options of a model."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
