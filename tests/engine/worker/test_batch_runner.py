"""Batches through the worker's runner, from the server's message to the server's answers, without a process between."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import (
    TRUNCATE,
    BackendError,
    InvalidInput,
    ModelInfo,
    TensorBackend,
    Tensors,
    TensorSpec,
    ValueBackend,
)
from engine import tasks
from engine.codec import Decoded, Form
from engine.errors import UniModelError
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask
from engine.transport import messages
from engine.transport.batchqueue import Slots
from engine.transport.messages import BatchDone, RunBatch
from engine.transport.packing import pack_batch, unpack_answers
from engine.types import Answer, BytesInput, Input, JsonAnswer, JsonInput, Request, TensorAnswer, TensorInput
from engine.worker.batch_runner import LARGE_ANSWER, BatchRunner
from engine.worker.gate import Gate, ModelGate
from engine.worker.padding import Padding
from tests.engine.worker.backends_for_tests import Numeric, Ragged, Values

SLOT_BYTES = 1 << 20


class Setup:
    """A runner and the two ends of its shared memory."""

    slots_of_this_test: ClassVar[list[Slots]] = []

    def __init__(
        self,
        backend: TensorBackend | ValueBackend,
        info: ModelInfo | None = None,
        chunk_rows: int = 8,
        pad: bool = False,
        task: type[TensorTask] | None = None,
        threads: int = 1,
    ) -> None:
        if info is None:
            info = backend.info if isinstance(backend, Numeric) else ModelInfo(task="custom")
        options = ModelOptions()
        self.slots = Slots.create(2, SLOT_BYTES)
        self.slots_of_this_test.append(self.slots)
        self.gate = Gate(threads)
        padding = Padding(info, {}) if pad else None
        made = task(info, options) if task is not None else tasks.create(info.task, info, options)
        self.runner = BatchRunner(backend, made, self.slots, chunk_rows, padding, ModelGate(self.gate), threads)

    def done(self, requests: list[Request]) -> BatchDone:
        message = messages.decode_batch_down(pack_batch(3, 1, self.slots, requests))
        assert isinstance(message, RunBatch)
        reply = messages.decode_batch_up(self.runner.run(self.runner.prepare(message)))
        assert isinstance(reply, BatchDone)
        assert reply.id == 3
        assert reply.compute_seconds >= 0
        return reply

    def answers(self, requests: list[Request]) -> list[Any]:
        """What the server makes of the reply: JSON decoded, tensors as a dictionary, errors as they are."""
        return [self._plain(a) for a in unpack_answers(self.done(requests), self.slots, requests)]

    @staticmethod
    def _plain(answer: Answer | UniModelError) -> Any:
        if isinstance(answer, JsonAnswer):
            return json.loads(answer.data)
        return answer.tensors if isinstance(answer, TensorAnswer) else answer


def request(source: Input, tensors: bool = False, parameters: bytes = b"") -> Request:
    return Request(source, "id", 0.0, wants_tensors=tensors, parameters=parameters)


def row(*numbers: float, tensors: bool = False, single: bool = False, parameters: bytes = b"") -> Request:
    x = np.array([numbers], np.float32)
    return request(TensorInput({"x": x}, 1, single=single), tensors, parameters)


def rows(x: Any, tensors: bool = False, form: Form = "input") -> Request:
    array = np.asarray(x, np.float32)
    return request(TensorInput({"x": array}, len(array), form), tensors)


def code(answer: Any) -> tuple[str, str | None]:
    assert isinstance(answer, UniModelError)
    return answer.code, answer.field


@pytest.fixture(autouse=True)
def clean(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, "unimodel.worker"):
        yield
    while Setup.slots_of_this_test:
        Setup.slots_of_this_test.pop().close()


# -- rows side by side ------------------------------------------------------------------------------------------------


def test_rows_of_all_requests_are_computed_in_one_call() -> None:
    backend = Numeric()
    answers = Setup(backend).answers([row(1, 2, 3), row(4, 5, 6, single=True), rows([[7, 8, 9], [0, 0, 0]])])
    assert answers == [[[2, 4, 6]], [8, 10, 12], [[14, 16, 18], [0, 0, 0]]]
    assert [len(c["x"]) for c in backend.calls] == [4]


def test_binary_clients_get_tensors_and_others_json_out_of_one_batch() -> None:
    json_answer, tensors = Setup(Numeric()).answers([row(1, 2, 3), row(4, 5, 6, tensors=True)])
    assert json_answer == [[2, 4, 6]]
    np.testing.assert_array_equal(tensors["y"], np.array([[8, 10, 12]], np.float32), strict=True)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.sampled_from([1, 3, 8, 100]),
)
def test_every_request_gets_its_own_rows(shapes: list[tuple[int, bool, bool]], chunk_rows: int) -> None:
    """Triples of (rows, wants tensors, sent as JSON); and any number of rows in one call of the backend."""
    backend = Numeric()
    setup = Setup(backend, chunk_rows=chunk_rows)
    requests, expected = [], []
    for i, (n, tensors, as_json) in enumerate(shapes):
        x = (100 * i + np.arange(3 * n)).reshape(n, 3)
        requests.append(request(JsonInput(json.dumps(x.tolist()).encode()), tensors) if as_json else rows(x, tensors))
        expected.append(x * 2)
    for answer, want, (_, tensors, _) in zip(setup.answers(requests), expected, shapes, strict=True):
        assert (answer["y"].tolist() if tensors else answer) == want.tolist()
    assert sum(len(c["x"]) for c in backend.calls) == sum(n for n, _, _ in shapes)


def test_a_request_of_more_rows_than_a_batch_is_computed_in_pieces() -> None:
    backend = Numeric()
    x = np.arange(60).reshape(20, 3)
    (answer,) = Setup(backend, chunk_rows=8).answers([rows(x)])
    assert answer == (x * 2).tolist()
    assert [len(c["x"]) for c in backend.calls] == [8, 8, 4]


def test_large_answers_are_encoded_by_the_worker() -> None:
    """So that the server's loop does not."""

    class Wide(Numeric):
        outputs = (TensorSpec("y", "float32", ("batch", LARGE_ANSWER // 4)),)

    setup = Setup(Wide(lambda b: {"y": np.repeat(b["x"][:, :1], LARGE_ANSWER // 4, axis=1)}))
    requests = [row(1, 2, 3), row(4, 5, 6, single=True), row(7, 8, 9, tensors=True)]
    kinds = [type(r) for r in setup.done(requests).results]
    assert kinds == [messages.JsonResult, messages.JsonResult, messages.BlocksResult]
    many, one, tensors = setup.answers(requests)
    assert many == [[1.0] * (LARGE_ANSWER // 4)]
    assert one == [4.0] * (LARGE_ANSWER // 4)
    assert tensors["y"].tolist() == [[7.0] * (LARGE_ANSWER // 4)]


# -- outputs that are not rows ----------------------------------------------------------------------------------------


class Recurrent(Numeric):
    """Also gives its state, whose batch axis is the second, and the mean of everything."""

    outputs: tuple[TensorSpec, ...] = (
        TensorSpec("y", "float32", ("batch", 3)),
        TensorSpec("state", "float32", (2, "batch", 3), 1),
        TensorSpec("mean", "float32", (), None),
    )

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(task="tensor", inputs=self.inputs, outputs=self.outputs, batchable=False)

    def compute(self, batch: Tensors) -> Tensors:
        x = batch["x"]
        return {"y": x * 2, "state": np.stack([x, -x]), "mean": x.mean(dtype=np.float32)}


def test_outputs_without_a_leading_batch_axis_stay_whole() -> None:
    setup = Setup(Recurrent())
    (tensors,) = setup.answers([rows([[1, 2, 3], [4, 5, 6]], tensors=True)])
    assert {n: a.shape for n, a in tensors.items()} == {"y": (2, 3), "state": (2, 2, 3), "mean": ()}
    (single,) = setup.answers([row(1, 2, 3, single=True)])
    assert single == {"y": [2, 4, 6], "state": [[1, 2, 3], [-1, -2, -3]], "mean": 2}
    (batch,) = setup.answers([row(1, 2, 3)])
    assert batch == {"y": [[2, 4, 6]], "state": [[[1, 2, 3]], [[-1, -2, -3]]], "mean": 2}


@pytest.mark.parametrize(
    ("spec", "compute", "single", "batch"),
    [
        (TensorSpec("mean", "float32", (), None), lambda x: x.mean(), 2.0, 2.0),
        (TensorSpec("mean", "float32", (1,), None), lambda x: x.mean(keepdims=True)[0], [2.0], [2.0]),
        (TensorSpec("t", "float32", (3, "batch"), 1), lambda x: x.T, [1.0, 2.0, 3.0], [[1.0], [2.0], [3.0]]),
    ],
)
def test_the_only_output_may_be_no_row_either(spec: TensorSpec, compute: Any, single: Any, batch: Any) -> None:
    class Model(Recurrent):
        outputs = (spec,)

    setup = Setup(Model(lambda b: {spec.name: np.asarray(compute(b["x"]))}))
    assert setup.answers([row(1, 2, 3, single=True)]) == [single]
    assert setup.answers([row(1, 2, 3)]) == [batch]
    (tensors,) = setup.answers([row(1, 2, 3, tensors=True)])
    assert tensors[spec.name].tolist() == batch


def test_complex_numbers_are_for_binary_clients() -> None:
    class Spectrum(Numeric):
        outputs = (TensorSpec("y", "complex64", ("batch", 3)),)

    setup = Setup(Spectrum(lambda b: {"y": b["x"] * np.complex64(1j)}))
    tensors, refused = setup.answers([row(1, 2, 3, tensors=True), row(1, 2, 3)])
    assert tensors["y"].tolist() == [[1j, 2j, 3j]]
    assert code(refused)[0] == "model_error"


# -- requests that are decoded here -----------------------------------------------------------------------------------


def test_json_and_tensors_are_computed_together() -> None:
    backend = Numeric()
    answers = Setup(backend).answers([request(JsonInput(b"[[1,2,3],[4,5,6]]")), row(7, 8, 9)])
    assert answers == [[[2, 4, 6], [8, 10, 12]], [[14, 16, 18]]]
    assert [len(c["x"]) for c in backend.calls] == [3]


@pytest.mark.parametrize(
    ("form", "data", "answer"),
    [
        ("input", b"[1,2,3]", [2, 4, 6]),
        ("input", b"[[1,2,3]]", [[2, 4, 6]]),
        ("instances", b'[{"x":[1,2,3]}]', [[2, 4, 6]]),
        ("inputs", b'{"x":[[1,2,3]]}', [[2, 4, 6]]),
    ],
)
def test_each_form_has_its_own_answer(form: Form, data: bytes, answer: Any) -> None:
    assert Setup(Numeric()).answers([request(JsonInput(data, form))]) == [answer]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (JsonInput(b"[[1,2]]"), ("invalid_input", "input")),
        (JsonInput(b"[1,"), ("invalid_json", "input")),
        (JsonInput(b'["\xff"]'), ("invalid_json", "input")),
        (JsonInput(b"[" * 100_000 + b"]" * 100_000), ("invalid_json", "input")),
        (JsonInput(b'{"no":1}', "instances"), ("invalid_input", "instances")),
        (BytesInput(b"\x89PNG", "image/png"), ("invalid_input", "input")),
    ],
    ids=["shape", "not JSON", "bytes that are no text", "deep", "form", "an image"],
)
def test_a_body_that_does_not_fit_fails_alone(source: Input, error: tuple[str, str]) -> None:
    backend = Numeric()
    before, failed, after = Setup(backend).answers([row(1, 2, 3), request(source), row(4, 5, 6)])
    assert (before, after) == ([[2, 4, 6]], [[8, 10, 12]])
    assert code(failed) == error
    assert [len(c["x"]) for c in backend.calls] == [2]


def test_parameters_reach_the_task_and_wrong_ones_fail_alone() -> None:
    class TopTask(TensorTask):
        takes = frozenset({"top_k"})
        plain_answers = False

        def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
            best = np.sort(outputs["y"][0])[::-1]
            return best[: parameters.top_k].tolist()

    setup = Setup(Numeric(), task=TopTask)
    answers = setup.answers(
        [
            row(1, 2, 3),
            row(1, 2, 3, parameters=b'{"top_k":1}'),
            row(1, 2, 3, parameters=b'{"top_k":"many"}'),
            row(1, 2, 3, parameters=b'{"best":1}'),
            row(1, 2, 3, parameters=b'{"dimensions":1}'),
        ]
    )
    assert answers[:2] == [[6, 4, 2], [6]]
    assert [code(a) for a in answers[2:4]] == [("invalid_input", "parameters")] * 2
    assert code(answers[4]) == ("invalid_input", "parameters.dimensions")


def test_bodies_are_decoded_side_by_side_in_order() -> None:
    class Slow(TensorTask):
        decodes_in_parallel = True

        def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
            if bytes(data) == b"bad":
                raise InvalidInput("bad picture", field="input")
            return Decoded({"x": np.full((1, 3), int(bytes(data)), np.float32)}, True)

    setup = Setup(Numeric(), task=Slow, threads=4)
    bodies = [b"1", b"2", b"bad", b"3", b"4"]
    answers = setup.answers([request(BytesInput(b, "image/png")) for b in bodies])
    assert [a for a in answers if not isinstance(a, UniModelError)] == [[n * 2.0] * 3 for n in (1, 2, 3, 4)]
    assert code(answers[2]) == ("invalid_input", "input")


# -- rows of different lengths ----------------------------------------------------------------------------------------


def tokens(*lengths: int) -> list[Request]:
    return [request(TensorInput({"tokens": np.arange(1, n + 1)[None]}, 1, single=True)) for n in lengths]


def test_ragged_rows_are_padded_and_cut_again() -> None:
    backend = Ragged()
    answers = Setup(backend, pad=True).answers(tokens(2, 4, 1))
    assert [a["total"] for a in answers] == [3, 10, 1]
    assert [a["echo"] for a in answers] == [[1, 2], [1, 2, 3, 4], [1]]
    assert [c["tokens"].shape for c in backend.calls] == [(3, 4)]


def test_ragged_rows_of_a_model_that_is_not_padded_are_grouped_by_length() -> None:
    backend = Ragged()
    answers = Setup(backend).answers(tokens(2, 4, 2))
    assert [a["total"] for a in answers] == [3, 10, 3]
    assert sorted(c["tokens"].shape for c in backend.calls) == [(1, 4), (2, 2)]


def test_requests_of_a_model_that_is_not_batched_are_computed_one_by_one() -> None:
    backend = Ragged()
    info = ModelInfo(task="tensor", inputs=Ragged.inputs, outputs=Ragged.outputs, batchable=False)
    bodies = [request(JsonInput(b"[[1,2]]")), request(JsonInput(b"[[3,4]]"))]
    answers = Setup(backend, info).answers(bodies)
    assert [a["total"] for a in answers] == [[3], [7]]
    assert [len(c["tokens"]) for c in backend.calls] == [1, 1]


# -- models that raise ------------------------------------------------------------------------------------------------


def poisoned(batch: Tensors) -> Tensors:
    if (batch["x"] == 13).any():
        raise RuntimeError("thirteen")
    return {"y": batch["x"]}


@pytest.mark.parametrize("as_json", [False, True])
def test_the_one_that_makes_a_batch_raise_fails_alone(as_json: bool) -> None:
    backend = Numeric(poisoned)
    values = [[1, 1, 1], [13, 0, 0], [2, 2, 2]]
    requests = [request(JsonInput(json.dumps([v]).encode())) if as_json else row(*v) for v in values]
    first, guilty, last = Setup(backend).answers(requests)
    assert (first, last) == ([[1, 1, 1]], [[2, 2, 2]])
    assert guilty.code == "model_error"
    assert guilty.message == "The model raised RuntimeError: thirteen"
    assert [len(c["x"]) for c in backend.calls] == [3, 1, 1, 1]


def test_one_that_raises_in_a_padded_batch_fails_alone() -> None:
    class Picky(Ragged):
        def compute(self, batch: Tensors) -> Tensors:
            if 3 in batch["tokens"]:
                raise InvalidInput("no threes", field="input.tokens")
            return super().compute(batch)

    first, guilty, last = Setup(Picky(), pad=True).answers(tokens(1, 3, 2))
    assert (first["echo"], last["echo"]) == ([1], [1, 2])
    assert code(guilty) == ("invalid_input", "input.tokens")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidInput("too cold", field="input.t"), ("invalid_input", "input.t")),
        (BackendError("it broke"), ("model_error", None)),
        (MemoryError(), ("insufficient_memory", None)),
        (ValueError("x" * 10_000), ("model_error", None)),
        (KeyError("y"), ("model_error", None)),
    ],
)
def test_errors_keep_their_kind(error: Exception, expected: tuple[str, str | None]) -> None:
    def raises(batch: Tensors) -> Tensors:
        raise error

    (answer,) = Setup(Numeric(raises)).answers([row(1, 2, 3)])
    assert code(answer) == expected
    assert len(answer.message) < 1000


def test_strings_are_json_and_no_tensors() -> None:
    class Labels(Numeric):
        outputs = (TensorSpec("label", "string", ("batch",)),)

    def label(batch: Tensors) -> Tensors:
        return {"label": np.array([f"é{int(x)}" for x in batch["x"][:, 0]], object)}

    setup = Setup(Labels(label))
    one, refused, several = setup.answers([row(1, 0, 0, single=True), row(2, 0, 0, tensors=True), row(3, 0, 0)])
    assert (one, several) == ("é1", ["é3"])
    assert code(refused) == ("invalid_input", "accept")


def test_a_model_that_gives_too_few_rows_gives_nobody_the_rows_of_others() -> None:
    backend = Numeric(lambda b: {"y": b["x"][:1]})
    assert Setup(backend).answers([row(1, 2, 3), row(4, 5, 6)]) == [[[1, 2, 3]], [[4, 5, 6]]]
    assert [len(c["x"]) for c in backend.calls] == [2, 1, 1]


@pytest.mark.parametrize("outputs", [{"y": None}, {"y": 5}, "outputs"])
def test_a_backend_that_breaks_its_contract_is_an_error_like_any_other(outputs: Any) -> None:
    for answer in Setup(Numeric(lambda _: outputs)).answers([row(1, 2, 3), row(4, 5, 6)]):
        assert code(answer) == ("model_error", None)


# -- models of JSON values --------------------------------------------------------------------------------------------


def body(**fields: Any) -> Request:
    return request(JsonInput(json.dumps(fields).encode()))


def test_values_are_computed_together() -> None:
    backend = Values()
    assert Setup(backend).answers([body(n=1), body(n=2)]) == [{"n": 2}, {"n": 4}]
    assert [list(c) for c in backend.calls] == [[{"n": 1}, {"n": 2}]]


def test_a_value_that_fails_fails_alone() -> None:
    broken = [request(JsonInput(b)) for b in (b"[1]", b"{", b'{"n":"\xff"}', b"[" * 100_000)]
    wrong = [request(BytesInput(b"\xff", "image/png")), rows([[1]])]
    answers = Setup(Values()).answers([body(n=1), body(n=13), *broken, *wrong, body(n=3)])
    assert (answers[0], answers[-1]) == ({"n": 2}, {"n": 6})
    assert [code(a) for a in answers[1:-1]] == [
        ("invalid_input", "n"),
        ("invalid_input", "input"),
        ("invalid_json", None),
        ("invalid_json", None),
        ("invalid_json", None),
        ("invalid_input", "input"),
        ("invalid_input", "input"),
    ]


def test_a_batch_of_values_that_raises_is_computed_one_by_one() -> None:
    backend = Values()
    first, guilty, last = Setup(backend).answers([body(n=1), body(n=666), body(n=2)])
    assert (first, last) == ({"n": 2}, {"n": 4})
    assert guilty.message == "The model raised RuntimeError: all of you"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"model": "me"}, "The plugin's answer uses the reserved key 'model'."),
        ({"version": 1}, "The plugin's answer uses the reserved key 'version'."),
        ({"y": object()}, "The model raised TypeError: object is not of JSON's types"),
        ([1, 2], "The plugin's answer must be an object; got list."),
        (None, "The plugin's answer must be an object; got NoneType."),
    ],
)
def test_an_answer_that_is_none_is_an_error(answer: Any, message: str) -> None:
    class Odd(Values):
        def predict_values(self, inputs: Any) -> Any:
            return [answer for _ in inputs]

    (error,) = Setup(Odd()).answers([body(n=1)])
    assert (error.code, error.message) == ("model_error", message)


@pytest.mark.parametrize("results", [[], [{"n": 1}] * 3])
def test_a_model_that_answers_more_or_fewer_than_asked_answers_none(results: list[dict[str, Any]]) -> None:
    class Confused(Values):
        def predict_values(self, inputs: Any) -> Any:
            return results

    for answer in Setup(Confused()).answers([body(n=1), body(n=2)]):
        assert code(answer) == ("model_error", None)


def test_no_request_but_those_that_can_be_read_reaches_the_model() -> None:
    backend = Values()
    (error,) = Setup(backend).answers([request(JsonInput(b"{"))])
    assert error.code == "invalid_json"
    assert backend.calls == []


# -- room -------------------------------------------------------------------------------------------------------------


class Blowup(Numeric):
    """Each row becomes 4 × its first number kilobytes."""

    outputs = (TensorSpec("y", "float32", ("batch", "n")),)

    def compute(self, batch: Tensors) -> Tensors:
        n = int(batch["x"].max()) * 1024
        return {"y": np.repeat(batch["x"][:, :1], n, axis=1)}


def test_outputs_that_do_not_fit_a_slot_are_an_error() -> None:
    setup = Setup(Blowup())
    for tensors in (True, False):
        (answer,) = setup.answers([row(300, 0, 0, tensors=tensors)])
        assert code(answer) == ("response_too_large", None)
        assert "engine.max_batch_mb" in answer.message


def test_of_a_batch_whose_outputs_do_not_fit_those_that_do_are_answered() -> None:
    """The server computes the others again, alone."""
    setup = Setup(Blowup())
    answers = setup.answers([row(100, 0, 0, tensors=True) for _ in range(4)])
    assert [isinstance(a, UniModelError) for a in answers] == [False, False, True, True]
    assert all(a.code == "response_too_large" for a in answers[2:])
    assert answers[0]["y"].shape == (1, 100 * 1024)
    assert (answers[1]["y"] == 100).all()


def test_outputs_lie_behind_the_inputs_of_their_slot() -> None:
    class Identity(Numeric):
        inputs = (TensorSpec("x", "float32", ("batch", "n")),)
        outputs = (TensorSpec("y", "float32", ("batch", "n")),)

    setup = Setup(Identity())
    x = np.arange(100_000, dtype=np.float32).reshape(1, -1)
    reply = setup.done([rows(x, tensors=True)])
    assert reply.slot == 1
    assert reply.start >= x.nbytes
    (answer,) = setup.answers([rows(x, tensors=True)])
    np.testing.assert_array_equal(answer["y"], x * 2)


# --- turns ----------------------------------------------------------------------------------------------------------


class Busy(Numeric):
    """Keeps the one thread of its worker busy for a moment a row."""

    threads = 1

    def compute(self, batch: Tensors) -> Tensors:
        time.sleep(0.008 * len(batch["x"]))
        return super().compute(batch)


def many(count: int) -> Request:
    return rows([[float(i), 0.0, 1.0] for i in range(count)])


def test_a_batch_is_one_call_where_no_other_model_is() -> None:
    backend = Busy()
    setup = Setup(backend)
    for _ in range(3):
        setup.answers([many(2), many(6)])
    assert [len(c["x"]) for c in backend.calls] == [8, 8, 8]


def test_a_batch_is_computed_in_slices_while_another_model_waits() -> None:
    backend = Busy()
    setup = Setup(backend)
    whole = setup.answers([many(8)])
    backend.calls.clear()
    inside, stop = threading.Event(), threading.Event()

    def other() -> None:
        gate = ModelGate(setup.gate)
        while not stop.is_set():
            with gate.turn(1):
                inside.set()
                stop.wait(0.001)

    others = [threading.Thread(target=other) for _ in range(2)]  # one of them always waits
    for thread in others:
        thread.start()
    assert inside.wait(10)
    try:
        with setup.gate.model(), setup.gate.model():
            assert setup.answers([many(8)]) == whole
    finally:
        stop.set()
        for thread in others:
            thread.join(10)
    sizes = [len(c["x"]) for c in backend.calls]
    assert sum(sizes) == 8
    assert len(sizes) > 1


def test_where_other_models_are_no_turn_is_planned_long() -> None:
    backend = Busy()
    setup = Setup(backend)
    with setup.gate.model(), setup.gate.model():
        for _ in range(3):
            setup.answers([many(20)])
    first, *others = [len(c["x"]) for c in backend.calls]
    assert sum(others) + first == 60
    assert first == 1, "nothing is known of its speed yet"
    assert max(others) <= 7, "of 8 ms a row"


class Lengths(Numeric):
    """Embeds texts as their lengths, which it counts as their tokens."""

    inputs = (TensorSpec("text", "string", ("batch",)),)
    outputs = (TensorSpec("embedding", "float32", ("batch", 1)), TensorSpec("tokens", "int32", ("batch",)))

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(task="embedding", inputs=self.inputs, outputs=self.outputs, optional=(TRUNCATE,))

    def compute(self, batch: Tensors) -> Tensors:
        lengths = np.array([len(text) for text in batch["text"]], np.int32)
        lengths = np.where(batch.get("truncate", False), np.minimum(lengths, 5), lengths)
        if 9 in lengths:
            raise InvalidInput("nine is too long", field="input")
        return {"embedding": lengths[:, None].astype(np.float32), "tokens": lengths}


@pytest.mark.parametrize("threads", [0, 1])
def test_the_tokens_of_a_batch_are_told(threads: int) -> None:
    setup = Setup(Lengths(threads), chunk_rows=2)
    texts = [request(JsonInput(json.dumps(t).encode())) for t in (["a", "bb", "ccc"], "dddd", "n" * 9)]
    assert setup.done(texts).prompt_tokens == 10, "but for the one that failed"
    assert setup.done(texts[:1]).prompt_tokens == 6, "those of this batch alone"


def test_rows_get_what_their_own_request_asked_for() -> None:
    setup = Setup(Lengths(0))
    texts = [
        request(JsonInput(b'"abcdefgh"'), parameters=parameters)
        for parameters in (b"", b'{"truncate":true}', b'{"truncate":false}')
    ]
    assert setup.answers(texts) == [[8.0], [5.0], [8.0]]
