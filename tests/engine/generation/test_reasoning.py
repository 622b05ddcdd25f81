"""Thoughts before the answer, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.generation.output import OutputParser
from engine.generation.reasoning import (
    HARMONY_REASONING,
    REASONING_FORMATS,
    ReasoningFormat,
    ends_with_part_of,
    is_open,
    reasoning_format,
)
from engine.generation.tools import HERMES
from tests.engine.generation.conversations import TOOLS, numbered, read

THINK = REASONING_FORMATS[-1]
MARKED = [form for form in REASONING_FORMATS if form is not HARMONY_REASONING]


def split(text: str, form: ReasoningFormat = THINK, opened: bool = False) -> tuple[str, str]:
    """The thoughts and the answer, which are the same however the text comes."""
    found = [read(OutputParser(reasoning=form, reasoning_open=opened), text, size)[:2] for size in (1, 2, 3, 5, 1000)]
    assert all(one == found[0] for one in found)
    return found[0][1], found[0][0]


@pytest.mark.parametrize("form", MARKED, ids=lambda form: form.name)
def test_thoughts_come_apart(form: ReasoningFormat) -> None:
    assert split(f"{form.begin}\nLet me see.\n{form.end}\n\nYes.", form) == ("Let me see.", "Yes.")
    assert split(f"Let me see.{form.end}Yes.", form, opened=True) == ("Let me see.", "Yes.")


@pytest.mark.parametrize(
    ("text", "opened", "thoughts", "answer"),
    [
        ("", False, "", ""),
        ("Yes.", False, "", "Yes."),
        ("  Yes. ", False, "", "  Yes. "),
        ("<thinking aloud", False, "", "<thinking aloud"),
        ("<thin", False, "", "<thin"),
        (" <think>a</think>b", False, "a", "b"),
        ("<think></think>b", False, "", "b"),
        ("<think>\n\n</think>\n\nb\n", False, "", "b\n"),
        ("<think>a < b </thin </think> c", False, "a < b </thin", "c"),
        ("The mark <think> begins thoughts", False, "", "The mark <think> begins thoughts"),
        ("<think>a</think>b</think>c", False, "a", "b</think>c"),
        ("<think>never ends ", False, "never ends", ""),
        ("<think>never ends </th", False, "never ends </th", ""),
        ("a  b</think>c", True, "a  b", "c"),
        ("", True, "", ""),
    ],
)
def test_where_thoughts_end(text: str, opened: bool, thoughts: str, answer: str) -> None:
    assert split(text, opened=opened) == (thoughts, answer)


@given(st.text("<think/> a\n", max_size=20), st.text("<think/> a\n", max_size=20))
def test_all_of_both_is_there(thoughts: str, answer: str) -> None:
    if THINK.end not in thoughts + THINK.end[:-1]:
        found = split(f"{THINK.begin}{thoughts}{THINK.end}{answer}")
        assert found == (thoughts.strip(), answer.lstrip())


def test_thoughts_go_out_as_they_come() -> None:
    parser = OutputParser(reasoning=THINK)
    assert parser.feed("<think>\nLet ").reasoning == "Let"
    assert parser.feed("me</th").reasoning == " me"
    after = parser.feed("ink>\n\nYes")
    assert (after.reasoning, after.content) == ("", "Yes")
    assert parser.feed(" \n").content == " \n"


def test_calls_may_follow_thoughts() -> None:
    text = '<think>I need a tool: <tool_call></think>\n\n<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    for size in (1, 3, 1000):
        parser = OutputParser(HERMES, THINK, tools=TOOLS, new_id=numbered())
        content, reasoning, calls = read(parser, text, size)
        assert (content, reasoning) == ("", "I need a tool: <tool_call>")
        assert [call.name for call in calls] == ["add"]


def test_a_prompt_shows_whether_it_ends_in_thoughts() -> None:
    assert is_open("<|im_start|>assistant\n<think>\n", THINK)
    assert not is_open("<|im_start|>assistant\n<think>\n\n</think>\n\n", THINK)
    assert not is_open("<|im_start|>assistant\n", THINK)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<think>' }}{{ '</think>' }}", "think"),
        ("[THINK][/THINK]", "mistral"),
        ("<seed:think></seed:think>", "seed"),
        ("<|channel|>analysis", "harmony"),
        ("<think> alone", None),
    ],
)
def test_a_template_shows_the_marks(template: str, name: str | None) -> None:
    form = reasoning_format(template)
    assert (form and form.name) == name


@given(st.text("ab", max_size=6), st.text("ab", min_size=1, max_size=4))
def test_the_part_of_a_mark_at_the_end(text: str, mark: str) -> None:
    longest = max(n for n in range(len(mark)) if text.endswith(mark[:n]))
    assert ends_with_part_of(text, mark) == longest
