"""The bytes of a model from the Hugging Face hub: fetched, resumed and checked.

huggingface_hub has no way to go on with a download that broke off, so a file is fetched here: into ``FILE.partial``,
from where the last attempt ended, then checked and given its name. The folder of a model is named after its digest, so
another revision of the same model never takes the place of one that is registered.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from engine.errors import InsufficientStorage, InvalidRequest, ModelFileError, Unavailable
from engine.hub_files import Model
from engine.schema import Progress, PullStatus
from engine.version import __version__

if TYPE_CHECKING:
    import httpx

REPORT_SECONDS = 0.2
BLOCK = 1 << 20
ATTEMPTS = 5
"""Connections that may break in a row, without a byte, before the hub counts as unreachable."""
PAUSE_SECONDS = 0.5
"""Before the next attempt; twice as long each time."""
SPARE_BYTES = 64 << 20
"""Left free on the disk."""
TIMEOUT_SECONDS = 30.0

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    name: str
    size: int
    sha256: str | None
    """Of a large file."""
    git: str
    """Git's own digest, for a file that has no other."""
    url: str

    @property
    def digest(self) -> str:
        """The better of both, with its kind."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git:{self.git}"


class Download:
    """Brings the files of one model below `folder`, unless they are there, and checks their digests."""

    def __init__(self, folder: Path, model: Model, files: Sequence[RemoteFile], note: str, report: Report) -> None:
        self._name = _digest(model, files)
        self._lock = folder / f".{self._name}.lock"
        self.folder = folder / self._name
        self.files = {file: self.folder / model.place(file.name) for file in files}
        self.path = self.folder if model.folder is not None else self.files[files[0]]
        """What is to be registered."""
        self._note = note
        self._report = report
        self._total = sum(file.size for file in files)
        self._done = 0
        """Bytes of the files that are whole."""

    def run(self) -> None:
        """Raises `ModelFileError`, `InsufficientStorage` or `Unavailable`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._turn():
            self._check_space()
            for file, path in self.files.items():
                path.parent.mkdir(exist_ok=True)
                self._bring(file, path)
                self._done += file.size
        first = next(iter(self.files))
        self._tell(first, "success", first.size, self.path)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Lets one process at a time download a model. Another one watches until it is done, or its turn."""
        with self._lock.open("w") as held:
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._watch()
                    time.sleep(REPORT_SECONDS)
            yield

    def _watch(self) -> None:
        """Tells how far another process is."""
        self._done = 0
        for file, path in self.files.items():
            if not path.exists():
                self._tell(file, "downloading", _size(_partial(path)))
                break
            self._done += file.size
        self._done = 0

    def _check_space(self) -> None:
        missing = sum(f.size - _size(_partial(path)) for f, path in self.files.items() if not path.exists())
        free = shutil.disk_usage(self.folder).free
        if missing + SPARE_BYTES > free:
            first = next(iter(self.files)).name
            what = first if len(self.files) == 1 else f"{first} and the {len(self.files) - 1} files that go with it"
            raise InsufficientStorage(
                f"The download needs {missing >> 20} MiB more ({what}), and {self.folder} has {free >> 20} MiB free."
            )

    def _bring(self, file: RemoteFile, path: Path) -> None:
        if path.exists() and self._is_whole(file, path):
            return
        partial = _partial(path)
        with partial.open("ab") as out:
            self._fetch(file, out)
            os.fsync(out.fileno())
        if not self._is_whole(file, partial):
            partial.unlink()
            raise ModelFileError(
                f"What came for {file.name} does not have the digest that the hub names, {file.digest}; "
                "it was removed. Pull it again.",
                field="source",
            )
        partial.replace(path)

    def _fetch(self, file: RemoteFile, out: IO[bytes]) -> None:
        """Appends what is missing. Goes on when the connection breaks, as long as something comes."""
        import httpx
        from huggingface_hub.utils import build_hf_headers

        us = build_hf_headers(library_name="unimodel", library_version=__version__)
        headers = {**us, "accept-encoding": "identity"}
        failures = 0
        if out.tell() > file.size:
            _empty(out)
        with httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
            while (have := out.tell()) < file.size:
                try:
                    why = self._receive(client, file, out, have)
                except httpx.HTTPError as e:
                    why = str(e) or type(e).__name__
                failures = 0 if out.tell() > have else failures + 1
                if failures == ATTEMPTS:
                    raise Unavailable(f"The download of {file.name} broke off: {why}. Pull it again to go on with it.")
                if out.tell() < file.size:
                    time.sleep(PAUSE_SECONDS * 2**failures)

    def _receive(self, client: httpx.Client, file: RemoteFile, out: IO[bytes], have: int) -> str:
        """One response, appended to `out`. Returns why there may be more to come."""
        with client.stream("GET", file.url, headers={"range": f"bytes={have}-"} if have else {}) as response:
            if response.status_code in (401, 403):
                raise gated(file.url.partition("/resolve/")[0])
            if response.status_code == 416 or (response.status_code == 200 and have):
                _empty(out)  # the server cannot go on from there
            if response.status_code not in (200, 206):
                return f"the hub answers {response.status_code}"
            reported = 0.0
            for block in response.iter_raw(BLOCK):
                out.write(block)
                now = time.monotonic()
                if now - reported > REPORT_SECONDS:
                    self._tell(file, "downloading", out.tell())
                    reported = now
        return "the hub sent less than it said"

    def _is_whole(self, file: RemoteFile, path: Path) -> bool:
        """Whether a file on the disk has the right digest."""
        if _size(path) != file.size:
            return False
        sha = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        done, reported = 0, 0.0
        with path.open("rb") as f:
            while block := f.read(BLOCK):
                sha.update(block)
                done += len(block)
                now = time.monotonic()
                if now - reported > REPORT_SECONDS:
                    self._tell(file, "verifying", done)
                    reported = now
        return sha.hexdigest() == (file.sha256 or file.git)

    def _tell(self, file: RemoteFile, status: PullStatus, completed: int, path: Path | None = None) -> None:
        here = {"downloading": completed, "verifying": file.size, "success": 0}[status]
        self._report(
            Progress(
                status=status,
                file=file.name,
                digest=file.digest,
                total=file.size,
                completed=completed,
                model_total=self._total,
                model_completed=self._done + here,
                note=self._note,
                path=None if path is None else str(path),
            )
        )
        self._note = ""


def _digest(model: Model, files: Sequence[RemoteFile]) -> str:
    """Tells a model from any other in its repository: the first digits of the digest of its file, or of all of them."""
    digest = files[0].digest.partition(":")[2]
    if len(files) > 1 or model.folder is not None:
        lines = sorted(f"{file.digest}  {model.place(file.name)}\n" for file in files)
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return digest[:12]


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _empty(out: IO[bytes]) -> None:
    out.seek(0)
    out.truncate()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def gated(page: str) -> InvalidRequest:
    return InvalidRequest(
        f"{page} is gated: accept its terms there, and start the server with HF_TOKEN set to your token.",
        field="source",
    )
