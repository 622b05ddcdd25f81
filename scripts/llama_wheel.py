"""Has llama-cpp-python compiled for this machine once, in the background, and keeps the wheel for the next environment.

    python -m scripts.llama_wheel start      # begins to compile unless there is a wheel, and returns at once
    python -m scripts.llama_wheel install    # waits for the wheel, showing progress, and installs it here

There is no wheel of it to download, and compiling takes minutes, so it runs beside everything else. The wheels lie in
``$UNIMODEL_WHEELS``, by default ``~/.cache/unimodel/wheels``, by Python, processor and ``CMAKE_ARGS``: llama.cpp is
compiled for the instructions of the processor that it finds. What is needed is a C and a C++ compiler; pip brings the
rest. Any number of these scripts may run at once: one compiles, the others wait for it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scripts.fetch_models import cache_folder
from scripts.packages import say

PACKAGE = "llama-cpp-python"
ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
_SELF = (sys.executable, "-m", "scripts.llama_wheel")
"""To be run in `ROOT`."""
REPORT_SECONDS = 15.0
COMPILERS = "a C and a C++ compiler are needed: sudo apt-get install -y gcc g++"


class WheelError(Exception):
    """It cannot be compiled or installed. The text says why, and what helps."""


def version() -> str:
    """The version that is pinned."""
    pin = re.search(rf"^{PACKAGE}==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert pin, f"{CONSTRAINTS} pins no {PACKAGE}"
    return pin[1]


def installed() -> bool:
    """Whether this environment has it, in the pinned version."""
    try:
        return importlib.metadata.version(PACKAGE) == version()
    except importlib.metadata.PackageNotFoundError:
        return False


def start() -> None:
    """Begins to compile in the background, unless it is installed or its wheel is there. Ctrl-C ends that too."""
    if installed() or find():
        return
    try:
        _require_compilers()
    except WheelError:
        return  # said by `install`, when the rest is done
    subprocess.Popen([*_SELF, "build"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    say(f"compiling llama.cpp for this machine in the background, once; its log is {_log()}")


def install() -> None:
    """Installs it into this environment, waiting for the wheel while it is compiled. Raises `WheelError`."""
    if installed():
        return
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command += ["--constraint", str(CONSTRAINTS), str(build(show=True))]
    if subprocess.run(command, check=False).returncode != 0:
        raise WheelError("pip could not install llama.cpp's wheel; its reason is above.")


def build(show: bool = False) -> Path:
    """The wheel, compiled now unless it is there. Raises `WheelError`."""
    _folder().mkdir(parents=True, exist_ok=True)
    with _turn(show):
        return find() or _compile(show)


def find() -> Path | None:
    """A wheel of the pinned version that runs here: of this script's own cache, or of that of the models."""
    folders = [_folder()]
    if "CMAKE_ARGS" not in os.environ:
        folders.append(cache_folder() / "wheels")
    wheels = (wheel for folder in folders for wheel in sorted(folder.glob(f"llama_cpp_python-{version()}-*.whl")))
    return next((wheel for wheel in wheels if _runs(wheel)), None)


# --- the parts ------------------------------------------------------------------------------------------------------


def _folder() -> Path:
    """Where the wheels for this Python, processor and configuration lie."""
    root = Path(os.environ.get("UNIMODEL_WHEELS") or "~/.cache/unimodel/wheels").expanduser()
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    digest = hashlib.sha256(f"{cpu}\n{os.environ.get('CMAKE_ARGS', '')}".encode()).hexdigest()
    return root / f"python{sys.version_info[0]}.{sys.version_info[1]}-{platform.machine()}-{digest[:12]}"


def _log() -> Path:
    return _folder() / f"{PACKAGE}-{version()}.log"


def _require_compilers() -> None:
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        if variable not in os.environ and not any(map(shutil.which, names)):
            raise WheelError(f"llama.cpp has to be compiled, and {COMPILERS}")


@contextmanager
def _turn(show: bool) -> Iterator[None]:
    """One process compiles at a time; who waits shows how far it is. The turn of a process that dies is free."""
    progress = Progress(show)
    with (_folder() / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress.tick()
        yield


def _compile(show: bool) -> Path:
    """Lets pip compile the wheel, at a low priority, and moves it into the cache when it is whole."""
    _require_compilers()
    progress = Progress(show)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=_folder()) as temporary, _log().open("wb") as log:
        process = _pip_wheel(temporary, log)
        try:
            while process.poll() is None:
                progress.tick()
        finally:
            process.terminate()
            process.wait()
        wheels = list(Path(temporary).glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            raise WheelError(f"llama.cpp could not be compiled: {_reason()} The log is {_log()}.")
        if not _runs(wheels[0]):
            raise WheelError(f"llama.cpp was compiled, but does not start here. The log is {_log()}.")
        return wheels[0].replace(_folder() / wheels[0].name)


def _pip_wheel(folder: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = ["nice", sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-input"]
    # pip's own cache does not know for which processor and by which arguments a wheel was made.
    command += ["--disable-pip-version-check", "--no-cache-dir", "--wheel-dir", folder]
    return subprocess.Popen([*command, f"{PACKAGE}=={version()}"], stdout=log, stderr=subprocess.STDOUT)


def _reason() -> str:
    """The first line of the log that tells of an error."""
    lines = _log().read_text(errors="replace").splitlines()
    return next((line.strip()[:300] for line in lines if re.search(r"\berror\b|\bERROR\b", line)), "pip failed.")


class Progress:
    """A line now and then on how far the compilation is, read from its log."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._begin = self._said = time.monotonic()

    def tick(self) -> None:
        """Waits a moment; says a line when it is time."""
        time.sleep(0.2)
        now = time.monotonic()
        if self._show and now - self._said >= REPORT_SECONDS:
            self._said = now
            share = share_built(_log()) if _log().exists() else None
            done = "getting its source" if share is None else f"{share:.0%} done"
            say(f"compiling llama.cpp: {done}, waited {now - self._begin:.0f} s")


def share_built(log: Path) -> float | None:
    """Which share of the steps is done by the log of a compilation; `None` before the first."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 100_000))
        steps = re.findall(rb"^\s*\[(\d+)/(\d+)\] ", file.read(), re.MULTILINE)
    return int(steps[-1][0]) / int(steps[-1][1]) if steps else None


def _runs(wheel: Path) -> bool:
    """Whether its library can be loaded and started here: in a process of its own, as it may die of it."""
    with tempfile.TemporaryDirectory(prefix="llama-") as folder:
        try:
            with zipfile.ZipFile(wheel) as file:
                file.extractall(folder, [name for name in file.namelist() if name.startswith("llama_cpp/lib/")])
        except zipfile.BadZipFile:
            return False
        command = [*_SELF, "try", str(Path(folder, "llama_cpp", "lib", "libllama.so"))]
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == 0


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=f"{__doc__}".split("\n", maxsplit=1)[0])
    parser.add_argument("action", choices=["start", "install", "build", "try"])
    parser.add_argument("library", nargs="?")
    arguments = parser.parse_args()
    try:
        if arguments.action == "start":
            start()
        elif arguments.action == "install":
            install()
        elif arguments.action == "build":
            print(build())
        else:
            ctypes.CDLL(arguments.library).llama_backend_init()
    except (WheelError, OSError) as e:
        say(f"error: {e}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
