"""Recognises and reads the files of scikit-learn models: pickle, joblib (compressed or not) and skops."""

from __future__ import annotations

import bz2
import lzma
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

from backends import archives
from backends.base import (
    NO_MATCH,
    BackendError,
    Match,
    MissingRuntime,
    ModelFileError,
    OutOfMemory,
    UntrustedFile,
)

PICKLE_SUFFIXES = (".joblib", ".pkl", ".pickle")
_LIBRARIES = (b"sklearn", b"xgboost", b"lightgbm", b"catboost", b"imblearn")
"""Modules whose estimators speak scikit-learn's interface; their names stand near the start of a pickle."""

_HEAD = 1 << 16
_SCHEMA = "schema.json"
_LZ4 = b"\x04\x22\x4d\x18"
_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"
"""The start of PyTorch's old format, which is a pickle as well."""


def sniff(path: Path) -> Match:
    """How sure it is that `path` is a scikit-learn model. Reads the start of the file, imports no runtime."""
    try:
        if not path.is_file():
            return NO_MATCH
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return NO_MATCH
    if is_skops(path):
        return Match(0.95)
    by_suffix = path.suffix.lower() in PICKLE_SUFFIXES
    start = _decompressed(head)
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and not start.startswith(_TORCH):
        known = any(library in start for library in _LIBRARIES)
        confidence = 0.95 if known else 0.9 if by_suffix else 0.6
    else:
        confidence = 0.5 if by_suffix else 0.0
    if not confidence:
        return NO_MATCH
    return Match(confidence, f"{path.name} is a pickle: loading it runs whatever code its author put in.")


def is_skops(path: Path) -> bool:
    """Whether `path` is a zip file with skops' schema inside."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _SCHEMA in archive.namelist()
    except (OSError, *archives.DAMAGE):
        return False


def _decompressed(head: bytes) -> bytes:
    """The first bytes of the content, if `head` begins a compressed joblib file; else `head`."""
    try:
        if head[:1] == b"\x78":
            return zlib.decompressobj().decompress(head, _HEAD)
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, _HEAD)
        if head.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor().decompress(head, _HEAD)
    except (zlib.error, OSError, lzma.LZMAError, EOFError):
        return b""
    return head


def read(path: Path, *, trusted: bool) -> tuple[Any, tuple[str, ...]]:
    """The object in the file, and notes for the user. Raises `ModelFileError`, `MissingRuntime` or `UntrustedFile`."""
    match = sniff(path)
    if not match.confidence:
        problem = "there is no such file" if not path.exists() else "it is not a pickle, joblib or skops file"
        raise ModelFileError(f"{path} is not a scikit-learn model: {problem}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = _read_pickle(path) if match.runs_code else _read_skops(path, trusted)
        except BackendError:
            raise
        except Exception as e:
            raise _failure(path, e) from e
    return model, _notes(caught)


def _read_pickle(path: Path) -> Any:
    try:
        import joblib
        import sklearn  # noqa: F401 - an import error inside the pickle would be harder to understand
    except ImportError:
        raise MissingRuntime("scikit-learn", "sklearn") from None
    return joblib.load(path)


def _read_skops(path: Path, trusted: bool) -> Any:
    try:
        import skops.io
    except ImportError:
        raise MissingRuntime("skops", "sklearn") from None
    with zipfile.ZipFile(path) as archive:
        archives.check(archive, path.name, (_SCHEMA,))
    untrusted = skops.io.get_untrusted_types(file=path)
    if untrusted and not trusted:
        raise UntrustedFile(
            f"{path.name} holds types that the safe format does not vouch for: {', '.join(untrusted)}. If you trust "
            "its author, register it with --trust."
        )
    return skops.io.load(path, trusted=untrusted)


def _failure(path: Path, error: Exception) -> BackendError:
    text = str(error).strip()
    if isinstance(error, ModuleNotFoundError):
        return ModelFileError(
            f"{path.name} needs the Python module {error.name!r}, which is not installed beside the server; install "
            "the package that has it."
        )
    if isinstance(error, MemoryError):
        return OutOfMemory(f"{path.name} does not fit the memory.")
    if isinstance(error, AttributeError) and "__main__" in text:
        return ModelFileError(
            f"{path.name} was saved by a script or notebook that defined its own class or function ({text}). Move that "
            "definition into a module that the server can import, and save the model again."
        )
    if isinstance(error, AttributeError | ImportError):
        return ModelFileError(f"{path.name} was saved with other versions of its libraries than are installed: {text}.")
    if "LZ4" in text:
        return ModelFileError(f"{path.name} is compressed with lz4, which is not installed: pip install lz4.")
    details = f": {text[:200]}" if text else ""
    return ModelFileError(f"{path.name} is truncated or corrupt ({type(error).__name__}{details}).")


def _notes(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """What was warned of while reading, each thing once."""
    notes: dict[str, None] = {}
    for warning in caught:
        written = getattr(warning.message, "original_sklearn_version", None)
        if written is None:
            notes[str(warning.message).strip().splitlines()[0]] = None
        else:
            installed = getattr(warning.message, "current_sklearn_version", "another version")
            notes[
                f"The file was saved with scikit-learn {written} and is read by {installed}; its answers may differ. "
                f"Save it again, or install scikit-learn=={written}."
            ] = None
    return tuple(notes)
