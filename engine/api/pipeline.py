"""``:predict`` of a pipeline: its steps are run in the server, each as soon as those that it needs have ended.

A step is an ordinary request to its model: it waits in that model's queue, and is computed in a batch with whatever
else is there. All steps bear the id of the request and its deadline, and end when the client goes away.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from backends.pipeline.expressions import Expression
from backends.pipeline.graph import INDEX, INPUT, ITEM, PARAMETERS, Graph, Mapped, Step
from engine.api import native_generation, native_transcription
from engine.api.dialect import Call
from engine.api.http import encode_json
from engine.api.native_generation import GenerateBody
from engine.api.native_transcription import TranscribeBody
from engine.api.pipeline_values import Media, elements, is_true, of_answer, plain, to_input, wants_tensors
from engine.api.predict_body import JSON_TYPES, PredictBody, decode_json, media_type
from engine.errors import DeadlineExceeded, InvalidInput, InvalidRequest, UniModelError, UnsupportedMediaType
from engine.pipelines import DEEPEST, is_pipeline
from engine.registry import split_version
from engine.telemetry import tracing
from engine.types import ModelSpec, Request

Body = TypeVar("Body", GenerateBody, TranscribeBody)

MOST_ITEMS = 10_000
"""Elements of a step's ``each``."""
_AT_ONCE = 256
"""Of these, how many are computed at a time: enough for any batch, and few enough to leave room in the queue."""

_decode = msgspec.json.Decoder(PredictBody).decode
_decode_any = msgspec.json.Decoder().decode


async def answer(call: Call, spec: ModelSpec) -> bytes:
    """The body of the answer to one request."""
    engine = call.engine
    begin = engine.clock()
    outcome = "cancelled"
    try:
        with engine.pipelines.admitted():
            async with asyncio.timeout(max(0.0, call.deadline() - begin)):
                key, value = await _answer(call, spec)
        outcome = "ok"
    except TimeoutError:
        outcome = DeadlineExceeded.code
        raise DeadlineExceeded("The deadline passed before the pipeline ended.") from None
    except UniModelError as e:
        outcome = e.code
        raise
    finally:
        engine.metrics.model(spec.name, spec.version).ended(outcome, engine.clock() - begin)
    return encode_json({"model": spec.name, "version": spec.version, key: plain(value)})


async def _answer(call: Call, spec: ModelSpec) -> tuple[str, Any]:
    kind = media_type(call.headers.text(b"content-type"))
    if kind.startswith(("image/", "audio/")):
        return "output", await run(call, spec, Media(bytes(call.body), kind), {})
    if kind == "text/plain":
        try:
            return "output", await run(call, spec, call.body.decode(), {})
        except UnicodeDecodeError:
            raise InvalidInput("The text is not UTF-8.", field="body") from None
    if kind not in JSON_TYPES and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"A pipeline takes JSON, an image, audio or text; got {kind}.", field="content-type")
    body = decode_json(_decode, call.body)
    if body.stream:
        raise InvalidRequest("A pipeline does not stream.", field="stream")
    if (body.input is msgspec.UNSET) == (body.instances is msgspec.UNSET) or body.inputs is not msgspec.UNSET:
        raise InvalidInput("The body must have exactly one of 'input' and 'instances'.", field="input")
    parameters = decode_json(_decode_any, bytes(body.parameters)) if body.parameters else {}
    if not isinstance(parameters, dict):
        raise InvalidInput("parameters must be an object.", field="parameters")
    if body.instances is msgspec.UNSET:
        return "output", await run(call, spec, decode_json(_decode_any, bytes(body.input)), parameters)
    rows = elements(decode_json(_decode_any, bytes(body.instances)), "instances")
    return "predictions", await _all([partial(run, call, spec, row, parameters) for row in rows])


async def run(call: Call, spec: ModelSpec, value: Any, parameters: dict[str, Any], depth: int = 1) -> Any:
    """What a pipeline makes of one value. Raises the error of the step that fails first; the others are cancelled."""
    if depth > DEEPEST:
        raise InvalidRequest(f"More than {DEEPEST} pipelines are within one another; one may call itself.")
    about: tracing.Attributes = {"unimodel.pipeline.name": spec.name, "unimodel.pipeline.version": spec.version}
    with tracing.part(f"pipeline {spec.name}", about):
        graph = await call.engine.pipelines.graph(spec)
        return await _Run(call, graph, {INPUT: value, PARAMETERS: parameters}, depth).result()


class _Run:
    """One run of a graph."""

    def __init__(self, call: Call, graph: Graph, scope: dict[str, Any], depth: int) -> None:
        self._call = call
        self._graph = graph
        self._scope = scope
        """What expressions are about: the results of the steps that have ended are in it."""
        self._depth = depth
        self._ended = {step.name: asyncio.Event() for step in graph.steps}

    async def result(self) -> Any:
        """Runs it."""
        steps = self._graph.steps
        await _all([partial(self._step, step) for step in steps], len(steps))
        try:
            return _value(self._graph.output, self._scope)
        except ValueError as e:
            raise InvalidInput(f"The output of the pipeline: {e}.", field="input") from None

    async def _step(self, step: Step) -> None:
        for name in step.needs:
            await self._ended[name].wait()
        with tracing.part(f"step {step.name}", {"unimodel.step.name": step.name, "unimodel.step.model": step.model}):
            try:
                self._scope[step.name] = await self._compute(step)
            except UniModelError as e:
                named = copy.copy(e)  # it may be that of a load which others wait for, too
                named.message = f"Step {step.name!r} ({step.model}): {e.message}"
                raise named from None
            except ValueError as e:
                raise InvalidInput(f"Step {step.name!r} ({step.model}): {e}.", field="input") from None
        self._ended[step.name].set()

    async def _compute(self, step: Step) -> Any:
        if step.each is None:
            return await self._call_model(step, self._scope)
        items = elements(step.each.of(self._scope, plain), f"each ({step.each.text})")
        if len(items) > MOST_ITEMS:
            raise InvalidInput(f"each has {len(items)} elements; the most are {MOST_ITEMS}.", field="input")
        if (span := tracing.current()) is not None:
            span.set({"unimodel.step.items": len(items)})
        scopes = [{**self._scope, ITEM: item, INDEX: index} for index, item in enumerate(items)]
        return await _all([partial(self._call_model, step, scope) for scope in scopes])

    async def _call_model(self, step: Step, scope: dict[str, Any]) -> Any:
        if step.when is not None and not is_true(step.when.of(scope, plain)):
            _note_skipped(step, scope)
            return None
        value = _value(step.input, scope)
        engine, call = self._call.engine, self._call
        name, version = split_version(step.model)
        spec = engine.registry.get(name, version)
        if is_pipeline(spec):
            return await run(call, spec, value, step.parameters, self._depth + 1)
        entry = await engine.ready(name, version, call.deadline(), accepted=True)
        if entry.spec.info.generation is not None:
            asked = _asked(GenerateBody, {"input": plain(value), **step.parameters})
            asked_for = native_generation.request_of(asked, chats=entry.spec.task == "chat")
            return (await call.complete(entry, asked_for))[0].content
        if entry.spec.info.transcription is not None:
            recording = _asked(TranscribeBody, {"input": plain(value), "parameters": step.parameters})
            return native_transcription.fields(await call.transcript(entry, native_transcription.of_body(recording)))
        dispatcher = entry.dispatcher
        assert dispatcher.loaded is not None
        source, parameters = to_input(value, step.parameters, dispatcher.loaded, dispatcher.policy.max_rows)
        as_tensors = wants_tensors(source, dispatcher.loaded)
        priority, is_gone = call.headers.priority, call.is_gone
        request = Request(source, call.request_id, call.deadline(), as_tensors, parameters, priority, is_gone)
        return of_answer(await dispatcher.predict(request), source)


def _note_skipped(step: Step, scope: dict[str, Any]) -> None:
    """Says in the step's span that its condition did not hold, for the whole step or one element."""
    span = tracing.current()
    if span is not None and step.each is None:
        span.set({"unimodel.step.skipped": True})
    elif span is not None:
        span.event("skipped", {"unimodel.step.item": scope[INDEX]})


def _asked(kind: type[Body], body: dict[str, Any]) -> Body:
    """The body of a request to a model that answers step by step. Raises `InvalidInput`."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as e:
        raise InvalidInput(f"{str(e).rstrip('.')}.", field="input") from None


def _value(mapped: Mapped, scope: dict[str, Any]) -> Any:
    """Raises `ValueError`."""
    if isinstance(mapped, Expression):
        return mapped.of(scope, plain)
    if isinstance(mapped, dict):
        return {key: _value(each, scope) for key, each in mapped.items()}
    if isinstance(mapped, list):
        return [_value(each, scope) for each in mapped]
    return mapped


async def _all(work: Sequence[Callable[[], Awaitable[Any]]], at_once: int = _AT_ONCE) -> list[Any]:
    """The results, in order. The first error ends all."""
    free = asyncio.Semaphore(at_once)
    results: list[Any] = [None] * len(work)

    async def one(index: int) -> None:
        async with free:
            results[index] = await work[index]()

    try:
        async with asyncio.TaskGroup() as group:
            for index in range(len(work)):
                group.create_task(one(index))
    except BaseExceptionGroup as e:
        raise e.exceptions[0] from None
    return results
