"""What a look at a file or folder tells, without TensorFlow: what kind it is, and whether loading it can run code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from backends import archives
from backends.base import NO_MATCH, Match, ModelFileError
from backends.tensorflow import saved_model

SUFFIX = ".keras"
H5_SUFFIXES = (".h5", ".hdf5")

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAD = 1 << 16
_CONFIG, _METADATA = "config.json", "metadata.json"

_PIXEL_SCALE = 1 / 100
"""What a layer that takes pixels multiplies them with at most: 1/127.5 and 1/255 are usual."""

_CODE = {
    "Lambda": "a Lambda layer, which is Python code",
    "__lambda__": "a lambda, which is Python code",
    "TorchModuleWrapper": "a pickled PyTorch module",
    "TFSMLayer": "a layer that loads a SavedModel from elsewhere",
    "JaxLayer": "a layer of JAX code",
    "FlaxLayer": "a layer of JAX code",
}
"""Classes of Keras with which a file brings code of its author."""


class Kind(Enum):
    """The answer of `look`."""

    SAVED_MODEL = "a SavedModel folder"
    KERAS = "a Keras 3 archive"
    H5 = "a Keras model in HDF5"
    FOREIGN = "something else"


def sniff(path: Path) -> Match:
    """How sure it is that `path` is a model for TensorFlow."""
    named = path.suffix.lower() == SUFFIX
    try:
        kind = look(path)
    except (OSError, ValueError):
        return NO_MATCH
    if kind is Kind.FOREIGN:
        return Match(0.5) if named and path.is_file() else NO_MATCH
    if kind is Kind.SAVED_MODEL:
        return Match(0.95)
    if kind is Kind.H5:
        return Match(0.9)
    try:
        code = code_in(read_config(path))
    except ModelFileError:  # loading it will say so
        code = None
    return Match(1.0 if named else 0.9, code and f"{path.name} has {code}.")


def look(path: Path) -> Kind:
    """What `path` is. Raises `OSError` when it cannot be read."""
    if path.is_dir():
        if any((path / name).is_file() for name in (saved_model.FILE, saved_model.TEXT)):
            return Kind.SAVED_MODEL
        return Kind.FOREIGN
    if not path.is_file():
        return Kind.FOREIGN
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_HDF5):
        return Kind.H5 if b"keras_version" in head or b"model_config" in head else Kind.FOREIGN
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
        except archives.DAMAGE:
            return Kind.FOREIGN
        return Kind.KERAS if {_CONFIG, _METADATA} <= names else Kind.FOREIGN
    return Kind.FOREIGN


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a Keras archive, after a look at what else is in there. Raises `ModelFileError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            archives.check(archive, path.name, (_CONFIG, _METADATA))
            config = json.loads(archive.read(_CONFIG))
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror or e}.") from None
    except archives.DAMAGE:
        raise ModelFileError(f"{path} is truncated or corrupt: it is no Keras archive. Copy it again.") from None
    if not isinstance(config, dict):
        raise ModelFileError(f"{path} is corrupt: its {_CONFIG} is no object. Copy it again.")
    return config


def code_in(config: Any) -> str | None:
    """What in a configuration of Keras brings code, in words; `None` when nothing does."""
    return next((_CODE[part["class_name"]] for part in _objects(config) if part["class_name"] in _CODE), None)


def scales_pixels(config: Any) -> bool:
    """Whether a layer of a configuration brings pixels of 0 to 255 into the range that the others take."""
    scales = (part.get("config", {}).get("scale") for part in _objects(config) if part["class_name"] == "Rescaling")
    return any(isinstance(scale, int | float) and abs(scale) <= _PIXEL_SCALE for scale in scales)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Layers and whatever else has a class."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
