"""Requests into a batch and answers out of it: through the bytes of the message, inline and by shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.base import Tensors
from engine import errors
from engine.transport.batchqueue import Slots, view, write
from engine.transport.messages import (
    INLINE_BYTES,
    NO_SLOT,
    BatchDone,
    Block,
    BlocksResult,
    BytesItem,
    ErrorResult,
    JsonItem,
    JsonResult,
    RowsResult,
    RunBatch,
    TensorItem,
    decode_batch_down,
    decode_batch_up,
    encode,
)
from engine.transport.packing import pack_batch, unpack_answers
from engine.types import BytesInput, JsonAnswer, JsonInput, Request, TensorAnswer, TensorInput

SLOT_BYTES = 1 << 20
DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
]


@pytest.fixture(scope="module")
def slots() -> Iterator[Slots]:
    made = Slots.create(2, SLOT_BYTES)
    yield made
    made.close()


def request(source: TensorInput | JsonInput | BytesInput, name: str = "id", tensors: bool = False) -> Request:
    return Request(source, name, 0.0, wants_tensors=tensors, parameters=b'{"top_k":1}')


def pack(slots: Slots, requests: list[Request], slot: int = 1) -> tuple[RunBatch, bytes | memoryview]:
    """The message as the worker gets it, and its arena."""
    message = decode_batch_down(pack_batch(7, slot, slots, requests))
    assert isinstance(message, RunBatch)
    assert (message.id, message.slot, len(message.items)) == (7, slot, len(requests))
    assert [i.request_id for i in message.items] == [r.request_id for r in requests]
    assert [i.wants_tensors for i in message.items] == [r.wants_tensors for r in requests]
    assert all(i.parameters == b'{"top_k":1}' for i in message.items)
    if message.input_end:
        assert message.data == b""
        return message, slots.arena(slot)
    return message, message.data


def read(blocks: list[Block], arena: bytes | memoryview) -> Tensors:
    return {b.name: view(arena, b) for b in blocks}


def same(got: Tensors, want: Tensors) -> None:
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], strict=True)
        assert got[name].dtype == want[name].dtype


# -- requests ---------------------------------------------------------------------------------------------------------


@st.composite
def inputs(draw: st.DrawFn) -> list[Tensors]:
    """Requests of one model: a few inputs of any dtype, rows of one shape, or of different ones."""
    ragged = draw(st.booleans())
    count = draw(st.integers(1, 4))
    rows = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    requests: list[Tensors] = [{} for _ in range(count)]
    for name in draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=3, unique=True)):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
        for request, n in zip(requests, rows, strict=True):
            own = tuple(draw(st.integers(0, 3)) for _ in shape) if ragged else shape
            request[name] = draw(hnp.arrays(dtype, (n, *own)))
    return requests


@given(inputs(), st.booleans(), st.booleans())
def test_tensors_arrive_as_they_were(slots: Slots, tensors: list[Tensors], large: bool, strided: bool) -> None:
    if strided:
        tensors = [{n: np.asfortranarray(a) for n, a in t.items()} for t in tensors]
    if large:  # beyond what rides in the message
        tensors = [
            {**t, "big": np.full((len(t[min(t)]), INLINE_BYTES + 1), i, np.uint8)} for i, t in enumerate(tensors)
        ]
    sources = [TensorInput(t, len(t[min(t)]), "instances", i % 2 == 0) for i, t in enumerate(tensors)]
    message, arena = pack(slots, [request(s, f"r{i}") for i, s in enumerate(sources)])
    assert bool(message.input_end) == large
    row = 0
    stacked = read(message.stacked, arena)
    for item, source in zip(message.items, sources, strict=True):
        assert isinstance(item, TensorItem)
        assert (item.rows, item.form, item.single) == (source.rows, "instances", source.single)
        if stacked:
            assert item.blocks == []
            same({n: a[row : row + item.rows] for n, a in stacked.items()}, source.tensors)
            row += item.rows
        else:
            same(read(item.blocks, arena), source.tensors)
    assert all(len(a) == row for a in stacked.values())


def test_rows_of_one_shape_are_one_array_and_ragged_ones_are_not(slots: Slots) -> None:
    def of(*lengths: int) -> RunBatch:
        sources = [TensorInput({"x": np.ones((2, n), np.float32)}, 2) for n in lengths]
        return pack(slots, [request(s) for s in sources])[0]

    assert [b.shape for b in of(3, 3, 3).stacked] == [(6, 3)]
    assert of(3, 4, 3).stacked == []
    assert [b.shape for b in of(5).stacked] == [(2, 5)]


def test_a_request_without_a_batch_axis_is_packed_alone(slots: Slots) -> None:
    tensors: Tensors = {"x": np.ones((1, 3), np.float32), "rate": np.array(16000)}
    message, arena = pack(slots, [request(TensorInput(tensors, 1))])
    same(read(message.stacked, arena), tensors)


@given(
    st.lists(
        st.one_of(
            st.builds(JsonInput, st.binary(max_size=50) | st.binary().map(bytearray), st.sampled_from(["input"])),
            st.builds(BytesInput, st.binary(max_size=50), st.sampled_from(["image/png", "audio/wav"])),
            st.integers(0, 5).map(lambda n: TensorInput({"x": np.arange(n)}, n)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_bodies_arrive_as_they_were(slots: Slots, sources: list[Any], large: bool) -> None:
    if large:
        sources = [JsonInput(b"1" * INLINE_BYTES), *sources]
    message, arena = pack(slots, [request(s, f"r{i}", tensors=i % 2 == 0) for i, s in enumerate(sources)])
    for item, source in zip(message.items, sources, strict=True):
        if isinstance(item, TensorItem):
            blocks = message.stacked or item.blocks
            if not message.stacked:
                same(read(blocks, arena), source.tensors)
        else:
            assert bytes(arena[item.offset : item.offset + item.size]) == source.data
            if isinstance(item, JsonItem):
                assert item.form == source.form
            else:
                assert isinstance(item, BytesItem)
                assert item.content_type == source.content_type


def test_what_rides_inline_does_not_touch_the_slot() -> None:
    slots = Slots.create(1, SLOT_BYTES)
    pack(slots, [request(JsonInput(b"1" * INLINE_BYTES))], slot=0)
    assert not any(slots.arena(0))
    message, _ = pack(slots, [request(JsonInput(b"1" * (INLINE_BYTES + 1)))], slot=0)
    assert message.input_end == INLINE_BYTES + 1
    slots.close()


# -- answers ----------------------------------------------------------------------------------------------------------


def row_request(rows: int, single: bool = False, tensors: bool = False) -> Request:
    return request(TensorInput({"x": np.zeros((rows, 1))}, rows, single=single), tensors=tensors)


def done(slots: Slots, outputs: Tensors, results: list[Any], start: int | None, slot: int = 1) -> BatchDone:
    """A worker's reply with stacked outputs: inline, or in the slot from `start` on."""
    size = 0
    blocks = []
    for name, array in outputs.items():
        blocks.append(Block(name, array.dtype.str, array.shape, size))
        size += -(-array.nbytes // 64) * 64
    arena: Any = bytearray(size) if start is None else slots.arena(slot)[start:]
    for block, array in zip(blocks, outputs.values(), strict=True):
        write(arena, block, [array])
    if start is None:
        reply = BatchDone(7, NO_SLOT, 0, results, 0.1, blocks, bytes(arena))
    else:
        reply = BatchDone(7, slot, start, results, 0.1, blocks)
    decoded = decode_batch_up(encode(reply))
    assert isinstance(decoded, BatchDone)
    return decoded


@pytest.mark.parametrize("start", [None, 0, 4096])
@settings(max_examples=40)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from(DTYPES), st.data())
def test_tensors_go_back_to_their_requests(
    slots: Slots, start: int | None, rows: list[int], dtype: str, data: st.DataObject
) -> None:
    outputs: Tensors = {
        "y": data.draw(hnp.arrays(np.dtype(dtype), (sum(rows), 2))),
        "z": data.draw(hnp.arrays(np.dtype(dtype), (sum(rows),))),
    }
    reply = done(slots, outputs, [RowsResult(n) for n in rows], start)
    answers = unpack_answers(reply, slots, [row_request(n, tensors=True) for n in rows])
    slots.arena(1)[:] = bytes(SLOT_BYTES)  # the slot serves the next batch: an answer must not look into it
    row = 0
    for answer, n in zip(answers, rows, strict=True):
        assert isinstance(answer, TensorAnswer)
        same(answer.tensors, {name: a[row : row + n] for name, a in outputs.items()})
        row += n


@pytest.mark.parametrize("start", [None, 4096])
def test_the_one_output_of_json_requests_becomes_numbers_at_once(slots: Slots, start: int | None) -> None:
    y = np.array([[1, 2.5], [3, np.nan], [5, 6], [7, np.inf]], np.float32)
    requests = [row_request(1, single=True), row_request(1), row_request(1, tensors=True), row_request(1)]
    answers = unpack_answers(done(slots, {"y": y}, [RowsResult(1)] * 4, start), slots, requests)
    jsons = [a.data for a in answers if isinstance(a, JsonAnswer)]
    assert jsons == [b"[1.0,2.5]", b"[[3.0,null]]", b"[[7.0,null]]"]
    assert isinstance(answers[2], TensorAnswer)
    same(answers[2].tensors, {"y": y[2:3]})


@pytest.mark.parametrize("start", [None, 0, 64])
def test_answers_of_every_kind(slots: Slots, start: int | None) -> None:
    text = b'{"output":"caf\xc3\xa9"}'
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    arena: Any = bytearray(1000) if start is None else slots.arena(0)[start:]
    arena[10 : 10 + len(text)] = text
    block = Block("y", "<i2", (2, 3), 128)
    write(arena, block, [array])
    results: list[Any] = [
        JsonResult(10, len(text)),
        BlocksResult([block], True),
        ErrorResult("invalid_input", "no", "input.x"),
        ErrorResult("never_heard_of", "what"),
    ]
    inline = bytes(arena) if start is None else b""
    reply = BatchDone(1, NO_SLOT if start is None else 0, start or 0, results, 0.1, [], inline)
    one, two, three, four = unpack_answers(reply, slots, [request(JsonInput(b"{}"))] * 4)
    arena[:500] = bytes(500)
    assert one == JsonAnswer(text)
    assert isinstance(two, TensorAnswer)
    assert two.single
    same(two.tensors, {"y": np.arange(6, dtype=np.int16).reshape(2, 3)})
    assert isinstance(three, errors.InvalidInput)
    assert (three.message, three.field) == ("no", "input.x")
    assert isinstance(four, errors.InternalError)


def test_the_memory_of_outputs_goes_back_too() -> None:
    """The worker wrote them; the server, which trims, must know how far."""
    slots = Slots.create(2, 8 << 20)
    outputs = {"y": np.ones((1, 4 << 20), np.uint8)}
    unpack_answers(done(slots, outputs, [RowsResult(1)], 64), slots, [row_request(1, tensors=True)])
    slots.trim(1)
    assert view(slots.arena(1), Block("y", "|u1", (1,), 64 + (2 << 20)))[0] == 0
    slots.close()


def test_numbers_of_any_dtype_are_json(slots: Slots) -> None:
    for dtype in DTYPES:
        y = np.array([[0, 1], [1, 0]], dtype)
        reply = done(slots, {"y": y}, [RowsResult(2)], None)
        (answer,) = unpack_answers(reply, slots, [row_request(2)])
        assert isinstance(answer, JsonAnswer)
        assert msgspec.json.decode(answer.data) == y.tolist()
