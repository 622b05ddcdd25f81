"""The server's side of a batch: requests into a `RunBatch`, a `BatchDone` into answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from backends.base import Tensors
from engine import errors
from engine.transport.batchqueue import Layout, Slots, view, write
from engine.transport.messages import (
    NO_SLOT,
    BatchDone,
    Block,
    BlocksResult,
    BytesItem,
    ErrorResult,
    Item,
    JsonItem,
    JsonResult,
    RowsResult,
    RunBatch,
    TensorItem,
    ValuesItem,
    encode,
)
from engine.types import (
    Answer,
    JsonAnswer,
    JsonInput,
    Request,
    TensorAnswer,
    TensorInput,
    ValuesAnswer,
    ValuesInput,
)

encode_json = msgspec.json.Encoder().encode


def pack_batch(batch_id: int, slot: int, slots: Slots, requests: Sequence[Request]) -> bytes:
    """The message of a batch. Its bulk bytes are written into `slot` unless they are few enough to ride inline."""
    tensors = [r.input for r in requests if isinstance(r.input, TensorInput)]
    if len(tensors) == len(requests) and _uniform(tensors):
        return _pack_stacked(batch_id, slot, slots, requests, tensors)
    return _pack_separate(batch_id, slot, slots, requests)


def _uniform(inputs: Sequence[TensorInput]) -> bool:
    first = inputs[0].tensors
    return len(inputs) == 1 or all(
        a.shape[1:] == first[name].shape[1:] for other in inputs[1:] for name, a in other.tensors.items()
    )


def _pack_stacked(
    batch_id: int, slot: int, slots: Slots, requests: Sequence[Request], inputs: Sequence[TensorInput]
) -> bytes:
    """Rows side by side: each input of the whole batch is one contiguous array."""
    layout = Layout()
    blocks = []
    columns = []
    for name, first in inputs[0].tensors.items():
        arrays = [i.tensors[name] for i in inputs]
        shape = first.shape if len(arrays) == 1 else (sum(len(a) for a in arrays), *first.shape[1:])
        nbytes = math.prod(shape) * first.itemsize
        blocks.append(Block(name, first.dtype.str, shape, layout.place(nbytes)))
        columns.append(arrays)
    arena = bytearray(layout.size) if layout.inline else slots.arena(slot)
    for block, arrays in zip(blocks, columns, strict=True):
        write(arena, block, arrays)
    items: list[Item] = [
        TensorItem(r.request_id, i.rows, i.form, i.single, r.wants_tensors, r.parameters)
        for r, i in zip(requests, inputs, strict=True)
    ]
    return _message(batch_id, slot, slots, layout, arena, items, blocks)


def _pack_separate(batch_id: int, slot: int, slots: Slots, requests: Sequence[Request]) -> bytes:
    """Each request on its own: ragged rows, JSON and raw bodies."""
    layout = Layout()
    items: list[Item] = []
    for r in requests:
        i = r.input
        if isinstance(i, TensorInput):
            blocks = [Block(n, a.dtype.str, a.shape, layout.place(a.nbytes)) for n, a in i.tensors.items()]
            items.append(TensorItem(r.request_id, i.rows, i.form, i.single, r.wants_tensors, r.parameters, blocks))
        elif isinstance(i, JsonInput):
            offset = layout.place(len(i.data))
            items.append(JsonItem(r.request_id, offset, len(i.data), i.form, r.wants_tensors, r.parameters))
        elif isinstance(i, ValuesInput):
            items.append(ValuesItem(r.request_id, layout.place(len(i.data)), len(i.data)))
        else:
            offset = layout.place(len(i.data))
            items.append(BytesItem(r.request_id, offset, len(i.data), i.content_type, r.wants_tensors, r.parameters))
    arena = bytearray(layout.size) if layout.inline else slots.arena(slot)
    for r, item in zip(requests, items, strict=True):
        if isinstance(r.input, TensorInput) and isinstance(item, TensorItem):
            for block, array in zip(item.blocks, r.input.tensors.values(), strict=True):
                write(arena, block, [array])
        elif not isinstance(r.input, TensorInput) and not isinstance(item, TensorItem):
            arena[item.offset : item.offset + item.size] = r.input.data
    return _message(batch_id, slot, slots, layout, arena, items, [])


def _message(
    batch_id: int,
    slot: int,
    slots: Slots,
    layout: Layout,
    arena: bytearray | memoryview,
    items: list[Item],
    stacked: list[Block],
) -> bytes:
    if layout.inline:
        return encode(RunBatch(batch_id, slot, 0, items, stacked, bytes(arena)))
    slots.touched(slot, layout.size)
    return encode(RunBatch(batch_id, slot, layout.size, items, stacked))


def unpack_answers(done: BatchDone, slots: Slots, requests: Sequence[Request]) -> list[Answer | errors.UniModelError]:
    """The answers of a finished batch, copied out of the slot, which is free again afterwards."""
    if done.slot == NO_SLOT:
        arena: bytes | memoryview = done.data
    else:
        arena = slots.arena(done.slot)[done.start :]
        slots.touched(done.slot, slots.slot_bytes)  # by the worker, who knows how far
    stacked = {b.name: view(arena, b) for b in done.stacked}
    # a single output looks the same in every form of JSON answer: it becomes numbers for the whole batch at once
    plain = len(stacked) == 1 and not all(r.wants_tensors for r in requests)
    rows = next(iter(stacked.values())).tolist() if plain else None
    row = 0
    answers: list[Answer | errors.UniModelError] = []
    for result, request in zip(done.results, requests, strict=True):
        if isinstance(result, RowsResult):
            end = row + result.rows
            single = isinstance(request.input, TensorInput) and request.input.single
            if rows is not None and not request.wants_tensors:
                answers.append(JsonAnswer(encode_json(rows[row] if single else rows[row:end])))
                row = end
                continue
            answers.append(TensorAnswer({n: a[row:end].copy() for n, a in stacked.items()}, single))
            row = end
        elif isinstance(result, JsonResult):
            data = bytes(arena[result.offset : result.offset + result.size])
            answers.append(ValuesAnswer(data) if isinstance(request.input, ValuesInput) else JsonAnswer(data))
        elif isinstance(result, BlocksResult):
            tensors: Tensors = {b.name: np.array(view(arena, b)) for b in result.blocks}
            answers.append(TensorAnswer(tensors, result.single))
        else:
            answers.append(to_error(result))
    return answers


def to_error(result: ErrorResult) -> errors.UniModelError:
    """The typed error that a worker described."""
    return errors.from_code(result.code, result.message, field=result.field)
