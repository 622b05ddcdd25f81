"""Tells what a model thought from what it answered, while the text comes.

A model that thinks does so at the beginning of its answer, between two marks. The template may have written the first
of them already.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningFormat:
    """The marks around what a model thinks."""

    name: str
    begin: str
    end: str


HARMONY_REASONING = ReasoningFormat("harmony", "<|channel|>analysis<|message|>", "<|end|>")
"""Of gpt-oss, whose answers have channels; `engine.generation.harmony` reads them."""

REASONING_FORMATS = (
    HARMONY_REASONING,
    ReasoningFormat("seed", "<seed:think>", "</seed:think>"),
    ReasoningFormat("mistral", "[THINK]", "[/THINK]"),
    ReasoningFormat("command", "<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningFormat("think", "<think>", "</think>"),
)


def reasoning_format(template: str) -> ReasoningFormat | None:
    """The format that a chat template knows; `None` when its model does not think."""
    if "<|channel|>" in template and "analysis" in template:
        return HARMONY_REASONING
    return next((f for f in REASONING_FORMATS if f.begin in template and f.end in template), None)


def is_open(prompt: str, form: ReasoningFormat) -> bool:
    """Whether a prompt ends inside the marks, so that the answer begins with thoughts."""
    return prompt.rstrip().endswith(form.begin)


def ends_with_part_of(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    first = mark[0]
    at = text.find(first, max(0, len(text) - len(mark) + 1))
    while at != -1:
        if mark.startswith(text[at:]):
            return len(text) - at
        at = text.find(first, at + 1)
    return 0


class ReasoningSplitter:
    """Splits one answer. White space around the marks belongs to neither part."""

    def __init__(self, form: ReasoningFormat, opened: bool) -> None:
        self._form = form
        self._held = ""
        self._state = "inside" if opened else "before"
        self._blank = True
        """Whether nothing but white space was there since the last mark."""

    @property
    def thinks(self) -> bool:
        """Whether the answer is among its thoughts."""
        return self._state == "inside"

    def feed(self, text: str) -> tuple[str, str]:
        """More reasoning, and more of the answer."""
        if self._state == "after" and not self._blank:
            return "", text
        self._held += text
        reasoning = ""
        if self._state == "before" and not self._begin():
            return "", ""
        if self._state == "inside":
            reasoning = self._inside()
        return reasoning, self._after() if self._state == "after" else ""

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end of the answer."""
        held, self._held = self._held, ""
        if self._state == "before":
            return "", held
        return (held.rstrip(), "") if self._state == "inside" else ("", "")

    def _begin(self) -> bool:
        """Whether it is known by now how the answer begins."""
        start = self._held.lstrip()
        if start.startswith(self._form.begin):
            self._held = start[len(self._form.begin) :]
            self._state = "inside"
        elif self._form.begin.startswith(start):
            return False
        else:
            self._state, self._blank = "after", False
        return True

    def _inside(self) -> str:
        if self._blank:
            self._held = self._held.lstrip()
            self._blank = not self._held
        thought, end, rest = self._held.partition(self._form.end)
        if end:
            self._held, self._state, self._blank = rest, "after", True
            return thought.rstrip()
        thought = thought[: len(thought) - ends_with_part_of(thought, self._form.end)].rstrip()
        self._held = self._held[len(thought) :]
        return thought

    def _after(self) -> str:
        answer, self._held = self._held, ""
        if self._blank:
            answer = answer.lstrip()
            self._blank = not answer
        return answer
