"""The nouns of the engine that are not an HTTP body and do not cross a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backends.base import ModelInfo, Tensors
from engine.codec import Form


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version of a model. Owned by the registry; never changes once stored."""

    name: str
    version: int
    path: str
    """Absolute path of the file or folder, or ``package.module:Class`` of an installed plugin."""
    sha256: str
    size_bytes: int
    backend: str
    task: str
    """The task in force: what probing found, or what the user chose."""
    config: dict[str, Any]
    """The options as the user gave them, nested; validated by `engine.model_options`."""
    trusted: bool = False
    created: float
    """Seconds since the epoch."""
    info: ModelInfo

    @property
    def key(self) -> tuple[str, int]:
        """Unique among all registered versions."""
        return self.name, self.version


@dataclass(slots=True)
class TensorInput:
    """Tensors of one request, each with its batch axis, in the signature's dtypes."""

    tensors: Tensors
    rows: int
    form: Form = "input"
    single: bool = False
    """The client sent one bare row, and gets one back."""
    nbytes: int = field(init=False)
    """Bytes that it takes in a batch."""

    def __post_init__(self) -> None:
        self.nbytes = sum([a.nbytes for a in self.tensors.values()])


@dataclass(slots=True)
class JsonInput:
    """JSON that the worker decodes: a value under `form`, or the whole body of a request to a plugin."""

    data: bytes | bytearray
    form: Form = "input"
    rows: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a batch."""
        return len(self.data)


@dataclass(slots=True)
class BytesInput:
    """A raw body that the worker decodes, such as a JPEG file."""

    data: bytes | bytearray
    content_type: str
    rows: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a batch."""
        return len(self.data)


@dataclass(slots=True)
class ValuesInput:
    """The body of a request to a model that takes values, with tensors in it: bytes of `engine.transport.values`."""

    data: bytes
    rows: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a batch."""
        return len(self.data)


Input = TensorInput | JsonInput | BytesInput | ValuesInput


@dataclass(slots=True)
class Request:
    """One prediction, as every dialect hands it to the engine."""

    input: Input
    request_id: str
    deadline: float
    """On the engine's monotonic clock, in seconds."""
    wants_tensors: bool = False
    parameters: bytes = b""
    """The JSON ``parameters`` object, undecoded."""
    priority: int = 0
    """Higher goes first."""
    is_gone: Callable[[], bool] | None = None
    """Whether the client went away; asked just before computing."""


@dataclass(slots=True)
class TensorAnswer:
    """Output tensors, copied out of shared memory."""

    tensors: Tensors
    single: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all outputs."""
        return sum([a.nbytes for a in self.tensors.values()])


@dataclass(slots=True)
class JsonAnswer:
    """An answer that the worker encoded: the value under the form's answer key, or a plugin's whole object."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """Bytes of JSON."""
        return len(self.data)


@dataclass(slots=True)
class ValuesAnswer:
    """The answer to a `ValuesInput`, in the same encoding."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return len(self.data)


Answer = TensorAnswer | JsonAnswer | ValuesAnswer
