"""What a command prints: data on stdout, everything else on stderr, and never a colour where none is wanted."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import UniModelError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Cell = str | int | float | None

_NUMBER = re.compile(r"-|[\d.]+")


class Output:
    """Prints for people, or as JSON with `json_mode`."""

    def __init__(self, json_mode: bool) -> None:
        self.json_mode = json_mode

    def json(self, value: Any) -> None:
        """One JSON value (plain or a struct) on one line of stdout."""
        import msgspec

        self.line(json.dumps(msgspec.to_builtins(value), ensure_ascii=False))

    def line(self, text: str) -> None:
        """One line on stdout, at once."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A remark on stderr for people; silent in JSON mode."""
        if not self.json_mode:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def render(self, *parts: RenderableType) -> None:
        """Rich renderables on stdout. Text is never broken into lines, so that it can be copied."""
        from rich.text import Text

        console = console_for(sys.stdout)
        with console.capture() as capture:
            for part in parts:
                console.print(part, soft_wrap=isinstance(part, Text))
        text = capture.get()
        if not sys.stdout.isatty():  # there, spaces that fill a line are noise
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        sys.stdout.write(text)
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, empty: str, title: str = "") -> None:
        """A table on stdout; `empty` is the remark on stderr when there are no rows. Numbers are right-aligned."""
        if title:
            self.line(title)
        if rows:
            self.render(table(columns, rows))
        else:
            self.note(empty)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner on stderr while the block runs; only on a terminal."""
        if self.json_mode or not sys.stderr.isatty():
            yield
            return
        from rich.markup import escape

        with console_for(sys.stderr).status(escape(text)):
            yield


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> RenderableType:
    """The rows as a Rich table without borders, so that pipes may cut it by column."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) or _NUMBER.fullmatch(str(row[i])) for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text("-" if cell is None or cell == "" else str(cell)) for cell in row))
    return grid


def fields(pairs: Sequence[tuple[str, Cell]]) -> RenderableType:
    """Names and values below each other; pairs without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, ""):
            grid.add_row(Text(name), Text(str(value)))
    return grid


def console_for(stream: Any) -> Console:
    """A Rich console: plain text where ``NO_COLOR`` is set or the stream is no terminal, and there without a width."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR")) or not stream.isatty()
    width = None if stream.isatty() else 10_000
    return Console(file=stream, width=width, color_system=None if plain else "auto", highlight=False, soft_wrap=False)


def error_body(error: UniModelError) -> dict[str, Any]:
    """The same shape as the server's error bodies."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "type": error_type(error),
            "param": error.field,
            "request_id": error.details.get("request_id"),
            "details": {k: v for k, v in error.details.items() if k != "request_id"},
        }
    }


def error_type(error: UniModelError) -> str:
    """OpenAI's coarse kind of an error."""
    kinds = {404: "not_found_error", 429: "overloaded_error"}
    return kinds.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")


def print_error(error: UniModelError, *, json_mode: bool) -> None:
    """The error on stderr: one sentence for people, one JSON object for programs."""
    if json_mode:
        sys.stderr.write(json.dumps(error_body(error), ensure_ascii=False) + "\n")
        return
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    word = "\x1b[31mError:\x1b[0m" if red else "Error:"
    sys.stderr.write(f"{word} {error.message}\n")
    if error.details.get("request_id") and error.status >= 500 and error.code == "internal":
        sys.stderr.write(f"The server's log has the details under request id {error.details['request_id']}.\n")


_COLORS = {"ok": "\x1b[32m", "warn": "\x1b[33m", "fail": "\x1b[31m"}


def mark(state: str) -> str:
    """``ok``, ``warn`` or ``fail``, at the beginning of a line."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"{_COLORS[state]}{state:<4}\x1b[0m"
    return f"{state:<4}"


def size(n: float | None) -> str:
    """Bytes for people: ``12.3 MiB``."""
    if not n:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"


def count(n: float) -> str:
    """A large number for people: ``134.5 M``."""
    for unit in ("", " K", " M", " B"):
        if n < 1000 or unit == " B":
            break
        n /= 1000
    return f"{n:.0f}{unit}" if not unit else f"{n:.1f}{unit}"


def duration(seconds: float) -> str:
    """A time span for people: ``2 h 5 min``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def ago(when: float | None) -> str | None:
    """A point in time (seconds since the epoch) for people: ``5 s ago``."""
    return None if when is None else f"{duration(max(0.0, time.time() - when))} ago"
