"""Aliases: names that stand for a model, or for one version of it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from engine.schema import Alias, AliasList, AliasRequest
from unimodel_cli.command import ModelName, Session, command, group

AliasName = Annotated[str, typer.Argument(metavar="ALIAS", help="The name that stands for the model.")]


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    aliases = group(app, "alias", "Names that stand for a model, or for one version of it.")
    command(
        aliases,
        "set",
        examples=["unimodel alias set prod resnet@1", "unimodel alias set resnet resnet@1"],
    )(set_alias)
    command(aliases, "list", examples=["unimodel alias list"])(list_aliases)
    command(aliases, "remove", examples=["unimodel alias remove prod"])(remove)


def set_alias(session: Session, alias: AliasName, name: ModelName) -> None:
    """Let ALIAS stand for a model, or for NAME@VERSION.

    An alias that is a model's own name pins the version that the name serves.
    """
    from unimodel_cli.client import split_reference

    model, version = split_reference(name)
    made = session.client.call(Alias, "PUT", _path(alias), AliasRequest(model=model, version=version))
    if session.json:
        session.out.json(made)
    else:
        session.out.line(f"{made.alias} stands for {_target(made)}.")


def list_aliases(session: Session) -> None:
    """List the aliases."""
    answer = session.client.call(AliasList, "GET", "/v1/aliases")
    if session.json:
        session.out.json(answer)
        return
    session.out.table(
        ["ALIAS", "STANDS FOR"],
        [[a.alias, _target(a)] for a in answer.aliases],
        empty="There is no alias. Set one with: unimodel alias set ALIAS NAME",
    )


def remove(session: Session, alias: AliasName) -> None:
    """Remove an alias; the model stays."""
    removed = session.client.call(Alias, "DELETE", _path(alias))
    if session.json:
        session.out.json(removed)
    else:
        session.out.line(f"Removed the alias {removed.alias}, which stood for {_target(removed)}.")


def _path(alias: str) -> str:
    return f"/v1/aliases/{quote(alias, safe='')}"


def _target(alias: Alias) -> str:
    return alias.model if alias.version is None else f"{alias.model}@{alias.version}"
