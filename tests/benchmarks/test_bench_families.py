"""The families, the loads on them, and their loops."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import discovery
from backends.base import Device
from benchmarks import bare_loops, load, speech, tables
from benchmarks.bars import BARS
from benchmarks.dialects import JSON, Call, unread
from benchmarks.families import FAMILIES, QUICK, Family
from benchmarks.harness import Metric, Options, Study
from benchmarks.load import WrongAnswer, between
from benchmarks.points import NAME, PATH, Answers, Recordings, Rows, json_call
from benchmarks.workloads import families
from engine import model_options, tasks
from engine.model_options import ModelOptions
from scripts.packages import FetchError


def test_every_metric_has_its_own_name_and_bar() -> None:
    metrics = [family.metric(point).name for family in FAMILIES for point in family.points]
    assert len(set(metrics)) == len(metrics)
    bars = [bar for bar in BARS if bar.workload == "families"]
    assert sorted(bar.metric for bar in bars) == sorted(metrics)
    assert {(bar.relation, bar.limit, bar.against) for bar in bars} == {(">=", 0.9, families.BARE)}


def test_a_quick_run_knows_its_families() -> None:
    assert {family.name for family in FAMILIES} >= QUICK


def test_every_family_but_gguf_has_a_loop() -> None:
    loops = {family.loop or family.name for family in FAMILIES}
    assert loops - bare_loops.LOOPS.keys() == {"gguf"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_batch_sizes_are_options_of_the_backend(family: Family) -> None:
    backend = discovery.available()[family.name.split()[0].partition(",")[0]]
    options, own = model_options.split(family.batched(5), backend.Options)
    assert 5 in (options.batching.max_batch_size, getattr(own, "sequences", None), getattr(own, "batch_windows", None))


def test_a_family_whose_library_is_not_there_says_so() -> None:
    family = Family("none", "no_such_module", lambda: Path("nowhere"), (Rows(json_call(1), 2),))
    assert family.lacks() == "no_such_module is not installed"


def test_a_family_whose_model_cannot_be_had_says_so() -> None:
    def fails() -> Path:
        raise FetchError("no network")

    assert Family("none", "json", fails, (Rows(json_call(1), 2),)).lacks() == "no network"


def test_a_loop_that_fails_is_missing_for_its_family_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Rows(json_call(1), 2)
    broken, fine = (Family(name, "json", lambda: Path("nowhere"), (point,)) for name in ("broken", "fine"))

    def bare(family: Family, *_: Any) -> dict[Metric, float]:
        if family is broken:
            raise WrongAnswer("it has no such file")
        return {family.metric(point): 2.0}

    monkeypatch.setattr(families, "_bare", bare)
    monkeypatch.setattr(families, "_served", lambda family, *_: {family.metric(point): 1.0})
    study = Study("families", "title")
    for family in (broken, fine):
        families._compare(study, family, Options(rounds=2, settle=0), 1)
    assert study.missing == {"broken, bare loop": "it has no such file"}
    assert study.values("broken", "unimodel") == [1, 1]
    assert study.values("broken", "bare loop") == []
    assert study.values("fine", "bare loop") == [2, 2]


# -- loads ------------------------------------------------------------------------------------------------------------


def test_whole_batches_are_counted() -> None:
    """A batch of two every second: from the first of one to the first of another, or the last to the last."""
    assert between([1, 1.1, 2, 2.1, 3, 3.1], 2) == pytest.approx(2)
    assert between([1.1, 2, 2.1, 3], 2) == pytest.approx(2)
    with pytest.raises(WrongAnswer, match="2 answers came"):
        between([1, 1.1], 2)


@contextmanager
def answering(status: int, seen: list[bytes]) -> Iterator[int]:
    """A server that takes 20 ms for each request, of which several may be under way."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["content-length"])))
            time.sleep(0.02)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_steady_load_makes_its_calls_in_turn() -> None:
    seen: list[bytes] = []
    calls = [Call("/", JSON, body, unread) for body in (b"one", b"two")]
    with answering(200, seen) as port:
        rate = load.steady(port, calls, 4, 0.5, 2)
    assert 0 < rate <= 4 / 0.02
    assert abs(seen.count(b"one") - seen.count(b"two")) <= 1


def test_a_steady_load_takes_no_error_for_an_answer() -> None:
    with answering(500, []) as port, pytest.raises(WrongAnswer, match="answered with 500"):
        load.steady(port, [Call("/", JSON, b"", unread)], 2, 0.5, 2)


def test_what_a_row_counts_for() -> None:
    assert Answers(8, tokens=24).per_row == 24
    assert Rows(json_call(1), 2).per_row == 1
    try:
        seconds = [clip.seconds for clip in speech.clips(4)]
    except FetchError as e:
        pytest.skip(str(e))
    assert all(1 < each < 30 for each in seconds)  # a window each
    assert Recordings(4).per_row == pytest.approx(sum(seconds) / 4)


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tables.MODELS)
def test_every_form_of_a_table_gets_the_librarys_answer(name: str) -> None:
    model = tables.MODELS[name]()
    backend = discovery.available()["sklearn" if name == "forest" else name]()
    backend.trusted = True
    info = backend.load(model.path, Device("cpu"), backend.Options())  # type: ignore[attr-defined]
    task = tasks.create("tabular", info, ModelOptions())
    expected = np.asarray(bare_loops.LOOPS[name](model.path, 3, 1)())
    for form in tables.FORMS:
        call = tables.call(PATH, form, 3)
        if form == "binary":
            given = {"input": np.frombuffer(call.body).reshape(3, -1)}
        else:
            given = task.decode_json("input", json.dumps(json.loads(call.body)["input"]).encode()).tensors
        np.testing.assert_array_equal(given["input"], tables.rows(3))
        outputs = backend.predict(given)  # type: ignore[attr-defined]
        found = outputs["probabilities"]
        np.testing.assert_allclose(found[:, 1] if expected.ndim == 1 else found, expected)
        if form == "binary":
            read = call.read(found.tobytes(), {"x-tensor-dtype": found.dtype.name})
        else:
            answer = task.encode("input", outputs, False, tasks.base.Parameters())
            read = call.read(json.dumps({"output": answer}).encode(), {})
        np.testing.assert_allclose(read, found)


def test_loops_are_measured_at_every_batch_size() -> None:
    rates = bare_loops.rates("lightgbm", tables.lightgbm().path, [1, 4], 1, 0.05)
    assert list(rates) == [1, 4]
    assert min(rates.values()) > 0


def test_a_loop_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(WrongAnswer, match="the bare loop lightgbm failed"):
        bare_loops.measured("lightgbm", tmp_path / "none", 1, 1, 0.05)


def test_the_path_has_the_models_name() -> None:
    assert f"/{NAME}:" in PATH
    assert {family.registration(2)["name"] for family in FAMILIES if family.name == "lightgbm"} == {NAME}
