"""What one choice of a request says, while its tokens are chosen: text, log probabilities, and why it ends."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.generation import Generation, Piece, TokenLogprob
from backends.sampling import logprobs_of
from backends.text import TextStream

Logits = NDArray[np.float32]


class Vocabulary(Protocol):
    """What is asked of a model's tokens."""

    def token_bytes(self, token: int, special: bool) -> bytes:
        """The text of one token; of a special one nothing, unless `special`."""

    def ends(self, token: int) -> bool:
        """Whether `token` ends an answer."""


class Answer:
    """Takes the tokens of one choice, of which there are `most` at most, and fills its pieces."""

    def __init__(self, request: Generation, vocabulary: Vocabulary, most: int) -> None:
        self.finish: Literal["stop", "length"] | None = None
        """Why it has ended."""
        self._request = request
        self._vocabulary = vocabulary
        self._left = most
        self._text = TextStream(request.stop)
        self._logprobs: list[TokenLogprob] = []

    @property
    def wants_logprobs(self) -> bool:
        """Whether `take` needs the logits that a token was chosen by."""
        return self._request.logprobs is not None

    def take(self, token: int, logits: Logits | TokenLogprob | None, piece: Piece) -> None:
        """Adds a token to `piece`: with the untouched `logits` that it was chosen by, or what they came to."""
        piece.tokens += 1
        self._left -= 1
        if token in self._request.stop_tokens or self._vocabulary.ends(token):
            self.finish = "stop"
            return
        if isinstance(logits, TokenLogprob):
            self._logprobs.append(logits)
        elif logits is not None:
            read = self._vocabulary.token_bytes
            self._logprobs.append(logprobs_of(read, logits, token, self._request.logprobs or 0))
        piece.text += self._text.push(self._vocabulary.token_bytes(token, self._request.keep_special))
        if self._text.stopped_by is not None:
            piece.stop_text, self.finish = self._text.stopped_by, "stop"
        elif not self._left:
            self.finish = "length"

    def stop(self) -> None:
        """No token may come next."""
        self.finish = "stop"

    def complete(self, piece: Piece) -> None:
        """Adds to `piece` what is certain now."""
        if self.finish is not None and self._text.stopped_by is None:
            piece.text += self._text.finish()
            if self._text.stopped_by is not None:  # by what bytes without a character were replaced with
                piece.stop_text, self.finish = self._text.stopped_by, "stop"
        if self._logprobs:
            ready = len(self._logprobs) - self._text.pending
            piece.logprobs, self._logprobs = tuple(self._logprobs[:ready]), self._logprobs[ready:]
        piece.finish = self.finish
