"""The options that all models in Hugging Face folders have in common."""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.base import InvalidOption

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class TransformersOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a model in a Hugging Face folder."""

    threads: int | None = None
    """CPU threads for one call; all of the worker's when not given, and never more."""
    dtype: Dtype = "auto"
    """The type that the model computes in. ``auto`` is float32 on the CPU, unless the model only fits as it is stored,
    and as it is stored on a GPU."""

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        at_least("threads", self.threads, 1)


class TextOptions(TransformersOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a model that reads texts whole."""

    max_context_length: int | None = None
    """Tokens of the longest text; as the folder says when not given."""
    truncate: bool = False
    """Whether a text that is too long loses its end, instead of being an error."""

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        super().check()
        at_least("max_context_length", self.max_context_length, 8)


def at_least(name: str, value: int | None, low: int) -> None:
    """Raises `InvalidOption` for an option that is given, and lower."""
    if value is not None and value < low:
        raise InvalidOption(f"Option {name} must be at least {low}; got {value}.", field=f"config.{name}")
