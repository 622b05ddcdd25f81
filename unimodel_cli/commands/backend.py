"""The runtimes that the server can load models with."""

from __future__ import annotations

import typer

from engine.schema import BackendList
from unimodel_cli.command import Session, command, group


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    backends = group(app, "backend", "The runtimes that models are loaded with.")
    command(backends, "list", examples=["unimodel backend list"])(list_backends)


def list_backends(session: Session) -> None:
    """List the backends, and how to install what is missing."""
    answer = session.client.call(BackendList, "GET", "/v1/backends")
    if session.json:
        session.out.json(answer)
        return
    session.out.table(
        ["BACKEND", "RUNTIME", "SERVES"],
        [
            [b.name, (b.version or "ready") if b.available else f"missing: {b.install or 'see its docs'}", b.summary]
            for b in answer.backends
        ],
        empty="This server has no backend. Reinstall it with: pip install --force-reinstall unimodel",
    )
