"""Uploaded files: whole or not at all, linked under their names, gone when nothing is loaded from them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from backends.base import ModelInfo
from engine import blobs as module
from engine.blobs import RESERVE, Blobs
from engine.errors import BodyTooLarge, Cancelled, InsufficientStorage, InvalidInput
from engine.types import ModelSpec

LIMIT = 8 << 20


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def pieces(content: bytes, size: int = 60_000) -> AsyncGenerator[bytes, None]:
    for i in range(0, len(content), size):
        yield content[i : i + size]


async def stored(blobs: Blobs, content: bytes) -> str:
    await blobs.store(digest(content), pieces(content), len(content), LIMIT)
    return digest(content)


def left(home: Path) -> list[str]:
    """What lies in the folder of uploads."""
    return sorted(p.name for p in (home / "blobs").iterdir())


def spec(path: Path | str, **config: object) -> ModelSpec:
    return ModelSpec(
        name="m",
        version=1,
        path=str(path),
        sha256="",
        size_bytes=0,
        backend="gguf",
        task="chat",
        config=config,
        created=0.0,
        info=ModelInfo(task="chat"),
    )


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 3_000_000])
async def test_a_file_comes_in_whole(tmp_path: Path, size: int) -> None:
    blobs, content = Blobs(tmp_path), os.urandom(size)
    assert blobs.find(digest(content)) is None
    name = await stored(blobs, content)
    found = blobs.find(name)
    assert found is not None
    assert found.read_bytes() == content
    assert blobs.find(name.upper().replace("SHA256:", "sha256-")) == found
    assert left(tmp_path) == [found.name]


async def test_a_wrong_digest_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=digest(b"another")) as e:
        await Blobs(tmp_path).store(digest(b"one"), pieces(b"another"), 7, LIMIT)
    assert e.value.field == "digest"
    assert left(tmp_path) == []


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield bytes(2 << 20)
        assert left(tmp_path) != []
        raise Cancelled("gone")

    with pytest.raises(Cancelled):
        await Blobs(tmp_path).store(digest(b""), broken(), 0, LIMIT)
    assert left(tmp_path) == []


@pytest.mark.parametrize("announced", [0, LIMIT + 1])
async def test_a_file_that_is_too_large_is_refused(tmp_path: Path, announced: int) -> None:
    content = bytes(LIMIT + 1)
    with pytest.raises(BodyTooLarge, match="max_upload_mb"):
        await Blobs(tmp_path).store(digest(content), pieces(content), announced, LIMIT)
    assert not (tmp_path / "blobs").exists() or left(tmp_path) == []


@pytest.mark.parametrize("announced", [0, 3 << 20])
async def test_some_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: int) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(RESERVE + (1 << 20)))
    blobs = Blobs(tmp_path)
    await stored(blobs, b"small")
    content = bytes(3 << 20)
    with pytest.raises(InsufficientStorage, match="must stay so"):
        await blobs.store(digest(content), pieces(content, 3 << 20), announced, LIMIT)
    assert len(left(tmp_path)) == 1


FILL = """
import asyncio, hashlib, resource, sys
from pathlib import Path
from engine.blobs import Blobs

async def pieces():
    for _ in range(30):
        yield bytes(100_000)

resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
digest = "sha256:" + hashlib.sha256(bytes(3_000_000)).hexdigest()
try:
    asyncio.run(Blobs(Path(sys.argv[1])).store(digest, pieces(), 0, 1 << 30))
except Exception as e:
    print(type(e).__name__, e)
"""


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: writes fail in the same place."""
    out = subprocess.run([sys.executable, "-c", FILL, tmp_path], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert out.startswith("InsufficientStorage")
    assert "disk is full" in out
    assert left(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(InsufficientStorage, match=f"{tmp_path}/blobs"):
        await stored(Blobs(tmp_path), b"one")


@pytest.mark.parametrize("name", ["", "sha256:", "sha256:12", "md5:" + "0" * 64, "sha256:../" + "0" * 61, "0" * 64])
def test_only_a_digest_names_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        Blobs(tmp_path).find(name)


async def test_files_are_linked_under_their_names(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    one, two = await stored(blobs, b"one"), await stored(blobs, b"two")
    folder = blobs.link("m", {"a.bin": one, "sub/b c.bin": two, "again.bin": one}, "files")
    assert folder.is_relative_to(tmp_path)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.bin")} == {
        "a.bin": b"one",
        "sub/b c.bin": b"two",
        "again.bin": b"one",
    }
    assert folder != blobs.link("m", {"a.bin": one}, "files"), "each creation has its own"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a//b",
        "a/",
        ".hidden",
        "a/.",
        "a\\b",
        "a\0b",
        "x" * 201,
        "a/" * 9 + "b",
    ],
)
async def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    blobs = Blobs(tmp_path)
    one = await stored(blobs, b"one")
    with pytest.raises(InvalidInput, match="cannot be the name") as e:
        blobs.link("m", {name: one}, "files")
    assert e.value.field == "files"
    assert len(left(tmp_path)) == 1


async def test_a_file_that_is_not_here_cannot_be_linked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"/api/blobs/{digest(b'one')}"):
        Blobs(tmp_path).link("m", {"a.bin": digest(b"one")}, "adapters")


async def test_names_that_exclude_each_other_leave_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    one = await stored(blobs, b"one")
    with pytest.raises(InvalidInput, match="a/b lies in a, which is a file itself") as e:
        blobs.link("m", {"a/b": one, "a": one}, "files")
    assert e.value.field == "files"
    assert len(left(tmp_path)) == 1


async def test_what_no_model_is_loaded_from_goes(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.prune([])
    kept, adapter, direct, unused, gone = [await stored(blobs, f"{i}".encode()) for i in range(5)]
    model = blobs.link("m", {"model.gguf": kept}, "files")
    lora = blobs.link("m", {"one.gguf": adapter}, "adapters")
    removed = blobs.link("m", {"model.gguf": gone, "kept.gguf": kept}, "files")
    (tmp_path / "blobs" / "upload-1").write_text("half of")
    path = blobs.find(direct)
    blobs.prune([spec(model / "model.gguf", lora={"one": str(lora / "one.gguf")}), spec(str(path))])
    assert [blobs.find(b) is not None for b in (kept, adapter, direct, unused, gone)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert (model / "model.gguf").read_bytes() == b"0"
    assert (lora / "one.gguf").read_bytes() == b"1"
    assert not removed.exists()
    assert len(left(tmp_path)) == 4
    blobs.prune([])
    assert left(tmp_path) == ["models"]
