"""A transcription on its way to stdout or a file, in one of the formats of `unimodel transcribe`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from engine.errors import InsufficientStorage
from engine.subtitles import HEAD, Line, subtitle
from unimodel_cli.command import Session


class Writer:
    """Takes the events of one transcription. What is for stdout goes there as it comes; a file is written last."""

    def __init__(
        self,
        session: Session,
        form: Literal["text", "json", "srt", "vtt"],
        words: bool,
        file: str,
        path: Path | None,
        heading: bool,
    ) -> None:
        self._session = session
        self._form = form
        self._words = words
        self._path = path
        self._whole: dict[str, Any] = {"file": file}
        self._written: list[str] = []
        self._entries = 0
        """Of subtitles, so far."""
        self._seen = path is None and form != "json"
        """Whether stdout shows what has come."""
        self._progress = sys.stderr.isatty() and not session.json and not (self._seen and sys.stdout.isatty())
        self._head = f"{file}:\n" if heading and self._seen else HEAD.get(form, "")

    def add(self, event: dict[str, Any]) -> None:
        """The next event of the stream."""
        whole = self._whole
        if self._head:
            self._write(self._head)
            self._head = ""
        for key, value in event.items():
            whole[key] = whole[key] + value if key in ("text", "segments") and key in whole else value
        for segment in event["segments"]:
            self._write(self._text(segment))
            if self._progress:
                self._session.out.note(f"{segment['end']:8.1f} s  {segment['text'].strip()}")

    def end(self) -> None:
        """All events were there."""
        whole = self._whole
        whole["text"] = whole["text"].strip()
        if self._form == "json":
            self._write(json.dumps(whole, ensure_ascii=False) + "\n")
        if self._path is not None:
            try:
                self._path.write_text("".join(self._written))
            except OSError as e:
                raise InsufficientStorage(f"Cannot write {self._path}: {e.strerror}.") from None
            if self._session.json:
                about = {key: whole[key] for key in whole if key not in ("text", "segments")}
                self._session.out.json({**about, "path": str(self._path)})

    def _text(self, segment: dict[str, Any]) -> str:
        """A segment as the format has it; JSON is written at the end."""
        if self._form == "text":
            return f"{segment['text'].strip()}\n"
        if self._form == "json":
            return ""
        lines: list[Line] = [(segment["start"], segment["end"], segment["text"])]
        if self._words:
            lines = [(word["start"], word["end"], word["word"]) for word in segment["words"]]
        entries = [subtitle(self._form, self._entries + i, line) for i, line in enumerate(lines, 1)]
        self._entries += len(lines)
        return "".join(entries)

    def _write(self, text: str) -> None:
        if self._path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            self._written.append(text)
