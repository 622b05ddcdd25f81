"""Tests of what both engines have in common, over an engine that says what it is told, in a real model's tokens."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import BackendError, Device, InvalidInput, InvalidOption, Match, ModelInfo
from backends.engines.backend import Engine, EngineBackend, Wanted, check_penalties, portable, vocabulary_of
from backends.engines.streams import Output, Streams
from backends.generation import Generation, Piece, Sampling
from backends.sampling import SamplingDefaults
from backends.transformers import folder as folders
from backends.transformers.library import library
from tests import models_transformers

pytest.importorskip("transformers")

DEFAULTS = SamplingDefaults(repeat_last_n=-1)
SAID = "One two three, and so on. Grüße! 🙂"


class Scripted(Engine):
    """Says the same text to everybody, a token at a time, as far as it may."""

    name = "Scripted"

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self.wanted: list[Wanted] = []
        self.ended: list[str] = []
        self.died = False

    def params(self, wanted: Wanted) -> Wanted:
        if wanted.sampling.temperature > 2:
            raise InvalidInput("Too hot.", field="temperature")
        self.wanted.append(wanted)
        return wanted

    async def generate(self, name: str, prompt: list[int], params: Any) -> AsyncGenerator[Output, None]:
        try:
            if params.grammar == "bad":
                raise ValueError("what a grammar")
            for i, token in enumerate(self._tokens[: params.most]):
                await asyncio.sleep(0)
                told = [{token: -0.5, 1: -1.0, 2: -0.25}] if params.logprobs is not None else None
                yield Output([token], told, i + 1 == min(len(self._tokens), params.most), cached=len(prompt) - 1)
        finally:
            self.ended.append(name)

    def error(self, error: Exception) -> BackendError:
        return InvalidInput(f"Refused: {error}", field="grammar")

    @property
    def dead(self) -> bool:
        return self.died

    async def close(self) -> None:
        self.died = True


class ScriptedBackend(EngineBackend):
    name = "scripted"
    summary = ""

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return Match(0.0)

    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:
        folder = folders.read(path)
        vocabulary, _ = vocabulary_of(library(), folder, 49152, trusted=False)
        tokens = vocabulary.tokenize(SAID)
        self.script = Scripted([*tokens, vocabulary.eos])
        self._serve(self.script, Streams(), vocabulary, options or DEFAULTS, length=64)
        return ModelInfo(task="completion")


@pytest.fixture
def backend() -> Iterator[ScriptedBackend]:
    loaded = ScriptedBackend()
    loaded.load(models_transformers.smollm2(), Device("cpu"), None)
    yield loaded
    loaded.close()


def run(backend: EngineBackend, *requests: Generation) -> dict[int, list[list[Piece]]]:
    """The pieces of each choice of each request."""
    for i, request in enumerate(requests):
        backend.add(i, request)
    found: dict[tuple[int, int], list[Piece]] = defaultdict(list)
    while backend.busy:
        if backend.wait(10.0):
            for piece in backend.step():
                found[piece.id, piece.choice].append(piece)
    return {
        i: [found[i, choice] for choice in range(request.choices) if (i, choice) in found]
        for i, request in enumerate(requests)
    }


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_an_answer_comes_in_whole_characters(backend: ScriptedBackend) -> None:
    ((pieces,),) = run(backend, Generation(prompt="Hello")).values()
    assert text(pieces) == SAID
    assert all("\N{REPLACEMENT CHARACTER}" not in piece.text for piece in pieces)
    last = pieces[-1]
    assert last.finish == "stop"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.cached_tokens) == (1, 0)
    assert last.usage.completion_tokens == sum(piece.tokens for piece in pieces) > 10


def test_a_stop_text_ends_the_choice_in_the_engine(backend: ScriptedBackend) -> None:
    ((pieces,),) = run(backend, Generation(prompt="Hello", stop=("ree, a", "nowhere"))).values()
    assert text(pieces) == "One two th"
    assert (pieces[-1].finish, pieces[-1].stop_text) == ("stop", "ree, a")
    assert backend.wait(0) or True
    backend.step()
    assert backend._streams is not None
    backend._streams.run(asyncio.sleep(0.01))
    assert backend.script.ended == ["0-0"]


def test_its_length_ends_an_answer(backend: ScriptedBackend) -> None:
    ((pieces,),) = run(backend, Generation(prompt="Hello", max_tokens=3)).values()
    assert text(pieces) == "One two three"
    assert pieces[-1].finish == "length"


def test_each_choice_is_a_request_of_its_own(backend: ScriptedBackend) -> None:
    found = run(backend, Generation(prompt="Hello", choices=3, max_tokens=2, sampling=Sampling(seed=7)))[0]
    assert [text(pieces) for pieces in found] == ["One two"] * 3
    assert [wanted.seed for wanted in backend.script.wanted[1:]] == [7, 8, 9]


def test_log_probabilities(backend: ScriptedBackend) -> None:
    ((pieces,),) = run(backend, Generation(prompt="Hello", max_tokens=1, logprobs=2)).values()
    (told,) = pieces[0].logprobs
    assert (told.text, told.logprob) == (b"One", -0.5)
    assert [(each.token, each.logprob) for each in told.top] == [(2, -0.25), (told.token, -0.5)]
    ((pieces,),) = run(backend, Generation(prompt="Hello", max_tokens=1, logprobs=0)).values()
    assert pieces[0].logprobs[0].top == ()


def test_what_ends_an_answer_is_told_to_the_engine(backend: ScriptedBackend) -> None:
    eos = backend._vocabulary.eos
    run(backend, Generation(prompt="Hello", stop_tokens=(5,), max_tokens=1))
    run(backend, Generation(prompt="Hello", stop_tokens=(5,), max_tokens=1, ignore_eos=True))
    as_usual, ignored = backend.script.wanted[1:]
    assert {5, eos} <= set(as_usual.ends)
    assert as_usual.banned == ()
    assert ignored.ends == (5,)
    assert eos in ignored.banned


def test_an_error_is_of_its_request_alone(backend: ScriptedBackend) -> None:
    found = run(backend, Generation(prompt="a", grammar="bad", choices=2), Generation(prompt="b"))
    errors = [piece.error for pieces in found[0] for piece in pieces]
    assert len(errors) == 1
    assert isinstance(errors[0], InvalidInput)
    assert errors[0].field == "grammar"
    assert text(found[1][0]) == SAID


def test_a_cancelled_request_is_gone(backend: ScriptedBackend) -> None:
    backend.add(0, Generation(prompt="a", choices=2))
    backend.add(1, Generation(prompt="b"))
    backend.cancel(0)
    backend.cancel(0)
    pieces: list[Piece] = []
    while backend.busy:
        if backend.wait(10.0):
            pieces += backend.step()
    assert {piece.id for piece in pieces} == {1}
    assert text(pieces) == SAID


def test_a_dead_engine_ends_the_model(backend: ScriptedBackend) -> None:
    backend.script.died = True
    backend.add(0, Generation(prompt="a", grammar="bad"))
    assert backend.wait(10.0)
    with pytest.raises(RuntimeError, match="has died"):
        backend.step()


@pytest.mark.parametrize(
    ("request_", "field", "said"),
    [
        (Generation(prompt="a " * 70), "prompt", "may have 63"),
        (Generation(prompt="a", suffix="b"), "suffix", "does not fill gaps"),
        (Generation(prompt="a", adapters={"x": 1.0}), "adapters", "has no adapters"),
        (Generation(prompt="a", sampling=Sampling(temperature=3)), "temperature", "Too hot"),
        (Generation(prompt="a", sampling=Sampling(typical_p=0.5)), "typical_p", "has no typical_p"),
        (
            Generation(prompt="a", sampling=Sampling(repeat_last_n=64, repeat_penalty=1.1)),
            "repeat_last_n",
            "must be -1",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(backend: ScriptedBackend, request_: Generation, field: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        backend.add(0, request_)
    assert caught.value.field == field
    assert not backend.busy


def test_defaults_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(InvalidOption, match="Too hot") as caught:
        ScriptedBackend().load(models_transformers.smollm2(), Device("cpu"), SamplingDefaults(temperature=3))
    assert caught.value.field == "config.sampling.temperature"


def test_penalties_that_look_back_on_nothing_do_nothing() -> None:
    chosen = check_penalties(SamplingDefaults(repeat_last_n=0, repeat_penalty=1.5, presence_penalty=1.0), "X")
    assert (chosen.repeat_penalty, chosen.presence_penalty) == (1.0, 0.0)
    everything = SamplingDefaults(repeat_last_n=-1, repeat_penalty=1.5)
    assert check_penalties(everything, "X") is everything


def test_escapes_in_grammars_have_one_meaning() -> None:
    assert portable(r'root ::= "\x22age\\x22" [\x00-\x1f\]] "\n\""') == (
        r'root ::= "\u0022age\\x22" [\u0000-\u001f\]] "\n\""'
    )
