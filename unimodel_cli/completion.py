"""The shell completions: read off the command line itself, written into ``completions/``.

``python -m unimodel_cli.completion [DIR]`` writes them anew. The scripts hold every command and option, so that a shell
completes them without starting Python; only the names of models are asked of ``unimodel completion names``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Shell = Literal["bash", "zsh", "fish"]

FILES: dict[Shell, str] = {"bash": "unimodel.bash", "zsh": "_unimodel", "fish": "unimodel.fish"}
"""The file names under which the shells look for completions of ``unimodel``."""

Kind = Literal["names", "files", "dirs", "choices", "other"]
"""What can complete a value: models of the running server, files, folders, one of `choices`, or nothing."""


@dataclass(frozen=True)
class Value:
    """The value of an option, or an argument."""

    kind: Kind
    label: str
    choices: tuple[str, ...] = ()
    repeats: bool = False


@dataclass(frozen=True)
class Option:
    """An option under all its names; a flag has no value."""

    names: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True)
class Node:
    """A command: its path below ``unimodel``, and what may follow it."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    children: tuple[Node, ...] = field(default=())

    def walk(self) -> Iterator[Node]:
        """This command and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def tree() -> Node:
    """The whole command line."""
    from typer.main import get_command

    from unimodel_cli.main import build

    return _node(get_command(build()), ())


def script(shell: Shell) -> str:
    """The completion script for `shell`."""
    from unimodel_cli import completion_scripts

    return {"bash": completion_scripts.bash, "zsh": completion_scripts.zsh, "fish": completion_scripts.fish}[shell](
        tree()
    )


def _node(command: Any, path: tuple[str, ...]) -> Node:
    options = [Option(("-h", "--help"), "Show the help.", None)]
    arguments = []
    for param in command.params:
        if getattr(param, "hidden", False):
            continue
        if param.param_type_name == "argument":
            arguments.append(_value(param, repeats=param.nargs == -1))
        else:
            value = None if param.is_flag else _value(param, repeats=param.multiple)
            options.append(Option((*param.opts, *param.secondary_opts), _first_sentence(param.help), value))
    children = [
        _node(child, (*path, name)) for name, child in getattr(command, "commands", {}).items() if not child.hidden
    ]
    return Node(path, _first_sentence(command.help), tuple(options), tuple(arguments), tuple(children))


def _value(param: Any, repeats: bool) -> Value:
    """What completes a parameter, by its metavar."""
    label = str(param.metavar or param.name).strip("[].…")
    if "|" in label:
        return Value("choices", param.name, tuple(label.split("|")), repeats)
    kinds: dict[str, Kind] = {
        "NAME": "names", "ALIAS": "names", "FILE": "files", "PATH": "files", "INPUT": "files", "DIR": "dirs"
    }  # fmt: skip
    return Value(kinds.get(label, "other"), label, (), repeats)


def _first_sentence(help: str | None) -> str:
    text = " ".join((help or "").split("\n\n")[0].split()).partition(" [")[0]
    return text.partition(". ")[0].rstrip(".")


def main(folder: Path) -> None:
    """Writes the scripts of all shells into `folder`."""
    folder.mkdir(exist_ok=True)
    for shell, file in FILES.items():
        (folder / file).write_text(script(shell))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "completions"))
