"""One answer of a model in a conversation: asked for, shown while it comes, and put together."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unimodel_cli.client import raise_error_in

if TYPE_CHECKING:
    from unimodel_cli.client import Client
    from unimodel_cli.conversation import Conversation

PATH = "/v1/chat/completions"


@dataclass
class Answer:
    """What came of one answer."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    """``stop``, ``length``, or ``cancelled`` by Ctrl-C."""
    usage: dict[str, Any] = field(default_factory=dict)

    def to_json(self, model: str) -> dict[str, Any]:
        """For programs."""
        reasoning = {"reasoning": self.reasoning} if self.reasoning else {}
        return {
            "model": model,
            "content": self.content,
            **reasoning,
            "finish_reason": self.finish_reason,
            "usage": self.usage,
        }


class Screen:
    """Shows an answer while it comes: its text on stdout, and what the model thinks on stderr, dimmed."""

    def __init__(self, *, text: bool, reasoning: bool) -> None:
        self._text = text
        self._reasoning = reasoning
        self._dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._thinking = False
        self._open_line = False

    def content(self, piece: str) -> None:
        """More of the answer."""
        if self._text and piece:
            self._end_thoughts()
            sys.stdout.write(piece)
            sys.stdout.flush()
            self._open_line = not piece.endswith("\n")

    def thought(self, piece: str) -> None:
        """More of what the model thinks before it answers."""
        if not (self._text and self._reasoning and piece):
            return
        if self._dim and not self._thinking:
            sys.stderr.write("\x1b[2m")
        self._thinking = True
        sys.stderr.write(piece)
        sys.stderr.flush()

    def end(self) -> None:
        """The answer is over: its last line ends."""
        self._end_thoughts()
        if self._open_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._open_line = False

    def _end_thoughts(self) -> None:
        if self._thinking:
            sys.stderr.write("\x1b[0m\n\n" if self._dim else "\n\n")
            sys.stderr.flush()
        self._thinking = False


def ask(client: Client, conversation: Conversation, screen: Screen, headers: dict[str, str]) -> Answer:
    """The model's answer to the last message. Ctrl-C ends it, here and on the server; what came until then is kept.

    Raises what is wrong with the request, or with the server, also in the middle of an answer.
    """
    answer = Answer()
    headers = {"content-type": "application/json", **headers}
    try:
        with closing(client.events(PATH, conversation.body(), headers, None)) as chunks:
            for chunk in chunks:
                raise_error_in(chunk)
                _add(answer, chunk, screen)
    except KeyboardInterrupt:
        answer.finish_reason = "cancelled"
    finally:
        screen.end()
    return answer


def _add(answer: Answer, chunk: dict[str, Any], screen: Screen) -> None:
    """Takes in a chunk. Its parts may be missing or null."""
    answer.usage = chunk.get("usage") or answer.usage
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or ""
        content = delta.get("content") or ""
        answer.reasoning += thought
        answer.content += content
        screen.thought(thought)
        screen.content(content)
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
