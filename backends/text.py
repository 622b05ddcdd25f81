"""The text of one answer, while its tokens come in: whole characters only, and never a part of a stop text."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence


class TextStream:
    """Takes the bytes of tokens, and gives out text.

    Bytes that do not complete a character wait for the next token, and so does text that may be the beginning of a
    stop text. What comes out does not depend on how the bytes are cut into tokens: the stop text that is complete
    first ends the answer, the longest one if several are.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stopped_by: str | None = None
        """The stop text that ended the answer. Nothing may be pushed from then on."""
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        """Decoded, but perhaps the beginning of a stop text."""
        self._out = 0
        """Characters that were given out."""
        self._ends: deque[int] = deque()
        """Of each token whose text is not out yet, how many characters must be out until it is."""

    @property
    def pending(self) -> int:
        """How many of the last tokens have text that is not out."""
        return len(self._ends)

    def push(self, data: bytes) -> str:
        """The text that is certain now that a token of these bytes has come."""
        if not self._stops and not self._ends and data.isascii():  # by far the commonest case
            self._out += len(data)
            return data.decode("ascii")
        self._held += self._decoder.decode(data)
        incomplete = bool(self._decoder.getstate()[0])
        self._ends.append(self._out + len(self._held) + incomplete)
        return self._release()

    def finish(self) -> str:
        """All that was held back: no more tokens come. Bytes that never became a character are replaced."""
        self._held += self._decoder.decode(b"", final=True)
        text = self._release()
        if self.stopped_by is None:
            text += self._held
            self._held = ""
            self._ends.clear()
        return text

    def _release(self) -> str:
        text, self._held = self._cut(self._held) if self._stops else (self._held, "")
        self._out += len(text)
        while self._ends and self._ends[0] <= self._out:
            self._ends.popleft()
        return text

    def _cut(self, text: str) -> tuple[str, str]:
        """What of `text` may go out, and what must wait."""
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped_by = min(found)
            return text[:at], ""  # what follows the stop text is nobody's
        hold = max(_overlap(text, stop) for stop in self._stops)
        return (text[:-hold], text[-hold:]) if hold else (text, "")


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` are a beginning of `stop`, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
