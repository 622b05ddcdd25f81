"""Every type that crosses a process comes out as it went in, and nothing else gets through."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Device, ModelInfo, TensorSpec
from engine.transport import messages
from engine.transport.messages import (
    NO_SLOT,
    BatchDone,
    Block,
    BlocksResult,
    BytesItem,
    CancelStream,
    Chunk,
    ErrorResult,
    Hello,
    JsonItem,
    JsonResult,
    Load,
    Loaded,
    LoadFailed,
    RowsResult,
    RunBatch,
    StartStream,
    StepDone,
    StreamEnd,
    TensorItem,
    Unloaded,
    ValuesItem,
    encode,
)

BLOCK = Block("x", "<f4", (2, 3), 64)
INFO = ModelInfo(
    task="tensor",
    inputs=(TensorSpec("x", "float32", ("batch", 3)), TensorSpec("rate", "int64", (), None)),
    outputs=(TensorSpec("y", "string", ("batch", "?"), 0),),
    batchable=False,
    unbatched_reason="because",
    labels=("cat", "café"),
    metadata={"author": "me"},
    notes=("guessed",),
)

LOAD = Load(
    key="m#1",
    path="/models/m.onnx",
    backend="onnx",
    task=None,
    config={"batching": {"max_batch_size": 8, "padding": {"x": {"value": -1.5}}}, "labels": ["a", "b"], "x": None},
    device=Device("cuda", 1, 4, 8 << 30),
    slots=2,
    slot_bytes=512 << 20,
    batch_rows=32,
    dynamic_padding=True,
    trusted=False,
)

CONTROL_UP: list[Any] = [
    Hello(4711),
    Loaded(
        key="m#1",
        info=INFO,
        task="tensor",
        plain_answers=True,
        decodes_json=False,
        accepts_values=False,
        batch_reason=None,
        padding_reason="no",
        example=b'{"input":[1]}',
        memory_bytes=1 << 40,
        seconds=0.25,
    ),
    LoadFailed("m#1", "model_file_error", "It is truncated.", "model_path"),
    Unloaded("m#1"),
]

BATCH_DOWN: list[Any] = [
    RunBatch(
        7,
        1,
        4096,
        [
            TensorItem("r1", 2, "instances", False, True, b'{"top_k":3}', [BLOCK]),
            JsonItem("r2", 64, 10, "inputs", False),
            BytesItem("r3", 128, 1 << 33, "image/png", False),
            ValuesItem("r4", 256, 3),
        ],
        [BLOCK, Block("rate", "<i8", (), 128)],
        b"\0\xff",
    ),
    StartStream(1, "r1", b"{}"),
    CancelStream(2**63 - 1),
]

BATCH_UP: list[Any] = [
    BatchDone(
        7,
        NO_SLOT,
        64,
        [RowsResult(3), BlocksResult([BLOCK], True), JsonResult(0, 12), ErrorResult("invalid_input", "No.", "input")],
        0.125,
        [BLOCK],
        b"\0\xff",
    ),
    Chunk(1, b'{"output":"caf\xc3\xa9"}'),
    StreamEnd(1),
    StreamEnd(1, ErrorResult("model_error", "It raised.")),
    StepDone([Chunk(1, b"\x90"), Chunk(2, b"")], [StreamEnd(2)]),
]

CHANNELS = {
    "control down": (messages.decode_load, [LOAD]),
    "control up": (messages.decode_control_up, CONTROL_UP),
    "batches down": (messages.decode_batch_down, BATCH_DOWN),
    "batches up": (messages.decode_batch_up, BATCH_UP),
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_messages_come_out_as_they_went_in(channel: str) -> None:
    decode, samples = CHANNELS[channel]
    for sample in samples:
        decoded = decode(encode(sample))
        assert decoded == sample
        assert type(decoded) is type(sample)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_message_of_another_channel_is_refused(channel: str) -> None:
    decode, _ = CHANNELS[channel]
    for other, (_, samples) in CHANNELS.items():
        for sample in samples if other != channel else []:
            with pytest.raises(msgspec.ValidationError):
                decode(encode(sample))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_message_that_is_cut_or_of_the_wrong_types_is_refused(channel: str) -> None:
    decode, samples = CHANNELS[channel]
    for sample in samples:
        data = encode(sample)
        for end in range(len(data)):
            with pytest.raises(msgspec.DecodeError):
                decode(data[:end])
        tag, *fields = msgspec.msgpack.decode(data)
        for wrong in ([tag], [tag, *[{"not": "it"}] * len(fields)], [99, *fields], {"tag": tag}, tag):
            with pytest.raises(msgspec.ValidationError):
                decode(encode(wrong))


def test_every_message_is_sampled_here() -> None:
    """And has a tag of its own, so that none can be taken for another."""
    sampled: set[type] = set()

    def collect(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            sampled.add(type(value))
            for name in value.__struct_fields__:
                collect(getattr(value, name))
        elif isinstance(value, list | tuple):
            for element in value:
                collect(element)

    collect([samples for _, samples in CHANNELS.values()])
    structs = {v for v in vars(messages).values() if isinstance(v, type) and issubclass(v, msgspec.Struct)}
    own = {s for s in structs if s.__module__ == messages.__name__}
    assert own <= sampled
    tags = [s.__struct_config__.tag for s in own]
    tags = [t for t in tags if t is not None and not isinstance(t, str)]
    assert len(tags) == len(set(tags))


UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "multiprocessing", "shelve"}


@pytest.mark.parametrize("package", ["transport", "worker", "scheduling", "api"])
def test_no_pickle_crosses_a_process(package: str) -> None:
    folder = Path(messages.__file__).parents[1] / package
    files = sorted(folder.glob("*.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_text())
        imported = {
            name.partition(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert imported & UNSAFE == set(), file.name
        allowing = [
            n.lineno
            for n in ast.walk(tree)
            if isinstance(n, ast.keyword) and n.arg == "allow_pickle" and ast.unparse(n.value) != "False"
        ]
        assert allowing == [], file.name
