"""`unimodel transcribe`: recordings to text or subtitles."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from engine.errors import InvalidInput, InvalidRequest
from unimodel_cli.command import Session, command
from unimodel_cli.errors import UsageError

if TYPE_CHECKING:
    from unimodel_cli.transcript import Writer


class Format(StrEnum):
    """What a transcription is written as."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"


class Task(StrEnum):
    """Which language the text is in: the one that is spoken, or English."""

    spoken = "transcribe"
    english = "translate"


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "transcribe",
        examples=[
            "unimodel transcribe talk.mp3",
            "unimodel transcribe talk.mp3 --format srt -o talk.srt",
            "unimodel transcribe *.wav --model whisper --language en --format vtt -o subtitles/",
            "ffmpeg -i talk.mkv -f wav - | unimodel transcribe - --words --format json",
        ],
    )(transcribe)


def transcribe(
    session: Session,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Recordings, or '-' for stdin.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model; not needed if the server has one for speech.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="What is spoken, such as en; found out by default.")
    ] = None,
    task: Annotated[
        Task, typer.Option(metavar="|".join(Task), help="'translate' writes English, whatever is spoken.")
    ] = Task.spoken,
    form: Annotated[
        Format | None, typer.Option("--format", metavar="|".join(Format), help="What to write; text by default.")
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Time each word, in JSON and subtitles.")] = False,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A text with names and in a style to be expected.")
    ] = None,
    hotwords: Annotated[str | None, typer.Option(metavar="TEXT", help="Words that are likely throughout.")] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0, max=1, help="0 is greedy; raised where needed by default.")
    ] = None,
    beam_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Texts that are followed at once; 1 is fastest.")
    ] = None,
    vad: Annotated[
        bool | None, typer.Option("--vad/--no-vad", help="Cut out what is no speech first.", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="Deadline of each file; none by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="Write to this file, or files in this folder.")
    ] = None,
) -> None:
    """Write down speech.

    Segments are printed while they come. With -o, and where stdout is no terminal, a terminal shows them on stderr
    meanwhile. With --json each file prints one object, which has all of it, or with -o where it was written. Of several
    files, one that cannot be read does not stop the others; the exit code is then 1.
    """
    form = form or (Format.json if session.json else Format.text)
    _check(files, form, words, output, session.json)
    parameters = _given(language, task, prompt, hotwords, temperature, beam_size, vad, words)
    name = _only_model(session) if model is None else _for_speech(session, model)
    headers = {"content-type": "application/octet-stream"}
    if timeout is not None:
        headers["x-request-timeout-ms"] = str(max(1, round(timeout * 1000)))
    failed = 0
    for file in files:
        writer = _writer(session, form, words, file, output, several=len(files) > 1)
        try:
            _transcribe(session, name, file, parameters, headers, timeout, writer)
        except InvalidRequest as e:
            if len(files) == 1 or not (isinstance(e, UsageError) or e.field == "input"):
                raise
            session.out.note(f"{file}: {e.message}")
            failed += 1
    if failed:
        raise InvalidInput(f"{failed} of {len(files)} files could not be transcribed.")


def _check(files: list[str], form: Format, words: bool, output: Path | None, json_mode: bool) -> None:
    """Raises `UsageError` for what does not go together."""
    if words and form is Format.text:
        raise UsageError("--words goes with --format json, srt or vtt; text has no times.")
    if json_mode and output is None and form is not Format.json:
        raise UsageError(f"--json prints JSON; --format {form} needs -o PATH then.")
    if len(files) > 1 and output is None and form in (Format.srt, Format.vtt):
        raise UsageError(f"Several files need -o FOLDER with --format {form}.")
    if len(files) > 1 and output is not None and not output.is_dir():
        raise UsageError(f"{output} is no folder; of several files, each gets one of its own there.")


def _given(
    language: str | None,
    task: Task,
    prompt: str | None,
    hotwords: str | None,
    temperature: float | None,
    beam_size: int | None,
    vad: bool | None,
    words: bool,
) -> dict[str, str]:
    """The parameters as a query has them; what is the model's default is left out."""
    values: dict[str, Any] = {
        "language": language,
        "task": None if task is Task.spoken else task.value,
        "prompt": prompt,
        "hotwords": hotwords,
        "temperature": temperature,
        "beam_size": beam_size,
        "vad": None if vad is None else str(vad).lower(),
        "words": "true" if words else None,
        "stream": "true",
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _only_model(session: Session) -> str:
    """The one model for speech that the server has. Raises `UsageError` when there is none, or a choice."""
    from engine.schema import ModelList

    names = [m.name for m in session.client.call(ModelList, "GET", "/v1/models").data if m.transcription is not None]
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(f"There are several models for speech; choose with --model: {', '.join(names)}.")
    raise UsageError(
        "The server has no model for speech. Register one: unimodel register NAME FOLDER (see docs/configuration.md)."
    )


def _for_speech(session: Session, name: str) -> str:
    """The name of a model, if it is one for speech. Raises `UsageError`."""
    from engine.schema import ModelView
    from unimodel_cli.client import model_path

    view = session.client.call(ModelView, "GET", model_path(name))
    if view.transcription is None:
        raise UsageError(f"{name} is for the task {view.task}; it does not write down speech.")
    return name


def _writer(session: Session, form: Format, words: bool, file: str, output: Path | None, *, several: bool) -> Writer:
    from unimodel_cli.transcript import Writer

    path = output
    if output is not None and output.is_dir():
        suffix = "txt" if form is Format.text else form.value
        path = output / f"{'stdin' if file == '-' else Path(file).stem}.{suffix}"
    return Writer(session, form.value, words, file, path, several)


def _transcribe(
    session: Session,
    name: str,
    file: str,
    parameters: dict[str, str],
    headers: dict[str, str],
    timeout: float | None,
    writer: Writer,
) -> None:
    from unimodel_cli.client import model_path

    patience = None if timeout is None else timeout + 10.0  # the server says first that it was too late
    path = f"{model_path(name)}:predict?{urlencode(parameters)}"
    events = session.client.events(path, _read(file), headers, patience)
    for event in _waited_for(session, events):
        writer.add(event)
    writer.end()


def _waited_for(session: Session, events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events, with a sign that one waits for the first."""
    with session.out.waiting("Listening"):
        first = next(events, None)
    if first is not None:
        yield first
        yield from events


def _read(file: str) -> bytes:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as e:
        raise UsageError(f"Cannot read {file}: {e.strerror}.") from None
    if not data:
        raise UsageError(f"{'stdin' if file == '-' else file} is empty.")
    return data
