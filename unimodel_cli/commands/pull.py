"""`unimodel pull`: a model from the Hugging Face hub, downloaded by the server and registered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import ServerUnreachable, UniModelError, from_code
from engine.schema import ModelView, Progress, PullRequest, RegisterRequest
from unimodel_cli.command import Session, command

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = {"resolving": "Looking", "downloading": "Downloading", "verifying": "Checking the digest", "success": "Done"}


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "pull",
        examples=[
            "unimodel pull hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M --name smol",
            "unimodel pull hf:ORG/REPO:model.gguf@main --set max_context_length=4096",
            "unimodel pull hf:ORG/REPO:safetensors",
        ],
    )(pull)


def pull(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="hf:ORG/REPO, then :FILE (or a part of its name) to say which model, then @REVISION."
        ),
    ],
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Its name; the repository's by default.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A model option, as 'unimodel register' takes it; repeatable."),
    ] = None,
) -> None:
    """Download a model from the Hugging Face hub, and serve it.

    The server downloads, into its home folder, with the HF_TOKEN and HF_ENDPOINT of its own environment: the files of
    one model, and no more than serving it needs. A pull that was stopped goes on where it ended when it is run again.
    The files' digests are checked before the model is registered.
    """
    from unimodel_cli.model_options import nested

    config = nested(options or [])
    path = _download(session, source)
    request = RegisterRequest(name=name or _repository(source), model_path=path, config=config)
    with session.out.waiting(f"Loading {request.name} and checking that it works"):
        try:
            view = session.client.call(ModelView, "POST", "/v1/models", request, timeout=None)
        except UniModelError as e:
            message = f"{e.message} It was downloaded, and stays in {path}."
            raise from_code(e.code, message, field=e.field, details=e.details) from None
    if session.json:
        session.out.json(view)
        return
    from unimodel_cli.model_card import registered

    session.out.render(*registered(view))


def _download(session: Session, source: str) -> str:
    """The path of the model on the server's machine, once it is there."""
    import msgspec

    body = msgspec.json.encode(PullRequest(source=source))
    headers = {"content-type": "application/json"}
    path = None
    with (
        _bar(session, source) as show,
        closing(session.client.json_lines("/v1/pull", body, headers, None)) as steps,
    ):
        for step in steps:
            progress = msgspec.convert(step, Progress)
            if progress.note:
                session.out.note(progress.note)
            show(progress)
            path = progress.path or path
    if path is None:
        raise ServerUnreachable("The download broke off; run the command again to go on with it.")
    return path


def _repository(source: str) -> str:
    """The last part of the repository's name."""
    repository = source.removeprefix("https://").partition("@")[0].removeprefix("hf:").partition(":")[0]
    return repository.rstrip("/").rpartition("/")[2]


@contextmanager
def _bar(session: Session, source: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr on a terminal; elsewhere a line whenever something else begins."""
    if session.json or not sys.stderr.isatty():
        said = ("", "")

        def tell(progress: Progress) -> None:
            nonlocal said
            if (progress.status, progress.file) != said and progress.status in ("downloading", "verifying"):
                said = (progress.status, progress.file)
                session.out.note(f"{WORDS[progress.status]}: {progress.file}")

        yield tell
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    from unimodel_cli.output import console_for

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console_for(sys.stderr), transient=True) as bar:
        task = bar.add_task(f"Looking for {source}", total=None)
        stage = ("", "")

        def show(progress: Progress) -> None:
            nonlocal stage
            loading = progress.status == "downloading"  # one bar for all files
            total, completed = progress.total, progress.completed
            if loading:
                total, completed = progress.model_total, progress.model_completed
            if stage != (progress.status, "" if loading else progress.file):
                stage = (progress.status, "" if loading else progress.file)
                bar.reset(task, total=total or None, completed=completed)
            description = f"{WORDS[progress.status]} {progress.file}".rstrip()
            bar.update(task, description=description, total=total or None, completed=completed)

        yield show
