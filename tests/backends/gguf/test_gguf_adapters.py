"""Tests of LoRA adapters: at load, by request, several at once, and what they have to do with cached prefixes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.base import InvalidInput, ModelFileError
from backends.generation import Generation
from tests.backends.gguf.generating import GREEDY, ask, greedy, load, run
from tests.models_gguf import adapter

PROMPT = "The capital of France is"


def wanting(**adapters: float) -> Generation:
    return greedy(PROMPT, 4, adapters=adapters)


def test_adapters_by_request(tmp_path: Path) -> None:
    backend = load(lora={"a": adapter(tmp_path, 1), "b": adapter(tmp_path, 2)}, prefix_cache=False)
    neither = ask(backend, wanting(a=0.0)).text
    a, b, both, half = (ask(backend, wanting(**w)).text for w in ({"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"a": 0.5}))
    assert neither.startswith(" Paris")
    assert len({neither, a, b, both}) == 4
    assert half != a
    assert ask(backend, greedy(PROMPT, 4)).text == both, "all are applied where a request does not choose"
    together = run(backend, {1: wanting(a=1), 2: wanting(b=1), 3: wanting(a=0.0), 4: wanting(a=1, b=1)})
    assert [together[i, 0].text for i in range(1, 5)] == [a, b, neither, both]
    with pytest.raises(InvalidInput, match=r"no adapter 'c'\. It has a, b\."):
        backend.add(1, wanting(c=1.0))
    with pytest.raises(InvalidInput):
        backend.add(1, wanting(a=float("nan")))
    backend.close()


def test_prefixes_are_cached_for_each_set_of_adapters(tmp_path: Path) -> None:
    backend = load(lora={"a": adapter(tmp_path, 1)})
    prompt = tuple(range(500, 560))
    with_adapter = Generation(prompt=prompt, sampling=GREEDY, max_tokens=1)
    without = Generation(prompt=prompt, sampling=GREEDY, max_tokens=1, adapters={"a": 0.0})
    assert [ask(backend, r).cached for r in (with_adapter, without, with_adapter, without)] == [0, 0, 59, 59]
    backend.close()


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="LoRA adapter 'a'"):
        load(lora={"a": adapter(tmp_path, 1, width=64)})


def test_an_adapter_that_is_missing_or_broken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    for name in ("broken.gguf", "missing.gguf"):
        with pytest.raises(ModelFileError):
            load(lora={"a": str(tmp_path / name)})


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a LoRA adapter; register the model"):
        load(Path(adapter(tmp_path, 1)))
