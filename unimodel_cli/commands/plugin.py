"""Plugins: models written in Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import ExitCode
from engine.kit.answers import CheckView
from unimodel_cli.command import Session, command, group
from unimodel_cli.errors import UsageError
from unimodel_cli.output import mark


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    plugins = group(app, "plugin", "Models written in Python.")
    command(
        plugins,
        "new",
        local=True,
        examples=["unimodel plugin new word-count", "unimodel plugin new echo --dir ./echo"],
    )(new)
    command(
        plugins,
        "test",
        local=True,
        examples=[
            "unimodel plugin test ./my_plugin.py:MyModel",
            'unimodel plugin test ./my_plugin.py --set threshold=0.5 --body \'{"input": "hello"}\'',
            "unimodel plugin test ./model.abc --backend my-backend --json",
        ],
    )(test)
    command(plugins, "list", local=True, examples=["unimodel plugin list", "unimodel plugin list --json"])(list_plugins)


def new(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="PLUGIN", help="Name of the model and its package.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to write it; ./NAME by default.")
    ] = None,
) -> None:
    """Write a new plugin, with its own test.

    It works as it is: change it, and register it. Nothing is overwritten.
    """
    from unimodel_cli import plugin_template

    target = folder or Path(name)
    files = plugin_template.create(name, target)
    steps = plugin_template.next_steps(name, target)
    if session.json:
        written = [str(f.absolute()) for f in files]
        session.out.json({"name": name, "dir": str(target.absolute()), "files": written, "next": steps})
        return
    for file in files:
        session.out.line(f"Wrote {file}")
    session.out.line("Next:")
    for step in steps:
        session.out.line(f"  {step}")


def test(
    session: Session,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="As for register: plugin.py:Class, a folder, an installed name.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the plugin; repeatable."),
    ] = None,
    body: Annotated[
        str | None, typer.Option(metavar="JSON", help="What to ask it, in place of the example that it declares.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="Backend to test with this model; found by looking.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="How long one check may take.")] = 60.0,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow a model file that runs code when loaded; a plugin needs no leave.")
    ] = False,
) -> None:
    """Check that a plugin keeps to what the server expects.

    It runs the tests of the built-in backends on it: loading as in a worker, the example, batches, bad bodies,
    streams, options, closing. Exits with 1 if one fails. No server is needed. The plugin's code runs, in a process of
    its own.
    """
    from unimodel_cli import kit
    from unimodel_cli.model_options import nested, server_path

    subject = {
        "path": server_path(path, "http://127.0.0.1"),
        "backend": backend,
        "config": nested(options or []),
        "body": _body(body),
        "trust": trust,
    }
    found: list[CheckView] = []
    for check in kit.test(subject, timeout, quiet=session.json):
        found.append(check)
        if not session.json:
            session.out.line(f"{mark(check.state)} {check.name}")
            if check.message:
                session.out.line(f"{'':5}{'-> ' if check.state == 'fail' else ''}{check.message}")
    failed = [check for check in found if check.state == "fail"]
    if session.json:
        session.out.json({"ok": not failed, "checks": found})
    else:
        session.out.line(f"{len(found) - len(failed)} of {len(found)} checks passed.")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def list_plugins(
    session: Session,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="How long one import may take.")] = 60.0,
) -> None:
    """List the plugins and backends that installed packages offer.

    They are those of this environment, and so of a server that is started here. Each plugin is imported, in a process
    of its own; one that cannot be is shown with the reason.
    """
    from unimodel_cli import kit

    with session.out.waiting("Importing the installed plugins"):
        answer = kit.plugins(timeout)
    if session.json:
        session.out.json(answer)
        return
    rows = [
        ["plugin", p.name, p.package, p.summary or p.target, "broken" if p.problem else "ok"] for p in answer.plugins
    ] + [
        [
            "backend",
            b.name,
            b.package,
            b.summary,
            "ok" if b.available else "broken" if b.problem else "needs its runtime",
        ]
        for b in answer.backends
    ]
    session.out.table(
        ["KIND", "NAME", "PACKAGE", "WHAT", "STATE"],
        rows,
        empty="No installed package offers a plugin or a backend. Write a plugin with: unimodel plugin new NAME",
    )
    problems = {p.name: p.problem for p in answer.plugins} | {b.name: b.problem for b in answer.backends}
    for name, problem in problems.items():
        if problem:
            session.out.line(f"{name}: {problem}")


def _body(text: str | None) -> dict[str, Any] | None:
    import json

    if text is None:
        return None
    try:
        body = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as e:
        raise UsageError(f"--body is not JSON: {e}.", field="body") from None
    if not isinstance(body, dict):
        raise UsageError('--body must be a JSON object, such as {"input": "hello"}.', field="body")
    return body
