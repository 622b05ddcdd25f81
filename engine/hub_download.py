"""``python -m engine.hub_download FOLDER SOURCE``: the process that downloads one model from the Hugging Face hub.

`SOURCE` is a `Source` as JSON. Every line on stdout is a `Line`: how far it is, or the error that ended it.
huggingface_hub finds the repository and says what is in it. It has no way to go on with a download that broke off, so
the bytes are fetched here: into ``FILE.partial``, from where the last attempt ended, then checked and given their name.

The folder of a file is named after its digest, so another revision of the same file never takes the place of one that a
registered model was loaded from.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import msgspec

from engine.errors import InsufficientStorage, InvalidRequest, ModelFileError, NotFound, Unavailable, UniModelError
from engine.schema import ErrorDetail, Progress, PullStatus
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
MOST_LISTED = 30
"""File names in a message."""

_PROJECTOR = re.compile(r"(^|[/._-])mmproj", re.IGNORECASE)
"""The part of a vision model that turns images into tokens: a GGUF file, but no model."""
_PIECE = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")


class Line(msgspec.Struct, omit_defaults=True):
    """One line that the process prints."""

    progress: Progress | None = None
    error: ErrorDetail | None = None


class Source(msgspec.Struct, frozen=True):
    """What is to be pulled."""

    repo: str
    """``ORG/NAME``."""
    file: str | None = None
    """A file's name in the repository, or a part of it that only one has, such as ``Q4_K_M``."""
    revision: str | None = None
    """A branch, a tag or a commit; the default is ``main``."""


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


def main(folder: Path, source: Source) -> None:
    """Downloads, and says so on stdout."""
    try:
        run(folder, source)
    except BrokenPipeError:
        return  # the server is gone
    except UniModelError as e:
        _print_error(e)
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        why = f"The disk of {folder} is full." if full else f"Cannot write in {folder}: {e.strerror}."
        _print_error(InsufficientStorage(why))


def run(folder: Path, source: Source) -> None:
    """Finds the file, downloads it (in all its pieces, if it is split), and reports the path of the first."""
    _report(Progress(status="resolving"))
    files = find(source)
    target = folder / source.repo / files[0].digest.partition(":")[2][:12]
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        download(file, target / PurePosixPath(file.name).name)
    path = target / PurePosixPath(files[0].name).name
    size = files[-1].size
    _report(_progress(files[-1], "success", size, path=str(path)))


# --- what to download -----------------------------------------------------------------------------------------------


def find(source: Source) -> list[RemoteFile]:
    """The file that a source means, or the pieces of one that is split, in order."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    repo, revision = source.repo, source.revision
    try:
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
    except GatedRepoError:
        raise _gated(f"{api.endpoint}/{repo}") from None
    except RepositoryNotFoundError:
        raise NotFound(
            f"{api.endpoint} has no model {repo}, or it is private: then start the server with HF_TOKEN set.",
            field="source",
        ) from None
    except RevisionNotFoundError:
        raise NotFound(f"{repo} has no revision {revision!r}.", field="source") from None
    except HFValidationError as e:
        raise InvalidRequest(f"{repo!r} cannot be a repository: {e}", field="source") from None
    except HfHubHTTPError as e:
        raise Unavailable(f"{api.endpoint} answers {e.response.status_code} for {repo}; try again later.") from None
    except (OSError, *HfHubHTTPError.__bases__) as e:  # the errors of its HTTP library, which depends on its version
        raise Unavailable(f"Cannot reach {api.endpoint}: {str(e) or type(e).__name__}.") from None
    siblings = {s.rfilename: s for s in info.siblings or ()}
    return [
        _remote_file(siblings[name], hf_hub_url(repo, name, revision=info.sha, endpoint=api.endpoint))
        for name in choose(repo, list(siblings), source.file)
    ]


def choose(repo: str, names: list[str], wanted: str | None) -> list[str]:
    """The names of the files to download. Raises `InvalidRequest` that lists what could be meant."""
    if wanted in names:
        return _pieces(repo, names, wanted)
    models = [n for n in names if n.lower().endswith(".gguf") and not _PROJECTOR.search(n) and _is_first(n)]
    tag = re.compile(rf"(?<![A-Za-z0-9]){re.escape(wanted or '')}(?!\w)", re.IGNORECASE)
    fitting = [n for n in models if tag.search(n)] if wanted else models
    if len(fitting) == 1:
        return _pieces(repo, names, fitting[0])
    if not models:
        raise InvalidRequest(
            f"{repo} has no {f'file {wanted!r}' if wanted else 'GGUF file'}. A file of another kind is pulled by its "
            f"name, hf:{repo}:FILE; whole folders, such as of safetensors, are not pulled by this version.",
            field="source",
            details={"files": names[:MOST_LISTED]},
        )
    listed = fitting or models
    problem = f"has no file {wanted!r}" if not fitting else "has several GGUF files"
    more = f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    raise InvalidRequest(
        f"{repo} {problem}; name one of them, as in hf:{repo}:{listed[0]}: {', '.join(listed[:MOST_LISTED])}{more}.",
        field="source",
        details={"files": listed},
    )


def _is_first(name: str) -> bool:
    piece = _PIECE.search(name)
    return piece is None or int(piece[1]) == 1


def _pieces(repo: str, names: list[str], name: str) -> list[str]:
    """A file, or all pieces of the one that it is a piece of."""
    piece = _PIECE.search(name)
    if piece is None:
        return [name]
    pieces = [_PIECE.sub(f"-{i:05}-of-{piece[2]}", name) for i in range(1, int(piece[2]) + 1)]
    missing = [p for p in pieces if p not in names]
    if missing:
        raise ModelFileError(f"{repo} lacks {missing[0]}, without which {name} is not whole.", field="source")
    return pieces


def _remote_file(sibling: Any, url: str) -> RemoteFile:
    size = sibling.lfs.size if sibling.lfs else sibling.size
    if size is None or not (sibling.lfs or sibling.blob_id):
        raise Unavailable(f"The hub says neither size nor digest of {sibling.rfilename}.")
    return RemoteFile(sibling.rfilename, size, sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id or "", url)


def _gated(page: str) -> InvalidRequest:
    return InvalidRequest(
        f"{page} is gated: accept its terms there, and start the server with HF_TOKEN set to your token.",
        field="source",
    )


# --- the download ---------------------------------------------------------------------------------------------------


def download(file: RemoteFile, path: Path) -> None:
    """Brings one file to `path`, unless it is there, and checks its digest."""
    partial = path.with_name(f"{path.name}.partial")
    with _turn(file, path.with_name(f".{path.name}.lock"), partial):
        if path.exists() and _is_whole(file, path):
            return
        _check_space(file, partial)
        with partial.open("ab") as out:
            _fetch(file, out)
            os.fsync(out.fileno())
        if not _is_whole(file, partial):
            partial.unlink()
            raise ModelFileError(
                f"What came for {file.name} does not have the digest that the hub names, {file.digest}; "
                "it was removed. Pull it again.",
                field="source",
            )
        partial.replace(path)


@contextmanager
def _turn(file: RemoteFile, lock: Path, partial: Path) -> Iterator[None]:
    """Lets one process at a time download a file. Another one watches until it is done, or its turn."""
    with lock.open("w") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _report(_progress(file, "downloading", _size(partial)))
                time.sleep(REPORT_SECONDS)
        yield


def _check_space(file: RemoteFile, partial: Path) -> None:
    missing = file.size - _size(partial)
    free = shutil.disk_usage(partial.parent).free
    if missing + SPARE_BYTES > free:
        raise InsufficientStorage(
            f"{file.name} needs {missing >> 20} MiB more, and {partial.parent} has {free >> 20} MiB free."
        )


def _fetch(file: RemoteFile, out: IO[bytes]) -> None:
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
                why = _receive(client, file, out, have)
            except httpx.HTTPError as e:
                why = str(e) or type(e).__name__
            failures = 0 if out.tell() > have else failures + 1
            if failures == ATTEMPTS:
                raise Unavailable(f"The download of {file.name} broke off: {why}. Pull it again to go on with it.")
            if out.tell() < file.size:
                time.sleep(PAUSE_SECONDS * 2**failures)


def _receive(client: httpx.Client, file: RemoteFile, out: IO[bytes], have: int) -> str:
    """One response, appended to `out`. Returns why there may be more to come."""
    with client.stream("GET", file.url, headers={"range": f"bytes={have}-"} if have else {}) as response:
        if response.status_code in (401, 403):
            raise _gated(file.url.partition("/resolve/")[0])
        if response.status_code == 416 or (response.status_code == 200 and have):
            _empty(out)  # the server cannot go on from there
        if response.status_code not in (200, 206):
            return f"the hub answers {response.status_code}"
        reported = 0.0
        for block in response.iter_raw(BLOCK):
            out.write(block)
            now = time.monotonic()
            if now - reported > REPORT_SECONDS:
                _report(_progress(file, "downloading", out.tell()))
                reported = now
    return "the hub sent less than it said"


def _empty(out: IO[bytes]) -> None:
    out.seek(0)
    out.truncate()


def _is_whole(file: RemoteFile, path: Path) -> bool:
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
                _report(_progress(file, "verifying", done))
                reported = now
    return sha.hexdigest() == (file.sha256 or file.git)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# --- what is said ---------------------------------------------------------------------------------------------------


def _progress(file: RemoteFile, status: PullStatus, completed: int, path: str | None = None) -> Progress:
    return Progress(status=status, file=file.name, digest=file.digest, total=file.size, completed=completed, path=path)


def _report(progress: Progress) -> None:
    _print(Line(progress=progress))


def _print_error(error: UniModelError) -> None:
    detail = ErrorDetail(code=error.code, message=error.message, type="error", param=error.field, details=error.details)
    _print(Line(error=detail))


def _print(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Source))
