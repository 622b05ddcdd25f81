"""What is installed in this environment, and whether a plugin works: `engine.kit`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from engine.errors import InternalError, ServerUnreachable
from engine.kit.answers import CheckView, PluginList
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


def plugins(timeout: float) -> PluginList:
    """The installed plugins, each imported within so many seconds, and the backends of others."""
    return ask(PluginList, "plugins", str(timeout))


def test(subject: dict[str, Any], timeout: float, *, quiet: bool) -> Iterator[CheckView]:
    """How each check of a model comes out. What the model prints goes to stderr, unless `quiet`."""
    arguments = [str(timeout), msgspec.json.encode(subject).decode()]
    stderr = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(
        _command("test", *arguments), stdin=subprocess.DEVNULL, stdout=PIPE, stderr=stderr
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield msgspec.json.decode(line, type=CheckView)
    if process.returncode:
        raise InternalError(f"The test itself failed with exit code {process.returncode}.")


def ask(kind: type[S], *arguments: str) -> S:
    """One answer."""
    done = subprocess.run(_command(*arguments), stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise InternalError(f"Looking through this environment failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(done.stdout, type=kind)


def _command(*arguments: str) -> list[str]:
    """``-P`` keeps a folder named ``engine`` in the working directory from being run."""
    return [sys.executable, "-P", "-m", "engine.kit", *arguments]
