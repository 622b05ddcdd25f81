"""Tests of engine.digest, against sha256sum itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from engine.digest import digest
from engine.errors import ModelFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "weights.bin").write_bytes(b"1" * 10)
    (folder / "a" / "b" / "with space").write_bytes(b"2" * 20)
    (folder / "a.txt").write_bytes(b"3" * 30)
    (folder / "two\nlines").write_bytes(b"4" * 40)
    (folder / "back\\slash").write_bytes(b"5" * 50)
    (folder / "link.bin").symlink_to("a/weights.bin")
    (folder / "linked").symlink_to("a/b")
    return folder


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 3 * (1 << 20) + 5])
def test_a_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    assert digest(file) == (hashlib.sha256(data).hexdigest(), size)


def test_a_folder_is_what_sha256sum_says(folder: Path) -> None:
    pipeline = r"find -L . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    expected = subprocess.run(["bash", "-c", pipeline], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert digest(folder) == (expected.split()[0], 10 + 20 + 30 + 40 + 50 + 10 + 20)


def test_any_change_in_a_folder_changes_its_digest(folder: Path) -> None:
    seen = {digest(folder)[0]}
    (folder / "a.txt").write_bytes(b"other")
    seen.add(digest(folder)[0])
    (folder / "a.txt").rename(folder / "b.txt")
    seen.add(digest(folder)[0])
    (folder / "empty").touch()
    seen.add(digest(folder)[0])
    assert len(seen) == 4


def test_what_python_writes_when_it_loads_a_plugin_does_not_count(folder: Path) -> None:
    before = digest(folder)
    (folder / "a" / "__pycache__").mkdir()
    (folder / "a" / "__pycache__" / "plugin.pyc").write_bytes(b"x")
    assert digest(folder) == before


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"Cannot read .*/none\.onnx: No such file") as e:
        digest(tmp_path / "none.onnx")
    assert e.value.field == "model_path"


def test_a_link_to_nothing_is_named(folder: Path) -> None:
    (folder / "broken").symlink_to("nowhere")
    with pytest.raises(ModelFileError, match="broken"):
        digest(folder)


@pytest.mark.parametrize("target", [".", "..", "self"])
def test_a_link_that_leads_back_is_an_error(folder: Path, target: str) -> None:
    (folder / "a" / "self").symlink_to(target)
    with pytest.raises(ModelFileError, match="self"):
        digest(folder)


def test_a_named_pipe_is_an_error_and_does_not_wait(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelFileError, match="pipe is neither a file nor a folder"):
        digest(folder)
