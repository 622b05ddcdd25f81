"""Tests of the workload of ragged texts: what is asked, in which forms, and what the peers compute."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks import dialects, load, models, texts
from benchmarks.bars import BARS
from benchmarks.dialects import Call, Served
from benchmarks.peers import compute
from benchmarks.servers import TEXT_PEERS, Unbatched
from tests import models_transformers


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return texts.ragged(models_transformers.minilm(), 64)


def test_texts_have_the_tokens_that_they_say(rows: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models_transformers.minilm())
    counts = [len(ids) for ids in tokenizer(rows)["input_ids"]]
    assert (min(counts), max(counts)) == (texts.SHORTEST, texts.LONGEST)
    assert 20 < np.median(counts) < 80  # any length is as likely as its double
    assert rows == texts.ragged(models_transformers.minilm(), 64)
    assert len(set(rows)) == 64


def test_peers_give_each_text_its_own_vector(rows: list[str]) -> None:
    pytest.importorskip("transformers")
    model = compute.Model(str(models_transformers.minilm()), 1)
    some = rows[: compute.PART + 3]
    together = model.predict(some)  # type: ignore[arg-type]
    assert together.shape == (len(some), 384)
    for i in (0, 4, len(some) - 1):
        np.testing.assert_allclose(model.predict([some[i]])[0], together[i], atol=1e-5)  # type: ignore[arg-type]


def test_every_dialect_sends_the_text_and_reads_the_vector() -> None:
    served = Served(models.minilm(), "text", text="A boat.")
    vector, answer = [0.5, 0.25], np.array([0.5, 0.25], np.float32)
    coded = base64.b64encode(answer.tobytes()).decode()
    ours, plain, v2 = dialects.unimodel(served), dialects.plain(served), dialects.mlserver(served)
    many = dialects.unimodel_texts(served.model, ["a", "b"])
    openai = dialects.openai_texts(served.model, ["a", "b"])
    assert json.loads(ours.body) == json.loads(plain.body) == {"input": "A boat."}
    assert json.loads(v2.body)["inputs"][0]["data"] == ["A boat."]
    assert json.loads(many.body)["input"] == json.loads(openai.body)["input"] == ["a", "b"]
    np.testing.assert_array_equal(ours.read(b'{"output": [0.5, 0.25]}', {}), answer)
    np.testing.assert_array_equal(plain.read(b'{"output": [[0.5, 0.25]]}', {}), answer)
    np.testing.assert_array_equal(v2.read(json.dumps({"outputs": [{"data": vector}]}).encode(), {}), answer)
    np.testing.assert_array_equal(many.read(b'{"output": [[0.5, 0.25]]}', {}), [answer])
    np.testing.assert_array_equal(openai.read(json.dumps({"data": [{"embedding": coded}]}).encode(), {}), [answer])


def test_a_server_without_batches_is_told_so() -> None:
    (request,) = Unbatched().registrations([Served(models.iris_onnx(), "json", 32)])
    assert request["config"] == {"batching": {"max_batch_size": 1}}


def test_bars_are_on_systems_that_run() -> None:
    names = {peer.name for peer in TEXT_PEERS} | {Unbatched.name}
    assert {bar.against for bar in BARS if bar.workload == "ragged"} == names


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_several_bodies_are_sent_in_turn() -> None:
    seen: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        calls = [Call("/", dialects.JSON, body, lambda *_: np.empty(0)) for body in (b"one", b"two\n", b"three")]
        load.wrk(server.server_port, calls, 1, 1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert sorted(seen[:3]) == [b"one", b"three", b"two\n"]
    assert seen[3:6] == seen[:3]
