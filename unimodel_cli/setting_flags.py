"""The flags of ``unimodel serve`` and ``unimodel start``: one for each row of the settings table."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import InvalidOption
from engine.settings import TABLE, Setting, load
from unimodel_cli.errors import UsageError

FIRST = (
    "server.port",
    "server.host",
    "engine.max_models",
    "engine.default_batch_size",
    "engine.max_batch_wait_ms",
    "engine.cpu_threads",
    "gpu.device_ids",
    "monitoring.log_level",
)
"""What people set most, shown first."""

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in YAML [env: UNIMODEL_CONFIG].")
]


def parameters() -> list[inspect.Parameter]:
    """``--config`` and one flag a setting, as parameters for `unimodel_cli.command.command`."""
    keys = [*FIRST, *(k for k in TABLE if k not in FIRST)]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config)
    return [config, *(_parameter(TABLE[key]) for key in keys)]


def to_arguments(values: dict[str, Any], preferred: dict[str, str] | None = None) -> list[str]:
    """The values of `parameters` as arguments of ``python -m engine``, after checking them as the server will.

    `preferred` are values for settings that no flag, variable or file sets. Raises `UsageError` for what the server
    would refuse.
    """
    config = values["config"]
    given = {key: values[_identifier(key)] for key in TABLE if values[_identifier(key)] is not None}
    try:
        _, provenance = load(config, given)
    except InvalidOption as e:
        raise UsageError(e.message, field=e.field) from None
    given |= {k: v for k, v in (preferred or {}).items() if provenance[k].source == "default"}
    arguments = ["--config", str(config.absolute())] if config else []
    for key, text in given.items():
        arguments += [TABLE[key].flag, text]
    return arguments


def _parameter(row: Setting) -> inspect.Parameter:
    kind = "|".join(row.choices) if row.choices else row.type_name.removesuffix(", or unset")
    default = (
        "unset" if row.default is None else str(row.default).lower() if isinstance(row.default, bool) else row.default
    )
    option = typer.Option(
        row.flag, metavar=_METAVARS.get(kind, kind), help=f"{row.help} [default: {default}]", show_default=False
    )
    return inspect.Parameter(
        _identifier(row.key), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


_METAVARS = {"integer": "N", "number": "X", "text": "TEXT", "true or false": "true|false", "list of integers": "[N,…]"}


def _identifier(key: str) -> str:
    return key.replace(".", "__")
