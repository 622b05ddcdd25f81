"""What the documents say of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import ExitCode
from engine.settings import TABLE
from scripts.docs.markdown import code, prose, table

EXIT_MEANINGS = {
    ExitCode.OK: "It is done.",
    ExitCode.FAILED: "It failed; the message says why.",
    ExitCode.USAGE: "The command, a flag or a setting is wrong. Nothing was tried.",
    ExitCode.UNREACHABLE: "No server answers.",
    ExitCode.NOT_FOUND: "There is no such model, version, alias or log.",
    ExitCode.OVERLOADED: "The model's queue is full; try again later.",
    ExitCode.TIMED_OUT: "The deadline passed.",
}


def exit_codes() -> str:
    """What each exit code means."""
    return table(["exit code", "meaning"], ([str(int(c)), EXIT_MEANINGS[c]] for c in ExitCode))


def commands(command: Any = None, path: tuple[str, ...] = ("unimodel",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that a user may type, as (words, command), in the order of the help; groups aside."""
    from typer.main import get_command

    from unimodel_cli.main import build

    command = command or get_command(build())
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    for name, child in (children or {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def command_list() -> str:
    """One line a command."""
    rows = ([code(" ".join(path)), f"{first_sentence(command.help)}."] for path, command in commands())
    return table(["command", "what it does"], rows)


def first_sentence(text: str) -> str:
    """Of a help text, without its full stop."""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


COMMON = ("--json", "--host", "--api-key", "--home")


def cli() -> str:
    """The reference of every command: usage, arguments, options, examples."""
    return "\n\n".join(_command(path, command) for path, command in commands())


def _command(path: tuple[str, ...], command: Any) -> str:
    flags = {row.flag for row in TABLE.values()}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    is_setting = {"--max-models", "--config"} <= {name for p in options for name in p.opts}
    own = [p for p in options if p.opts[0] not in COMMON and not (is_setting and p.opts[0] in flags)]
    common = [code(p.opts[0]) for p in options if p.opts[0] in COMMON and not (is_setting and p.opts[0] == "--host")]
    usage = " ".join([*path, *(_argument(p) for p in arguments), "[OPTIONS]"])
    blocks = [f"## {' '.join(path)}", inspect.cleandoc(command.help), f"```text\n{usage}\n```"]
    rows = [[code(_argument(p)), _help(p)] for p in arguments] + [[_names(p), _help(p)] for p in own]
    if rows:
        blocks.append(table(["argument or option", ""], rows))
    settings = ", and [a flag for every setting](configuration.md#settings)" if is_setting else ""
    blocks.append(f"It also takes {', '.join(common)}{settings}.")
    examples = [line.strip() for line in command.epilog.splitlines() if line.startswith("  ")]
    blocks.append("```sh\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(blocks)


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name)
    name = f"{name}..." if parameter.nargs == -1 and not name.endswith("...") else name
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _names(parameter: Any) -> str:
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    metavar = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
    return code(names + metavar)


def _help(parameter: Any) -> str:
    default = parameter.default
    shown = isinstance(default, int | float | str | Path) and default not in ("", 0)
    return prose(parameter.help) + (f" [default: {default}]" if shown else "")
