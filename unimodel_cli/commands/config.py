"""Settings: what is in force and where it came from, and a file to begin with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import Conflict, InsufficientStorage, InvalidOption, ServerUnreachable
from engine.schema import ConfigView, SettingView
from engine.settings import TABLE, Setting, load
from unimodel_cli.command import Session, command, group
from unimodel_cli.errors import UsageError


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    config = group(app, "config", "Settings: what is in force, and where it came from.")
    command(
        config,
        "show",
        examples=["unimodel config show", "unimodel config show --changed --json"],
    )(show)
    command(config, "path", local=True, examples=["unimodel config path"])(path)
    command(config, "init", local=True, examples=["unimodel config init", "unimodel start --config unimodel.yaml"])(
        init
    )


def show(
    session: Session,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not at their default.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What a server started here with FILE would get.")
    ] = None,
) -> None:
    """Show every setting in force, and what set it.

    Asks the running server; if none runs, shows what one started here would get.
    """
    view = _from_here(config) if config else _in_force(session)
    if changed:
        view = ConfigView(settings=[s for s in view.settings if s.source != "default"])
    if session.json:
        session.out.json(view)
        return
    session.out.table(
        ["SETTING", "VALUE", "SOURCE"],
        [[s.key, _shown(s.value), s.source] for s in view.settings],
        empty="Every setting is at its default.",
    )


def path(session: Session) -> None:
    """Show the folders and files that the server on this machine uses."""
    home = session.home
    places = {
        "home": home.path,
        "config": os.environ.get("UNIMODEL_CONFIG") or None,
        "registry": home.path / "registry.db",
        "log": home.log,
        "server": home.record_path,
    }
    if session.json:
        session.out.json({k: str(v) if v else None for k, v in places.items()})
        return
    from unimodel_cli.output import fields

    missing = {"config": "none (use --config FILE or UNIMODEL_CONFIG)"}
    session.out.render(fields([(k, str(v) if v else missing[k]) for k, v in places.items()]))


def init(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("unimodel.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Write a file with every setting, explained.

    All are commented out, at their defaults.
    """
    if file.exists() and not force:
        raise Conflict(f"{file} exists already; overwrite it with --force, or name another file.")
    try:
        file.write_text(_template())
    except OSError as e:
        raise InsufficientStorage(f"Cannot write {file}: {e.strerror}.") from None
    if session.json:
        session.out.json({"path": str(file.absolute())})
    else:
        session.out.line(f"Wrote {file}. Edit it, then run: unimodel start --config {file}")


def _in_force(session: Session) -> ConfigView:
    try:
        return session.client.call(ConfigView, "GET", "/v1/config")
    except ServerUnreachable:
        if session.common.host or os.environ.get("UNIMODEL_HOST"):
            raise
        session.out.note("No server runs; this is what one started here would get.")
        return _from_here(None)


def _from_here(config: Path | None) -> ConfigView:
    try:
        _, provenance = load(config)
    except InvalidOption as e:
        raise UsageError(e.message, field=e.field) from None
    return ConfigView(
        settings=[
            SettingView(key=p.key, value=p.value, source=p.source, env=TABLE[p.key].env, help=TABLE[p.key].help)
            for p in provenance.values()
        ]
    )


def _shown(value: Any) -> str:
    """A value as one would write it in the file."""
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value)


def _template() -> str:
    lines = ["# Settings of a UniModel server. Flags and UNIMODEL_* variables override this file.", ""]
    section = ""
    for row in TABLE.values():
        before, _, name = row.key.partition(".")
        if before != section:
            section = before
            lines += ([""] if lines[-1] else []) + [f"{section}:"]
        lines += [f"  # {row.help}", f"  # {name}: {_yaml(row, row.default)}"]
    return "\n".join(lines) + "\n"


def _yaml(row: Setting, value: Any) -> str:
    return f"null  # {row.type_name}" if value is None else json.dumps(value)
