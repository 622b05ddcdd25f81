"""Whether a model thinks before it answers, and how a request turns that on and off, as its chat template shows."""

from __future__ import annotations

import re
from typing import Any, Literal

from engine.errors import InvalidInput
from engine.generation.reasoning import reasoning_format

Effort = Literal["low", "medium", "high"]

_EFFORT = "reasoning_effort"
_SWITCHES = ("enable_thinking", "thinking")
"""Variables that templates ask for, the commoner first."""

_TAG = re.compile(r"{[%{].*?[%}]}", re.DOTALL)


def thinks(template: str | None) -> bool:
    """Whether a model thinks, or can be told to."""
    if template is None:
        return False
    return _switch(template) is not None or _EFFORT in template or reasoning_format(template) is not None


def turned(template: str | None, think: bool | Effort, field: str) -> dict[str, Any]:
    """The template's variables for a wish about thinking. Raises `InvalidInput` when the model cannot fulfil it."""
    if not thinks(template):
        if think is False:
            return {}
        raise InvalidInput("This model does not think: its chat template has nothing for it.", field=field)
    assert template is not None
    switch = _switch(template)
    options: dict[str, Any] = {} if switch is None else {switch: think is not False}
    if isinstance(think, str):
        if _EFFORT not in template:
            raise InvalidInput("This model does not know degrees of thinking; ask for true or false.", field=field)
        return options | {_EFFORT: think}
    if think is False and switch is None:
        raise InvalidInput("The thinking of this model cannot be turned off.", field=field)
    return options


def quiet(template: str | None) -> dict[str, Any]:
    """The template's variables for no thinking, if the model can be told so."""
    switch = None if template is None else _switch(template)
    return {} if switch is None else {switch: False}


def _switch(template: str) -> str | None:
    """The variable that turns thinking on and off."""
    code = " ".join(_TAG.findall(template))
    return next((name for name in _SWITCHES if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", code)), None)
