"""What a model that writes down speech refuses, whatever its runtime, which may do something else in silence."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from backends.base import InvalidInput, InvalidOption, TranscriptionInfo
from backends.transcription import Transcription

PROMPT_TOKENS = 223
"""Of what was said before, so many are read, which is half of what a text of Whisper's has room for."""
HOTWORD_TOKENS = 64
"""They stand before those of the prompt, in each window."""
MOST_BEAMS = 32
UNKNOWN_LANGUAGE = "und"
"""The code of a language that a model does not name."""


def check(request: Transcription, info: TranscriptionInfo, count: Callable[[str], int]) -> None:
    """Raises `InvalidInput` for what the model cannot do. `count` says how many tokens a text has."""
    if request.language is not None and request.language not in info.languages:
        raise InvalidInput(_unknown_language(request.language, info.languages), field="language")
    if request.task == "translate" and not info.translates:
        raise InvalidInput(f"{_knows(info.languages)}, so there is nothing to translate.", field="task")
    if request.temperature is not None and not 0 <= request.temperature <= 1:
        raise InvalidInput(f"temperature is from 0 to 1; got {request.temperature:g}.", field="temperature")
    if request.beam_size is not None and not 1 <= request.beam_size <= MOST_BEAMS:
        raise InvalidInput(f"beam_size is from 1 to {MOST_BEAMS}; got {request.beam_size}.", field="beam_size")
    for field, text, limit in (
        ("prompt", request.prompt, PROMPT_TOKENS),
        ("hotwords", request.hotwords, HOTWORD_TOKENS),
    ):
        tokens = count(f" {text.strip()}") if text.strip() else 0
        if tokens > limit:
            raise InvalidInput(f"{field} may have {limit} tokens; these are {tokens}.", field=field)


def check_option(name: str, given: int | None, most: int) -> None:
    """Raises `InvalidOption` for a number that is not from 1 to `most`."""
    if given is not None and not 1 <= given <= most:
        raise InvalidOption(f"Option {name} is from 1 to {most}; got {given}.", field=f"config.{name}")


def _knows(languages: tuple[str, ...]) -> str:
    if len(languages) > 1 or languages == (UNKNOWN_LANGUAGE,):
        return "This model knows no translations"
    return f"This model knows {'English' if languages == ('en',) else f'the language {languages[0]!r}'} alone"


def _unknown_language(language: str, known: tuple[str, ...]) -> str:
    if known == (UNKNOWN_LANGUAGE,):
        return (
            f"This model does not say which language it knows; got {language[:20]!r}. Leave the language out, or "
            "register the model with --set language=CODE."
        )
    if len(known) == 1:
        return f"{_knows(known)}; got {language[:20]!r}. Leave the language out, or give {known[0]!r}."
    close = difflib.get_close_matches(language.lower(), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"The language is a code such as 'en' or 'de' that the model knows; got {language[:20]!r}.{hint}"
