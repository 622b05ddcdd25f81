"""Shell completions: print them, or install them for this user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import InsufficientStorage
from unimodel_cli.command import Session, command, group
from unimodel_cli.errors import UsageError

if TYPE_CHECKING:
    from unimodel_cli.completion import Shell

ShellName = Annotated[str | None, typer.Argument(metavar="bash|zsh|fish", help="The shell of $SHELL by default.")]

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
"""Where the package is that loads completions from the user's folder by itself."""


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    completion = group(app, "completion", "Completions for bash, zsh and fish.")
    command(completion, "install", local=True, examples=["unimodel completion install zsh"])(install)
    command(
        completion,
        "show",
        local=True,
        examples=["source <(unimodel completion show bash)"],
    )(show)


def install(session: Session, shell: ShellName = None) -> None:
    """Install the completions for this user. They work in shells opened from then on."""
    from unimodel_cli.completion import script

    chosen = _shell(shell)
    file, startup = _places(chosen)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(chosen))
        added = _append(*startup) if startup else False
    except OSError as e:
        raise InsufficientStorage(f"Cannot write {e.filename}: {e.strerror}.") from None
    if session.json:
        session.out.json(
            {"shell": chosen, "path": str(file), "startup_file": str(startup[0]) if added and startup else None}
        )
        return
    session.out.line(f"Wrote {file}")
    if added and startup:
        session.out.line(f"Added to {startup[0]}: {startup[1]}")
    session.out.line("Open a new shell to use it.")


def show(session: Session, shell: ShellName = None) -> None:
    """Print the completion script for a shell."""
    from unimodel_cli.completion import script

    chosen = _shell(shell)
    text = script(chosen)
    if session.json:
        session.out.json({"shell": chosen, "script": text})
    else:
        session.out.line(text.rstrip("\n"))


def _shell(given: str | None) -> Shell:
    from unimodel_cli.completion import FILES

    name = given or Path(os.environ.get("SHELL", "")).name
    if name not in FILES:
        what = f"There are no completions for {name!r}" if name else "The shell is not known"
        raise UsageError(f"{what}; name one of {', '.join(FILES)}.")
    return name


def _places(shell: Shell) -> tuple[Path, tuple[Path, str] | None]:
    """Where the script goes, and the line that a startup file needs so that the shell finds it."""
    home = Path.home()
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / "unimodel.fish", None
    if shell == "zsh":
        line = "fpath+=(~/.zfunc); autoload -Uz compinit; compinit"
        return home / ".zfunc" / "_unimodel", (Path(os.environ.get("ZDOTDIR") or home) / ".zshrc", line)
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    file = data / "bash-completion" / "completions" / "unimodel"
    return file, None if BASH_COMPLETION.exists() else (home / ".bashrc", f"source '{file}'")


def _append(startup: Path, line: str) -> bool:
    """Adds `line` to a startup file, unless it is there. Says whether it did."""
    text = startup.read_text() if startup.exists() else ""
    if line in text:
        return False
    with startup.open("a") as f:
        f.write(("" if not text or text.endswith("\n") else "\n") + line + "\n")
    return True
