"""`unimodel doctor`: what a server needs of this machine."""

from __future__ import annotations

from dataclasses import asdict

import typer

from engine.errors import ExitCode
from unimodel_cli.command import Session, command
from unimodel_cli.output import mark


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "doctor",
        examples=["unimodel doctor", "unimodel doctor --json | jq .ok"],
    )(doctor)


def doctor(session: Session) -> None:
    """Check this machine, and say what to do.

    It looks at runtimes, devices, versions, port, folder, disk, memory, limits and clock, and exits with 1 if something
    would stop a server.
    """
    from unimodel_cli import doctor

    found = []
    for check in doctor.checks(session):
        found.append(check)
        if not session.json:
            session.out.line(f"{mark(check.state)} {check.name:<16} {check.found}")
            if check.advice:
                session.out.line(f"{'':5}{'':17}-> {check.advice}")
    if session.json:
        session.out.json({"ok": all(c.state != "fail" for c in found), "checks": [asdict(c) for c in found]})
    if any(c.state == "fail" for c in found):
        raise typer.Exit(ExitCode.FAILED)
