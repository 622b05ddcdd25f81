"""Computes the batches of one model: decode (`prepare`), then predict and encode (`run`, on the model's own thread).

A request that fails never takes its batch along: when a whole batch raises, its requests are computed one by one, and
only the guilty one gets the error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.base import BackendError, InvalidInput, TensorBackend, Tensors, ValueBackend
from engine.codec import Form
from engine.errors import InvalidJSON
from engine.tasks.base import TOKENS, Parameters, TensorTask
from engine.transport.batchqueue import Slots, view
from engine.transport.messages import (
    NO_SLOT,
    BatchDone,
    BytesItem,
    ErrorResult,
    Item,
    JsonItem,
    RunBatch,
    TensorItem,
    ValuesItem,
    encode,
)
from engine.transport.values import decode_values
from engine.worker import padding
from engine.worker.answers import Answer, describe, of_value, pack, pack_rows
from engine.worker.calls import Calls
from engine.worker.gate import ModelGate
from engine.worker.padding import Padding

LARGE_ANSWER = 64 * 1024
"""Bytes of output tensors from which the worker encodes the JSON, so that the server's loop does not."""


@dataclass(slots=True)
class _Work:
    """One request of a batch on its way through the runner."""

    item: Item
    form: Form = "input"
    single: bool = False
    origin: Any = None
    """What the task told itself when it decoded the request."""
    parameters: Parameters = Parameters()
    tensors: Tensors | None = None
    rows: int = 0
    result: ErrorResult | None = None


@dataclass(slots=True)
class Prepared:
    """A batch whose requests are decoded."""

    batch: RunBatch
    works: list[_Work]
    """Those of requests that are decoded here, or whose rows differ in length."""
    seconds: float
    """That decoding took."""


class BatchRunner:
    """Runs `RunBatch` messages on a loaded model. `prepare` may run on another thread while `run` does."""

    def __init__(
        self,
        backend: TensorBackend | ValueBackend,
        task: TensorTask,
        slots: Slots,
        chunk_rows: int,
        pad: Padding | None,
        gate: ModelGate,
        threads: int = 1,
    ) -> None:
        self.backend = backend
        self.task = task
        self.slots = slots
        self.padding = pad
        self.gate = gate
        self._prompt_tokens = 0
        """Of the batch that is being computed."""
        self._row_by_row = all(s.batch_axis == 0 for s in task.info.outputs)
        self._calls: Calls | None = None
        """Of a backend that takes tensors."""
        if isinstance(backend, TensorBackend):
            self._calls = Calls(backend, gate, chunk_rows, task.info.outputs)
        self._decoders = ThreadPoolExecutor(threads) if task.decodes_in_parallel and threads > 1 else None

    def prepare(self, batch: RunBatch) -> Prepared:
        """The batch with its requests decoded, in so far as they are tensors of their own. Never raises."""
        begin = time.perf_counter()
        works: list[_Work] = []
        if self._calls is not None and not batch.stacked:
            works = self._decode_all(batch.items, self._arena(batch))
        return Prepared(batch, works, time.perf_counter() - begin)

    def run(self, prepared: Prepared) -> bytes:
        """The encoded `BatchDone` of a batch. Never raises."""
        batch = prepared.batch
        try:
            return self._run(batch, prepared.works)
        except Exception as e:  # a backend or a task that breaks its contract
            error = describe(e, batch.items[0].request_id)
            return encode(BatchDone(batch.id, NO_SLOT, 0, [error for _ in batch.items], 0.0))

    def _run(self, batch: RunBatch, works: list[_Work]) -> bytes:
        if isinstance(self.backend, ValueBackend):
            answers, seconds = self._run_values(self.backend, batch.items, self._arena(batch))
            return pack(self.slots, batch, answers, seconds)
        assert self._calls is not None
        if batch.stacked:
            return self._run_stacked(self._calls, batch, self._arena(batch))
        self._prompt_tokens = 0
        answers, seconds = self._run_separate(self._calls, works)
        return pack(self.slots, batch, answers, seconds, self._prompt_tokens)

    def _arena(self, batch: RunBatch) -> bytes | memoryview:
        return self.slots.arena(batch.slot) if batch.input_end else batch.data

    # --- models that take JSON values --------------------------------------------------------------------------------

    def _run_values(
        self, backend: ValueBackend, items: Sequence[Item], arena: bytes | memoryview
    ) -> tuple[list[Answer], float]:
        answers: list[Answer] = []
        bodies: dict[int, dict[str, Any]] = {}
        for position, item in enumerate(items):
            try:
                bodies[position] = _decode_object(item, arena)
                answers.append(Answer())
            except Exception as e:
                answers.append(Answer(error=describe(e, item.request_id)))
        begin = time.perf_counter()
        results = _predict_values(backend, list(bodies.values())) if bodies else []
        seconds = time.perf_counter() - begin
        for position, result in zip(bodies, results, strict=True):
            answers[position] = of_value(result, items[position])
        return answers, seconds

    # --- models that take tensors ------------------------------------------------------------------------------------

    def _run_stacked(self, calls: Calls, batch: RunBatch, arena: bytes | memoryview) -> bytes:
        """The fast path: the rows lie side by side already, and most answers are slices of the outputs."""
        inputs = {b.name: view(arena, b) for b in batch.stacked}
        items = [i for i in batch.items if isinstance(i, TensorItem)]
        begin = time.perf_counter()
        try:
            rows = sum(i.rows for i in items)
            outputs = self._compute(calls, inputs, rows)
            if len(items) > 1:
                self._check_rows(outputs, rows)
        except Exception as e:
            if len(items) == 1:
                answers = [Answer(error=describe(e, items[0].request_id))]
                return pack(self.slots, batch, answers, time.perf_counter() - begin)
            works = self._slice(items, inputs)
            self._compute_each(calls, works)
            return pack(self.slots, batch, self._answers(works), time.perf_counter() - begin)
        seconds = time.perf_counter() - begin
        if self._sliceable(outputs, items):
            packed = pack_rows(self.slots, batch, items, outputs, seconds)
            if packed is not None:
                return packed
        works = self._slice(items, outputs)
        return pack(self.slots, batch, self._answers(works), seconds)

    def _sliceable(self, outputs: Tensors, items: Sequence[TensorItem]) -> bool:
        """Whether the server can cut every answer out of the stacked outputs: numbers, one row for each input row."""
        rows = sum(i.rows for i in items)
        if not self._row_by_row or any(a.dtype.kind not in "biufc" or a.shape[:1] != (rows,) for a in outputs.values()):
            return False
        if all(i.wants_tensors for i in items):
            return True
        if any(a.dtype.kind == "c" for a in outputs.values()):
            return False  # JSON has none
        per_row = sum(a.nbytes for a in outputs.values()) / max(1, rows)
        return self.task.plain_answers and all(i.wants_tensors or i.rows * per_row < LARGE_ANSWER for i in items)

    def _slice(self, items: Sequence[TensorItem], stacked: Tensors) -> list[_Work]:
        """The work of each request, with its rows of stacked arrays."""
        works = []
        row = 0
        for item in items:
            tensors = stacked if len(items) == 1 else {n: a[row : row + item.rows] for n, a in stacked.items()}
            row += item.rows
            work = _Work(item, item.form, item.single, tensors=tensors, rows=item.rows)
            self._read_parameters(work)
            works.append(work)
        return works

    def _decode_all(self, items: Sequence[Item], arena: bytes | memoryview) -> list[_Work]:
        if self._decoders is not None and len(items) > 1:
            return list(self._decoders.map(lambda item: self._decode_in_turn(item, arena), items))
        return [self._decode(item, arena) for item in items]

    def _run_separate(self, calls: Calls, works: Sequence[_Work]) -> tuple[list[Answer], float]:
        """Requests that are decoded here, or whose rows differ in length."""
        begin = time.perf_counter()
        for group in self._groups(w for w in works if w.result is None):
            self._compute_group(calls, group)
        seconds = time.perf_counter() - begin
        return self._answers(works), seconds

    def _decode_in_turn(self, item: Item, arena: bytes | memoryview) -> _Work:
        with self.gate.turn(1):
            return self._decode(item, arena)

    def _decode(self, item: Item, arena: bytes | memoryview) -> _Work:
        work = _Work(item)
        self._read_parameters(work)
        if work.result is not None:
            return work
        try:
            if isinstance(item, TensorItem):
                work.form, work.single = item.form, item.single
                work.tensors = {b.name: view(arena, b) for b in item.blocks}
            elif isinstance(item, JsonItem):
                work.form = item.form
                work.tensors, work.single, work.origin = self.task.decode_json(item.form, _body(item, arena))
            elif isinstance(item, BytesItem):
                work.tensors, work.single, work.origin = self.task.decode_bytes(_body(item, arena), item.content_type)
            else:
                raise InvalidInput("This model takes tensors.", field="input")
        except RecursionError:
            work.result = ErrorResult("invalid_json", "The JSON is nested too deeply.", "input")
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            work.result = ErrorResult("invalid_json", f"The body is not valid JSON: {e}.", "input")
        except Exception as e:
            work.result = describe(e, item.request_id)
        else:
            work.rows = self._rows(work.tensors)
            work.tensors = self.task.complete(work.tensors, work.rows, work.parameters)
        return work

    def _rows(self, tensors: Tensors) -> int:
        for spec in self.task.info.inputs:
            if spec.batch_axis is not None:
                return int(tensors[spec.name].shape[spec.batch_axis])
        return 1

    def _read_parameters(self, work: _Work) -> None:
        raw = work.item.parameters
        if raw:
            try:
                work.parameters = msgspec.json.decode(raw, type=Parameters)
                self.task.check(work.parameters)
            except InvalidInput as e:
                work.result = describe(e, work.item.request_id)
            except msgspec.ValidationError as e:
                work.result = ErrorResult("invalid_input", f"parameters: {e}.", "parameters")

    def _groups(self, works: Iterable[_Work]) -> list[list[_Work]]:
        """Requests that can be computed in one call: of equal row shapes, or padded to be."""
        if not self.task.info.batchable:
            return [[w] for w in works]
        groups: dict[Any, list[_Work]] = {}
        for work in works:
            tensors = work.tensors or {}
            if self.padding is not None:
                key: Any = tuple((n, a.dtype.str, a.ndim) for n, a in tensors.items())
            else:
                key = tuple((n, a.dtype.str, a.shape[1:]) for n, a in tensors.items())
            groups.setdefault(key, []).append(work)
        return list(groups.values())

    def _compute_group(self, calls: Calls, group: list[_Work]) -> None:
        try:
            if len(group) == 1:
                work = group[0]
                work.tensors = outputs = self._compute(calls, work.tensors or {}, work.rows)
                self._count_tokens(outputs)
                return
            inputs = [w.tensors or {} for w in group]
            sizes = [self.padding.sizes(t) for t in inputs] if self.padding is not None else None
            stacked = self.padding.stack(inputs) if self.padding is not None else padding.concatenate(inputs)
            rows = sum(w.rows for w in group)
            outputs = self._compute(calls, stacked, rows)
            self._check_rows(outputs, rows)
            self._count_tokens(outputs)
        except Exception as e:
            if len(group) == 1:
                group[0].result = describe(e, group[0].item.request_id)
            else:
                self._compute_each(calls, group)
            return
        row = 0
        for i, work in enumerate(group):
            own = {n: a[row : row + work.rows] for n, a in outputs.items()}
            work.tensors = self.padding.unpad(own, sizes[i]) if self.padding is not None and sizes else own
            row += work.rows

    def _count_tokens(self, outputs: Tensors) -> None:
        if self.task.counts_tokens:
            self._prompt_tokens += int(outputs[TOKENS].sum())

    def _compute_each(self, calls: Calls, works: Sequence[_Work]) -> None:
        """One by one, after their batch raised."""
        for work in works:
            if work.result is None:
                self._compute_group(calls, [work])

    def _compute(self, calls: Calls, inputs: Tensors, rows: int) -> Tensors:
        return calls.compute(inputs, rows) if rows and self.task.info.batchable else calls.whole(inputs, rows)

    @staticmethod
    def _check_rows(outputs: Tensors, rows: int) -> None:
        """Raises unless every output of a batch can be given to the requests by rows."""
        for name, array in outputs.items():
            if array.shape[:1] != (rows,):
                raise BackendError(f"Output {name!r} has shape {list(array.shape)} for a batch of {rows} rows.")

    # --- answers -----------------------------------------------------------------------------------------------------

    def _answers(self, works: Sequence[_Work]) -> list[Answer]:
        return [self._answer(w) for w in works]

    def _answer(self, work: _Work) -> Answer:
        if work.result is not None:
            return Answer(error=work.result)
        outputs = work.tensors or {}
        try:
            if work.item.wants_tensors:
                numeric = {name: array for name, array in outputs.items() if array.dtype.kind in "biufc"}
                if not numeric:
                    raise InvalidInput("The outputs of this model are strings; ask for JSON.", field="accept")
                return Answer(tensors=numeric)
            return Answer(json=self.task.answer_json(work.form, outputs, work.single, work.parameters, work.origin))
        except Exception as e:
            return Answer(error=describe(e, work.item.request_id))


def _body(item: JsonItem | BytesItem | ValuesItem, arena: bytes | memoryview) -> memoryview:
    return memoryview(arena)[item.offset : item.offset + item.size]


def _decode_object(item: Item, arena: bytes | memoryview) -> dict[str, Any]:
    """The body of a request to a model that takes values."""
    if isinstance(item, ValuesItem):
        values: dict[str, Any] = decode_values(_body(item, arena))
        return values
    if not isinstance(item, JsonItem):
        raise InvalidInput("This model takes a JSON body.", field="input")
    try:
        body = msgspec.json.decode(_body(item, arena))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidJSON(f"The body is not valid JSON: {e}.") from None
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object.", field="input")
    return body


def _predict_values(backend: ValueBackend, bodies: list[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
    """One result or exception for each body. When all of them raise together, each is tried alone."""
    try:
        results = backend.predict_values(bodies)
        if len(results) != len(bodies):
            raise BackendError(f"The model gave {len(results)} answers to {len(bodies)} requests.")
    except Exception as e:
        return [e] if len(bodies) == 1 else [r for body in bodies for r in _predict_values(backend, [body])]
    return results
