"""The log of the background server."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import NotFound
from unimodel_cli.command import Session, command

FOLLOW_SECONDS = 0.1
COLORS = {"error": "\x1b[31m", "critical": "\x1b[31m", "warning": "\x1b[33m", "debug": "\x1b[2m"}


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "logs",
        local=True,
        examples=[
            "unimodel logs",
            "unimodel logs -f",
            "unimodel logs -n 1000 --json | jq -r .message",
        ],
    )(logs)


def logs(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what the server logs.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last lines to print.")
    ] = 50,
) -> None:
    """Print the log of the background server.

    For people it is one line an event; --json prints the lines as they are.
    """
    from unimodel_cli.server_process import tail

    path = session.home.log
    if not path.exists():
        raise NotFound(f"No log at {path}. The server has not been started in the background with this home.")
    show = _as_json if session.json else _for_people
    end = path.stat().st_size
    for line in tail(path, lines, end):
        session.out.line(show(line))
    if follow:
        for line in _follow(path, end):
            session.out.line(show(line))


def _follow(path: Path, position: int) -> Iterator[str]:
    """The lines after `position`, then those of the log that replaces this one when the server is started anew."""
    while True:
        with path.open(encoding="utf-8", errors="replace") as f:
            opened = os.fstat(f.fileno())
            f.seek(position)
            partial = ""
            while True:
                replaced = _replaced(path, opened)
                line = f.readline()
                partial += line
                if partial.endswith("\n"):
                    yield partial.removesuffix("\n")
                    partial = ""
                elif not line and replaced:
                    break
                elif not line:
                    time.sleep(FOLLOW_SECONDS)
        position = 0


def _replaced(path: Path, opened: os.stat_result) -> bool:
    try:
        return path.stat().st_ino != opened.st_ino
    except FileNotFoundError:
        return False


def _as_json(line: str) -> str:
    """The line itself; what is no JSON object, such as a traceback, is wrapped into one."""
    return line if _parse(line) is not None else json.dumps({"message": line})


def _for_people(line: str) -> str:
    """Time, level, message and the remaining fields of a JSON log line; anything else as it is."""
    event = _parse(line)
    if event is None:
        return line
    when = str(event.pop("ts", ""))[:23].replace("T", " ")
    level = str(event.pop("level", "info")).lower()
    message = str(event.pop("message", ""))
    trace = event.pop("trace", None)
    event.pop("logger", None)
    rest = " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in event.items())
    text = f"{when} {level:<7} {message}" + (f"  {rest}" if rest else "") + (f"\n{trace}" if trace else "")
    color = COLORS.get(level, "")
    if not color or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{color}{text}\x1b[0m"


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
