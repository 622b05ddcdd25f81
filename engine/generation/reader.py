"""Parsers of text that comes piece by piece, written as if all of it were there.

Where there is not enough text yet, they `yield`, and go on when more has come. What they read is kept until they decide
what it is; what begins like something and turns out to be something else is given out as the text that it is.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import TypeVar

from engine.transport.generation import ToolCallDelta

T = TypeVar("T")
Reading = Generator[None, None, T]
"""What yields whenever it needs more text than there is."""

Event = str | ToolCallDelta
"""A piece of plain text, or of a call."""

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\\x00-\x1f]')


class NotACall(Exception):
    """What was read is text."""


class Reader(ABC):
    """Reads one answer."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        """Up to where `_text` was read; what is before it is not given out yet."""
        self._retry = 0
        """Up to where `_text` is given out as text when what is being read is no call."""
        self._ended = False
        self._events: list[Event] = []
        self._reading = self._answer()
        next(self._reading)

    def feed(self, text: str) -> list[Event]:
        """Takes in more text, and returns what is known by it."""
        self._text += text
        return self._advance()

    def finish(self) -> list[Event]:
        """What was held back, at the end of the answer."""
        self._ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        next(self._reading, None)
        events, self._events = self._events, []
        return events

    @abstractmethod
    def _answer(self) -> Reading[None]:
        """Reads all of the answer. It yields once before it begins."""

    def _give(self, length: int) -> None:
        if length:
            self._events.append(self._text[:length])
        self._text = self._text[length:]
        self._at = self._retry = 0

    def _commit(self) -> None:
        """Drops what was read."""
        self._text = self._text[self._at :]
        self._at = self._retry = 0

    def _match(self, head: re.Pattern[str], longest: int) -> Reading[re.Match[str]]:
        """What `head` matches next. Raises `NotACall` when it has had enough text for that."""
        while not (found := head.match(self._text, self._at)):
            if self._ended or len(self._text) - self._at > longest:
                raise NotACall
            yield
        return found

    def _space(self) -> Reading[None]:
        while True:
            rest = self._text[self._at :]
            self._at += len(rest) - len(rest.lstrip())
            if self._at < len(self._text) or self._ended:
                return
            yield

    def _skip(self, mark: str) -> Reading[None]:
        """Reads over white space, and over `mark` if it is next."""
        yield from self._space()
        while (rest := self._text[self._at : self._at + len(mark)]) != mark:
            if self._ended or not mark.startswith(rest):
                return
            yield
        self._at += len(mark)

    def _object(self, give: Callable[[str], None] | None = None, depth: int = 0) -> Reading[str]:
        """The text of the JSON object that is next, given out as it comes to `give`, and returned as a whole.

        Only its brackets and strings are looked at. Mistakes that models make inside of strings are mended: bare
        control characters, and escapes that JSON does not have. `depth` is that of the brackets that are open already.
        """
        pieces: list[str] = []
        inside = False
        while True:
            piece, begin = "", self._at
            while found := (_INSIDE if inside else _OUTSIDE).search(self._text, self._at):
                mark = found[0]
                if mark == "\\":
                    if found.end() == len(self._text):
                        break
                    piece += self._text[begin : found.start()] + _escape(self._text[found.end()])
                    begin = self._at = found.end() + 1
                    continue
                self._at = found.end()
                if mark == '"':
                    inside = not inside
                elif inside:
                    piece += self._text[begin : found.start()] + f"\\u{ord(mark):04x}"
                    begin = self._at
                else:
                    depth += 1 if mark in "{[" else -1
                    if depth == 0:
                        break
            else:
                self._at = len(self._text)
            if found is not None and found[0] == "\\":
                self._at = found.start()
            piece += self._text[begin : self._at]
            if give is not None:
                if piece:
                    give(piece)
                self._commit()
            pieces.append(piece)
            if depth == 0:
                return "".join(pieces)
            if self._ended:
                raise NotACall
            yield


def _escape(character: str) -> str:
    if character in '"\\/bfnrtu':
        return "\\" + character
    return character if character == "'" else "\\\\" + character
