"""Segments of a transcription as subtitles. The server writes them, and so does the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Subtitles = Literal["srt", "vtt"]

Line = tuple[float, float, str]
"""When it begins and ends, in seconds, and what it says."""

HEAD: dict[str, str] = {"srt": "", "vtt": "WEBVTT\n\n"}
"""What a file begins with."""
_POINT: dict[str, str] = {"srt": ",", "vtt": "."}


def subtitles(form: Subtitles, lines: Iterable[Line]) -> str:
    """A whole file."""
    return HEAD[form] + "".join(subtitle(form, number, line) for number, line in enumerate(lines, 1))


def subtitle(form: Subtitles, number: int, line: Line) -> str:
    """One entry of a file, counted from 1; in WebVTT it has no number."""
    start, end, text = line
    count = f"{number}\n" if form == "srt" else ""
    text = text.strip().replace("-->", "->")  # which would be read as times
    return f"{count}{_time(start, _POINT[form])} --> {_time(end, _POINT[form])}\n{text}\n\n"


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"
