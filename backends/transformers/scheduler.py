"""Continuous batching: what each step computes for whom.

A step computes the next token of all sequences that generate in one call, and then prompts for a bounded time. Which
ones is up to the `PromptQueue`. Sequences join and leave between any two steps.

The library has continuous batching of its own. It is not used: it draws the tokens of all requests from one stream of
random numbers, in a thread of its own, and gives no logits out, which the seeds, penalties, biases and log
probabilities of each request need.
"""

from __future__ import annotations

import logging
import time
from collections import deque

from backends.base import BackendError
from backends.generation import Piece
from backends.sampling import Logits
from backends.transformers.decoder import Decoder
from backends.transformers.prefixes import Prefixes
from backends.transformers.prompt_queue import PromptQueue
from backends.transformers.sequences import Part, Request, Sequence
from backends.transformers.vocabulary import Vocabulary

log = logging.getLogger("unimodel.transformers")

_PROMPT_SECONDS, _MOST_SECONDS = 0.15, 0.5
"""What a step may take for prompts while others wait for their next token, and while nobody does. In between it is in
proportion, where more prompts wait than others."""
_HEADROOM = 32
"""Tokens that a sequence should be able to grow by when it is let in."""


class Scheduler:
    """Owns the requests and their sequences. `cells` are the tokens that there is room for: rows times the longest."""

    def __init__(
        self, decoder: Decoder, vocabulary: Vocabulary, sequences: int, cells: int, prefixes: Prefixes | None = None
    ) -> None:
        self._decoder = decoder
        self._prefixes = prefixes
        self._vocabulary = vocabulary
        self._sequences = sequences
        self._cells = cells
        self._requests: dict[int, Request] = {}
        self._waiting: deque[Sequence] = deque()
        self._prompts = PromptQueue(prefixes, batched=decoder.batches)
        self._admitted = 0

    @property
    def busy(self) -> bool:
        """Whether any request is under way."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Takes in a request."""
        request.sequences = [Sequence(request, i, self._vocabulary) for i in range(request.asked.choices)]
        self._requests[request.id] = request
        self._waiting.extend(request.sequences)

    def cancel(self, request_id: int) -> None:
        """Drops a request at once."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._drop(request, keep=True)

    def step(self) -> list[Piece]:
        """Computes once for all sequences that generate, and prompts for a while. In inference mode."""
        pieces: list[Piece] = []
        self._make_room()
        self._admit()
        if self._decoder.rows:
            self._decode(pieces)
        begin, spent = time.perf_counter(), 0.0
        while parts := self._next_prompts(spent):
            self._compute_prompts(parts, pieces)
            spent = time.perf_counter() - begin
        return pieces

    # --- who has room -------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Lets waiting sequences in, in their order, as far as there is room."""
        while self._waiting and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._admitted += 1
            sequence.admit(self._admitted)
            self._prompts.add(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether one more may be let in. Choices wait for the first one of their request, whose prompt they share."""
        leader = sequence.request.sequences[0]
        if sequence is not leader and leader.finish is None and not leader.generated:
            return False
        inside = [*self._decoder.rows, *self._prompts]
        if not inside:
            return True
        longest = max(each.count for each in (*inside, sequence)) + _HEADROOM
        return len(inside) < self._sequences and (len(inside) + 1) * longest <= self._cells

    def _make_room(self) -> None:
        """Takes the sequences that came last out of the batch while it outgrows its room; they go on later."""
        rows = self._decoder.rows
        while len(rows) > 1 and len(rows) * (max(each.count for each in rows) + 1) > self._cells:
            last = max(rows, key=lambda each: each.order)
            self._leave(last, keep=True)
            self._waiting.appendleft(last)

    def _leave(self, sequence: Sequence, *, keep: bool) -> None:
        """Drops what was computed for a sequence; with `keep`, it is cached."""
        if keep and self._prefixes is not None:
            self._prefixes.keep(sequence)
        self._decoder.leave(sequence)

    def _drop(self, request: Request, *, keep: bool) -> None:
        for sequence in request.sequences:
            self._leave(sequence, keep=keep)
        self._waiting = deque(each for each in self._waiting if each.request is not request)
        self._prompts.drop(request)

    def _fail(self, request: Request, error: Exception, pieces: list[Piece]) -> None:
        if self._requests.pop(request.id, None) is None:
            return
        self._drop(request, keep=False)
        if not isinstance(error, BackendError):
            log.error("a sequence failed", exc_info=error, extra={"request": request.id})
            error = BackendError("The next token could not be chosen.")
        pieces[:] = [piece for piece in pieces if piece.id != request.id]
        pieces.append(Piece(id=request.id, error=error))

    # --- one step -----------------------------------------------------------------------------------------------------

    def _decode(self, pieces: list[Piece]) -> None:
        """The next token of all sequences in the batch. If that fails, all of them do."""
        try:
            found = self._decoder.decode()
        except BackendError as e:
            for request in {each.request.id: each.request for each in self._decoder.rows}.values():
                self._fail(request, e, pieces)
            return
        for sequence, logits in found:
            if sequence.request.id in self._requests:  # else it went with another choice, which failed
                self._advance(sequence, logits, pieces)

    def _next_prompts(self, spent: float) -> list[Part]:
        """What the next call computes of prompts, when they have taken `spent` seconds of this step."""
        rows, prompts = self._decoder.rows, list(self._prompts)
        counts = [each.count for each in (*rows, *prompts)]
        free = self._cells - len(counts) * max(counts, default=0)
        seconds = min(_MOST_SECONDS, _PROMPT_SECONDS * max(1, len(prompts) / len(rows))) if rows else _MOST_SECONDS
        return self._prompts.next(seconds - spent, free, must=not spent)

    def _compute_prompts(self, parts: list[Part], pieces: list[Piece]) -> None:
        """Computes parts of prompts in one call; after its last one a sequence joins the others."""
        begin = time.perf_counter()
        try:
            found = self._decoder.compute_prompts(parts)
        except BackendError as e:
            if len(parts) == 1:
                self._fail(parts[0].sequence.request, e, pieces)
                return
            for part in parts:  # alone they may fit the memory, or only one be at fault
                if part.sequence.request.id in self._requests:
                    self._compute_prompts([part], pieces)
            return
        self._prompts.record(parts, time.perf_counter() - begin)
        for (sequence, _), logits in zip(parts, found, strict=True):
            if sequence.request.id in self._requests and not sequence.pending:
                self._prompts.remove(sequence)
                self._begin(sequence, logits, pieces)

    def _begin(self, sequence: Sequence, logits: Logits, pieces: list[Piece]) -> None:
        """The first token of a sequence, and of the choices that share its prompt, as far as there is room."""
        waiting = [] if sequence.generated else [each for each in sequence.request.sequences if each in self._waiting]
        kept, prompt, stored = logits.copy(), sequence.cache, sequence.stored
        if self._prefixes is not None:
            self._prefixes.keep(sequence)
        self._start(sequence, logits, pieces)
        for follower in waiting:
            if follower.request.id not in self._requests or not self._fits(follower):
                return
            self._waiting.remove(follower)
            self._admitted += 1
            follower.admit(self._admitted)
            self._decoder.share(prompt, stored, follower)
            follower.cached = sequence.cached
            self._start(follower, kept.copy(), pieces)

    def _start(self, sequence: Sequence, logits: Logits, pieces: list[Piece]) -> None:
        self._decoder.join(sequence)
        self._advance(sequence, logits, pieces)

    def _advance(self, sequence: Sequence, logits: Logits, pieces: list[Piece]) -> None:
        """Chooses the next token of a sequence."""
        try:
            pieces.append(sequence.advance(logits))
        except Exception as e:
            self._fail(sequence.request, e, pieces)
            return
        if sequence.finish is not None:
            self._leave(sequence, keep=True)
            if all(each.finish is not None for each in sequence.request.sequences):
                del self._requests[sequence.request.id]
