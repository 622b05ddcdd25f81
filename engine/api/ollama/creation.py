"""``/api/create``: models made of others, or of uploaded files."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path, PurePosixPath
from typing import Any

from engine.api.ollama import names, options
from engine.api.ollama.bodies import OllamaCreateRequest
from engine.api.ollama.models import target, uninterrupted
from engine.blobs import Blobs
from engine.core import Engine
from engine.errors import InvalidInput
from engine.schema import RegisterRequest
from engine.types import ModelSpec

_GO_TEMPLATE = ("{{ .", "{{.", "{{- .", "{{ if ", "{{- if ", "{{if ", "{{ range ", "{{- range ", "{{range ")
"""How templates of Ollama's own kind look."""

_NOT_CREATED = {
    "system": "A model has no system message of its own here; send it with each request.",
    "license": "A license is not stored.",
    "messages": "Messages are not stored; send them with each request.",
    "quantize": "Files are served as they are; quantize before you upload or register.",
}

_PIECE = re.compile(r"-([0-9]{5})-of-([0-9]{5})(?=\.gguf$)")


async def create(engine: Engine, body: OllamaCreateRequest) -> ModelSpec:
    """Registers the file of a model again, or uploaded files, with options of their own.

    Raises `InvalidInput`, or why it does not load.
    """
    name = names.new(target(body.model, body.name), "model")
    for field, reason in _NOT_CREATED.items():
        if getattr(body, field):
            raise InvalidInput(reason, field=field)
    if bool(body.from_) == bool(body.files):
        raise InvalidInput(
            "A model is created either from a registered one (from) or of uploaded files (files).", field="from"
        )
    source = engine.registry.get(*names.parse(body.from_)) if body.from_ else None
    config = _config(source, body)
    return await uninterrupted(_register(engine, name, source, body, config))


async def _register(
    engine: Engine, name: str, source: ModelSpec | None, body: OllamaCreateRequest, config: dict[str, Any]
) -> ModelSpec:
    blobs = Blobs(engine.registry.home)
    folders: list[Path] = []

    async def linked(files: dict[str, str], field: str) -> Path:
        folders.append(await asyncio.to_thread(blobs.link, name, files, field))
        return folders[-1]

    try:
        if body.adapters:
            stems = _adapters(list(body.adapters))
            folder = await linked(body.adapters, "adapters")
            adapters = {name: str(folder / file) for name, file in stems.items()}
            config["lora"] = {**(config.get("lora") or {}), **adapters}
        if source is None:
            files = body.files or {}
            entry = _entry(list(files))
            request = RegisterRequest(name=name, model_path=str(await linked(files, "files") / entry), config=config)
        else:
            request = RegisterRequest(
                name=name,
                model_path=source.path,
                backend=source.backend,
                task=source.task,
                config=config,
                trust=source.trusted,
            )
        return await engine.register(request)
    except BaseException:
        for folder in folders:
            await asyncio.to_thread(blobs.unlink, folder)
        raise


def _adapters(files: list[str]) -> dict[str, str]:
    """Files of adapters by the names that those get. Raises `InvalidInput` when two have the same."""
    adapters: dict[str, str] = {}
    for file in files:
        other = adapters.setdefault(PurePosixPath(file).stem, file)
        if other != file:
            raise InvalidInput(
                f"An adapter is named after its file, and {other} and {file} have one name; rename one of them.",
                field="adapters",
            )
    return adapters


def _entry(files: list[str]) -> str:
    """Which of the files a model is loaded from; ``""`` when it is their folder. Raises `InvalidInput`."""
    if len(files) == 1:
        return files[0]
    for suffix in (".gguf", ".onnx"):
        heads = [f for f in files if f.endswith(suffix) and _piece(f) == 1]
        if len(heads) > 1:
            raise InvalidInput(
                f"files has several models, {' and '.join(sorted(heads)[:2])}; create one of each.", field="files"
            )
        if heads:
            _check_pieces(heads[0], files)
            return heads[0]
    return ""


def _piece(file: str) -> int:
    """Which piece of a split GGUF file it is; 1 when it is none."""
    piece = _PIECE.search(file)
    return int(piece[1]) if piece is not None else 1


def _check_pieces(head: str, files: list[str]) -> None:
    """Raises `InvalidInput` for a GGUF file that lacks a piece, or has company that it does not need."""
    if not head.endswith(".gguf"):
        return
    split = _PIECE.search(head)
    count = int(split[2]) if split is not None else 1
    pieces = {_PIECE.sub(f"-{i:05}-of-{count:05}", head) for i in range(1, count + 1)}
    if pieces != set(files):
        odd = sorted(pieces.symmetric_difference(files))[0]
        problem = "is missing" if odd in pieces else "is no part of it"
        raise InvalidInput(f"files has the model {head}, and {odd} {problem}.", field="files")


def _config(source: ModelSpec | None, body: OllamaCreateRequest) -> dict[str, Any]:
    """The options of the new model."""
    config = dict(source.config) if source is not None else {}
    wishes = options.read(body.parameters, "parameters")
    if wishes.num_ctx is not None:
        config["max_context_length"] = wishes.num_ctx
    for field in ("stop", "num_predict", "seed"):
        if getattr(wishes, field) is not None:
            raise InvalidInput(
                f"{field} is no default of a model; send it with each request.", field=f"parameters.{field}"
            )
    sampling = {name: value for name in options.SAMPLING if (value := getattr(wishes, name)) is not None}
    if sampling:
        config["sampling"] = {**(config.get("sampling") or {}), **sampling}
    if body.template:
        if "{{" not in body.template or any(sign in body.template for sign in _GO_TEMPLATE):
            raise InvalidInput(
                "This is no template in Jinja, as chat templates here are, and those in the models' repositories.",
                field="template",
            )
        config["chat_template"] = body.template
    return config
