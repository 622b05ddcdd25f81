"""Options that a model's own files carry for the task that serves it: JSON in the metadata, by a key of each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from backends.base import ModelFileError

T = TypeVar("T", bound=msgspec.Struct)


def options_in(metadata: Mapping[str, str], key: str, kind: type[T]) -> T | None:
    """The options under `key`; `None` when there are none. Raises `ModelFileError` when they are not valid."""
    if key not in metadata:
        return None
    try:
        return msgspec.json.decode(metadata[key], type=kind)
    except msgspec.DecodeError as e:
        raise ModelFileError(f"The model's metadata {key} is not valid: {e}.") from None
