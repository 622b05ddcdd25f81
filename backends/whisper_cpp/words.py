"""Tokens of a prompt, and words of tokens. whisper.cpp does the first too, but its binding does not tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from backends.transcription import Word

_PIECE = re.compile(rb"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
"""What a token never crosses, as whisper.cpp cuts a text."""
_UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages that write words without spaces between them: there a character is a word."""


class Token(NamedTuple):
    """A token of a text, and when it was said, in seconds from the beginning of the recording."""

    text: bytes
    """It may be part of a character."""
    start: float
    end: float
    probability: float


class Vocabulary:
    """The tokens of text."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._numbers = {text: number for number, text in enumerate(texts)}
        self._longest = max(map(len, texts))

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, as whisper.cpp has it: the longest that begins a piece, then of what is left of it."""
        return [number for piece in _PIECE.findall(text.encode()) for number in self._of_piece(piece)]

    def _of_piece(self, piece: bytes) -> list[int]:
        numbers = []
        begin = 0
        while begin < len(piece):
            for end in range(min(len(piece), begin + self._longest), begin, -1):
                if (number := self._numbers.get(piece[begin:end])) is not None:
                    numbers.append(number)
                    begin = end
                    break
            else:
                begin += 1  # a byte that no token has
        return numbers


def words(tokens: Sequence[Token], language: str) -> tuple[Word, ...]:
    """The words of tokens that follow on one another."""
    groups: list[list[Token]] = []
    for token in tokens:
        if not groups or _begins(token.text, groups[-1], language):
            groups.append([])
        groups[-1].append(token)
    return tuple(
        Word(
            _text(group),
            group[0].start,
            group[-1].end,
            sum(token.probability for token in group) / len(group),
        )
        for group in groups
    )


def _begins(text: bytes, group: Sequence[Token], language: str) -> bool:
    """Whether a token begins a new word after those of a group."""
    if language not in _UNSPACED:
        return text.startswith(b" ")
    try:
        b"".join(token.text for token in group).decode()
    except UnicodeDecodeError:
        return False  # in the middle of a character
    return True


def _text(group: Sequence[Token]) -> str:
    return b"".join(token.text for token in group).decode(errors="replace")
