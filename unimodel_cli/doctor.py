"""The checks of `unimodel doctor`: what a server needs of this machine, and what to do where it is missing."""

from __future__ import annotations

import importlib.metadata
import mmap
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.errors import InvalidOption, ServerUnreachable, UniModelError
from engine.schema import BackendList, Health
from engine.settings import ServerSettings, load
from unimodel_cli.output import size

if TYPE_CHECKING:
    from unimodel_cli.command import Session

State = Literal["ok", "warn", "fail"]

LOW_DISK, FULL_DISK = 1 << 30, 100 << 20
FEW_FILES = 4096
SKEW_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One finding. `advice` says what to do, unless it is ok."""

    name: str
    state: State
    found: str
    advice: str = ""


def checks(session: Session) -> Iterator[Check]:
    """Runs every check, in the order in which a person would."""
    for check in (_python, _server, _runtimes, _gpus, _port, _home, _disk, _shared_memory, _open_files, _clock):
        try:
            yield from check(session)
        except Exception as e:  # a check that breaks is a finding too
            name = check.__name__.strip("_").replace("_", " ")
            yield Check(name, "warn", f"could not be checked: {type(e).__name__}: {e}", "Report this as a defect.")


def _python(_: Session) -> Iterator[Check]:
    version = sys.version.split()[0]
    found = f"{version} at {sys.executable}, unimodel {importlib.metadata.version('unimodel')}"
    yield Check("python", "ok", found)


def _server(session: Session) -> Iterator[Check]:
    try:
        health = session.client.call(Health, "GET", "/healthz", timeout=5.0)
    except ServerUnreachable as e:
        if session.home.locked():
            yield Check(
                "server", "warn", "it runs but does not answer: it is starting, stopping or hangs", "unimodel logs"
            )
        else:
            yield Check("server", "warn", e.message.split(". ")[0].rstrip("."), "unimodel start")
        return
    except UniModelError as e:
        yield Check("server", "fail", e.message, "Check --host and UNIMODEL_HOST.")
        return
    own = importlib.metadata.version("unimodel")
    if health.version != own:
        found = f"{session.url} runs {health.version}, this command is {own}"
        yield Check("server", "warn", found, "unimodel restart")
    else:
        yield Check("server", "ok", f"{session.url}, version {health.version}")


def _runtimes(session: Session) -> Iterator[Check]:
    """Of the server's environment if it runs, else of this one."""
    try:
        backends = session.client.call(BackendList, "GET", "/v1/backends", timeout=10.0).backends
    except UniModelError:
        yield from _installed_extras()
        return
    for b in backends:
        if b.available and b.gpu_problem:
            found = f"{b.version}, on the CPU: {b.gpu_problem}"
            yield Check(f"backend {b.name}", "warn", found, b.gpu_install or "")
        elif b.available:
            yield Check(f"backend {b.name}", "ok", b.version or "ready")
        else:
            yield Check(
                f"backend {b.name}", "warn", "its runtime is not installed", b.install or "see its documentation"
            )


def _installed_extras() -> Iterator[Check]:
    """The packages behind each extra of this distribution, from its own metadata."""
    extras: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("unimodel") or []:
        match = re.match(r"([A-Za-z0-9_.-]+).*extra == ['\"]([\w-]+)['\"]", requirement)
        if match and match[2] not in ("all", "dev", "gpu") and match[1] != "unimodel":
            extras.setdefault(match[2], []).append(match[1])
    for extra, packages in extras.items():
        versions = {p: _version(p) for p in packages}
        missing = [p for p, v in versions.items() if v is None]
        found = ", ".join(f"{p} {v}" for p, v in versions.items() if v)
        if missing:
            yield Check(f"extra {extra}", "warn", f"missing: {', '.join(missing)}", f"pip install 'unimodel[{extra}]'")
        else:
            yield Check(f"extra {extra}", "ok", found)


def _gpus(_: Session) -> Iterator[Check]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield Check("gpu", "ok", "none found; models run on the CPU")
        return
    driver = pynvml.nvmlSystemGetDriverVersion()
    for i in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(i)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found = f"{pynvml.nvmlDeviceGetName(handle)}, {size(memory.free)} of {size(memory.total)} free, driver {driver}"
        yield Check(f"gpu {i}", "ok", found)
    pynvml.nvmlShutdown()


def _port(session: Session) -> Iterator[Check]:
    try:
        server = load()[0].server
    except InvalidOption as e:
        yield Check("settings", "fail", e.message, "Fix the file or the environment variable.")
        server = ServerSettings()
    record = session.home.running()
    if record:
        yield Check("port", "ok", f"{record.url} is the server's own (pid {record.pid})")
        return
    with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((server.host, server.port))
        except OSError as e:
            found = f"{server.port} on {server.host} cannot be used: {e.strerror}{_owner(server.port)}"
            yield Check("port", "fail", found, "Stop that process, or start with: unimodel start --port 8001")
            return
    yield Check("port", "ok", f"{server.port} on {server.host} is free")


def _owner(port: int) -> str:
    """Who listens on `port`, as far as this user may know."""
    import psutil

    try:
        for c in psutil.net_connections("tcp"):
            if c.status == psutil.CONN_LISTEN and getattr(c.laddr, "port", None) == port and c.pid:
                return f" by {psutil.Process(c.pid).name()} (pid {c.pid})"
    except psutil.Error:
        pass
    return ""


def _home(session: Session) -> Iterator[Check]:
    home = session.home.path
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as e:
        yield Check("home", "fail", f"{home}: {e.strerror}", "Choose a writable folder with --home or UNIMODEL_HOME.")
    else:
        yield Check("home", "ok", f"{home} is writable")


def _disk(session: Session) -> Iterator[Check]:
    folder = session.home.path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state: State = "fail" if free < FULL_DISK else "warn" if free < LOW_DISK else "ok"
    yield Check(
        "disk", state, f"{size(free)} free at {folder}", "" if state == "ok" else "Free some space, or move --home."
    )


def _shared_memory(_: Session) -> Iterator[Check]:
    try:
        fd = os.memfd_create("unimodel-doctor")
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            mmap.mmap(fd, mmap.PAGESIZE).close()
        finally:
            os.close(fd)
    except (AttributeError, OSError) as e:
        reason = getattr(e, "strerror", None) or "this system has no memfd_create"
        yield Check("shared memory", "fail", str(reason), "Allow memfd_create; it needs Linux 3.17 or newer.")
        return
    import psutil

    memory = psutil.virtual_memory()
    yield Check("shared memory", "ok", f"memfd works; {size(memory.available)} of {size(memory.total)} available")


def _open_files(_: Session) -> Iterator[Check]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        advice = f"Each connection is one: raise the hard limit (ulimit -Hn) to {FEW_FILES} or more."
        yield Check("open files", "warn", f"limit {limit}", advice)
    else:
        yield Check("open files", "ok", f"limit {limit} (soft {soft}, which the server raises)")


def _clock(session: Session) -> Iterator[Check]:
    """Against the server's clock if it runs, else against the time when this package was installed."""
    try:
        date = session.client.send("GET", "/healthz", timeout=5.0).headers.get("date")
    except UniModelError:
        date = None
    if date:
        skew = time.time() - parsedate_to_datetime(date).timestamp()
        if abs(skew) > SKEW_SECONDS:
            yield Check("clock", "warn", f"{skew:+.0f} s against the server's", "Synchronise both with NTP.")
            return
    if time.time() < Path(__file__).stat().st_mtime - SKEW_SECONDS:
        yield Check(
            "clock", "warn", f"{time.ctime()} lies before this package was installed", "Set the clock, with NTP."
        )
        return
    yield Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
