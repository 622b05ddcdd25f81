"""The handlers of Ollama's API: each translates, asks the engine, and translates back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from backends.base import GenerationInfo
from engine.api.dialect import Call, EventStream, Reply
from engine.api.http import announced_length, encode_json
from engine.api.ollama import answers, catalog, creation, embeddings, models, names, requests
from engine.api.ollama.answers import Clock, Lines, Said, Shape
from engine.api.ollama.bodies import (
    OllamaChatRequest,
    OllamaCopyRequest,
    OllamaCreateRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbeddingsResponse,
    OllamaEmbedRequest,
    OllamaEmbedResponse,
    OllamaGenerateRequest,
    OllamaNameRequest,
    OllamaPullRequest,
    OllamaPushRequest,
    OllamaShowRequest,
    OllamaStatus,
    OllamaVersion,
)
from engine.api.ollama.keep_alive import KeepAlive, seconds
from engine.api.streaming import NDJSON
from engine.blobs import Blobs
from engine.errors import InvalidInput, InvalidRequest, NotFound
from engine.pool import Entry
from engine.transport.generation import Delta, GenerateRequest
from engine.types import ModelSpec


class Handlers:
    """One method for each operation. Owns how long models stay loaded, as this API's clients ask."""

    def __init__(self) -> None:
        self._keep_alive = KeepAlive()

    # --- text --------------------------------------------------------------------------------------------------------

    async def generate(self, call: Call) -> Reply | EventStream:
        """``POST /api/generate``"""
        body = call.decode(OllamaGenerateRequest)
        spec = _spec(call, body.model)
        keep_alive = _seconds(body.keep_alive)
        if not (body.prompt or body.images or body.suffix):
            return await self._load(call, spec, body.model, keep_alive, answers.generate)
        request = requests.of_generate(body, _generating(spec))
        return await self._answer(call, spec, body.model, request, keep_alive, answers.generate)

    async def chat(self, call: Call) -> Reply | EventStream:
        """``POST /api/chat``"""
        body = call.decode(OllamaChatRequest)
        spec = _spec(call, body.model)
        keep_alive = _seconds(body.keep_alive)
        if not body.messages:
            return await self._load(call, spec, body.model, keep_alive, answers.chat)
        request = requests.of_chat(body, _generating(spec))
        return await self._answer(call, spec, body.model, request, keep_alive, answers.chat)

    async def _load(self, call: Call, spec: ModelSpec, model: str, keep_alive: float | None, shape: Shape) -> Reply:
        """Loads a model, or unloads it, without asking it anything."""
        if keep_alive == 0:
            call.engine.pool.background(call.engine.pool.unload(spec))
            return Reply(shape(model, Said(), True, done_reason="unload"))
        entry, _ = await _ready(call, spec)
        self._keep_alive.used(call.engine.pool, entry, keep_alive)
        return Reply(shape(model, Said(), True, done_reason="load"))

    async def _answer(
        self,
        call: Call,
        spec: ModelSpec,
        model: str,
        request: GenerateRequest,
        keep_alive: float | None,
        shape: Shape,
    ) -> Reply | EventStream:
        entry, clock = await _ready(call, spec)
        if request.stream:
            lines = Lines(shape, model, clock)
            return EventStream(self._lines(call, entry, await call.generate(entry, request), lines, keep_alive), NDJSON)
        try:
            (completion,) = await call.complete(entry, request)
        finally:
            self._keep_alive.used(call.engine.pool, entry, keep_alive)
        return Reply(answers.whole(shape, model, completion, clock))

    async def _lines(
        self,
        call: Call,
        entry: Entry,
        deltas: AsyncGenerator[list[Delta], None],
        lines: Lines,
        keep_alive: float | None,
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(deltas):
                async for group in deltas:
                    data = b"".join(map(lines.of, group))
                    if data:
                        yield data
        finally:
            self._keep_alive.used(call.engine.pool, entry, keep_alive)

    # --- embeddings --------------------------------------------------------------------------------------------------

    async def embed(self, call: Call) -> Reply:
        """``POST /api/embed``"""
        body = call.decode(OllamaEmbedRequest)
        spec = _spec(call, body.model)
        keep_alive = _seconds(body.keep_alive)
        embeddings.check(spec, body.options, body.truncate)
        texts = [body.input] if isinstance(body.input, str) else body.input
        entry, clock = await _ready(call, spec)
        try:
            vectors, tokens = await embeddings.embed(call, entry, texts, body.dimensions, body.truncate is not False)
        finally:
            self._keep_alive.used(call.engine.pool, entry, keep_alive)
        return Reply(
            OllamaEmbedResponse(
                model=body.model,
                embeddings=vectors,
                total_duration=answers.nanoseconds(clock.now() - clock.begin),
                load_duration=answers.nanoseconds(clock.load_seconds),
                prompt_eval_count=msgspec.UNSET if tokens is None else tokens,
            )
        )

    async def embeddings(self, call: Call) -> Reply:
        """``POST /api/embeddings``"""
        body = call.decode(OllamaEmbeddingsRequest)
        spec = _spec(call, body.model)
        keep_alive = _seconds(body.keep_alive)
        embeddings.check(spec, body.options)
        entry, _ = await _ready(call, spec)
        try:
            vectors, _ = await embeddings.embed(call, entry, [body.prompt] if body.prompt else [])
        finally:
            self._keep_alive.used(call.engine.pool, entry, keep_alive)
        return Reply(OllamaEmbeddingsResponse(embedding=vectors[0] if vectors else []))

    # --- models ------------------------------------------------------------------------------------------------------

    async def tags(self, call: Call) -> Reply:
        """``GET /api/tags``"""
        return Reply(catalog.registered(call.engine))

    async def ps(self, call: Call) -> Reply:
        """``GET /api/ps``"""
        return Reply(catalog.running(call.engine, self._keep_alive))

    async def show(self, call: Call) -> Reply:
        """``POST /api/show``"""
        body = call.decode(OllamaShowRequest)
        return Reply(catalog.describe(_spec(call, models.target(body.model, body.name)), body.verbose))

    async def create(self, call: Call) -> Reply | EventStream:
        """``POST /api/create``"""
        body = call.decode(OllamaCreateRequest)
        await creation.create(call.engine, body)
        return await _steps(_success(), body.stream)

    async def find_blob(self, call: Call) -> Reply:
        """``HEAD /api/blobs/{digest}``"""
        if Blobs(call.engine.registry.home).find(call.path["digest"]) is None:
            raise NotFound(f"No file {call.path['digest']} was uploaded.")
        return _EMPTY

    async def store_blob(self, call: Call) -> Reply:
        """``POST /api/blobs/{digest}``"""
        blobs, digest = Blobs(call.engine.registry.home), call.path["digest"]
        if blobs.find(digest) is not None:
            return _EMPTY
        assert call.pieces is not None
        limit = call.engine.settings.server.max_upload_mb << 20
        await blobs.store(digest, call.pieces, announced_length(call.headers), limit)
        return Reply(b"", 201)

    async def copy(self, call: Call) -> Reply:
        """``POST /api/copy``"""
        body = call.decode(OllamaCopyRequest)
        await models.copy(call.engine, body.source, body.destination)
        return _EMPTY

    async def delete(self, call: Call) -> Reply:
        """``DELETE /api/delete``"""
        body = call.decode(OllamaNameRequest)
        await models.delete(call.engine, models.target(body.model, body.name))
        return _EMPTY

    async def pull(self, call: Call) -> Reply | EventStream:
        """``POST /api/pull``"""
        body = call.decode(OllamaPullRequest)
        return await _steps(models.pull(call.engine, body), body.stream)

    async def push(self, call: Call) -> Reply:
        """``POST /api/push``"""
        call.decode(OllamaPushRequest)
        raise InvalidRequest(
            "This server publishes no models; upload the file with the hub's own tools.", field="model"
        )

    async def version(self, call: Call) -> Reply:  # noqa: ARG002
        """``GET /api/version``"""
        return Reply(OllamaVersion(version=catalog.COMPATIBLE_VERSION))


_EMPTY = Reply(b"")


def _seconds(keep_alive: str | float | None) -> float | None:
    return None if keep_alive is None else seconds(keep_alive)


def _spec(call: Call, model: str) -> ModelSpec:
    return call.engine.registry.get(*names.parse(model))


def _generating(spec: ModelSpec) -> GenerationInfo:
    if spec.info.generation is None:
        raise InvalidInput(
            f"Model {spec.name!r} is for the task {spec.task}, and does not generate text.", field="model"
        )
    return spec.info.generation


async def _ready(call: Call, spec: ModelSpec) -> tuple[Entry, Clock]:
    """The loaded model, and a clock that knows how long that took."""
    now = call.engine.clock
    start = now()
    entry = await call.entry(spec.name, spec.version)
    return entry, Clock(now, call.begin, now() - start)


async def _success() -> AsyncGenerator[OllamaStatus, None]:
    yield OllamaStatus(status="success")


async def _steps(steps: AsyncGenerator[OllamaStatus, None], stream: bool | None) -> Reply | EventStream:
    """Each step as a line, or the last one alone."""
    if stream is not False:
        return EventStream(_encoded(steps), NDJSON)
    async with aclosing(steps):
        statuses = [step.status async for step in steps]
    return Reply(OllamaStatus(status=statuses[-1]))


async def _encoded(steps: AsyncGenerator[OllamaStatus, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(steps):
        async for step in steps:
            yield encode_json(step) + b"\n"
