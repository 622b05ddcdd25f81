"""The answers to a batch: what each request gets, and how all of it goes back in one message."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import BackendError, Tensors
from engine.errors import UniModelError
from engine.transport.batchqueue import ALIGN, Layout, Slots, aligned, write
from engine.transport.messages import (
    INLINE_BYTES,
    NO_SLOT,
    BatchDone,
    Block,
    BlocksResult,
    ErrorResult,
    Item,
    ItemResult,
    JsonResult,
    RowsResult,
    RunBatch,
    TensorItem,
    ValuesItem,
    encode,
)
from engine.transport.values import encode_json, encode_values

log = logging.getLogger("unimodel.worker")

RESERVED = ("model", "version")
"""Keys that the server lays beside a plugin's own in the answer."""

Placed = list[tuple[Block, np.ndarray[Any, Any]]]
"""Arrays, and where they go."""


@dataclass(slots=True)
class Answer:
    """What one request gets, before it is placed in the arena."""

    tensors: Tensors | None = None
    json: bytes | None = None
    error: ErrorResult | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arena that it takes at most."""
        return len(self.json or b"") + ALIGN + sum(a.nbytes + ALIGN for a in (self.tensors or {}).values())


def describe(error: BaseException, request_id: str) -> ErrorResult:
    """An exception as the client may see it. One that nobody raised on purpose is logged whole, and told in a line."""
    if isinstance(error, BackendError | UniModelError):
        return ErrorResult(error.code, error.message, error.field)
    log.error("model raised", exc_info=error, extra={"request_id": request_id})
    if isinstance(error, MemoryError):
        return ErrorResult("insufficient_memory", "The model ran out of memory while computing this request.")
    return ErrorResult("model_error", f"The model raised {type(error).__name__}: {str(error)[:500]}")


def of_value(result: dict[str, Any] | Exception, item: Item) -> Answer:
    """What a model that gives values made of one request: JSON, or with tensors if the request had such."""
    if isinstance(result, Exception):
        return Answer(error=describe(result, item.request_id))
    if not isinstance(result, dict):
        message = f"The plugin's answer must be an object; got {type(result).__name__}."
        return Answer(error=ErrorResult("model_error", message))
    taken = [key for key in RESERVED if key in result]
    if taken:
        return Answer(error=ErrorResult("model_error", f"The plugin's answer uses the reserved key {taken[0]!r}."))
    try:
        return Answer(json=encode_values(result) if isinstance(item, ValuesItem) else encode_json(result))
    except Exception as e:
        return Answer(error=describe(e, item.request_id))


def pack(slots: Slots, batch: RunBatch, answers: Sequence[Answer], seconds: float, prompt_tokens: int = 0) -> bytes:
    """The message with the answers. They lie behind the inputs of the slot, or inline when they are few bytes.

    An answer for which no room is left becomes an error; the server computes its request again, alone.
    """
    start, room = _room(slots, batch)
    layout = Layout()
    results: list[ItemResult] = []
    arrays: Placed = []
    for answer in answers:
        if layout.size + answer.nbytes > room:
            results.append(_too_large(answer.nbytes))
            continue
        result, placed = _place(answer, layout)
        results.append(result)
        arrays.extend(placed)
    arena = _arena(slots, batch, layout, start)
    for block, array in arrays:
        write(arena, block, [array])
    for answer, result in zip(answers, results, strict=True):
        if isinstance(result, JsonResult) and answer.json is not None:
            arena[result.offset : result.offset + result.size] = answer.json
    return _message(batch, layout, arena, start, results, seconds, [], prompt_tokens)


def pack_rows(
    slots: Slots, batch: RunBatch, items: Sequence[TensorItem], outputs: Tensors, seconds: float
) -> bytes | None:
    """The message with the outputs as they are, out of which the server cuts the rows of each request.

    `None` when the slot has no room for them.
    """
    start, room = _room(slots, batch)
    if sum(a.nbytes + ALIGN for a in outputs.values()) > room:
        return None
    layout = Layout()
    blocks = [Block(n, a.dtype.str, a.shape, layout.place(a.nbytes)) for n, a in outputs.items()]
    arena = _arena(slots, batch, layout, start)
    for block, array in zip(blocks, outputs.values(), strict=True):
        write(arena, block, [array])
    return _message(batch, layout, arena, start, [RowsResult(i.rows) for i in items], seconds, blocks)


def _room(slots: Slots, batch: RunBatch) -> tuple[int, int]:
    """Where the answers begin in the slot, and how many bytes they may have."""
    start = aligned(batch.input_end)
    return start, max(slots.slot_bytes - start, INLINE_BYTES)


def _arena(slots: Slots, batch: RunBatch, layout: Layout, start: int) -> Any:
    return bytearray(layout.size) if layout.inline else slots.arena(batch.slot)[start:]


def _message(
    batch: RunBatch,
    layout: Layout,
    arena: Any,
    start: int,
    results: list[ItemResult],
    seconds: float,
    blocks: list[Block],
    prompt_tokens: int = 0,
) -> bytes:
    if layout.inline:
        return encode(BatchDone(batch.id, NO_SLOT, 0, results, seconds, blocks, bytes(arena), prompt_tokens))
    return encode(BatchDone(batch.id, batch.slot, start, results, seconds, blocks, b"", prompt_tokens))


def _too_large(size: int) -> ErrorResult:
    return ErrorResult(
        "response_too_large",
        f"The outputs of this request need {size >> 20} MiB, more than engine.max_batch_mb leaves. "
        "Send fewer rows at once, or raise it.",
    )


def _place(answer: Answer, layout: Layout) -> tuple[ItemResult, Placed]:
    if answer.error is not None:
        return answer.error, []
    if answer.json is not None:
        return JsonResult(layout.place(len(answer.json)), len(answer.json)), []
    placed = []
    for name, array in (answer.tensors or {}).items():
        placed.append((Block(name, array.dtype.str, array.shape, layout.place(array.nbytes)), array))
    return BlocksResult([b for b, _ in placed], False), placed
