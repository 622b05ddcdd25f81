"""Whether models think, and how they are told to."""

from __future__ import annotations

from typing import Any

import pytest

from engine.api import thinking
from engine.errors import InvalidInput

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
SWITCHED = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}"
SHORT = "{%- if thinking %}<think>{% else %}</think>{% endif %}"
ALWAYS = "{{ messages[0].content.split('</think>')[-1] }}<think>\n"
DEGREES = "Reasoning: {{ reasoning_effort }}"
BOTH = SWITCHED + DEGREES
MENTIONED = "I am thinking. {{ message.thinking }}{{ message['thinking'] }}"


@pytest.mark.parametrize("template", [SWITCHED, SHORT, ALWAYS, DEGREES, BOTH])
def test_a_template_shows_that_a_model_thinks(template: str) -> None:
    assert thinking.thinks(template)


@pytest.mark.parametrize("template", [None, PLAIN, MENTIONED])
def test_other_models_do_not_think(template: str | None) -> None:
    assert not thinking.thinks(template)
    assert thinking.turned(template, False, "think") == {}
    assert thinking.quiet(template) == {}
    for wish in (True, "high"):
        with pytest.raises(InvalidInput, match="does not think") as e:
            thinking.turned(template, wish, "think")  # type: ignore[arg-type]
        assert e.value.field == "think"


@pytest.mark.parametrize(
    ("template", "wish", "options"),
    [
        (SWITCHED, True, {"enable_thinking": True}),
        (SWITCHED, False, {"enable_thinking": False}),
        (SHORT, True, {"thinking": True}),
        (ALWAYS, True, {}),
        (DEGREES, True, {}),
        (DEGREES, "low", {"reasoning_effort": "low"}),
        (BOTH, "high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_a_wish_is_variables_of_the_template(template: str, wish: Any, options: dict[str, Any]) -> None:
    assert thinking.turned(template, wish, "think") == options


@pytest.mark.parametrize(
    ("template", "wish", "words"),
    [
        (ALWAYS, False, "cannot be turned off"),
        (DEGREES, False, "cannot be turned off"),
        (SWITCHED, "low", "degrees"),
        (ALWAYS, "low", "degrees"),
    ],
)
def test_what_a_model_cannot_is_an_error(template: str, wish: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        thinking.turned(template, wish, "think")


def test_a_model_is_told_to_be_quiet_if_it_can_be() -> None:
    assert thinking.quiet(SWITCHED) == {"enable_thinking": False}
    assert thinking.quiet(ALWAYS) == thinking.quiet(DEGREES) == {}
