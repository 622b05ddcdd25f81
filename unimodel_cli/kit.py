"""What is installed in this environment, asked of `engine.kit` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, TypeVar

import msgspec

from engine.errors import InternalError, ServerUnreachable
from engine.schema import BackendList

if TYPE_CHECKING:
    from unimodel_cli.command import Session

S = TypeVar("S", bound=msgspec.Struct)


def backends(session: Session) -> BackendList:
    """The backends of the server; where none runs, and none is named, those that it would have on this machine."""
    try:
        return session.client.call(BackendList, "GET", "/v1/backends")
    except ServerUnreachable:
        if session.names_server:
            raise
    session.out.note("No server runs. One that is started here has these backends:")
    return ask(BackendList, "backends")


def ask(kind: type[S], *arguments: str) -> S:
    """One answer. ``-P`` keeps a folder named ``engine`` in the working directory from being run."""
    command = [sys.executable, "-P", "-m", "engine.kit", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise InternalError(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(done.stdout, type=kind)
