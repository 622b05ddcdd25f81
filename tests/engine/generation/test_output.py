"""Generated text in which nothing is looked for."""

from __future__ import annotations

from engine.generation.output import OutputParser, Parsed
from engine.generation.tools import HERMES


def test_plain_text_passes_through() -> None:
    parser = OutputParser()
    assert parser.feed(" <think>a</think> <tool_call>") == Parsed(" <think>a</think> <tool_call>")
    assert parser.finish() == Parsed()
    assert not parser.called


def test_without_tools_nothing_is_a_call() -> None:
    parser = OutputParser(HERMES)
    assert parser.feed('<tool_call>{"name": "add"').content == '<tool_call>{"name": "add"'
