"""Models that are split over several files, as llama.cpp splits them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backends import discovery
from backends.base import ModelFileError
from backends.gguf import GgufBackend, file
from backends.gguf.embedding import GgufEmbeddingBackend
from engine import digest
from tests.backends.gguf.generating import SMALL, ask, greedy, load
from tests.models_gguf import llama, llama_in_parts

OPTIONS = {"max_context_length": 128, "sequences": 2}


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, ...]:
    """The parts of a model, which a test may change."""
    return tuple(Path(shutil.copy(part, tmp_path)) for part in llama_in_parts())


def test_it_is_the_same_model_as_in_one_file(parts: tuple[Path, ...]) -> None:
    assert len(parts) > 2
    whole, split = load(llama(), **OPTIONS), load(parts[0], **OPTIONS)
    try:
        assert ask(split, greedy("hello", 20)).text == ask(whole, greedy("hello", 20)).text
        assert split.info.notes == whole.info.notes, "the same memory is needed"
        assert split.memory() == pytest.approx(whole.memory(), rel=0.01)
    finally:
        whole.close()
        split.close()


def test_the_weights_of_all_parts_count(parts: tuple[Path, ...]) -> None:
    assert file.read_header(parts[0]).nbytes == file.read_header(llama()).nbytes


@pytest.mark.parametrize("backend", [GgufBackend, GgufEmbeddingBackend])
def test_the_parts_are_those_that_are_there(
    parts: tuple[Path, ...], backend: type[GgufBackend | GgufEmbeddingBackend]
) -> None:
    assert backend.parts(parts[0]) == parts
    assert backend.parts(parts[1]) == ()
    assert backend.parts(llama()) == ()
    parts[1].unlink()
    assert backend.parts(parts[0]) == (parts[0], *parts[2:])


def test_it_is_recognised_until_a_part_is_missing(parts: tuple[Path, ...]) -> None:
    assert discovery.choose(parts[0])[0] is GgufBackend
    parts[1].unlink()
    assert GgufBackend.sniff(parts[0]).confidence == pytest.approx(0.9)
    with pytest.raises(ModelFileError, match="is missing"):
        load(parts[0], **SMALL)


def test_its_digest_is_that_of_all_parts(parts: tuple[Path, ...]) -> None:
    before = digest.of_model(GgufBackend, str(parts[0]))
    assert before == digest.digest(parts[0].parent), "a folder of just these files"
    assert before[1] == sum(part.stat().st_size for part in parts)
    changed = bytearray(parts[-1].read_bytes())
    changed[-1] ^= 1
    parts[-1].write_bytes(changed)
    assert digest.of_model(GgufBackend, str(parts[0])) != before
