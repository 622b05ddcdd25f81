"""Loads the small LLM, and runs requests to their ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import BackendError, Device, ModelInfo
from backends.generation import Generation, Sampling, TokenLogprob, Usage
from backends.gguf import GgufBackend
from backends.gguf.model import Model
from backends.gguf.options import GgufOptions
from tests.models_gguf import smollm2

GREEDY = Sampling(temperature=0)
CPU = Device("cpu", threads=1)
SMALL: dict[str, Any] = {"max_context_length": 512, "sequences": 4, "prefix_cache_mb": 64}
"""Options that take little memory."""


class Loaded(GgufBackend):
    """A loaded backend."""

    info: ModelInfo

    @property
    def model(self) -> Model:
        """The weights and the vocabulary."""
        return self._loaded


def load(path: Path | None = None, **options: Any) -> Loaded:
    """A backend with the model; `options` on top of those that take little memory."""
    backend = Loaded()
    backend.info = backend.load(path or smollm2(), CPU, GgufOptions(**(SMALL | options)))
    return backend


def greedy(prompt: str, tokens: int = 8, **rest: Any) -> Generation:
    """A request whose answer is known."""
    return Generation(prompt=prompt, sampling=GREEDY, max_tokens=tokens, **rest)


def chat(question: str) -> str:
    """The prompt of a short conversation."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Answer:
    """All of one choice."""

    text: str = ""
    pieces: list[str] = field(default_factory=list)
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    stop_text: str | None = None
    usage: Usage | None = None
    error: BackendError | None = None

    @property
    def cached(self) -> int:
        assert self.usage is not None
        return self.usage.cached_tokens


def finish(backend: GgufBackend, answers: dict[tuple[int, int], Answer] | None = None) -> dict[tuple[int, int], Answer]:
    """Steps until nothing is under way. The answers by request and choice; an error stands at choice 0."""
    answers = {} if answers is None else answers
    while backend.busy:
        step(backend, answers)
    return answers


def step(backend: GgufBackend, answers: dict[tuple[int, int], Answer]) -> None:
    """One step, into `answers`."""
    for piece in backend.step():
        answer = answers.setdefault((piece.id, piece.choice), Answer())
        assert answer.finish is None, "a piece came after the last one"
        assert answer.error is None, "a piece came after an error"
        answer.text += piece.text
        answer.pieces.append(piece.text)
        answer.tokens += piece.tokens
        answer.logprobs += piece.logprobs
        answer.finish, answer.stop_text, answer.usage = piece.finish, piece.stop_text, piece.usage
        answer.error = piece.error


def run(backend: GgufBackend, requests: Mapping[int, Generation]) -> dict[tuple[int, int], Answer]:
    """The answers to requests that all come at once."""
    for request_id, request in requests.items():
        backend.add(request_id, request)
    return finish(backend)


def ask(backend: GgufBackend, request: Generation) -> Answer:
    """The answer to one request of one choice."""
    return run(backend, {1: request})[1, 0]
