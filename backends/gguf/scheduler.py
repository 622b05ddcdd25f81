"""Continuous batching: which sequences have a slot, and what each step computes for them.

Steps take turns. One makes a decode call for all sequences that generate: the next token of each, and the tokens that
were guessed to follow. The next computes a bounded number of prompt tokens, of the oldest prompt first, so that a long
one never holds up the others, and ends soon when a prompt is complete, so that its first token goes out. Sequences join
and leave between any two steps. Of the images in prompts, one at most is encoded in a step (a tile, where it has
several): that takes as long as it takes, and then the others go on.

Prompts have calls of their own, as llama.cpp would take a call apart anyway where sequences have different numbers of
tokens in it. And on the CPU it computes the attention of 64 tokens and more in another way than that of fewer, with
other last bits. So that these depend on nothing but the prompt, a prompt of 64 tokens is never cut into less.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np

from backends.base import BackendError
from backends.generation import Piece
from backends.gguf.context import Context, State
from backends.gguf.images import Image
from backends.gguf.model import Model
from backends.gguf.pools import Pools
from backends.gguf.prefixes import Prefixes
from backends.gguf.sequences import Group, Request, Sequence, Tokens
from backends.gguf.speculation import MOST, Costs, Guessing, plan

log = logging.getLogger("unimodel.llama")

TILE = 64
"""The fewest tokens whose attention llama.cpp computes as a matrix product on the CPU."""
_PROMPT_SECONDS = 1.0
"""Time that prompts take of one step, at most, unless `TILE` tokens take longer."""
_PROMPTS_SECONDS = 0.1
"""Time that a step takes for prompts after one is complete: its first token waits so long at most. Many short prompts
are computed together so, and the calls for the next tokens of few sequences, which cost nearly as much as those for
many, are fewer."""
_PLAIN_EVERY = 12
"""Of so many calls that could guess one does not: what a call takes without must stay known."""
_HEADROOM = 32
"""Tokens that a sequence should be able to grow by in its slot when it is let in."""
_NOTHING: Tokens = np.empty(0, np.int32)
_NO_LOGITS = np.empty(0, np.float32)


@dataclass(slots=True)
class Share:
    """A sequence's part of a call."""

    sequence: Sequence
    count: int
    """Pending tokens that are computed."""
    draft: Tokens
    row: int
    """The first row of its logits."""


class Scheduler:
    """Owns the sequences, and decides who has which slot."""

    def __init__(
        self, model: Model, pools: Pools, prefixes: Prefixes | None, new_guesser: Callable[[], Guessing] | None
    ) -> None:
        self._model = model
        self._pools = pools
        self._prefixes = prefixes
        self._new_guesser = new_guesser
        self._requests: dict[int, Request] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        """By `Sequence.order`."""
        self._admitted = 0
        self._group: Group = ()
        self._prompts_next = False
        """Whether it is the turn of the prompts."""
        self._costs = Costs()
        self._chances = 0
        """Calls that could have guessed."""
        self._prompt_token_seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether any request is under way."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Takes in a request. Its samplers are made here, and may raise."""
        try:
            for choice in range(request.asked.choices):
                guesser = self._new_guesser() if self._new_guesser is not None and not request.images else None
                request.sequences.append(Sequence(request, choice, self._model, guesser))
        except BaseException:
            for sequence in request.sequences:
                sequence.close()
            raise
        self._requests[request.id] = request
        self._waiting.extend(request.sequences)

    def cancel(self, request_id: int) -> None:
        """Drops a request at once; what was computed for it may still serve others."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._drop(request, keep=True)

    def close(self) -> None:
        """Drops everything."""
        for request in self._requests.values():
            for sequence in request.sequences:
                sequence.close()
        self._requests.clear()

    def step(self) -> list[Piece]:
        """Computes once for all sequences that generate, or prompts; of those that have the same adapters."""
        pieces: list[Piece] = []
        self._admit(pieces)
        if self._running:
            if not self._prompts_next:
                self._group = self._next_group()
            decoding: list[Sequence] = []
            prompts: list[Sequence] = []
            for sequence in self._running:
                if sequence.request.group == self._group:
                    (decoding if sequence.decodes else prompts).append(sequence)
            if decoding and not self._prompts_next:
                contexts = self._pools.open
                for context in contexts:
                    own = decoding if len(contexts) == 1 else [s for s in decoding if s.context is context]
                    self._decode(context, own, bool(prompts), pieces)
                self._prompts_next = bool(prompts)
            else:
                self._compute_prompts(prompts, bool(decoding), pieces)
                self._prompts_next = False
        return pieces

    # --- who has a slot -----------------------------------------------------------------------------------------------

    def _admit(self, pieces: list[Piece]) -> None:
        """Lets waiting sequences in, in their order, as far as there are slots for them."""
        for sequence in tuple(self._running):
            if sequence.count > sequence.slot_length:
                self._move(sequence)
        for sequence in tuple(self._waiting):
            gone = sequence.request.id not in self._requests  # with another choice, for which there is no memory
            if gone or self._must_wait(sequence):
                continue
            try:
                context = self._pools.fitting(min(sequence.count + _HEADROOM, sequence.request.limit))
                if context.free_slots:
                    self._let_in(sequence, context)
            except BackendError as e:
                self._fail([sequence.request], e, pieces)

    def _must_wait(self, sequence: Sequence) -> bool:
        """Whether another sequence is about to compute what this one needs as well."""
        leader = sequence.request.sequences[0]
        if sequence is not leader and leader.finish is None and not leader.generated:
            return True
        if self._prefixes is None or sequence.state is not None:
            return False
        return self._prefixes.coming(sequence, self._running)

    def _let_in(self, sequence: Sequence, context: Context) -> None:
        self._waiting.remove(sequence)
        slot = context.take_slot()
        stored = 0
        if sequence.state is not None:
            stored = sequence.state_length if context.restore(slot, sequence.state) else 0
            sequence.state = None
        if not stored and self._prefixes is not None:
            stored = self._prefixes.reuse(sequence, self._running, context, slot)
        self._enter(sequence, context, slot, stored, cached=stored)

    def _enter(self, sequence: Sequence, context: Context, slot: int, stored: int, cached: int) -> None:
        self._admitted += 1
        sequence.admit(context, slot, sequence.order or self._admitted, stored, cached)
        bisect.insort(self._running, sequence, key=lambda s: s.order)

    def _move(self, sequence: Sequence) -> None:
        """Lets a sequence that outgrew its slot wait for a longer one, with what was computed for it."""
        if sequence.context is not None:
            sequence.state, sequence.state_length = sequence.context.save(sequence.slot), sequence.stored
            self._leave(sequence, keep=False)
            self._waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence, *, keep: bool) -> None:
        """Takes a sequence's slot; with `keep`, what was computed for it is cached."""
        self._running.remove(sequence)
        if keep and self._prefixes is not None:
            self._prefixes.keep(sequence)
        if sequence.context is not None:
            sequence.context.free_slot(sequence.slot)
        sequence.expel()

    def _drop(self, request: Request, *, keep: bool) -> None:
        for sequence in request.sequences:
            if sequence.slot >= 0:
                self._leave(sequence, keep=keep)
            elif sequence.finish is None:
                self._waiting.remove(sequence)
            sequence.close()

    def _fail(self, requests: Several[Request], error: BackendError, pieces: list[Piece]) -> None:
        for request in requests:
            if self._requests.pop(request.id, None) is not None:
                self._drop(request, keep=False)
                pieces.append(Piece(id=request.id, error=error))

    # --- one step -----------------------------------------------------------------------------------------------------

    def _next_group(self) -> Group:
        """The adapters of this step. Sequences with others wait for theirs: adapters are applied to a whole call."""
        if len(self._running) == 1:
            return self._running[0].request.group
        groups = list(dict.fromkeys(sequence.request.group for sequence in self._running))
        at = groups.index(self._group) + 1 if self._group in groups else 0
        return groups[at % len(groups)]

    def _decode(self, context: Context, sequences: list[Sequence], prompts: bool, pieces: list[Piece]) -> None:
        """Computes the next token of each, and what is guessed to follow, in one call."""
        if not sequences:
            return
        # With several sequences llama.cpp takes a call apart where one has more tokens than the others. Measured on the
        # CPU with four, guesses that were right four times in five made them slower by a fifth.
        draft = _NOTHING
        if len(sequences) > 1:
            sequences.sort(key=lambda sequence: sequence.slot)  # llama.cpp computes neighbours together
        elif sequences[0].guesser is not None and not prompts:
            draft = self._draft(sequences[0])
        context.begin()
        shares = [self._put(context, sequence, 1, draft) for sequence in sequences]
        begin = time.perf_counter()
        if self._computed(context, shares, pieces):
            if len(shares) == 1 and sequences[0].guesser is not None:
                self._costs.record(context.size, time.perf_counter() - begin)
            self._advance_all(context, shares, pieces)

    def _compute_prompts(self, prompts: list[Sequence], decoding: bool, pieces: list[Piece]) -> None:
        """Computes prompts, or parts of them, the oldest first, as far as one step may go."""
        room = self._prompt_room(decoding)
        step_begin = time.perf_counter()
        encoded = complete = False
        for sequence in prompts:
            context = sequence.context
            if context is None:  # it went with another choice of its request, which failed
                continue
            if complete:
                end = time.perf_counter() + sequence.run * self._prompt_token_seconds
                if end - step_begin > _PROMPTS_SECONDS:
                    break
            image = sequence.image
            if image is not None and image.vectors is None:
                encoded = encoded or self._encode(image, sequence.request, pieces)
                continue
            count = sequence.run if image is not None and image.whole else self._part(sequence.run, room)
            if not count or room <= 0:
                break
            room -= count
            context.begin()
            shares = [self._put(context, sequence, count, _NOTHING)]
            begin = time.perf_counter()
            if self._computed(context, shares, pieces):
                seconds = (time.perf_counter() - begin) / count
                self._prompt_token_seconds += 0.2 * (seconds - self._prompt_token_seconds)
                self._advance_all(context, shares, pieces)
                complete = complete or sequence.generated > 0

    def _encode(self, image: Image, request: Request, pieces: list[Piece]) -> bool:
        """Encodes an image, which is all that is done for its request in this step."""
        try:
            image.encode()
        except BackendError as e:
            self._fail([request], e, pieces)
        return True

    def _prompt_room(self, decoding: bool) -> int:
        """How many prompt tokens this step computes. `_part` keeps a call's size within bounds by going less far."""
        room = self._pools.batch_tokens - TILE
        if decoding:
            room //= 2
        if self._prompt_token_seconds:
            room = min(room, int(_PROMPT_SECONDS / self._prompt_token_seconds))
        return max(TILE, room)

    @staticmethod
    def _part(pending: int, room: int) -> int:
        """How much of a prompt to compute: no rest of less than `TILE` is left, and none of that size is begun."""
        if pending <= room or pending - room < TILE <= room:
            return pending
        return room if room >= TILE else 0

    def _put(self, context: Context, sequence: Sequence, count: int, draft: Tokens) -> Share:
        begin, end = sequence.stored, sequence.stored + count
        image = sequence.image
        if image is not None:
            row = context.add_image(image, begin - image.begin, count, sequence.slot, int(end == sequence.count))
            return Share(sequence, count, draft, row)
        if count == 1 and draft is _NOTHING and end == sequence.count:
            row = context.add_one(sequence.token(begin), sequence.position(begin), sequence.slot)
            return Share(sequence, count, draft, row)
        tokens = np.concatenate((sequence.tokens[begin:end], draft))
        outputs = 1 + len(draft) if end == sequence.count else 0
        row = context.add(tokens, sequence.position(begin), sequence.slot, outputs)
        return Share(sequence, count, draft, row)

    def _computed(self, context: Context, shares: list[Share], pieces: list[Piece]) -> bool:
        """Computes the batch. If that fails, its requests do, and nobody else's."""
        try:
            context.use(self._group)
            context.decode()
        except BackendError as e:
            self._fail(list(dict.fromkeys(share.sequence.request for share in shares)), e, pieces)
            return False
        return True

    def _draft(self, sequence: Sequence) -> Tokens:
        """What is guessed to come next, as far as it pays to check it."""
        guesser = sequence.guesser
        if guesser is None or not guesser.look(sequence.tokens):
            return _NOTHING
        self._chances += 1
        if self._chances % _PLAIN_EVERY == 0:
            return _NOTHING
        limit = min(MOST, sequence.room - 1, sequence.room_in_slot)
        count = plan(self._costs, guesser.odds, limit, guesser.seconds)
        return guesser.guess(sequence.tokens, count) if count else _NOTHING

    def _advance_all(self, context: Context, shares: list[Share], pieces: list[Piece]) -> None:
        for share in shares:
            if share.sequence.slot < 0:  # it went with another choice of its request, which failed
                continue
            try:
                self._advance(context, share, pieces)
            except Exception as e:
                log.exception("a sequence failed", extra={"request": share.sequence.request.id})
                error = e if isinstance(e, BackendError) else BackendError("The next token could not be chosen.")
                self._fail([share.sequence.request], error, pieces)

    def _advance(self, context: Context, share: Share, pieces: list[Piece]) -> None:
        """Chooses the next tokens of a sequence, if all its tokens are computed."""
        sequence = share.sequence
        sequence.stored += share.count
        if sequence.stored < sequence.count:
            return
        followers = [] if sequence.count > sequence.prompt_length else self._followers(context, sequence)
        logits = context.logits(share.row).copy() if followers else _NO_LOGITS
        pieces.append(sequence.advance(context.rows(share.row, 1 + len(share.draft)), share.draft))
        for follower in followers:
            pieces.append(follower.advance([logits.copy()], _NOTHING))
        if len(share.draft):
            context.cut(sequence.slot, sequence.stored)
        for each in (sequence, *followers):
            if each.finish is not None:
                self._end(each)

    def _followers(self, context: Context, leader: Sequence) -> list[Sequence]:
        """Lets in the choices of a request that have yet to begin, now that its prompt is computed, as far as there are
        slots."""
        waiting = [s for s in leader.request.sequences if s.slot < 0 and s.finish is None and not s.generated]
        followers = waiting[: context.free_slots]
        state: State | None = context.save(leader.slot) if followers else None
        entered = []
        for follower in followers:
            slot = context.take_slot()
            if state is None or not context.restore(slot, state):
                context.free_slot(slot)
                break
            self._waiting.remove(follower)
            self._enter(follower, context, slot, leader.stored, cached=leader.cached)
            entered.append(follower)
        return entered

    def _end(self, sequence: Sequence) -> None:
        """A sequence has its last token."""
        request = sequence.request
        self._leave(sequence, keep=True)
        sequence.close()
        if all(s.finish is not None for s in request.sequences):
            del self._requests[request.id]
