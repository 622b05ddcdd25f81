"""Which backend serves a GGUF file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from backends.base import NO_MATCH, Match
from backends.gguf import GgufBackend, file
from backends.gguf.embedding import GgufEmbeddingBackend
from backends.gguf.rerank import GgufRerankBackend
from tests.models_gguf import embedder, llama, reranker

BACKENDS = (GgufBackend, GgufEmbeddingBackend, GgufRerankBackend)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (llama, (Match(1.0), NO_MATCH, NO_MATCH)),
        (embedder, (NO_MATCH, Match(1.0, task="embedding"), NO_MATCH)),
        (reranker, (NO_MATCH, NO_MATCH, Match(1.0, task="rerank"))),
    ],
)
def test_one_backend_takes_it(model: Any, expected: tuple[Match, ...]) -> None:
    assert tuple(backend.sniff(model()) for backend in BACKENDS) == expected


def test_a_broken_file_is_the_generating_backends(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(llama().read_bytes()[:-100])
    assert [backend.sniff(path).confidence for backend in BACKENDS] == [0.9, 0.1, 0.1]


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"no")
    for other in (path, tmp_path, tmp_path / "nothing.gguf"):
        assert [backend.sniff(other) for backend in BACKENDS] == [NO_MATCH] * 3


def test_a_header_is_read_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(llama(), tmp_path / "m.gguf"))
    read: list[Path] = []
    real = file.read_header
    monkeypatch.setattr(file, "read_header", lambda path: read.append(path) or real(path))
    for backend in BACKENDS:
        backend.sniff(path)
    assert read == [path]
    shutil.copy(embedder(), path)
    os.utime(path, ns=(1, 1))
    assert GgufEmbeddingBackend.sniff(path).confidence == 1
    assert read == [path, path]
