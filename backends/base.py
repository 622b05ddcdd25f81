"""The contract between the engine and a model runtime.

A backend is a class that knows one runtime. The engine finds it through the entry-point group
``unimodel.backends``, asks it to `sniff` a path, creates it in a worker process, calls `load` once, and then
calls `predict` (tensors), `predict_values` (JSON values) or `add`/`step` (text to generate: `backends.generation`, or
speech to write down: `backends.transcription`) from one single thread.

This module imports nothing of the repository, and no runtime.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
import numpy as np

Tensors = dict[str, np.ndarray[Any, Any]]
"""Named arrays. Strings are arrays of dtype ``object`` that hold ``str``."""

Dim = int | str
"""A dimension: a fixed size, or the symbolic name of a free one (``"batch"``, ``"sequence"``, ``"?"``)."""

Task = Literal[
    "tensor",
    "image-classification",
    "object-detection",
    "image-segmentation",
    "tabular",
    "text-classification",
    "token-classification",
    "fill-mask",
    "question-answering",
    "chat",
    "completion",
    "embedding",
    "rerank",
    "transcription",
    "custom",
]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model.

    `dtype` is NumPy's name of it (``float32``, ``int64``, ``bool`` …) or ``string``. `shape` includes the batch
    axis, if there is one; `batch_axis` says which it is, `None` when the tensor has no batch axis.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    batch_axis: int | None = 0
    fill: str | float | None = None
    """Of an output, what a row ends in where another row of its batch is longer; `None` if it has no such end."""


class GenerationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model that generates text."""

    context_length: int
    """Tokens that prompt and answer of one sequence may have together."""
    sequences: int
    """Answers that are generated at once; more wait."""
    chat_template: str | None = None
    """In Jinja; `None` for a model that only completes."""
    bos: str = ""
    """The text of the token that begins a prompt, for the template."""
    eos: str = ""
    images: bool = False
    """Whether prompts may have images."""
    infill: bool = False
    """Whether it fills the gap between a prompt and a suffix."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that a request may choose."""
    parameters: int = 0
    """How many weights it has."""
    quantization: str = ""
    """Such as ``Q4_1``."""
    architecture: str = ""
    """Such as ``llama``."""


class TranscriptionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model that writes down speech."""

    sequences: int
    """Recordings that are transcribed at once; more wait."""
    languages: tuple[str, ...]
    """Their codes, such as ``en``. Of several, the one that is spoken is recognised."""
    translates: bool = False
    """Whether it can write in English what is said in another language."""


Sure = Literal["given", "certain", "likely", "guess"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found out about a model, for the user to check."""

    subject: str
    """What it is about, such as ``labels``."""
    value: str
    sure: Sure
    """``given`` by the user; ``certain``: read from the model's files, or tried; ``likely``: told by shapes or names;
    ``guess``: the usual choice, about which the model says nothing."""
    source: str
    """Where it is from, such as ``the file's metadata``."""
    option: str = ""
    """What on the command line sets it, such as ``--set top_k=N``; empty for what cannot be otherwise."""


TRUNCATE = TensorSpec("truncate", "bool", ("batch",))
"""An optional input of models that read texts: whether a text that is too long is cut, instead of being an error."""
PAIR = TensorSpec("text_pair", "string", ("batch",))
"""An optional input of models that classify texts: the second of two texts that are judged together."""

PIXEL_MASK = TensorSpec("pixel_mask", "int64", ("batch", "height", "width"))
"""An optional input of models that look at images of any size: 1 where a picture is, and 0 where it was made larger to
be as large as another of its batch."""


EXAMPLE = "unimodel.example"
"""The key of `ModelInfo.metadata` for the body, in JSON, of a request that a model takes which is not loaded."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What loading found out about a model. Everything here was read off the model, not asked of the user."""

    task: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    optional: tuple[TensorSpec, ...] = ()
    """Inputs that a batch may come without, such as `TRUNCATE`."""
    batchable: bool = True
    """Whether rows of several requests may be computed in one call."""
    unbatched_reason: str | None = None
    """Why not, in a sentence for the user."""
    unpadded_reason: str | None = None
    """Why rows must not be made as long as others of their batch, in a clause such as ``its rows are ragged``; `None`
    when that is found out by trying."""
    streams: bool = False
    generation: GenerationInfo | None = None
    """Of a model that generates text, else `None`."""
    transcription: TranscriptionInfo | None = None
    """Of a model that writes down speech, else `None`."""
    labels: tuple[str, ...] | None = None
    runtime: str = ""
    """Runtime and version, such as ``onnxruntime 1.32.0``."""
    device: str = "cpu"
    metadata: dict[str, str] = {}
    sources: tuple[str, ...] = ()
    """Files of code beside the model's own that it was loaded from."""
    findings: tuple[Finding, ...] = ()
    """What was found out beside the signature, and how to override it. Shown when the model is registered."""
    notes: tuple[str, ...] = ()
    """What else a user should know, in sentences."""

    @property
    def sequences(self) -> int | None:
        """Requests under way at once, of a model that answers them step by step; `None` of any other."""
        steps = self.generation or self.transcription
        return None if steps is None else steps.sequences


class Device(msgspec.Struct, frozen=True):
    """Where a model runs, and its share of the machine."""

    kind: Literal["cpu", "cuda"]
    index: int = 0
    threads: int = 1
    """CPU threads that this worker's models may keep busy together."""
    memory_bytes: int | None = None
    """Upper bound of device memory for this worker; `None` is unlimited."""

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"


class Build(msgspec.Struct, frozen=True):
    """What an installed runtime can compute on."""

    devices: tuple[str, ...]
    """The kinds of device that it was built for."""
    unknown: tuple[str, ...] = ()
    """Those of which only loading a model tells."""
    cuda: str = ""
    """The version of CUDA that it was built for, such as ``12.8``; empty when that is not known."""
    remedy: str = ""
    """The command that installs a build for the rest of `Backend.devices`."""


class Match(msgspec.Struct, frozen=True):
    """The answer of `Backend.sniff`: how sure it is, and whether loading the file runs code from it."""

    confidence: float
    """0 (not mine) to 1 (certain). An extension alone is worth 0.5; a magic number or a parsed header 0.9."""
    runs_code: str | None = None
    """A sentence that says why loading this file can run code of its author; `None` when it cannot."""
    task: str | None = None


NO_MATCH = Match(0.0)

PIP = "UNIMODEL_PIP"
"""The variable that says what installs into the environment of a process that runs on a Python of its own."""


class BackendError(Exception):
    """Base of the errors that a backend raises on purpose. `code` is a code of the engine's error table.

    Tree::

        BackendError
        ├── InvalidInput       the request does not fit the model          400
        ├── InvalidOption      a model option is unknown or out of range   400
        ├── ModelFileError     the file is missing, truncated, not ours    422
        ├── UntrustedFile      loading it would run code, unallowed        403
        ├── MissingRuntime     the runtime is not installed                501
        └── OutOfMemory        it does not fit the device                  507
    """

    code: ClassVar[str] = "model_error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidInput(BackendError):
    """The request does not fit the model. `field` names the part at fault, such as ``input.age``."""

    code = "invalid_input"


class InvalidOption(BackendError):
    """A model option is unknown or has a value that the backend cannot use."""

    code = "invalid_option"


class ModelFileError(BackendError):
    """The model file is missing, truncated, corrupt or of another kind."""

    code = "model_file_error"


class UntrustedFile(BackendError):
    """Loading the file can run code of its author, and the user has not allowed that."""

    code = "untrusted_model"


class MissingRuntime(BackendError):
    """The runtime that this backend needs is not installed."""

    code = "missing_runtime"

    def __init__(self, package: str, extra: str, index: str | None = None) -> None:
        super().__init__(f"{package} is not installed. Install it with: {install_command(extra, index)}")


def install_command(extra: str, index: str | None = None) -> str:
    """How an extra of ``unimodel`` is installed, some packages of which are in a package index beside PyPI."""
    pip = os.environ.get(PIP, "pip")
    return f"{pip} install {f'--extra-index-url {index} ' if index else ''}'unimodel[{extra}]'"


class OutOfMemory(BackendError):
    """The model does not fit the device's memory budget."""

    code = "insufficient_memory"


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For backends without options of their own."""


class Backend(ABC):
    """What every backend has. Subclass `TensorBackend`, `ValueBackend`, `backends.generation.GenerationBackend` or
    `backends.transcription.TranscriptionBackend`."""

    name: ClassVar[str]
    """Its name in ``--backend`` and in the registry."""
    summary: ClassVar[str]
    """One line: the formats it serves."""
    package: ClassVar[str | None] = None
    """The module that must be importable for it to work, such as ``onnxruntime``."""
    extra: ClassVar[str | None] = None
    """The extra of ``unimodel`` that installs `package`."""
    index: ClassVar[str | None] = None
    """The package index beside PyPI that has it; `None` for PyPI alone."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """Kinds of device that it can run on: ``cpu``, ``cuda``."""
    Options: ClassVar[type[msgspec.Struct] | type[dict[str, Any]]] = NoOptions
    """The model options that this backend understands: a struct with ``forbid_unknown_fields=True``, or `dict` when
    they are for the model's own code to understand."""

    trusted: bool = False
    """Whether the user allows the file to run code. Set before `load`."""

    threads: int = 0
    """CPU threads that one call keeps busy, known after `load`. The models of a worker take turns so that together they
    keep no more busy than the machine has; one with 0 (it computes on a GPU, or may wait for the network) does not."""

    @classmethod
    @abstractmethod
    def sniff(cls, path: Path) -> Match:
        """Says whether `path` looks like a model of this backend. Reads a few bytes, imports no runtime."""

    @classmethod
    def build(cls) -> Build:
        """What the installed runtime can compute on. Asked when `package` is there; reads a few bytes, imports nothing.

        Of a backend that does not say, whether it can use a GPU is known when a model is loaded.
        """
        return Build(
            tuple(kind for kind in cls.devices if kind == "cpu"), tuple(kind for kind in cls.devices if kind != "cpu")
        )

    @classmethod
    def source(cls, target: str) -> Path:
        """The file or folder whose digest identifies the model; a plugin's target names a class in it, too."""
        return Path(target)

    @classmethod
    def parts(cls, source: Path) -> tuple[Path, ...]:  # noqa: ARG003
        """All files of a model that is split over several, of which `source` is the first; none otherwise."""
        return ()

    @abstractmethod
    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:
        """Loads the model and finds its signature by probing. `options` is an instance of `Options`.

        Raises `ModelFileError`, `MissingRuntime`, `InvalidOption` or `OutOfMemory`.
        """

    def memory(self) -> int:
        """Bytes that the loaded model holds, as well as the runtime can tell; 0 when it cannot."""
        return 0

    def close(self) -> None:  # noqa: B027 - most runtimes free everything with the object
        """Frees what the garbage collector does not."""


class TensorBackend(Backend):
    """A model that maps named tensors to named tensors."""

    parallel: bool = False
    """Whether it has `predict_on_one_thread`, known after `load`. Batches of several rows are then mostly computed by
    it: cores that each compute rows of their own need not wait for one another."""
    rows_at_once: ClassVar[int] = 1
    """So many rows of one request are computed in one call, though batches may be smaller where nobody says how large:
    for models whose rows cost little against a call."""

    @abstractmethod
    def example(self) -> Tensors:
        """One valid row (batch axis of length 1). Drives warm-up and the batch self-check."""

    @abstractmethod
    def predict(self, batch: Tensors) -> Tensors:
        """Computes a batch. Inputs are C-contiguous, of the signature's dtypes, and may be views of shared memory
        that live only until this call returns. Row *i* of every output belongs to row *i* of the inputs."""

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        """As `predict`, but it keeps one CPU thread busy, and may be called from several threads at once."""
        raise NotImplementedError


class ValueBackend(Backend):
    """A model that maps JSON values to JSON values, such as a plugin."""

    def example(self) -> dict[str, Any] | None:
        """One valid request body, or `None` when the author gave none (then there is no warm-up)."""
        return None

    @abstractmethod
    def predict_values(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        """Computes several requests. The answer has one entry a request, in order: its result, or the exception
        that this request alone raised. Inputs and results are JSON's types, with NumPy's arrays of numbers among them;
        a request that came as JSON has none."""

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:  # noqa: ARG002
        """The chunks of one streamed request. Only called when `ModelInfo.streams`."""
        raise InvalidInput("this model does not stream", field="stream")


class StepPiece(msgspec.Struct, kw_only=True):
    """What one step added to one request."""

    id: int
    error: Exception | None = None
    """Ends the request, in place of everything else here."""


Asked = TypeVar("Asked")
P = TypeVar("P", bound=StepPiece)


class StepBackend(Backend, Generic[Asked, P]):
    """A model that answers many requests at once, step by step: they join, leave and are cancelled between two steps.

    The engine adds requests, and calls `step` as long as any is under way.
    """

    out_of_process: ClassVar[bool] = False
    """Whether other processes do its work. Then it is taken for hung when it has had no step to do for longer than
    ``engine.hang_timeout_s``, so it has one, which may add nothing, whenever it hears of them."""

    @abstractmethod
    def example(self) -> Asked:
        """A short request. Drives the warm-up."""

    @abstractmethod
    def add(self, request_id: int, request: Asked) -> None:
        """Takes in a request; its pieces come from the next steps on. Raises `InvalidInput`.

        Never called while `ModelInfo.sequences` are under way, except by one request that takes more than that; what
        finds no room waits inside.
        """

    def wait(self, seconds: float) -> bool:  # noqa: ARG002
        """Whether a step has anything to do, which is waited for at most so long."""
        return True

    @abstractmethod
    def step(self) -> list[P]:
        """Computes once for all requests under way, and returns what that added."""

    @abstractmethod
    def cancel(self, request_id: int) -> None:
        """Drops a request, of which no further piece may come. One that is unknown, or has ended, is none."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any request is under way."""
