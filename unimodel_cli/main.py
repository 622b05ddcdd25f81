"""The command ``unimodel``: its assembly, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.errors import ExitCode, InternalError, UniModelError

if TYPE_CHECKING:
    import typer

EPILOG = """\b
Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 server unreachable, 4 not found, 5 overloaded, 6 timed out.
Environment: UNIMODEL_HOST, UNIMODEL_API_KEY, UNIMODEL_HOME, NO_COLOR; UNIMODEL_DEBUG=1 shows tracebacks.

\b
First steps:
  unimodel start
  unimodel register resnet ./resnet50.onnx
  unimodel predict resnet cat.jpg
"""

BROKEN_PIPE = 141
"""128 + SIGPIPE, as of a program that the signal ends."""


def main() -> None:
    """The console entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. No exception leaves it, and no traceback is shown unasked."""
    if list(arguments) == ["completion", "names"]:
        from unimodel_cli import completion_names

        return completion_names.run()
    from unimodel_cli.command import PipeClosed

    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return 130
    except (PipeClosed, BrokenPipeError):
        _drop_stdout()
        return BROKEN_PIPE
    except Exception as e:
        if os.environ.get("UNIMODEL_DEBUG"):
            import traceback

            traceback.print_exc()
        return _report(e, json_mode="--json" in arguments)


def build() -> typer.Typer:
    """The whole command line. The modules of the commands import nothing heavy until they run."""
    import typer

    from unimodel_cli import command
    from unimodel_cli.commands import (
        alias,
        backend,
        bench,
        chat,
        completion,
        config,
        doctor,
        embed,
        logs,
        models,
        plugin,
        predict,
        pull,
        server,
        transcribe,
    )

    app = command.new_app(
        name="unimodel", help="Serves any model file: register it, and predict over HTTP.", epilog=EPILOG
    )

    def version(wanted: bool) -> None:
        if wanted:
            from importlib.metadata import version as installed_version

            sys.stdout.write(f"unimodel {installed_version('unimodel')}\n")
            raise typer.Exit

    command.root(app, version)
    groups = (
        server,
        logs,
        models,
        pull,
        predict,
        chat,
        embed,
        transcribe,
        bench,
        alias,
        config,
        doctor,
        backend,
        plugin,
        completion,
    )
    for group in groups:
        group.add(app)
    return app


def _dispatch(arguments: Sequence[str]) -> int:
    from typer.main import get_command

    result = get_command(build()).main(args=list(arguments), prog_name="unimodel", standalone_mode=False)
    sys.stdout.flush()
    return int(result or 0)


def _report(error: Exception, *, json_mode: bool) -> int:
    """Prints `error` and returns the exit code for it."""
    import typer

    from unimodel_cli.errors import UsageError
    from unimodel_cli.output import print_error

    if isinstance(error, typer.TyperException):
        if not json_mode and hasattr(error, "show"):
            error.show()
            return error.exit_code
        error = UsageError(error.format_message())
    elif isinstance(error, typer.Abort):
        error = _Aborted("Aborted.")
    elif not isinstance(error, UniModelError):
        error = InternalError(
            f"Unexpected {type(error).__name__}: {error}. This is a defect of UniModel; "
            "run the command again with UNIMODEL_DEBUG=1 for the trace."
        )
    print_error(error, json_mode=json_mode)
    return int(error.exit_code)


class _Aborted(UniModelError):
    """The user said no."""

    code = "cancelled"
    status = 499
    exit_code = ExitCode.FAILED


def _drop_stdout() -> None:
    """The reader of stdout is gone: lets the interpreter's last flush go nowhere instead of failing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
