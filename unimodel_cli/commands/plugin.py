"""Plugins: models written in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimodel_cli.command import Session, command, group


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    plugins = group(app, "plugin", "Models written in Python.")
    command(
        plugins,
        "new",
        local=True,
        examples=["unimodel plugin new word-count", "unimodel plugin new echo --dir ./echo"],
    )(new)


def new(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="PLUGIN", help="Name of the model and its package.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to write it; ./NAME by default.")
    ] = None,
) -> None:
    """Write a new plugin, with its own test.

    It works as it is: change it, and register it.
    """
    from unimodel_cli import plugin_template

    target = folder or Path(name)
    files = plugin_template.create(name, target)
    words = plugin_template.names(name)
    if session.json:
        session.out.json({"name": name, "dir": str(target.absolute()), "files": [str(f.absolute()) for f in files]})
        return
    for file in files:
        session.out.line(f"Wrote {file}")
    session.out.line(
        f"Next:\n  python -m pytest {target}\n"
        f"  unimodel register {name} {target / words['module']}.py:{words['cls']} --trust"
    )
