"""The state of requests for generated text, and of the sequences that answer them: one for each choice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from backends.answers import Answer, Vocabulary
from backends.generation import Generation, Piece, Usage
from backends.sampling import DeadEnd, Logits, Tokens
from backends.transformers.sampling import Sampler


@dataclass(slots=True, eq=False)
class Request:
    """A request under way."""

    id: int
    asked: Generation
    prompt: list[int]
    limit: int
    """Most tokens of one choice, prompt and answer together."""
    make_sampler: Callable[[int], Sampler]
    """For a choice."""
    sequences: list[Sequence] = field(default_factory=list)


class Sequence:
    """One choice of a request.

    `tokens` are the prompt and what was generated; keys and values of the first `stored` of them are in its `cache`, or
    in a row of the batch that it joined.
    """

    def __init__(self, request: Request, choice: int, vocabulary: Vocabulary) -> None:
        self.request = request
        self.choice = choice
        self.order = 0
        """Its place among all that were let in."""
        self.stored = 0
        self.cache: Any = None
        """What was computed for it alone."""
        self.row = -1
        """Its place in the batch; -1 while it is in none."""
        self.count = len(request.prompt)
        """How many tokens there are."""
        self._buffer = np.empty(request.limit, np.int32)
        self._buffer[: self.count] = request.prompt
        self._sampler = request.make_sampler(choice)
        self._answer = Answer(request.asked, vocabulary, request.limit - self.count)
        self.cached = 0
        """How much of the prompt had been computed for another request."""
        self._admitted = self._first = self._last = 0.0

    @property
    def finish(self) -> Literal["stop", "length"] | None:
        """Why it has ended; `None` while it goes on."""
        return self._answer.finish

    @property
    def tokens(self) -> Tokens:
        """The prompt and what was generated."""
        return self._buffer[: self.count]

    @property
    def pending(self) -> int:
        """How many tokens are to be computed before the next one can be chosen."""
        return self.count - self.stored

    @property
    def generated(self) -> int:
        """How many tokens were generated."""
        return self.count - len(self.request.prompt)

    def admit(self, order: int) -> None:
        """Lets it in. One that was expelled keeps its place."""
        self.order = self.order or order
        self._admitted = self._admitted or time.perf_counter()

    def restored(self, length: int) -> None:
        """So many of its tokens had been computed before."""
        self.stored = length
        if not self.generated:
            self.cached = length

    def expel(self) -> None:
        """Takes away all that was computed for it; it may be let in again."""
        self.cache, self.row, self.stored = None, -1, 0

    def advance(self, logits: Logits) -> Piece:
        """Chooses the next token by its logits, which it may change. All tokens must have been computed."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        piece = Piece(id=self.request.id, choice=self.choice)
        raw = logits.copy() if self._answer.wants_logprobs else None
        try:
            token = self._sampler.choose(logits, self.tokens)
        except DeadEnd:
            self._answer.stop()
        else:
            self._buffer[self.count] = token
            self.count += 1
            self._answer.take(token, raw, piece)
        self._answer.complete(piece)
        if self.finish is not None:
            piece.usage = Usage(
                prompt_tokens=len(self.request.prompt),
                cached_tokens=self.cached,
                completion_tokens=self.generated,
                prompt_seconds=self._first - self._admitted,
                generation_seconds=self._last - self._first,
            )
        return piece


class Part(NamedTuple):
    """Pending tokens of a sequence that are computed in a call."""

    sequence: Sequence
    length: int
