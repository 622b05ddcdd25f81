"""Tests of models that remember in other ways than most: recurrent ones, and such that look back on a window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.base import ModelFileError
from backends.generation import Generation
from tests.backends.gguf import tiny
from tests.backends.gguf.generating import GREEDY, ask, load, run

MAKERS = (tiny.gemma3, tiny.mamba)
PROMPT = tuple(range(20, 90))


def asking(prompt: tuple[int, ...], tokens: int = 6, choices: int = 1) -> Generation:
    return Generation(prompt=prompt, sampling=GREEDY, max_tokens=tokens, choices=choices, ignore_eos=True, logprobs=0)


@pytest.mark.parametrize("make", MAKERS)
def test_a_conversation_goes_on_from_where_it_was(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    plain, caching = load(path, prefix_cache=False), load(path)
    first = ask(caching, asking(PROMPT))
    longer = (*PROMPT, *(each.token for each in first.logprobs), *range(100, 130))
    second = ask(caching, asking(longer))
    assert second.cached == len(PROMPT) + 5
    expected = ask(plain, asking(longer))
    assert [each.token for each in second.logprobs] == [each.token for each in expected.logprobs]
    plain.close()
    caching.close()


def test_a_state_that_cannot_be_cut_serves_no_shorter_prompt(tmp_path: Path) -> None:
    backend = load(tiny.mamba(tmp_path))
    ask(backend, asking(PROMPT))
    assert ask(backend, asking(PROMPT)).cached == 0
    assert ask(backend, asking(PROMPT[:40])).cached == 0
    backend.close()


def test_keys_and_values_in_a_window_can_be_cut(tmp_path: Path) -> None:
    path = tiny.gemma3(tmp_path)
    plain, caching = load(path, prefix_cache=False), load(path)
    ask(caching, asking(PROMPT))
    shorter = (*PROMPT[:40], *range(100, 120))
    answer = ask(caching, asking(shorter))
    assert answer.cached == 40
    expected = ask(plain, asking(shorter))
    assert [each.token for each in answer.logprobs] == [each.token for each in expected.logprobs]
    plain.close()
    caching.close()


@pytest.mark.parametrize("make", MAKERS)
def test_choices_and_requests_at_once(make: Callable[[Path], Path], tmp_path: Path) -> None:
    backend = load(make(tmp_path))
    alone = ask(backend, asking(PROMPT))
    other = ask(backend, asking(PROMPT[::-1]))
    answers = run(backend, {1: asking(PROMPT, choices=3), 2: asking(PROMPT[::-1])})
    for i in range(3):
        assert [each.token for each in answers[1, i].logprobs] == [each.token for each in alone.logprobs]
    assert [each.token for each in answers[2, 0].logprobs] == [each.token for each in other.logprobs]
    backend.close()


@pytest.mark.parametrize("make", MAKERS)
def test_cached_prefixes_serve_any_slot(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    plain, caching = load(path, prefix_cache=False), load(path)
    first = run(caching, {i: asking(PROMPT[i : i + 40]) for i in range(4)})
    longer = [
        (*PROMPT[i : i + 40], *(each.token for each in first[i, 0].logprobs), *range(100, 110)) for i in (2, 3, 1, 0)
    ]
    second = run(caching, {i: asking(prompt) for i, prompt in enumerate(longer)})
    expected = run(plain, {i: asking(prompt) for i, prompt in enumerate(longer)})
    for i in range(4):
        assert second[i, 0].cached == 45
        assert [t.token for t in second[i, 0].logprobs] == [t.token for t in expected[i, 0].logprobs]
    plain.close()
    caching.close()


def test_a_recurrent_model_neither_guesses_nor_fails_to_load_with_guessing(tmp_path: Path) -> None:
    backend = load(tiny.mamba(tmp_path), speculation="ngram")
    answer = ask(backend, asking((30, 31, 32) * 8, 12))
    assert answer.usage is not None
    assert answer.usage.draft_tokens == 0
    backend.close()


def test_a_model_without_a_chat_template_completes(tmp_path: Path) -> None:
    backend = load(tiny.gemma3(tmp_path))
    assert any("no chat template" in note for note in backend.info.notes)
    assert backend.info.task == "completion"
    backend.close()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tiny.gemma3(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="truncated"):
        load(path)
