"""Continuous batching: what each step computes for whom.

A step computes the next token of all sequences that generate in one call, and then prompts, or a part of the oldest
one, for a bounded time. Sequences join and leave between any two steps.

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
from backends.transformers.sequences import Request, Sequence
from backends.transformers.vocabulary import Vocabulary

log = logging.getLogger("unimodel.transformers")

_PROMPT_SECONDS = 0.15
"""What a step may take for prompts while others wait for their next token."""
_LEAST, _MOST = 32, 512
"""Tokens of a part of a prompt."""
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
        self._prompts: list[Sequence] = []
        """Those that were let in, and whose prompt is not computed; by `Sequence.order`."""
        self._admitted = 0
        self._token_seconds = 0.0
        """Of a token of a prompt."""

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
        while self._prompts:
            sequence = self._prompts[0]
            if not sequence.stored and self._prefixes is not None:  # not earlier: those before it may compute a part
                self._prefixes.reuse(sequence)
            count = self._part(sequence, spent)
            if not count:
                break
            self._compute_prompt(sequence, count, pieces)
            spent = time.perf_counter() - begin
        return pieces

    # --- who has room -------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Lets waiting sequences in, in their order, as far as there is room."""
        while self._waiting and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._admitted += 1
            sequence.admit(self._admitted)
            self._prompts.append(sequence)
            self._prompts.sort(key=lambda each: each.order)

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
        self._prompts = [each for each in self._prompts if each.request is not request]

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

    def _part(self, sequence: Sequence, spent: float) -> int:
        """How many tokens of a prompt to compute, when prompts have taken `spent` seconds of this step."""
        if not self._decoder.batches:  # a recurrent model begins anew with each part
            return 0 if spent > _PROMPT_SECONDS else sequence.pending
        left = _PROMPT_SECONDS - spent
        room = int(left / self._token_seconds) if self._token_seconds else _LEAST
        least = min(sequence.pending, _LEAST)
        if spent and room < least:  # something is computed in each step, but no crumbs
            return 0
        return min(sequence.pending, _MOST, max(room, least))

    def _compute_prompt(self, sequence: Sequence, count: int, pieces: list[Piece]) -> None:
        """Computes a part of a prompt; after the last one the sequence joins the others."""
        begin = time.perf_counter()
        try:
            logits = self._decoder.compute_prompt(sequence, count)
        except BackendError as e:
            self._fail(sequence.request, e, pieces)
            return
        seconds = (time.perf_counter() - begin) / count
        self._token_seconds += (0.2 if self._token_seconds else 1) * (seconds - self._token_seconds)
        if sequence.pending:
            return
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
