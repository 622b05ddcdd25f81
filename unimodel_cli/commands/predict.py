"""`unimodel predict`: one input, several as a batch, a stream, or JSON lines in bulk."""

from __future__ import annotations

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import InsufficientStorage
from engine.schema import ModelView
from unimodel_cli import generation_flags
from unimodel_cli.command import ModelName, Session, command
from unimodel_cli.errors import UsageError
from unimodel_cli.inputs import KINDS, As, Body, Given

GRACE_SECONDS = 10.0
"""The server ends a request at its deadline; the client waits this much longer for word of it."""


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "predict",
        examples=[
            "unimodel predict resnet cat.jpg",
            "unimodel predict iris '[5.1, 3.5, 1.4, 0.2]'",
            "unimodel predict parts photo.jpg --masks masks/",
            "echo 'what a fine day' | unimodel predict sentiment -",
            "unimodel predict resnet cat.jpg dog.jpg --params top_k=1",
            "unimodel predict smol 'Once upon a time' --max-tokens 50 --stream",
            "unimodel predict fraud rows.jsonl --jsonl -j 32 -o out.jsonl --resume",
        ],
        flags=generation_flags.PARAMETERS,
    )(predict)


def predict(
    session: Session,
    name: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Files, JSON, text, or '-' for stdin; several make a batch."),
    ] = None,
    kind: Annotated[As | None, typer.Option("--as", metavar=KINDS, help="What the input is, if not clear.")] = None,
    named: Annotated[
        list[str] | None, typer.Option("--input", metavar="KEY=VALUE", help="One input of a model that has several.")
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter of the request, such as top_k=3.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer while it is made.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="Deadline; the server's by default.")
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher is served first.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE (.npy writes an array).")
    ] = None,
    tensor: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="With -o FILE.npy: which output, if the model has several.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the masks of a segmented image there, as PNG.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print strings without quotes.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Predict each line of INPUT or stdin, in order.")] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, max=4096, help="With --jsonl: requests in flight.")
    ] = 16,
    resume: Annotated[bool, typer.Option("--resume", help="With --jsonl -o: go on after the lines there.")] = False,
    **generation: Any,
) -> None:
    """Predict with a model, and print what it answers.

    On a terminal labels are shown as a table, and generated text while it comes; in a pipe the answer is JSON. With
    --json it also names the model and version that answered. With --jsonl, a failed row becomes an {"error": ...} line,
    and the exit code is 1. --max-tokens, --temperature, --top-p, --seed, --stop, --system and --json-schema are for
    models that generate text.
    """
    given = inputs or []
    headers = _headers(timeout, priority)
    flags = generation_flags.given(generation)
    if jsonl:
        _refuse(
            bool(named or params or stream or kind or raw or flags or masks),
            "--jsonl takes no --input, --params, --stream, --as, --masks or --raw, and no flags of generation: a row "
            'is a whole request, such as {"input": "Hi", "max_tokens": 5}.',
        )
        _refuse(len(given) > 1, "--jsonl reads one file, or stdin.")
        _refuse(resume and output is None, "--resume needs the -o FILE that it should go on with.")
        from unimodel_cli.jsonl import Job, predict_lines

        source = None if given in ([], ["-"]) else Path(given[0])
        predict_lines(session, Job(name, source, output, jobs, resume, headers, timeout))
        return
    _refuse(resume, "--resume only goes with --jsonl.")
    _refuse(tensor is not None and (output is None or output.suffix != ".npy"), "--tensor only goes with -o FILE.npy.")
    _refuse(masks is not None and stream, "--stream prints; it takes no --masks.")
    _refuse(masks is not None and output is not None and output.suffix == ".npy", "An .npy file takes no --masks.")
    model = _Model(session, name)
    to_terminal = sys.stdout.isatty() and not (session.json or raw or output or named or len(given) > 1)
    stream = stream or (to_terminal and model.generates())
    content = _body(model, given, kind, named or [], params or [], flags, stream)
    headers["content-type"] = content.content_type
    if stream:
        _refuse(output is not None, "--stream prints; it takes no --output.")
        _stream(session, name, content, headers, timeout)
    elif output is not None and output.suffix == ".npy":
        headers |= {"accept": "application/x-npy"} | ({"x-tensor-output": tensor} if tensor else {})
        _write(output, _send(session, name, content, headers, timeout))
    else:
        answer = json.loads(_send(session, name, content, headers, timeout))
        if masks is not None:
            from unimodel_cli import masks as files
            from unimodel_cli.answers import value_of

            files.write(value_of(answer), given or ["-"], masks)
        _show(session, answer, output, raw, masks=masks is not None)


class _Model:
    """What the server says of the model, asked once and only if that matters."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name

    @cached_property
    def view(self) -> ModelView:
        """Its description."""
        from unimodel_cli.client import model_path

        return self._session.client.call(ModelView, "GET", model_path(self._name))

    def generates(self) -> bool:
        """Whether it generates text."""
        return self.view.generation is not None

    def is_open(self) -> bool:
        """Whether its body may have other keys than inputs."""
        return self.view.task == "custom" or self.generates()


def _body(
    model: _Model,
    given: list[str],
    kind: As | None,
    named: list[str],
    params: list[str],
    flags: dict[str, Any],
    stream: bool,
) -> Body:
    from unimodel_cli import inputs
    from unimodel_cli.model_options import key_value

    _refuse(bool(given and named), "Give INPUT or --input KEY=VALUE, not both.")
    if not given and not named:
        _refuse(sys.stdin.isatty(), "Give an INPUT: a file, JSON, text, or '-' for stdin.")
        given = ["-"]
    if len(given) > 1 and model.generates():
        raise UsageError(f"{model.view.name} answers one text at a time; put it in quotes, or use --jsonl for many.")
    if flags and not model.is_open():
        raise UsageError(f"{generation_flags.flag(next(iter(flags)))} is for models that generate text.")
    return inputs.body(
        [_read(model, argument, kind) for argument in given],
        dict(key_value(setting, "--input") for setting in named),
        {**dict(key_value(setting, "--params") for setting in params), **flags},
        stream,
        model.is_open,
    )


def _read(model: _Model, argument: str, kind: As | None) -> Given:
    """An input. What a model that generates text is asked is text, also if it is a number."""
    from unimodel_cli import inputs

    given = inputs.read(argument, kind)
    is_scalar = given.data is None and not isinstance(given.value, str | list | dict)
    if kind is None and is_scalar and argument != "-" and model.generates():
        return inputs.read(argument, As.text)
    return given


def _headers(timeout: float | None, priority: int) -> dict[str, str]:
    headers = {}
    if timeout is not None:
        headers["x-request-timeout-ms"] = str(max(1, round(timeout * 1000)))
    if priority:
        headers["x-request-priority"] = str(priority)
    return headers


def _send(session: Session, name: str, body: Body, headers: dict[str, str], timeout: float | None) -> bytes:
    from unimodel_cli.client import model_path

    with session.out.waiting("Predicting"):
        return session.client.send(
            "POST", f"{model_path(name)}:predict", body.content, headers, timeout=_patience(timeout)
        ).content


def _stream(session: Session, name: str, body: Body, headers: dict[str, str], timeout: float | None) -> None:
    from unimodel_cli.answers import value_of
    from unimodel_cli.client import model_path

    open_line = False
    try:
        for chunk in session.client.events(f"{model_path(name)}:predict", body.content, headers, _patience(timeout)):
            value = value_of(chunk)
            if isinstance(value, str) and not session.json:
                sys.stdout.write(value)
                sys.stdout.flush()
                open_line = not value.endswith("\n") if value else open_line
            else:
                session.out.line(json.dumps(chunk if session.json else value, ensure_ascii=False))
    finally:
        if open_line:
            session.out.line("")


def _show(session: Session, answer: dict[str, Any], output: Path | None, raw: bool, *, masks: bool) -> None:
    from unimodel_cli import answers

    value = answers.value_of(answer)
    if output is not None:
        shown = json.dumps(answer, ensure_ascii=False) if session.json else answers.text_of(value, raw)
        _write(output, shown.encode() + b"\n")
    elif session.json:
        session.out.json(answer)
    elif not sys.stdout.isatty() or raw:
        session.out.line(answers.text_of(value, raw))
    elif (one := answers.scores(value)) is not None:
        session.out.render(answers.labels_table(one, masks=masks))
    elif (each := answers.scores_of_several(value)) is not None:
        for i, found in enumerate(each, 1):
            session.out.line(("\n" if i > 1 else "") + f"Input {i}")
            if found:
                session.out.render(answers.labels_table(found, masks=masks))
            else:
                session.out.line("Nothing was found.")
    else:
        session.out.line(answers.for_people(value))


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as e:
        raise InsufficientStorage(f"Cannot write {path}: {e.strerror}.") from None


def _patience(timeout: float | None) -> float | None:
    """How long the client waits: past the deadline that it asked for, else as long as the server takes."""
    return None if timeout is None else timeout + GRACE_SECONDS


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise UsageError(message)
