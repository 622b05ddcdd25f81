"""``python -m engine.hub_download FOLDER SOURCE``: the process that downloads one model from the Hugging Face hub.

`SOURCE` is a `Source` as JSON. Every line on stdout is a `Line`: how far it is, or the error that ended it.
huggingface_hub finds the repository and says what is in it; the bytes are fetched by `engine.hub_transfer`.
"""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from engine import hub_files
from engine.errors import InsufficientStorage, InvalidRequest, NotFound, Unavailable, UniModelError
from engine.hub_transfer import TIMEOUT_SECONDS, Download, RemoteFile, gated
from engine.schema import ErrorDetail, Progress

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Line(msgspec.Struct, omit_defaults=True):
    """One line that the process prints."""

    progress: Progress | None = None
    error: ErrorDetail | None = None


class Source(msgspec.Struct, frozen=True):
    """What is to be pulled."""

    repo: str
    """``ORG/NAME``."""
    file: str | None = None
    """A file's name in the repository, or a part of it, such as ``Q4_K_M``."""
    revision: str | None = None
    """A branch, a tag or a commit; the default is ``main``."""


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
    """Finds the files of the model, downloads them, and reports the path of the model."""
    _report(Progress(status="resolving"))
    Download(folder / source.repo, *find(source), report=_report).run()


# --- what to download -----------------------------------------------------------------------------------------------


def find(source: Source) -> tuple[hub_files.Model, list[RemoteFile], str]:
    """The model that a source means, its files, and why it was chosen of several."""
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
        raise gated(f"{api.endpoint}/{repo}") from None
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
    model, note = hub_files.choose(repo, list(siblings), source.file)
    files = [
        _remote_file(siblings[name], hf_hub_url(repo, name, revision=info.sha, endpoint=api.endpoint))
        for name in model.files
    ]
    return model, files, note


def _remote_file(sibling: Any, url: str) -> RemoteFile:
    size = sibling.lfs.size if sibling.lfs else sibling.size
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if size is None or not _DIGEST.fullmatch(digest or ""):  # a folder is named after it
        raise Unavailable(f"The hub says neither size nor digest of {sibling.rfilename}.")
    return RemoteFile(sibling.rfilename, size, sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id or "", url)


# --- what is said ---------------------------------------------------------------------------------------------------


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
