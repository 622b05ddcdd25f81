"""The one error that only the command line has. All others come from `engine.errors`."""

from __future__ import annotations

from engine.errors import ExitCode, InvalidRequest


class UsageError(InvalidRequest):
    """The command was called in a way that cannot work; found after its arguments were parsed."""

    exit_code = ExitCode.USAGE
