"""The runtimes that the server can load models with."""

from __future__ import annotations

import typer

from engine.schema import BackendView
from unimodel_cli.command import Session, command, group


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    backends = group(app, "backend", "The runtimes that models are loaded with.")
    command(
        backends,
        "list",
        examples=["unimodel backend list", "unimodel backend list --json | jq -r '.backends[].install // empty'"],
    )(list_backends)


def list_backends(session: Session) -> None:
    """List the backends, and how to install what is missing.

    With the formats and the runtime of each, and what it can compute on with the installed build and this machine; a
    question mark stands where loading a model tells. They are those of the server. Without one, they are those that it
    would have if it were started here.
    """
    from unimodel_cli import kit

    answer = kit.backends(session)
    if session.json:
        session.out.json(answer)
        return
    session.out.table(
        ["BACKEND", "RUNTIME", "VERSION", "DEVICES", "SERVES"],
        [[b.name, _state(b), b.version, _devices(b), b.summary] for b in answer.backends],
        empty="There is no backend. Reinstall it with: pip install --force-reinstall unimodel",
    )
    for b in answer.backends:
        if b.install:
            session.out.line(f"{b.name} needs {b.runtime}. Install it with: {b.install}")
        elif b.problem or not b.available:
            session.out.line(f"{b.name}: {b.problem or f'install {b.runtime}, as {b.package} documents.'}")
        elif b.gpu_problem:
            command = f". For the GPU: {b.gpu_install}" if b.gpu_install else "."
            session.out.line(f"{b.name} does not use the GPU: {b.gpu_problem}{command}")
        elif not b.devices and not b.unknown_devices:
            session.out.line(f"{b.name} needs a GPU, and this machine has none.")


def _state(b: BackendView) -> str | None:
    if b.available:
        return b.runtime or "built in"
    return "broken" if b.problem else f"missing: {b.runtime}"


def _devices(b: BackendView) -> str:
    return ", ".join([*b.devices, *(f"{kind}?" for kind in b.unknown_devices)])
