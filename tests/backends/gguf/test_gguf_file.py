"""Tests of the reader of GGUF headers: what it finds, and that nothing that does not fit gets past it."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

from backends.base import ModelFileError
from backends.gguf.file import Header, kind, looks_like, read_header
from backends.gguf.types import TENSOR_TYPES
from tests import models_gguf
from tests.models_gguf import ARCHITECTURE, header, pair, tensor, text

F32, F16, Q4_0 = 0, 1, 2


def write(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(folder: Path, data: bytes) -> Header:
    return read_header(write(folder, data))


def refused(folder: Path, data: bytes) -> str:
    with pytest.raises(ModelFileError) as caught:
        read(folder, data)
    return caught.value.message


# --- what it finds --------------------------------------------------------------------------------------------------


def test_it_finds_what_the_reference_reader_finds() -> None:
    for path in (models_gguf.llama(), models_gguf.minilm()):
        found, reference = read_header(path), gguf.GGUFReader(path)
        assert [(t.name, t.type, t.shape, t.nbytes) for t in found.tensors] == [
            (t.name, t.tensor_type.name, tuple(t.shape.tolist()), t.n_bytes) for t in reference.tensors
        ]
        assert [found.data_offset + t.offset for t in found.tensors] == [t.data_offset for t in reference.tensors]
        fields = {name: f for name, f in reference.fields.items() if not name.startswith("GGUF.")}
        assert found.metadata.keys() == fields.keys()
        for name, f in fields.items():
            if f.types[0] == gguf.GGUFValueType.ARRAY:
                assert found.length(name) == len(f.data)
            else:
                assert found.metadata[name] == f.contents()


def test_smollm2() -> None:
    found = read_header(models_gguf.smollm2())
    assert (found.version, found.architecture, found.parts) == (3, "llama", (models_gguf.smollm2(),))
    assert (found.own("block_count"), found.own("context_length"), found.own("pooling_type")) == (30, 8192, None)
    assert found.metadata["tokenizer.ggml.tokens"] == found.length("tokenizer.ggml.tokens") == 49152
    assert found.types["tokenizer.ggml.tokens"] == "arr[str]"
    assert found.length("llama.block_count") is None
    assert found.nbytes == sum(t.nbytes for t in found.tensors)
    assert found.data_offset + found.nbytes <= found.file_size
    assert looks_like(models_gguf.smollm2())


@pytest.mark.parametrize("version", [2, 3])
def test_every_type_of_value(tmp_path: Path, version: int) -> None:
    values: dict[str, Any] = {
        "u8": 200, "i8": -100, "u16": 60_000, "i16": -30_000, "u32": 2**32 - 1, "i32": -(2**31), "f32": 0.5,
        "bool": True, "u64": 2**64 - 1, "i64": -(2**63), "f64": 1e300, "str": "né", "arr[i16]": (1, -2),
        "arr[f32]": (0.5, 0.25), "arr[bool]": (True, False),
    }  # fmt: skip
    found = read(tmp_path, header([ARCHITECTURE, *(pair(k, k, v) for k, v in values.items())], version=version))
    assert {k: found.metadata[k] for k in values} == values
    assert {k: found.types[k] for k in values} == {k: k for k in values}
    assert found.version == version


def test_long_arrays_are_their_length(tmp_path: Path) -> None:
    many = [f"token {i}" * 40 for i in range(10_000)] + ["x" * 2_000_000]  # several windows of the reader
    pairs = [ARCHITECTURE, pair("a", "arr[str]", many), pair("b", "arr[i32]", range(5000)), pair("c", "u8", 7)]
    found = read(tmp_path, header([*pairs, pair("tokenizer.ggml.tokens", "arr[str]", many)]))
    assert [found.metadata[k] for k in ("a", "b", "c", "tokenizer.ggml.tokens")] == [10_001, 5000, 7, 10_001]
    assert found.length("b") == 5000


def test_tensors_follow_each_other_at_the_alignment(tmp_path: Path) -> None:
    tensors = [tensor("a", [5], F32, 0), tensor("b", [32, 2], Q4_0, 64), tensor("c", [], F32, 128)]
    pairs = [ARCHITECTURE, pair("general.alignment", "u32", 64)]
    found = read(tmp_path, header(pairs, tensors, b"\0" * 132, alignment=64))
    assert [(t.name, t.shape, t.type, t.offset, t.nbytes) for t in found.tensors] == [
        ("a", (5,), "F32", 0, 20),
        ("b", (32, 2), "Q4_0", 64, 36),
        ("c", (1,), "F32", 128, 4),
    ]
    assert found.file_size == found.data_offset + 132


def test_the_types_of_tensors_are_the_runtimes() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    for number, known in TENSOR_TYPES.items():
        assert ggml.ggml_type_name(number).decode().lower() == known.name.lower()
        assert (ggml.ggml_blck_size(number), ggml.ggml_type_size(number)) == (known.block, known.block_bytes)


# --- what a model is for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "pooling", "expected"),
    [
        ("llama", None, "generation"),
        ("llama", 0, "generation"),
        ("llama", 3, "embedding"),
        ("qwen3", 4, "rerank"),
        ("bert", None, "embedding"),
        ("bert", 2, "embedding"),
        ("bert", 4, "rerank"),
        ("t5encoder", None, "embedding"),
    ],
)
def test_kind(tmp_path: Path, architecture: str, pooling: int | None, expected: str) -> None:
    pairs = [pair("general.architecture", "str", architecture)]
    pairs += [pair(f"{architecture}.pooling_type", "u32", pooling)] if pooling is not None else []
    assert kind(read(tmp_path, header(pairs))) == expected


# --- files that are none, or not whole ------------------------------------------------------------------------------


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path / "no.gguf", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(ModelFileError, match=sentence):
            read_header(path)
    assert "is empty" in refused(tmp_path, b"")
    assert "is not a GGUF file" in refused(tmp_path, b"GG")
    assert "is not a GGUF file" in refused(tmp_path, b"PK\3\4" + b"\0" * 100)
    assert not looks_like(tmp_path)
    assert not looks_like(write(tmp_path, b"GGU"))


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, header())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFileError, match=r"cannot be read: Permission denied\."):
        read_header(path)


@pytest.mark.parametrize(
    ("version", "sentence"),
    [(1, "GGUF version 1, which is no longer read"), (4, "GGUF version 4; versions 2 and 3 can be read"),
     (3 << 24, "big-endian byte order")],
)  # fmt: skip
def test_versions(tmp_path: Path, version: int, sentence: str) -> None:
    assert sentence in refused(tmp_path, header(version=version))


def test_missing_data_is_counted(tmp_path: Path) -> None:
    whole = header(tensors=[tensor("a", [8], F32, 0), tensor("b", [8], F32, 32)], data=b"\0" * 64)
    read(tmp_path, whole)
    assert refused(tmp_path, whole[:-5]) == (
        "model.gguf is truncated: 5 bytes are missing at its end. Download it again."
    )


def test_every_cut_of_a_header_is_refused(tmp_path: Path) -> None:
    pairs = [ARCHITECTURE, pair("k", "arr[str]", ["a", "bc", ""]), pair("n", "arr[u16]", [1, 2])]
    pairs += [pair("tokenizer.ggml.tokens", "arr[str]", ["a", "bc", ""])]
    whole = header(pairs, [tensor("a", [8], F32, 0)], b"\0" * 32)
    for size in range(4, len(whole)):
        assert "is truncated: " in refused(tmp_path, whole[:size])


# --- numbers that lie -----------------------------------------------------------------------------------------------

BIG = 2**63

LIES: dict[str, tuple[bytes, str]] = {
    "pairs": (header(counts=(0, BIG)), f"{BIG} metadata entries"),
    "pairs that the file has no room for": (header(counts=(0, 60_000)), "is truncated"),
    "tensors": (header(counts=(BIG, 1)), f"{BIG} tensors"),
    "tensors that the file has no room for": (header(counts=(60_000, 1)), "is truncated"),
    "a key's length": (header([struct.pack("<Q", BIG)], counts=(0, 1)), "is truncated"),
    "a long key": (header([text("k" * 70_000)]), "a metadata key is 70000 bytes long"),
    "an empty key": (header([pair("", "u8", 1)]), "a metadata key is ''"),
    "a key that is no text": (header([pair(b"\xff", "u8", 1)]), "a metadata key is not text"),
    "a key with a null": (header([pair("a\0b", "u8", 1)]), "a metadata key is 'a\\x00b'"),
    "a key twice": (header([ARCHITECTURE, ARCHITECTURE]), "'general.architecture' is there twice"),
    "a text's length": (header([text("k") + struct.pack("<IQ", 8, BIG)], data=b"\0" * 99), "is truncated"),
    "a type": (header([text("k") + struct.pack("<I", 13) + b"\0" * 8]), "of the unknown type 13"),
    "an array's type": (header([text("k") + struct.pack("<IIQ", 9, 13, 0)]), "array of the unknown type 13"),
    "an array of arrays": (header([text("k") + struct.pack("<IIQ", 9, 9, 0)]), "an array of arrays"),
    "numbers": (header([text("k") + struct.pack("<IIQ", 9, 4, BIG)]), f"to have {BIG} elements"),
    "numbers that the file has no room for": (header([text("k") + struct.pack("<IIQ", 9, 4, 10**6)]), "is truncated"),
    "texts": (header([text("k") + struct.pack("<IIQ", 9, 8, BIG)]), f"to have {BIG} elements"),
    "texts that the file has no room for": (header([text("k") + struct.pack("<IIQ", 9, 8, 10**6)]), "is truncated"),
    "a text in an array": (
        header([text("k") + struct.pack("<IIQQ", 9, 8, 1, BIG)], data=b"\0" * 99), "is truncated"
    ),
    "a token's length": (
        header([text("tokenizer.ggml.tokens") + struct.pack("<IIQQ", 9, 8, 1, BIG)], data=b"\0" * 99), "a text is"
    ),
    "a token that the file has no room for": (
        header([text("tokenizer.ggml.tokens") + struct.pack("<IIQQ", 9, 8, 1, 999)], data=b"\0" * 99), "is truncated"
    ),
    "no architecture": (header([pair("a", "u8", 1)]), "of which architecture"),
    "an architecture that is a number": (header([pair("general.architecture", "u8", 1)]), "it must be str"),
    "an empty architecture": (header([pair("general.architecture", "str", "")]), "of which architecture"),
    "an alignment's type": (header([ARCHITECTURE, pair("general.alignment", "u64", 32)]), "it must be u32"),
    "no alignment": (header([ARCHITECTURE, pair("general.alignment", "u32", 0)]), "its alignment is 0"),
    "an odd alignment": (header([ARCHITECTURE, pair("general.alignment", "u32", 48)]), "its alignment is 48"),
    "a long name": (header(tensors=[tensor("t" * 64, [1], F32, 0)]), "the name of a tensor is 64 bytes long"),
    "an empty name": (header(tensors=[tensor("", [1], F32, 0)], data=b"\0" * 4), "the name of a tensor is ''"),
    "a name twice": (
        header(tensors=[tensor("a", [8], F32, 0), tensor("a", [8], F32, 32)], data=b"\0" * 64), "'a' is there twice"
    ),
    "five dimensions": (header(tensors=[tensor("a", [1] * 5, F32, 0)], data=b"\0" * 4), "5 dimensions"),
    "no elements": (header(tensors=[tensor("a", [4, 0], F32, 0)]), "the shape [4, 0]"),
    "too many elements": (header(tensors=[tensor("a", [2**40, 2**40], F32, 0)]), "the shape"),
    "a tensor's type": (header(tensors=[tensor("a", [1], 99, 0)]), "of the unknown type 99"),
    "a type that was given up": (header(tensors=[tensor("a", [32], 4, 0)]), "of the unknown type 4"),
    "half a block": (header(tensors=[tensor("a", [48, 2], Q4_0, 0)]), "in blocks of 32"),
    "an offset": (header(tensors=[tensor("a", [8], F32, 32)], data=b"\0" * 64), "begins at 32; it must at 0"),
    "tensors over each other": (
        header(tensors=[tensor("a", [8], F32, 0), tensor("b", [8], F32, 0)], data=b"\0" * 64), "must at 32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_numbers_that_lie(tmp_path: Path, case: str) -> None:
    data, sentence = LIES[case]
    assert sentence in refused(tmp_path, data)


# --- what llama.cpp would abort on ----------------------------------------------------------------------------------

BYTES = [bytes((b,)) if 32 <= b < 64 else b"<0x%02X>" % b for b in range(256)]

NONSENSE: dict[str, tuple[list[bytes], str]] = {
    "no layers": ([pair("llama.block_count", "u32", 0)], "0 layers"),
    "many layers": ([pair("llama.block_count", "u32", 513)], "513 layers"),
    "layers to predict": (
        [pair("llama.block_count", "u32", 2), pair("llama.nextn_predict_layers", "u32", 3)], "more layers for"
    ),
    "heads": (
        [pair("llama.attention.head_count", "u32", 9), pair("llama.attention.head_count_kv", "u32", 4)],
        "9 attention heads cannot share 4 heads",
    ),
    "heads by layer": (
        [pair("llama.attention.head_count", "arr[u32]", [8, 9]), pair("llama.attention.head_count_kv", "u32", 4)],
        "9 attention heads cannot share 4 heads",
    ),
    "a width": (
        [pair("llama.attention.head_count", "u32", 9), pair("llama.embedding_length", "u32", 100)],
        "9 attention heads cannot share a width of 100",
    ),
    "a type": ([pair("llama.context_length", "str", "long")], "is of type str; it must be u32"),
    "a list of layers": ([pair("llama.block_count", "arr[u32]", [2])], "is of type arr[u32]; it must be u32"),
    "negative heads": ([pair("llama.attention.head_count", "arr[i32]", [1, -1])], "no list of a number for each layer"),
    "many heads": ([pair("llama.attention.head_count", "arr[u32]", [1] * 2000)], "no list of a number for each layer"),
    "keys and values": (
        [pair("general.architecture", "str", "bert"), pair("bert.attention.head_count", "u32", 4),
         pair("bert.embedding_length", "u32", 32), pair("bert.attention.key_length", "u32", 16)],
        "its keys have 16 elements, and its values 8",
    ),
    "a part of a key rotated": (
        [pair("llama.attention.head_count", "u32", 4), pair("llama.embedding_length", "u32", 64),
         pair("llama.rope.dimension_count", "u32", 8)],
        "it rotates 8 of 16 elements",
    ),
    "an epsilon": ([pair("llama.attention.layer_norm_rms_epsilon", "f32", -1.0)], "with an epsilon of -1.0"),
    "an epsilon that is no number": (
        [pair("llama.attention.layer_norm_epsilon", "f32", float("nan"))], "with an epsilon of nan"
    ),
    "bytes without tokens": (
        [pair("tokenizer.ggml.model", "str", "llama"), pair("tokenizer.ggml.tokens", "arr[str]", BYTES[:-1])],
        "falls back to single bytes",
    ),
    "tokens of bytes": (
        [pair("tokenizer.ggml.model", "str", "bert"), pair("tokenizer.ggml.tokens", "arr[str]", ["a"]),
         pair("tokenizer.ggml.token_type", "arr[i32]", [6])],
        "its tokenizer knows no bytes",
    ),
    "experts used": ([pair("llama.expert_count", "u32", 4), pair("llama.expert_used_count", "u32", 5)], "5 of 4"),
    "experts without use": ([pair("llama.expert_count", "u32", 4)], "0 of 4 experts"),
    "used experts without any": ([pair("llama.expert_used_count", "u32", 1)], "1 of 0 experts"),
    "groups": (
        [pair("llama.expert_count", "u32", 4), pair("llama.expert_used_count", "u32", 2),
         pair("llama.expert_group_count", "u32", 4)],
        "4 groups of 4 experts",
    ),
    "groups used": (
        [pair("llama.expert_count", "u32", 4), pair("llama.expert_used_count", "u32", 2),
         pair("llama.expert_group_count", "u32", 2), pair("llama.expert_group_used_count", "u32", 2)],
        "use 2 of 2 groups",
    ),
    "scaling": ([pair("llama.rope.scaling.type", "str", "cubic")], "must be one of none, linear, yarn, longrope"),
    "an odd rotation": ([pair("llama.rope.dimension_count", "u32", 63)], "they must come in pairs"),
    "pooling": ([pair("llama.pooling_type", "u32", 5)], "pools texts in the way 5"),
    "no tokens": ([pair("tokenizer.ggml.tokens", "arr[str]", [])], "its vocabulary is empty"),
    "a token twice": ([pair("tokenizer.ggml.tokens", "arr[str]", ["a", "b", "a"])], "in its vocabulary twice"),
    "a token twice but for a null": (
        [pair("tokenizer.ggml.tokens", "arr[str]", ["a", "a\0b"])], "in its vocabulary twice"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NONSENSE)
def test_metadata_that_make_no_sense(tmp_path: Path, case: str) -> None:
    pairs, sentence = NONSENSE[case]
    own = [] if b"general.architecture" in pairs[0] else [ARCHITECTURE]
    assert sentence in refused(tmp_path, header([*own, *pairs]))


def test_bytes_may_be_tokens_as_themselves(tmp_path: Path) -> None:
    pairs = [pair("tokenizer.ggml.model", "str", "llama"), pair("tokenizer.ggml.tokens", "arr[str]", BYTES)]
    assert read(tmp_path, header([ARCHITECTURE, *pairs])).has_all_bytes


def test_a_single_expert_that_is_none(tmp_path: Path) -> None:
    dense = [pair("general.architecture", "str", "hunyuan-dense"), pair("hunyuan-dense.expert_count", "u32", 1)]
    assert read(tmp_path, header(dense)).own("expert_count") == 1


def test_empty_tokens_are_no_duplicates(tmp_path: Path) -> None:
    tokens = pair("tokenizer.ggml.tokens", "arr[str]", ["", "", "a", "\0"])
    assert read(tmp_path, header([ARCHITECTURE, tokens])).length("tokenizer.ggml.tokens") == 4


@pytest.mark.parametrize("name", ["a.bias", "token_types.weight"])
def test_what_is_added_must_be_of_the_type_that_is_computed_in(tmp_path: Path, name: str) -> None:
    shape = [4] if name == "a.bias" else [4, 2]
    assert f"'{name}' is of type F16" in refused(
        tmp_path, header(tensors=[tensor(name, shape, F16, 0)], data=b"\0" * 16)
    )


def test_weights_must_be_of_a_type_that_can_be_computed_with(tmp_path: Path) -> None:
    i8 = 24
    assert "is of type I8" in refused(tmp_path, header(tensors=[tensor("a", [4, 4], i8, 0)], data=b"\0" * 16))


def test_every_token_needs_an_embedding(tmp_path: Path) -> None:
    pairs = [ARCHITECTURE, pair("tokenizer.ggml.tokens", "arr[str]", ["a", "b", "c"])]
    data = header(pairs, [tensor("token_embd.weight", [4, 2], F32, 0)], b"\0" * 32)
    assert "embeddings for 2 tokens, but a vocabulary of 3" in refused(tmp_path, data)


# --- models in parts ------------------------------------------------------------------------------------------------


def part(number: int, count: int = 3, total: int = 3, no: int | None = None) -> bytes:
    own = number if no is None else no
    pairs = [pair("split.no", "u16", own), pair("split.count", "u16", count), pair("split.tensors.count", "i32", total)]
    return header([ARCHITECTURE, *pairs] if number == 0 else pairs, [tensor(f"t{number}", [8], F32, 0)], b"\0" * 32)


def parts(folder: Path, count: int = 3) -> list[Path]:
    return [write(folder, part(i), f"m-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]


def test_a_model_in_parts(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    found = read_header(paths[0])
    assert found.parts == tuple(paths)
    assert [(t.name, t.part, t.offset) for t in found.tensors] == [("t0", 0, 0), ("t1", 1, 0), ("t2", 2, 0)]
    assert found.nbytes == 96


def test_a_part_that_is_not_the_first_names_the_first(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    with pytest.raises(ModelFileError, match=r"part 2 of a model; give its first part, m-00001-of-00003\.gguf"):
        read_header(paths[1])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    paths[2].unlink()
    with pytest.raises(ModelFileError, match=r"one of 3 parts of a model, of which m-00003-of-00003\.gguf is missing"):
        read_header(paths[0])


def test_a_truncated_part_is_named(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    paths[1].write_bytes(part(1)[:-1])
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf is truncated: 1 byte is"):
        read_header(paths[0])


def test_parts_of_other_models_are_refused(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    paths[1].write_bytes(part(1, no=2))
    with pytest.raises(ModelFileError, match="is not part 2 of"):
        read_header(paths[0])
    paths[1].write_bytes(part(1))
    paths[0].write_bytes(part(0, total=4))
    with pytest.raises(ModelFileError, match="have 3 tensors together, not 4"):
        read_header(paths[0])
    paths[0].write_bytes(part(0))
    paths[2].write_bytes(part(0, no=2))
    with pytest.raises(ModelFileError, match="another part has the tensor 't0', too"):
        read_header(paths[0])


def test_a_part_must_have_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"its name must end in '-00001-of-00003\.gguf'"):
        read_header(write(tmp_path, part(0)))
    nameless = header([ARCHITECTURE, pair("split.count", "u16", 2)])
    with pytest.raises(ModelFileError, match="does not say which"):
        read_header(write(tmp_path, nameless))
