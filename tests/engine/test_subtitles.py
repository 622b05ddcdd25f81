"""Tests of subtitles: SubRip and WebVTT."""

from __future__ import annotations

from engine.subtitles import subtitles

LINES = [(0.0, 5.4, " And then,"), (3599.9996, 3661.25, " a --> b "), (360000.5, 360001.0, "late")]


def test_srt() -> None:
    assert subtitles("srt", LINES) == (
        "1\n00:00:00,000 --> 00:00:05,400\nAnd then,\n\n"
        "2\n01:00:00,000 --> 01:01:01,250\na -> b\n\n"
        "3\n100:00:00,500 --> 100:00:01,000\nlate\n\n"
    )


def test_vtt() -> None:
    assert subtitles("vtt", LINES[:1]) == "WEBVTT\n\n00:00:00.000 --> 00:00:05.400\nAnd then,\n\n"
    assert subtitles("vtt", []) == "WEBVTT\n\n"
    assert subtitles("srt", []) == ""
