"""The options of a model of PyTorch."""

from __future__ import annotations

from typing import Literal

import msgspec


class InputOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one input is, where it cannot be found out."""

    dtype: str | None = None
    """Such as ``float32`` or ``int64``."""
    shape: tuple[int | str, ...] | None = None
    """A size for each dimension, or a name for one that is free, such as ``[batch, 3, 224, 224]``."""


class TorchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a model of PyTorch."""

    threads: int | None = None
    """CPU threads for one call; all of the worker's when not given, and never more."""
    inputs: dict[str, InputOptions] = {}
    """What the inputs are, for a program of which this cannot be found out."""
    method: str = "forward"
    """The method of a TorchScript module that is called."""
    dims: dict[str, int] = {}
    """Sizes of free dimensions for the example row, for a model that does not run on the ones that are tried."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the weights of a TorchScript or exported program are converted to; inputs and outputs stay float32."""
    compile: bool = False
    """Whether an exported program is compiled with ``torch.compile``: a slower start for faster calls."""
