"""Models from the Hugging Face hub: what a source names, and its download in a process of its own.

The process (`engine.hub_download`) can be ended at any time, also while the network hangs. What it has so far stays on
the disk, and the next pull of the same model goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec

from engine.errors import InternalError, InvalidRequest, MissingRuntime, Overloaded, from_code
from engine.hub_download import Line, Source
from engine.schema import Progress as Progress

PREFIXES = ("hf:", "hf.co/", "huggingface.co/", "https://hf.co/", "https://huggingface.co/")
"""How a source may begin. The server's ``HF_ENDPOINT`` says where the hub really is."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SOURCE = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<file>[^@]+))?(?:@(?P<revision>.+))?")
_LONGEST_SOURCE = 1000
MOST_PULLS = 8
"""Downloads at once. Each is a process of its own."""
_RETRY_SECONDS = 10.0
_TERMINATE_SECONDS = 2.0
_LONGEST_LINE = 16 << 20
"""Bytes. An error lists the models of a repository, which may be thousands."""


def parse(source: str) -> Source:
    """What a source names. Raises `InvalidRequest`."""
    prefix = next((p for p in PREFIXES if source.startswith(p)), None)
    found = _SOURCE.fullmatch(source[len(prefix) :].rstrip("/")) if prefix else None
    if found is None or ".." in found["repo"] or len(source) > _LONGEST_SOURCE:
        raise InvalidRequest(
            f"{source[:200]!r} names no model; expected hf:ORG/REPO, hf:ORG/REPO:FILE or hf:ORG/REPO:FILE@REVISION.",
            field="source",
        )
    return Source(found["repo"], found["file"], found["revision"])


class Hub:
    """Owns the folder of what was downloaded, and counts the downloads that are under way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._under_way = 0

    async def pull(self, source: str) -> AsyncGenerator[Progress, None]:
        """Downloads a model. The last progress has its path; closing the generator ends it.

        Raises `InvalidRequest` (also when the repository has several models that could be meant: it lists them),
        `NotFound`, `Overloaded`, `MissingRuntime`, `InsufficientStorage`, `ModelFileError` when a digest is wrong,
        `Unavailable` when the hub is.
        """
        wanted = parse(source)
        if importlib.util.find_spec("huggingface_hub") is None:
            raise MissingRuntime("huggingface_hub is not installed. Install it with: pip install 'unimodel[hub]'")
        if self._under_way >= MOST_PULLS:
            raise Overloaded(
                f"No more than {MOST_PULLS} models are downloaded at once. Retry when one is done.",
                retry_after=_RETRY_SECONDS,
            )
        self._under_way += 1
        try:
            async with aclosing(_download(wanted, self._folder)) as steps:
                async for step in steps:
                    yield step
        finally:
            self._under_way -= 1


async def _download(wanted: Source, folder: Path) -> AsyncGenerator[Progress, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "engine.hub_download",
        str(folder),
        msgspec.json.encode(wanted).decode(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
        start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
    )
    assert process.stdout is not None
    decode = msgspec.json.Decoder(Line).decode
    done = False
    try:
        async for text in process.stdout:
            line = decode(text)
            if line.error is not None:
                error = line.error
                raise from_code(error.code, error.message, field=error.param, details=error.details)
            if line.progress is not None:
                yield line.progress
                done = line.progress.status == "success"
        code = await process.wait()
        if not done:
            raise InternalError(f"The process that downloads ended with exit code {code}; the server's log says why.")
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends the process, if it has not ended, and waits until it is gone."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_TERMINATE_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
