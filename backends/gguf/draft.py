"""A small model that guesses for a large one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from backends.base import BackendError, Device, InvalidOption
from backends.gguf.context import Context, Settings
from backends.gguf.library import Library
from backends.gguf.model import Model
from backends.gguf.options import GgufOptions
from backends.gguf.speculation import Tokens

_RATE = 0.12
_FIRST_ODDS = 0.75
_FORGET = 0.005
"""How far the odds go back to the first ones with each token that was not guessed: in time it is tried again."""
_COMPARED = 1000
"""Tokens of the vocabularies that must be the same text."""


class DraftModel:
    """Guesses greedily. Has a context of its own, with a slot for each sequence that it guesses for."""

    def __init__(self, library: Library, path: Path, device: Device, target: Model, settings: Settings) -> None:
        self.seconds = 0.0
        """What a guessed token takes, lately."""
        self._model = Model(library, path, device, GgufOptions())
        try:
            _check_vocabulary(self._model, target, path.name)
            self._context = Context(self._model, settings)
        except BaseException:
            self._model.close()
            raise

    def take_slot(self) -> int:
        """A slot for a sequence; -1 when there is none."""
        return self._context.take_slot()

    def free_slot(self, slot: int) -> None:
        """Gives a slot back."""
        self._context.free_slot(slot)

    def guess(self, slot: int, stored: int, tokens: Tokens, count: int) -> Tokens:
        """The next `count` tokens after `tokens`, of which the first `stored` are in the slot already.

        Fewer if there is no room for more. In the slot are `tokens` and all guesses but the last from then on.
        """
        count = min(count, self._context.settings.length - len(tokens) + 1)
        self._context.cut(slot, stored)
        guessed: list[int] = []
        begin = time.perf_counter()
        pending = tokens[stored:]
        try:
            while len(guessed) < count:
                self._feed(slot, len(tokens) + len(guessed) - len(pending), pending)
                guessed.append(int(self._context.logits(0).argmax()))
                pending = np.array(guessed[-1:], np.int32)
        except BackendError:  # then what there is must do: the answer does not depend on it
            pass
        if count > 0:
            self.seconds += 0.1 * ((time.perf_counter() - begin) / count - self.seconds)
        return np.array(guessed, np.int32)

    @property
    def held(self) -> int:
        """Bytes that it takes."""
        return self._model.held + self._context.held

    def close(self) -> None:
        """Frees the context and the model."""
        self._context.close()
        self._model.close()

    def _feed(self, slot: int, position: int, tokens: Tokens) -> None:
        size = self._context.settings.batch_tokens
        for at in range(0, len(tokens), size):
            chunk = tokens[at : at + size]
            self._context.begin()
            self._context.add(chunk, position + at, slot, int(at + size >= len(tokens)))
            self._context.decode()


class DraftGuesser:
    """Guesses for one sequence, as `speculation.Guesser` does."""

    def __init__(self, model: DraftModel) -> None:
        self.odds = _FIRST_ODDS
        self._model = model
        self._slot = -1
        self._stored = 0
        """Tokens in the slot."""
        self._guess = np.empty(0, np.int32)
        self._at = 0
        """Where the latest guess begins."""

    @property
    def seconds(self) -> float:
        """What a guessed token takes."""
        return self._model.seconds

    def look(self, tokens: Tokens) -> bool:
        """Takes in the tokens that were added. There is always a guess."""
        outcome = tokens[self._at : self._at + len(self._guess)]
        right = len(outcome)
        for i, token in enumerate(outcome):
            hit = bool(token == self._guess[i])
            self.odds += _RATE * (hit - self.odds)
            if not hit:
                right = i
                break
        if not len(self._guess):
            self.odds += _FORGET * (_FIRST_ODDS - self.odds)
        else:
            self._stored = min(self._stored, self._at + right)
        self._guess = self._guess[:0]
        return True

    def guess(self, tokens: Tokens, count: int) -> Tokens:
        """The next `count` tokens, after a `look`; fewer when the draft model has no room."""
        if self._slot < 0:
            self._slot = self._model.take_slot()
            self._stored = 0
        if self._slot < 0:
            return self._guess
        self._at = len(tokens)
        self._guess = self._model.guess(self._slot, self._stored, tokens, count)
        self._stored = self._at + len(self._guess) - 1 if len(self._guess) else 0
        return self._guess

    def close(self) -> None:
        """Gives its slot back."""
        if self._slot >= 0:
            self._model.free_slot(self._slot)
            self._slot = -1


def _check_vocabulary(draft: Model, target: Model, name: str) -> None:
    same = draft.vocab_size == target.vocab_size and (draft.bos, draft.eos) == (target.bos, target.eos)
    step = max(1, target.vocab_size // _COMPARED)
    if not same or any(
        draft.token_bytes(token, True) != target.token_bytes(token, True) for token in range(0, target.vocab_size, step)
    ):
        raise InvalidOption(
            f"The draft model {name} has another vocabulary than the model, so it cannot guess for it.",
            field="config.draft_model",
        )
