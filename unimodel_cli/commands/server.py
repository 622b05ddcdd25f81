"""The server on this machine: serve, start, stop, restart; and status, of any server."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from engine.errors import UniModelError
from engine.schema import ServerView
from unimodel_cli import setting_flags
from unimodel_cli.command import Session, command
from unimodel_cli.home import ServerRecord
from unimodel_cli.output import duration, fields, size

Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait until it is ready.")]
StopTimeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait until it has drained.")]
Force = Annotated[bool, typer.Option("--force", help="Kill it if it still drains after --timeout.")]

Dev = Annotated[bool, typer.Option("--dev", help="Reload models whose files change; short for --reload true.")]


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    flags = setting_flags.parameters()
    command(
        app,
        "serve",
        local=True,
        flags=flags,
        examples=[
            "unimodel serve",
            "unimodel serve --port 9000 --config unimodel.yaml",
            "unimodel serve --host 0.0.0.0",
            "unimodel serve --dev",
        ],
    )(serve)
    command(
        app,
        "start",
        local=True,
        flags=flags,
        examples=["unimodel start", "unimodel start --port 0 --json", "unimodel start --config unimodel.yaml"],
    )(start)
    command(app, "stop", local=True, examples=["unimodel stop", "unimodel stop --timeout 5 --force"])(stop)
    command(
        app,
        "restart",
        local=True,
        flags=flags,
        examples=["unimodel restart", "unimodel restart --log-level debug"],
    )(restart)
    command(app, "status", examples=["unimodel status", "unimodel status --json | jq .in_flight"])(status)


def serve(session: Session, dev: Dev = False, **flags: Any) -> None:
    """Run the server in the foreground.

    Logs go to stderr. Ctrl-C or SIGTERM stops it: it answers what it accepted first; a second one stops it at once.

    With --dev it watches the files of the registered models, plugins above all, and serves what you save. Requests that
    are under way end on the old code, which also goes on serving if the new one cannot be loaded.
    """
    if dev and flags["engine__reload"] is None:
        flags["engine__reload"] = "true"
    from unimodel_cli.server_process import command_line

    for_people = {"monitoring.log_format": "text"} if sys.stderr.isatty() else {}
    argv = command_line(session.home, setting_flags.to_arguments(flags, for_people))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)  # noqa: S606 - our own interpreter


def start(session: Session, timeout: Timeout = 60.0, **flags: Any) -> None:
    """Start the server in the background and wait until it is ready.

    Says so, and exits with 0, if one runs already. Its output goes to HOME/logs/server.log.
    """
    _start(session, setting_flags.to_arguments(flags), timeout)


def stop(session: Session, timeout: StopTimeout = 60.0, force: Force = False) -> None:
    """Stop the background server; it answers what it accepted first.

    Exits with 0 also if none runs.
    """
    record = _stop(session, timeout, force)
    if session.json:
        session.out.json({"stopped": record is not None, "pid": record.pid if record else None})
    elif record:
        session.out.line(f"Stopped the server at {record.url} (pid {record.pid}).")
    else:
        session.out.line("No server runs.")


def restart(
    session: Session, timeout: Timeout = 60.0, stop_timeout: StopTimeout = 60.0, force: Force = False, **flags: Any
) -> None:
    """Restart the background server with the flags it had.

    Flags given here come on top.
    """
    changes = setting_flags.to_arguments(flags)
    record = _stop(session, stop_timeout, force)
    kept = _without_home(record.argv) if record else []
    if not record:
        session.out.note("No server was running.")
    _start(session, [*kept, *changes], timeout)


def status(session: Session) -> None:
    """Show the server, its workers and the loaded models."""
    view = session.client.call(ServerView, "GET", "/v1/status")
    if session.json:
        session.out.json(view)
        return
    out = session.out
    out.render(
        fields(
            [
                ("Server", session.url),
                ("State", view.state),
                ("Version", view.version),
                ("Process", f"pid {view.pid}, up {duration(view.uptime_seconds)}, {size(view.rss_bytes)}"),
                ("Models", f"{view.registered} registered, {len(view.models)} loaded"),
                ("In flight", view.in_flight),
            ]
        )
    )
    out.line("")
    out.table(
        ["WORKER", "DEVICE", "STATE", "PID", "RESTARTS", "MEMORY", "MODELS"],
        [[w.name, w.device, w.state, w.pid, w.restarts, size(w.rss_bytes), ", ".join(w.models)] for w in view.workers],
        empty="No worker runs.",
    )
    out.line("")
    out.table(
        ["MODEL", "STATE", "IN FLIGHT", "QUEUE", "REQUESTS", "ERRORS", "ROWS/BATCH", "MS/BATCH"],
        [
            [
                f"{m.name}@{m.version}",
                m.state,
                m.in_flight,
                m.queue_requests,
                m.requests,
                m.errors,
                f"{m.mean_batch_rows:.1f}" if m.mean_batch_rows else "-",  # one that generates has no batches
                f"{m.compute_ms_per_batch:.2f}" if m.mean_batch_rows else "-",
            ]
            for m in view.models
        ],
        empty="No model is loaded. Register one with: unimodel register NAME PATH",
    )
    for m in view.models:
        if m.reload_error:
            out.line(f"{m.name}@{m.version} goes on serving; its changed files cannot be loaded: {m.reload_error}")


def _start(session: Session, arguments: list[str], timeout: float) -> None:
    from unimodel_cli import server_process

    left = session.home.record()
    if left and not session.home.locked():
        session.out.note(f"The last server (pid {left.pid}) was killed or crashed; its log is {session.home.log}.1.")
    try:
        with session.out.waiting("Starting the server"):
            started = server_process.start(session.home, arguments, timeout)
    except UniModelError as e:
        _show_log(session, e)
        raise
    record = started.record
    if session.json:
        session.out.json({"url": record.url, "pid": record.pid, "version": record.version, "already": started.already})
    elif started.already:
        session.out.line(f"The server runs already at {record.url} (pid {record.pid}).")
    else:
        session.out.line(f"The server is ready at {record.url} (pid {record.pid}, {started.seconds:.1f} s).")


def _show_log(session: Session, error: UniModelError) -> None:
    lines = [line for line in error.details.get("log", []) if not line.startswith("error: ")]
    if lines:
        session.out.note(f"The last lines of {session.home.log}:")
        for line in lines:
            session.out.note(f"  {line}")


def _stop(session: Session, timeout: float, force: bool) -> ServerRecord | None:
    from unimodel_cli import server_process

    with session.out.waiting("Stopping the server; it answers what it accepted first"):
        return server_process.stop(session.home, timeout, force)


def _without_home(argv: list[str]) -> list[str]:
    """A server's arguments without ``--home DIR``, which is set anew."""
    kept = list(argv)
    if "--home" in kept:
        at = kept.index("--home")
        del kept[at : at + 2]
    return kept
