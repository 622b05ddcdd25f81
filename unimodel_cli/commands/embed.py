"""`unimodel embed`: texts to vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from engine.errors import InsufficientStorage
from unimodel_cli.command import ModelName, Session, command
from unimodel_cli.errors import UsageError

BATCH = 64
"""Texts in one request."""
KEYS = ("input", "text")
"""Of a JSON line that is an object: the one with the text."""


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "embed",
        examples=[
            "unimodel embed minilm 'a fine day' 'a nice day'",
            "unimodel embed minilm < lines.txt > vectors.jsonl",
            "unimodel embed minilm rows.jsonl --jsonl --npy vectors.npy",
        ],
    )(embed)


def embed(
    session: Session,
    name: ModelName,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; without one, each line of stdin is one.")
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help='Read JSON lines from file TEXT, or stdin: "text" or {"text": "text"}.')
    ] = False,
    npy: Annotated[
        Path | None, typer.Option("--npy", metavar="FILE", help="Write the vectors into an .npy file, a row each.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="Deadline of each request of 64 texts.")
    ] = None,
) -> None:
    """Turn texts into vectors.

    Prints one vector a line, as a JSON array, in the order of the texts. With --json it is one object, which also has
    the name of the model and the tokens that were read.
    """
    headers = {"content-type": "application/json"}
    if timeout is not None:
        headers["x-request-timeout-ms"] = str(max(1, round(timeout * 1000)))
    vectors: list[list[float]] = []
    tokens: int | None = 0
    with ExitStack() as files:
        for batch in _batches(_texts(texts or [], jsonl, files)):
            answer = _send(session, name, batch, headers, timeout)
            usage = answer.get("usage")  # null of a model that does not count
            tokens = None if usage is None or tokens is None else tokens + usage["prompt_tokens"]
            rows = [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
            if session.json or npy is not None:
                vectors += rows
            else:
                for row in rows:
                    session.out.line(json.dumps(row))
    if npy is not None:
        _write(npy, vectors)
    if session.json:
        kept: dict[str, Any] = {"embeddings": vectors} if npy is None else {"path": str(npy), "rows": len(vectors)}
        session.out.json({"model": name, **kept, "usage": None if tokens is None else {"prompt_tokens": tokens}})


def _texts(given: list[str], jsonl: bool, files: ExitStack) -> Iterator[str]:
    if not jsonl:
        if given:
            return iter(given)
        if sys.stdin.isatty():
            raise UsageError("Give a TEXT, or lines on stdin.")
        return _lines(sys.stdin.buffer)
    if len(given) > 1:
        raise UsageError("--jsonl reads one file, or stdin.")
    if given in ([], ["-"]):
        return _rows(_lines(sys.stdin.buffer))
    try:
        return _rows(_lines(files.enter_context(Path(given[0]).open("rb"))))
    except OSError as e:
        raise UsageError(f"Cannot read {given[0]}: {e.strerror}.") from None


def _lines(source: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(source, 1):
        try:
            yield line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            raise UsageError(f"Line {number} is no text.") from None


def _rows(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as e:
            raise UsageError(f"Line {number} is not JSON: {e}.") from None
        text = next((value[k] for k in KEYS if k in value), None) if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise UsageError(f'Line {number} has no text: expected "text" or {{"text": "text"}}.')
        yield text


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(texts, BATCH)):
        yield batch


def _send(
    session: Session, model: str, batch: list[str], headers: dict[str, str], timeout: float | None
) -> dict[str, Any]:
    body = json.dumps({"model": model, "input": batch, "encoding_format": "float"}, ensure_ascii=False).encode()
    patience = None if timeout is None else timeout + 10.0  # the server says first that it was too late
    with session.out.waiting("Embedding"):
        answer: dict[str, Any] = session.client.send("POST", "/v1/embeddings", body, headers, timeout=patience).json()
    return answer


def _write(path: Path, vectors: list[list[float]]) -> None:
    import numpy as np

    try:
        with path.open("wb") as f:
            np.save(f, np.asarray(vectors, dtype=np.float32))
    except OSError as e:
        raise InsufficientStorage(f"Cannot write {path}: {e.strerror}.") from None
