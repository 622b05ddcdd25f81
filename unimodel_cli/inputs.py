"""What the user gave to `unimodel predict`, told apart and made the body of a request.

An argument is ``-`` (stdin), the name of a file, a JSON literal, or text, in this order. Bytes are told apart by their
first ones, then by the file's extension.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from unimodel_cli.errors import UsageError

BODY_KEYS = ("input", "instances", "inputs")
"""A JSON object with one of these keys is the body of a request itself."""

MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (b"\x93NUMPY", 0, "application/x-npy"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"II*\x00", 0, "image/tiff"),
    (b"MM\x00*", 0, "image/tiff"),
    (b"BM", 0, "image/bmp"),
    (b"WAVE", 8, "audio/wav"),
    (b"fLaC", 0, "audio/flac"),
    (b"OggS", 0, "audio/ogg"),
    (b"ID3", 0, "audio/mpeg"),
)


class As(StrEnum):
    """How to read an input when looking at it is not enough."""

    json = "json"
    text = "text"
    image = "image"
    audio = "audio"
    npy = "npy"


KINDS = "|".join(As)
"""The metavar of ``--as``."""


@dataclass(frozen=True)
class Given:
    """One input: a JSON value (text is one), or `data` with its content type."""

    value: Any = None
    data: bytes | None = None
    content_type: str = "application/json"

    @property
    def as_json(self) -> Any:
        """The value inside a JSON body. Media become base64."""
        if self.data is None:
            return self.value
        if self.content_type == "application/x-npy":
            raise UsageError("An .npy file is a whole body; it goes with no --params, --stream or other input.")
        return base64.b64encode(self.data).decode()


@dataclass(frozen=True)
class Body:
    """A request body and its content type."""

    content: bytes
    content_type: str


def read(argument: str, kind: As | None) -> Given:
    """One INPUT of the command line. Raises `UsageError`."""
    if argument == "-":
        return from_bytes(sys.stdin.buffer.read(), kind, "stdin")
    path = Path(argument)
    if _is_file(path):
        try:
            return from_bytes(path.read_bytes(), kind, argument)
        except OSError as e:
            raise UsageError(f"Cannot read {argument}: {e.strerror}.") from None
    if kind in (As.image, As.audio, As.npy) or (kind is None and _looks_like_file(argument)):
        raise UsageError(f"No file {argument!r}. To send it as text, add --as text.")
    return _from_text(argument, kind, "the input")


def from_bytes(data: bytes, kind: As | None, source: str) -> Given:
    """The content of a file or of stdin. `source` is the file's name, for its extension and for messages."""
    if not data:
        raise UsageError(f"{source} is empty.")
    content_type = _content_type(data, kind, source)
    if content_type:
        return Given(data=data, content_type=content_type)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(
            f"{source} is neither text nor a known kind of file. Say what it is with --as {KINDS}."
        ) from None
    suffix = Path(source).suffix.lower()
    if kind is None and suffix == ".jsonl":
        raise UsageError(f"{source} holds JSON lines; add --jsonl to predict each of them.")
    if kind is None and suffix == ".json":
        kind = As.json
    if kind is None and suffix == ".txt":
        kind = As.text
    return _from_text(text.rstrip("\r\n"), kind, source)


def body(
    given: Sequence[Given],
    named: dict[str, Any],
    parameters: dict[str, Any],
    stream: bool,
    is_open: Callable[[], bool],
) -> Body:
    """The request for these inputs. Several become one batch; `named` are the inputs of a model that has several.

    A plugin, or a model that generates text, takes more than inputs at the top of its body: there, parameters are keys
    beside the input, and a JSON object is the whole body. `is_open` says so; it is only asked when that matters.
    """
    if len(given) == 1 and given[0].data is not None and not parameters and not stream:
        return Body(given[0].data, given[0].content_type)
    if named:
        document: dict[str, Any] = dict(named) if is_open() else {"input": named}
    elif len(given) == 1:
        document = wrap(given[0].as_json, is_open)
    else:
        document = {"input": [g.as_json for g in given]}
    if parameters and is_open():
        document = {**document, **parameters}
    elif parameters:
        document["parameters"] = {**document.get("parameters", {}), **parameters}
    if stream:
        document["stream"] = True
    return Body(json.dumps(document, ensure_ascii=False).encode(), "application/json")


def wrap(value: Any, is_open: Callable[[], bool]) -> dict[str, Any]:
    """A JSON value as the body of a request, unless it is one."""
    if isinstance(value, dict) and (any(k in value for k in BODY_KEYS) or is_open()):
        return dict(value)
    return {"input": value}


def _from_text(text: str, kind: As | None, source: str) -> Given:
    """A JSON value if it is one (or must be one), else the text itself."""
    if kind is As.text:
        return Given(text)
    try:
        return Given(json.loads(text, parse_constant=_no_constant))
    except ValueError as e:
        if kind is As.json or text.lstrip()[:1] in ("{", "["):
            where = f" at line {e.lineno}, column {e.colno}" if isinstance(e, json.JSONDecodeError) else ""
            reason = e.msg if isinstance(e, json.JSONDecodeError) else str(e)
            raise UsageError(
                f"{source} is not valid JSON{where}: {reason}. To send it as text, add --as text."
            ) from None
        return Given(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; use null")


def _content_type(data: bytes, kind: As | None, source: str) -> str | None:
    """The content type of media and arrays; `None` for what is read as text."""
    if kind in (As.json, As.text):
        return None
    for magic, at, content_type in MAGIC:
        if data[at : at + len(magic)] == magic:
            return content_type
    guess = mimetypes.guess_type(source)[0] or ""
    if kind is As.npy:
        return "application/x-npy"
    if kind in (As.image, As.audio):
        return guess if guess.startswith(kind.value) else f"{kind.value}/*"
    return guess if guess.startswith(("image/", "audio/")) and guess != "image/svg+xml" else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or path.is_fifo()
    except OSError:  # a long text is no file name
        return False


def _looks_like_file(text: str) -> bool:
    """Whether `text` was meant as a file name, rather than as text for the model."""
    if any(c.isspace() for c in text) or text[:1] in ("{", "[", '"'):
        return False
    known = mimetypes.guess_type(text)[0] is not None or text.lower().endswith((".npy", ".jsonl"))
    return known or text.startswith(("./", "../", "/", "~"))
