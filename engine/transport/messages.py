"""Every type that crosses a process, as plain structs in MessagePack. No pickle crosses a process boundary.

Two kinds of connection exist between the server and a worker:

- the **control channel**, one for each worker: `Load` goes down; `Hello`, `Loaded`, `LoadFailed` and
  `Unloaded` come up;
- the **batch queue**, one for each loaded model on a worker: `RunBatch`, `StartStream` and `CancelStream` go down;
  `BatchDone`, `Chunk`, `StreamEnd` and `StepDone` come up. Closing it unloads the model.

Bulk bytes do not travel in messages. They lie in the *arena* of the message: a slot of the batch queue's shared
memory, or, when they are few, the message's own `data`. Offsets count from the start of the arena.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Device, ModelInfo
from engine.codec import Form

NO_SLOT = -1
"""As the slot of an answer: its arena is the message's own `data`."""

INLINE_BYTES = 32 * 1024
"""Arenas up to this size ride in the message: one copy through the socket is cheaper than touching fresh pages."""

# --- control channel -------------------------------------------------------------------------------------------------


class Load(msgspec.Struct, array_like=True, tag=1):
    """Load a model. Two descriptors come with it: the batch queue's socket and its shared memory."""

    key: str
    path: str
    backend: str
    task: str | None
    """The user's choice; `None` lets probing decide."""
    config: dict[str, Any]
    device: Device
    slots: int
    slot_bytes: int
    batch_rows: int
    """Most rows in a batch; drives the self-check."""
    dynamic_padding: bool
    trusted: bool
    """Whether the user allows the file to run code."""


class Hello(msgspec.Struct, array_like=True, tag=3):
    """The worker is up and takes loads."""

    pid: int


class Loaded(msgspec.Struct, array_like=True, tag=4):
    """A model loaded, warmed up and checked itself."""

    key: str
    info: ModelInfo
    task: str
    plain_answers: bool
    """Whether a JSON answer is the plain output tensors, so that the server may encode it."""
    decodes_json: bool
    """Whether the server may turn small JSON inputs into tensors itself (numeric inputs, no renaming)."""
    accepts_values: bool
    """Whether the model takes whole JSON bodies (a plugin)."""
    batch_reason: str | None
    """Why it is served unbatched; `None` when it is batched."""
    padding_reason: str | None
    """Why rows of different lengths are not padded together; `None` when they are."""
    example: bytes
    """A request body that it accepts, as JSON; empty when none is known."""
    memory_bytes: int
    seconds: float


class LoadFailed(msgspec.Struct, array_like=True, tag=5):
    """A model did not load; the error by its code."""

    key: str
    code: str
    message: str
    field: str | None = None


class Unloaded(msgspec.Struct, array_like=True, tag=6):
    """A model is gone and its memory is freed."""

    key: str


ControlUp = Hello | Loaded | LoadFailed | Unloaded

# --- batch queue -----------------------------------------------------------------------------------------------------


class Block(msgspec.Struct, array_like=True):
    """A C-contiguous array in the arena."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class TensorItem(msgspec.Struct, array_like=True, tag="t"):
    """One request whose inputs are tensors: rows of the batch's stacked blocks, or blocks of its own when ragged."""

    request_id: str
    rows: int
    form: Form
    single: bool
    """The client sent one bare row, and gets one back."""
    wants_tensors: bool
    """Whether the answer is tensors (a binary client) or JSON."""
    parameters: bytes = b""
    """The JSON ``parameters`` object, undecoded."""
    blocks: list[Block] = []


class JsonItem(msgspec.Struct, array_like=True, tag="j"):
    """One request whose input is JSON that the worker decodes: the bytes ``[offset, offset + size)``."""

    request_id: str
    offset: int
    size: int
    form: Form
    wants_tensors: bool
    parameters: bytes = b""


class BytesItem(msgspec.Struct, array_like=True, tag="b"):
    """One request whose input is a raw body, such as a JPEG file, that the worker decodes."""

    request_id: str
    offset: int
    size: int
    content_type: str
    wants_tensors: bool
    parameters: bytes = b""


class ValuesItem(msgspec.Struct, array_like=True, tag="v"):
    """One request to a model that takes values, with tensors in it: bytes of `engine.transport.values`, as is its
    answer."""

    request_id: str
    offset: int
    size: int
    wants_tensors: bool = False
    parameters: bytes = b""


Item = TensorItem | JsonItem | BytesItem | ValuesItem


class RunBatch(msgspec.Struct, array_like=True, tag=10):
    """Compute a batch. `stacked` holds the rows of all its tensor items side by side, when they are uniform."""

    id: int
    slot: int
    """The slot that this batch owns until it is done, also when its inputs ride inline."""
    input_end: int
    """Where the outputs may begin in the slot; 0 when the inputs ride inline, in `data`."""
    items: list[Item]
    stacked: list[Block] = []
    data: bytes = b""


class StartStream(msgspec.Struct, array_like=True, tag=11):
    """Begin a streamed request; `body` is its whole JSON body, or a `generation.GenerateRequest`."""

    id: int
    request_id: str
    body: bytes


class CancelStream(msgspec.Struct, array_like=True, tag=12):
    """The client of a stream went away."""

    id: int


class RowsResult(msgspec.Struct, array_like=True, tag="r"):
    """An answer: the next `rows` rows of the stacked outputs."""

    rows: int


class BlocksResult(msgspec.Struct, array_like=True, tag="k"):
    """An answer: output tensors of its own."""

    blocks: list[Block]
    single: bool


class JsonResult(msgspec.Struct, array_like=True, tag="j"):
    """An answer: encoded JSON in the arena; to a `ValuesItem`, values."""

    offset: int
    size: int


class ErrorResult(msgspec.Struct, array_like=True, tag="e"):
    """An answer: an error of this request alone."""

    code: str
    message: str
    field: str | None = None


ItemResult = RowsResult | BlocksResult | JsonResult | ErrorResult


class BatchDone(msgspec.Struct, array_like=True, tag=13):
    """The answers of a batch, one for each item, in order. In a slot, their arena is what follows `start`."""

    id: int
    slot: int
    start: int
    results: list[ItemResult]
    compute_seconds: float
    stacked: list[Block] = []
    data: bytes = b""
    prompt_tokens: int = 0
    """Of all its texts, if the model tells."""


class Chunk(msgspec.Struct, array_like=True, tag=14):
    """One piece of a streamed answer: JSON, or a list of `generation.Delta`."""

    id: int
    data: bytes


class StreamEnd(msgspec.Struct, array_like=True, tag=15):
    """A stream is over, the one of each `StartStream`: by itself, cancelled, or as `error` says."""

    id: int
    error: ErrorResult | None = None


class StepDone(msgspec.Struct, array_like=True, tag=16):
    """What one step added to the answers that are being generated. An empty one says that the steps go on."""

    chunks: list[Chunk]
    ends: list[StreamEnd]


BatchDown = RunBatch | StartStream | CancelStream
BatchUp = BatchDone | Chunk | StreamEnd | StepDone

encode = msgspec.msgpack.Encoder().encode
decode_load = msgspec.msgpack.Decoder(Load).decode
decode_control_up = msgspec.msgpack.Decoder(ControlUp).decode
decode_batch_down = msgspec.msgpack.Decoder(BatchDown).decode
decode_batch_up = msgspec.msgpack.Decoder(BatchUp).decode
