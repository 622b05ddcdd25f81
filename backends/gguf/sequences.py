"""The state of requests, and of the sequences that answer them: one for each choice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backends.answers import Answer
from backends.generation import Generation, Piece, Usage
from backends.gguf import images
from backends.gguf.context import Context, State
from backends.gguf.images import Image
from backends.gguf.model import Model
from backends.gguf.sampling import Sampler
from backends.gguf.speculation import Guessing
from backends.sampling import DeadEnd

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]
Group = tuple[tuple[str, float], ...]
"""LoRA adapters by name and strength, in the order of the names."""


@dataclass(slots=True, eq=False)
class Request:
    """A request under way."""

    id: int
    asked: Generation
    prompt: Tokens
    """In which negative numbers stand for those of `images`."""
    group: Group
    limit: int
    """Most tokens of one choice, prompt and answer together."""
    make_sampler: Callable[[int], Sampler]
    """For a choice."""
    images: tuple[Image, ...] = ()
    """Of the prompt, in their order."""
    sequences: list[Sequence] = field(default_factory=list)


class Sequence:
    """One choice of a request.

    `tokens` are the prompt and what was generated; the keys and values of the first `stored` of them are in its slot.
    The rest is to be computed: much of a prompt, or the one token that was chosen last.
    """

    def __init__(self, request: Request, choice: int, model: Model, guesser: Guessing | None) -> None:
        asked = request.asked
        self.request = request
        self.choice = choice
        self.context: Context | None = None
        self.slot = -1
        """Its place in `context`; -1 while it waits."""
        self.stored = 0
        self.state: State | None = None
        """What was computed before it had to wait again: `state_length` tokens."""
        self.state_length = 0
        self.prompt_length = self.count = len(request.prompt)
        """How many tokens there are: of the prompt, and in all."""
        self.slot_length: float = math.inf
        """Most tokens that its slot has room for, while it has one."""
        self.guesser = guesser
        self.order = 0
        """Its place among all that were let in: prompts are computed in this order."""
        self._buffer = np.empty(request.limit, np.int32)
        self._buffer[: self.count] = request.prompt
        self._sampler = request.make_sampler(choice)
        self._answer = Answer(asked, model, request.limit - self.count)
        self._cached = 0
        self._drafted = self._accepted = 0
        self._admitted = self._first = self._last = 0.0

    @property
    def finish(self) -> Literal["stop", "length"] | None:
        """Why it has ended; `None` while it goes on."""
        return self._answer.finish

    @property
    def tokens(self) -> Tokens:
        """The prompt and what was generated."""
        return self._buffer[: self.count]

    def token(self, index: int) -> int:
        """The one at `index`."""
        return self._buffer.item(index)

    @property
    def pending(self) -> int:
        """How many tokens are to be computed before the next one can be chosen."""
        return self.count - self.stored

    @property
    def image(self) -> Image | None:
        """The one that its next token to be computed is part of."""
        return images.at(self.request.images, self.stored) if self.request.images else None

    @property
    def run(self) -> int:
        """How many pending tokens are alike: of text up to the next image, or of the same image."""
        ends = (end for image in self.request.images for end in (image.begin, image.end))
        return next((end for end in ends if end > self.stored), self.count) - self.stored

    @property
    def decodes(self) -> bool:
        """Whether only the token that was chosen last, or the last one of its prompt, is to be computed."""
        return self.count - self.stored == 1 and self.image is None

    def position(self, index: int) -> int:
        """Of the token at `index`, which is in no image."""
        return images.position(self.request.images, index) if self.request.images else index

    def bounded(self, length: int) -> int:
        """`length`, or less where it would end within an image."""
        return images.bounded(self.request.images, length)

    @property
    def generated(self) -> int:
        """How many tokens were generated."""
        return self.count - self.prompt_length

    @property
    def room(self) -> int:
        """How many more tokens it may have."""
        return self.request.limit - self.count

    @property
    def room_in_slot(self) -> int:
        """How many more tokens its slot has room for."""
        return 0 if self.context is None else self.context.settings.length - self.count

    def admit(self, context: Context, slot: int, order: int, stored: int, cached: int) -> None:
        """Lets it in, with what is stored for it already; of that, `cached` is another request's work."""
        self.context, self.slot, self.order, self.stored = context, slot, order, stored
        self.slot_length = context.settings.length
        if not self._admitted:
            self._admitted = time.perf_counter()
            self._cached = cached

    def expel(self) -> None:
        """Takes its slot away. It may be let in again, and goes on from there."""
        self.context, self.slot, self.stored, self.slot_length = None, -1, 0, math.inf

    @property
    def cached(self) -> int:
        """How much of the prompt had been computed for another request when it was let in first."""
        return self._cached

    def advance(self, rows: Several[Logits], draft: Tokens) -> Piece:
        """Chooses the next token by the first row of logits, and goes on as long as the tokens are those of `draft`.

        All tokens, and `draft` after them, must have been computed. Of `draft` only what was chosen counts as stored.
        """
        begin = self.count
        self.stored = begin
        self._last = time.perf_counter()
        self._first = self._first or self._last
        piece = Piece(id=self.request.id, choice=self.choice)
        guessed = len(rows) - 1
        for row, logits in enumerate(rows):
            self._choose(logits, piece)
            if self.finish is not None or row == guessed or self.tokens[-1] != draft[row]:
                break
            self.stored += 1
        self._drafted += guessed
        self._accepted += self.stored - begin
        self._complete(piece)
        return piece

    def close(self) -> None:
        """Frees what it holds besides its slot."""
        self.state = None
        self._sampler.close()
        if self.guesser is not None:
            self.guesser.close()

    def _choose(self, logits: Logits, piece: Piece) -> None:
        raw = logits.copy() if self._answer.wants_logprobs else None
        try:
            token = self._sampler.choose(logits, self.tokens)
        except DeadEnd:
            self._answer.stop()
            return
        self._buffer[self.count] = token
        self.count += 1
        self._answer.take(token, raw, piece)

    def _complete(self, piece: Piece) -> None:
        """Adds to `piece` what is certain now."""
        self._answer.complete(piece)
        if self.finish is not None:
            piece.usage = Usage(
                prompt_tokens=self.prompt_length,
                cached_tokens=self._cached,
                completion_tokens=self.generated,
                draft_tokens=self._drafted,
                accepted_tokens=self._accepted,
                prompt_seconds=self._first - self._admitted,
                generation_seconds=self._last - self._first,
            )
