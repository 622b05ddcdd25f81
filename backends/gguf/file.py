"""The header of a GGUF file: its metadata and the list of its tensors, read without the runtime.

llama.cpp ends the process, or reads beyond a buffer, on some files that are damaged. So nothing is given to it that was
not read here first: every count and length is held against the size of the file before it is used::

    magic "GGUF", version u32, tensors u64, pairs u64
    pairs:    key, type u32, value                        a string is its length u64 and its bytes,
    tensors:  name, dims u32, dim u64 …, type u32, offset u64      an array its type u32, its length u64, its values
    padding to the alignment, then the data of the tensors, in their order, each padded to the alignment

All numbers are little-endian. A model may be split over several files; the first one leads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from backends.base import ModelFileError
from backends.gguf import checks
from backends.gguf.reader import Reader
from backends.gguf.types import ENCODERS, SCALARS, TENSOR_TYPES, VOCABULARY

MAGIC = b"GGUF"
SUFFIX = ".gguf"

_PART = re.compile(rf"(?P<stem>.+)-(?P<number>\d{{5}})-of-(?P<count>\d{{5}}){re.escape(SUFFIX)}", re.DOTALL)
"""The name that llama.cpp gives to a part of a model."""
_TOKEN_TYPES = "tokenizer.ggml.token_type"  # noqa: S105 - a key
_STRING, _ARRAY = 8, 9
_U16 = 2
_MAX_PAIRS = 65_536
_MAX_TENSORS = 65_536
_MAX_STRINGS = 1 << 24
"""Entries of an array of texts, each of which must be visited. The largest vocabularies have a million."""
_MAX_NUMBERS = 1 << 30
_KEPT_NUMBERS = 1024
_MAX_NAME = 63
_MAX_DIMS = 4

Kind = Literal["generation", "embedding", "rerank"]

POOLING_RANK = 4
"""The value of ``<arch>.pooling_type`` in a model that scores texts."""


class TensorInfo(NamedTuple):
    """One tensor: where it lies, and what it is."""

    name: str
    shape: tuple[int, ...]
    """The axis whose elements lie side by side comes first."""
    type: str
    """Such as ``F16`` or ``Q4_K``."""
    offset: int
    """Bytes from the start of the data of its part."""
    nbytes: int
    part: int = 0
    """Index in `Header.parts`."""


class Header(NamedTuple):
    """What a GGUF file says of itself."""

    path: Path
    version: int
    metadata: dict[str, Any]
    """Numbers, texts and booleans by key; short arrays of numbers are tuples, all other arrays just their length."""
    types: dict[str, str]
    """The type of each value, such as ``u32``, ``str`` or ``arr[f32]``."""
    tensors: tuple[TensorInfo, ...]
    """Those of all parts."""
    data_offset: int
    """Where the data of the tensors begins in the first part."""
    file_size: int
    """Bytes of the first part."""
    parts: tuple[Path, ...]
    """The files of the model, in their order; just this one unless it is split."""
    has_all_bytes: bool = False
    """Whether the vocabulary has a token for each byte, as ``<0x0A>`` or as itself."""
    has_byte_tokens: bool = False
    """Whether tokens of the vocabulary are of the type of bytes."""

    @property
    def architecture(self) -> str:
        """Such as ``llama``."""
        name: str = self.metadata["general.architecture"]
        return name

    def own(self, key: str) -> Any:
        """The value of a key of this architecture, such as ``context_length``; `None` when it is not there."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def length(self, key: str) -> int | None:
        """How many elements the array `key` has; `None` when it is not there or is no array."""
        value = self.metadata.get(key)
        if not self.types.get(key, "").startswith("arr"):
            return None
        return len(value) if isinstance(value, tuple) else value

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors)


def looks_like(path: Path) -> bool:
    """Whether the file begins as a GGUF file does. Raises `OSError` when it cannot be read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def parts(path: Path) -> tuple[Path, ...]:
    """The parts of a model that are there, if `path` is the first of several by its name; none otherwise."""
    named = _PART.fullmatch(path.name)
    if named is None or int(named["number"]) != 1 or int(named["count"]) < 2:
        return ()
    return tuple(part for part in _siblings(path, named["stem"], int(named["count"])) if part.is_file())


def read_header(path: Path) -> Header:
    """The header of a model, all of its parts checked. Raises `ModelFileError` for a file that is not to be loaded."""
    header = _read_part(path)
    count = header.metadata.get("split.count", 0)
    if count > 1:
        header = _join(header, count)
    checks.check(header)
    return header


def kind(header: Header) -> Kind:
    """What the model is for."""
    pooling = header.own("pooling_type")
    if pooling == POOLING_RANK:
        return "rerank"
    pooled = isinstance(pooling, int) and pooling > 0
    return "embedding" if pooled or header.architecture in ENCODERS else "generation"


# --- one file -------------------------------------------------------------------------------------------------------


def _read_part(path: Path) -> Header:
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; give the path of the .gguf file in it.")
    try:
        with path.open("rb") as file:
            return _parse(path, Reader(file, path.name))
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist.") from None
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None


def _parse(path: Path, reader: Reader) -> Header:
    if not reader.size:
        raise ModelFileError(f"{path} is empty.")
    if reader.size < len(MAGIC) or reader.take(len(MAGIC)) != MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file.")
    version = _version(reader)
    tensor_count = _count(reader, "tensors", _MAX_TENSORS, 24)
    pair_count = _count(reader, "metadata entries", _MAX_PAIRS, 13)
    metadata: dict[str, Any] = {}
    types: dict[str, str] = {}
    for _ in range(pair_count):
        key = _name(reader, "a metadata key", 65_535)
        if key in metadata:
            raise reader.corrupt(f"the metadata key {key!r} is there twice")
        types[key], metadata[key] = _value(reader, key)
    _check_general(reader, metadata, types)
    alignment = metadata.get("general.alignment", 32)
    tensors = _tensors(reader, tensor_count, alignment)
    data_offset = _padded(reader.position, alignment)
    if tensors:
        end = data_offset + tensors[-1].offset + tensors[-1].nbytes
        if end > reader.size:
            raise reader.truncated(end - reader.size)
    return Header(
        path,
        version,
        metadata,
        types,
        tensors,
        data_offset,
        reader.size,
        (path,),
        reader.has_all_bytes,
        reader.has_byte_tokens,
    )


def _version(reader: Reader) -> int:
    version = reader.u32()
    if version in (2, 3):
        return version
    if version == 1:
        raise ModelFileError(f"{reader.name} is of GGUF version 1, which is no longer read. Convert the model anew.")
    if not version & 0xFFFF:
        raise ModelFileError(
            f"{reader.name} is a GGUF file in big-endian byte order. Use the little-endian file of the same model."
        )
    raise ModelFileError(f"{reader.name} is of GGUF version {version}; versions 2 and 3 can be read.")


def _count(reader: Reader, what: str, limit: int, each: int) -> int:
    """A number of things that take `each` bytes at least."""
    count = reader.u64()
    if count > limit:
        raise reader.corrupt(f"it claims to have {count} {what}; at most {limit} make sense")
    reader.need(count * each)
    return count


def _name(reader: Reader, what: str, limit: int) -> str:
    raw = reader.text(what, limit)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise reader.corrupt(f"{what} is not text") from None
    if not name or not name.isprintable():
        raise reader.corrupt(f"{what} is {name!r}")
    return name


def _value(reader: Reader, key: str) -> tuple[str, Any]:
    """The type and the value of one metadata entry."""
    number = reader.u32()
    if number == _STRING:
        return "str", reader.text(f"the value of {key!r}").decode("utf-8", "replace")
    if number == _ARRAY:
        return _array(reader, key)
    if number not in SCALARS:
        raise reader.corrupt(f"the value of {key!r} is of the unknown type {number}")
    scalar = SCALARS[number]
    return scalar.name, reader.number(scalar.form)


def _array(reader: Reader, key: str) -> tuple[str, Any]:
    number, length = reader.u32(), reader.u64()
    limit = _MAX_STRINGS if number == _STRING else _MAX_NUMBERS
    if number == _ARRAY:
        raise reader.corrupt(f"the value of {key!r} is an array of arrays")
    if number != _STRING and number not in SCALARS:
        raise reader.corrupt(f"the value of {key!r} is an array of the unknown type {number}")
    if length > limit:
        raise reader.corrupt(f"the array {key!r} claims to have {length} elements; at most {limit} make sense")
    if number == _STRING:
        visit = reader.vocabulary if key == VOCABULARY else reader.skip_texts
        visit(length)
        return "arr[str]", length
    scalar = SCALARS[number]
    if key == _TOKEN_TYPES and scalar.name == "i32" and length <= _MAX_STRINGS:
        reader.token_types(length)
        return "arr[i32]", length
    if length > _KEPT_NUMBERS:
        reader.skip(length * scalar.form.size)
        return f"arr[{scalar.name}]", length
    data = reader.take(length * scalar.form.size)
    return f"arr[{scalar.name}]", tuple(value for (value,) in scalar.form.iter_unpack(data))


def _check_general(reader: Reader, metadata: dict[str, Any], types: dict[str, str]) -> None:
    """Raises unless the entries that matter for reading the rest are there and of their types."""
    for key, expected in (
        ("general.architecture", "str"),
        ("general.alignment", "u32"),
        ("split.count", "u16"),
        ("split.no", "u16"),
    ):
        found = types.get(key, expected)
        if found != expected:
            raise reader.corrupt(f"the value of {key!r} is of type {found}; it must be {expected}")
    later_part = metadata.get("split.count", 0) > 1 and metadata.get("split.no", 0) > 0  # only the first one says it
    if not later_part and not metadata.get("general.architecture"):
        raise reader.corrupt("its metadata do not say of which architecture the model is (general.architecture)")
    alignment = metadata.get("general.alignment", 32)
    if not alignment or alignment & (alignment - 1) or alignment > 1 << 20:
        raise reader.corrupt(f"its alignment is {alignment}; it must be a power of two")


def _tensors(reader: Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: dict[str, TensorInfo] = {}
    offset = 0
    for _ in range(count):
        tensor = _tensor(reader)
        if tensor.name in tensors:
            raise reader.corrupt(f"the tensor {tensor.name!r} is there twice")
        if tensor.offset != offset:
            raise reader.corrupt(f"the tensor {tensor.name!r} begins at {tensor.offset}; it must at {offset}")
        tensors[tensor.name] = tensor
        offset = _padded(offset + tensor.nbytes, alignment)
    return tuple(tensors.values())


def _tensor(reader: Reader) -> TensorInfo:
    name = _name(reader, "the name of a tensor", _MAX_NAME)
    dims = reader.u32()
    if dims > _MAX_DIMS:
        raise reader.corrupt(f"the tensor {name!r} has {dims} dimensions; at most {_MAX_DIMS} are possible")
    shape = tuple(reader.u64() for _ in range(dims)) or (1,)
    elements = 1
    for dim in shape:
        elements *= dim
    number = reader.u32()
    if number not in TENSOR_TYPES:
        raise reader.corrupt(f"the tensor {name!r} is of the unknown type {number}")
    kind = TENSOR_TYPES[number]
    if not 0 < elements < 2**62:
        raise reader.corrupt(f"the tensor {name!r} has the shape {list(shape)}")
    if shape[0] % kind.block:
        raise reader.corrupt(
            f"the tensor {name!r} has rows of {shape[0]} elements; {kind.name} packs them in blocks of {kind.block}"
        )
    return TensorInfo(name, shape, kind.name, reader.u64(), elements // kind.block * kind.block_bytes)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


# --- several files --------------------------------------------------------------------------------------------------


def _join(first: Header, count: int) -> Header:
    """The header of a model that is split over `count` files, of which `first` is the first."""
    paths = _part_paths(first, count)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelFileError(
            f"{first.path.name} is one of {count} parts of a model, of which {missing[0]} is missing. "
            "Put all of them in one folder."
        )
    tensors = {t.name: t for t in first.tensors}
    for index, path in enumerate(paths[1:], start=1):
        part = _read_part(path)
        if part.metadata.get("split.no") != index:
            raise ModelFileError(f"{path.name} is not part {index + 1} of {first.path.name}. Download it again.")
        for tensor in part.tensors:
            if tensor.name in tensors:
                raise ModelFileError(f"{path.name} is corrupt: another part has the tensor {tensor.name!r}, too.")
            tensors[tensor.name] = tensor._replace(part=index)
    expected = first.metadata.get("split.tensors.count")
    if expected != len(tensors):
        raise ModelFileError(
            f"The parts of {first.path.name} have {len(tensors)} tensors together, not {expected}. Download them again."
        )
    return first._replace(tensors=tuple(tensors.values()), parts=tuple(paths))


def _part_paths(first: Header, count: int) -> list[Path]:
    """The parts by the names that llama.cpp gives them, ``NAME-00001-of-00003.gguf``."""
    path, number = first.path, first.metadata.get("split.no")
    if number is None:
        raise ModelFileError(f"{path.name} is one of {count} parts of a model, but does not say which (split.no).")
    named = _PART.fullmatch(path.name)
    if named is None or (int(named["number"]), int(named["count"])) != (number + 1, count):
        ending = f"-{number + 1:05d}-of-{count:05d}{SUFFIX}"
        raise ModelFileError(
            f"{path.name} is part {number + 1} of {count} of a model; its name must end in {ending!r}, as it did once."
        )
    paths = _siblings(path, named["stem"], count)
    if number != 0:
        raise ModelFileError(f"{path.name} is part {number + 1} of a model; give its first part, {paths[0].name}.")
    return paths


def _siblings(path: Path, stem: str, count: int) -> list[Path]:
    return [path.with_name(f"{stem}-{i + 1:05d}-of-{count:05d}{SUFFIX}") for i in range(count)]
