"""Damaged GGUF files: the reader of headers raises nothing but its own error, and what it lets pass does not end the
process that loads it."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelFileError
from backends.gguf.file import Header, read_header
from tests import models, models_gguf
from tests.models_gguf import FORMS, LETTERS

ROOT = Path(__file__).parents[3]
REAL: dict[str, Callable[[], Path]] = {
    "smollm2": models_gguf.smollm2,
    "minilm": models_gguf.minilm,
    "llama-spm": partial(models.model, "llama-vocabs", "ggml-vocab-llama-spm.gguf"),
}
TINY: dict[str, tuple[str, Callable[[], Path]]] = {
    "llama": ("gguf", models_gguf.llama),
    "bert that embeds": ("gguf-embedding", models_gguf.embedder),
    "llama that embeds": ("gguf-embedding", models_gguf.llama),
    "bert that ranks": ("gguf-rerank", models_gguf.reranker),
    "qwen3 that ranks": ("gguf-rerank", models_gguf.causal_reranker),
}


@cache
def head(path: Path) -> tuple[bytes, int]:
    """The header of a file, and the size of all of it."""
    found = read_header(path)
    with path.open("rb") as file:
        return file.read(found.data_offset), found.file_size


def spread(path: Path, header: bytes, size: int) -> Path:
    """A file of a header and zeros, which take no space."""
    path.write_bytes(header)
    os.truncate(path, size)
    return path


def flipped(data: bytes, chance: random.Random) -> bytes:
    """One to four bits of `data` flipped, behind the magic number."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        damaged[chance.randrange(4, len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


# --- the reader of headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REAL)
def test_a_cut_header_is_refused(tmp_path: Path, model: str) -> None:
    header, _ = head(REAL[model]())
    chance = random.Random(model)
    for size in [*range(4, 200, 7), *(chance.randrange(4, len(header)) for _ in range(40))]:
        path = spread(tmp_path / "cut.gguf", header[:size], size)
        with pytest.raises(ModelFileError, match="is truncated"):
            read_header(path)


@pytest.mark.parametrize("model", REAL)
def test_flipped_bits_raise_nothing_else(tmp_path: Path, model: str) -> None:
    header, size = head(REAL[model]())
    chance = random.Random(model)
    small = [i for i in range(len(header)) if i < 1500 or i > len(header) - 15_000]  # where the numbers are
    refused = 0
    for case in range(60):
        damaged = bytearray(flipped(header, chance) if case % 2 else header)
        damaged[chance.choice(small[4:])] ^= 1 << chance.randrange(8)
        try:
            assert isinstance(read_header(spread(tmp_path / "flipped.gguf", bytes(damaged), size)), Header)
        except ModelFileError as e:
            assert e.message.endswith(".")
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x09\0\0\0\0\0\0\0"])
def test_a_header_that_goes_on_with_garbage(tmp_path: Path, fill: bytes) -> None:
    header, _ = head(models_gguf.llama())
    for size in range(4, len(header), 97):
        path = tmp_path / "garbage.gguf"
        path.write_bytes(header[:size] + fill * 4096)
        with pytest.raises(ModelFileError):
            read_header(path)


def test_every_vocabulary_is_read() -> None:
    files = sorted(models.fetch_models.fetch("llama-vocabs").glob("*.gguf"))
    assert len(files) > 10
    for path in files:
        assert read_header(path).length("tokenizer.ggml.tokens")


# --- what it lets pass ----------------------------------------------------------------------------------------------

Pair = tuple[str, str, Any]


def parse(path: Path) -> tuple[list[Pair], bytes]:
    """The metadata of a file, and everything behind it."""
    data = path.read_bytes()
    kinds = {number: kind for kind, number in FORMS.items()}
    (count,) = struct.unpack_from("<Q", data, 16)
    at = 24

    def take(form: str) -> Any:
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    def text() -> bytes:
        nonlocal at
        (length,) = take("Q")
        at += length
        return data[at - length : at]

    pairs: list[Pair] = []
    for _ in range(count):
        key, (number,) = text().decode(), take("I")
        if number == 8:
            pairs.append((key, "str", text()))
        elif number == 9:
            inner, length = take("IQ")
            if inner == 8:
                pairs.append((key, "arr[str]", [text() for _ in range(length)]))
            else:
                values = list(take(f"{length}{LETTERS[kinds[inner]]}"))
                pairs.append((key, f"arr[{kinds[inner]}]", values))
        else:
            pairs.append((key, kinds[number], take(LETTERS[kinds[number]])[0]))
    return pairs, data[at:]


def rebuilt(path: Path, pairs: list[Pair]) -> bytes:
    """The file with other metadata."""
    _, rest = parse(path)
    begin = len(path.read_bytes()) - len(rest)
    (tensors,) = struct.unpack_from("<Q", path.read_bytes(), 8)
    head_size = len(head(path)[0])
    lists, data = rest[: head_size - begin], rest[head_size - begin :]
    infos = lists[: len(lists) - _padding(path, begin, tensors)]
    new = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(pairs)) + b"".join(models_gguf.pair(*p) for p in pairs) + infos
    return new + b"\0" * (-len(new) % 32) + data


def _padding(path: Path, begin: int, tensors: int) -> int:
    """Bytes between the list of tensors and their data."""
    data, at = path.read_bytes(), begin
    for _ in range(tensors):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 12
    return -at % 32


NUMBERS = (0, 1, 2, 3, 5, 8, 15, 16, 17, 64, 100, 1000, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
OTHERS: dict[str, tuple[Any, ...]] = {
    "u32": NUMBERS,
    "i32": (0, -1, 2**31 - 1),
    "f32": (0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30),
    "str": (b"", b"x", b"\xff", b"bert", b"llama", b"gpt2", b"t5", b"rwkv", b"none", b"qwen2", b"mamba", b"gemma3"),
}
EXTRA: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("attention.key_length", "u32", NUMBERS),
    ("attention.value_length", "u32", NUMBERS),
    ("attention.sliding_window", "u32", NUMBERS),
    ("expert_count", "u32", NUMBERS),
    ("expert_used_count", "u32", NUMBERS),
    ("nextn_predict_layers", "u32", NUMBERS),
    ("pooling_type", "u32", NUMBERS),
    ("embedding_length_out", "u32", NUMBERS),
    ("classifier.pooling_type", "u32", NUMBERS),
    ("rope.dimension_count", "u32", NUMBERS),
    ("rope.scaling.factor", "f32", OTHERS["f32"]),
    ("attention.causal", "bool", (True, False)),
    ("classifier.output_labels", "arr[str]", ([], ["a"], ["a", "b"])),
)


def damages(path: Path, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Files with one entry of the metadata missing, changed, of another type, or added."""
    pairs, _ = parse(path)
    for i, (key, kind, value) in enumerate(pairs):
        before, after = pairs[:i], pairs[i + 1 :]
        yield f"no {key}", rebuilt(path, before + after)
        for other in OTHERS.get(kind, ()):
            yield f"{key}={other!r}", rebuilt(path, [*before, (key, kind, other), *after])
        if kind == "arr[str]":
            for texts in ([], value[:-1], [b""] * len(value), [b"x%d" % j for j in range(len(value))]):
                yield f"{key}, {len(texts)} texts", rebuilt(path, [*before, (key, kind, texts), *after])
        elif kind.startswith("arr"):
            for numbers in ([], value[:-1], [6] * len(value), [5] * len(value)):
                yield f"{key}, {len(numbers)} numbers", rebuilt(path, [*before, (key, kind, numbers), *after])
        for other_kind, other in (("u8", 1), ("str", "x"), ("f32", 1.0), ("arr[u32]", [2, 2])):
            yield f"{key} as {other_kind}", rebuilt(path, [*before, (key, other_kind, other), *after])
    architecture = pairs[0][2].decode()
    for key, kind, values in EXTRA:
        full = f"{architecture}.{key}"
        rest = [p for p in pairs if p[0] != full]
        for value in values:
            yield f"{full}={value!r}", rebuilt(path, [*rest, (full, kind, value)])
    for case in range(200):
        header, _ = head(path)
        yield f"flipped {case}", flipped(header, chance) + path.read_bytes()[len(header) :]


@pytest.mark.parametrize("model", TINY)
def test_what_passes_does_not_end_the_process(tmp_path: Path, model: str) -> None:
    pytest.importorskip("llama_cpp")
    backend, make = TINY[model]
    chance = random.Random(model)
    cases = list(damages(make(), chance))
    names: list[str] = ["whole"]
    paths: list[Path] = [make()]
    for name, data in chance.sample(cases, len(cases)):
        path = tmp_path / f"{len(paths)}.gguf"
        path.write_bytes(data)
        try:
            read_header(path)
        except ModelFileError:
            path.unlink()
            continue
        names.append(name)
        paths.append(path)
        if len(paths) == 80:
            break
    done = subprocess.run(
        [sys.executable, "-m", "tests.gguf_loads"],
        cwd=ROOT,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        input="".join(f"{backend}\t{path}\n" for path in paths),
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(names)
    assert outcomes[0] == [0, "ok"]
    bad = {n: o for n, o in zip(names, outcomes, strict=True) if o[0] or o[1].startswith("raised")}
    assert bad == {}
    assert any(said.startswith("refused") for _, said in outcomes)  # by llama.cpp, with a message


def test_the_parts_of_this_test_fit() -> None:
    for _, make in TINY.values():
        assert rebuilt(make(), parse(make())[0]) == make().read_bytes()
