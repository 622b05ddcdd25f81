"""`unimodel embed`: texts in, vectors out."""

import json

import numpy as np
import pytest
from starlette.responses import JSONResponse
from starlette.routing import Route

from unimodel_cli.commands.embed import BATCH


@pytest.fixture
def lengths(stand_in):
    """A server whose vector of a text is its length and its first character's number, and the bodies that it got."""
    bodies = []

    async def embeddings(request):
        body = json.loads(await request.body())
        bodies.append(body)
        vectors = [[float(len(text)), float(ord(text[0]) if text else 0)] for text in body["input"]]
        data = [{"index": i, "embedding": v} for i, v in enumerate(vectors)]
        return JSONResponse({"data": data[::-1], "model": "m", "usage": {"prompt_tokens": len(vectors)}})

    server = stand_in(None, [Route("/v1/embeddings", embeddings, methods=["POST"])])
    server.bodies = bodies
    return server


def test_texts_become_vectors_a_line_each(cli, lengths):
    assert cli.ok("embed", "m", "a", "bcd", "--host", lengths.url) == "[1.0, 97.0]\n[3.0, 98.0]\n"
    assert lengths.bodies == [{"model": "m", "input": ["a", "bcd"], "encoding_format": "float"}]


def test_the_lines_of_stdin_become_vectors_in_order(cli, lengths):
    lines = [f"{chr(97 + i % 26)}{i}" for i in range(2 * BATCH + 3)]
    out = cli.ok("embed", "m", "--host", lengths.url, input="\n".join(lines) + "\n")
    assert [json.loads(line) for line in out.splitlines()] == [[len(text), ord(text[0])] for text in lines]
    assert [len(body["input"]) for body in lengths.bodies] == [BATCH, BATCH, 3]


def test_json_is_one_object(cli, lengths):
    assert cli.json("embed", "m", "a", "b", "--host", lengths.url) == {
        "model": "m",
        "embeddings": [[1.0, 97.0], [1.0, 98.0]],
        "usage": {"prompt_tokens": 2},
    }


@pytest.mark.parametrize("from_stdin", [True, False])
def test_json_lines(cli, lengths, tmp_path, from_stdin):
    rows = '"a"\n\n{"text": "bc"}\n{"input": "d", "id": 7}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    given = {"input": rows} if from_stdin else {}
    file = [] if from_stdin else [tmp_path / "rows.jsonl"]
    cli.ok("embed", "m", *file, "--jsonl", "--host", lengths.url, **given)
    assert lengths.bodies[0]["input"] == ["a", "bc", "d"]


def test_an_array_file(cli, lengths, tmp_path):
    out = tmp_path / "out.npy"
    assert cli.ok("embed", "m", "a", "bc", "--npy", out, "--host", lengths.url) == ""
    array = np.load(out)
    assert (array.dtype, array.tolist()) == (np.float32, [[1, 97], [2, 98]])
    described = cli.json("embed", "m", "a", "--npy", out, "--host", lengths.url)
    assert described == {"model": "m", "path": str(out), "rows": 1, "usage": {"prompt_tokens": 1}}
    missing = tmp_path / "no" / "out.npy"
    assert cli.error("embed", "m", "a", "--npy", missing, "--host", lengths.url)[1]["code"] == "insufficient_storage"


@pytest.mark.parametrize(
    ("arguments", "rows", "word"),
    [
        (["--jsonl"], "{", "Line 1 is not JSON"),
        (["--jsonl"], '"a"\n5\n', "Line 2 has no text"),
        (["--jsonl"], '{"other": "a"}', "Line 1 has no text"),
        (["--jsonl", "a", "b"], "", "one file"),
        (["--jsonl", "missing.jsonl"], "", "Cannot read missing.jsonl"),
        ([], b"\xff\xff\n", "Line 1 is no text"),
    ],
)
def test_what_is_no_text(cli, lengths, arguments, rows, word):
    code, error = cli.error("embed", "m", *arguments, "--host", lengths.url, input=rows)
    assert code == 2
    assert word in error["message"]


def test_a_version_may_be_named(cli, lengths):
    cli.ok("embed", "m@2", "a", "--host", lengths.url)
    assert lengths.bodies[0]["model"] == "m@2"


def test_a_model_that_counts_no_tokens(cli, stand_in):
    async def embeddings(_):
        return JSONResponse({"data": [{"index": 0, "embedding": [1.0]}], "model": "m", "usage": None})

    host = ["--host", stand_in(None, [Route("/v1/embeddings", embeddings, methods=["POST"])]).url]
    assert cli.ok("embed", "m", "a", *host) == "[1.0]\n"
    assert cli.json("embed", "m", "a", *host) == {"model": "m", "embeddings": [[1.0]], "usage": None}


def test_a_real_model_embeds(served, smol):
    view = served.json("show", smol)
    served.ok("register", "vectors", view["path"], "--backend", "gguf-embedding")
    vectors = [json.loads(line) for line in served.ok("embed", "vectors", "a cat", "a cat", "the sea").splitlines()]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-3)
    assert vectors[0] != pytest.approx(vectors[2], abs=1e-2)
    served.ok("unregister", "vectors")


def test_a_model_that_does_not_embed(served):
    code, error = served.error("embed", "double", "a")
    assert code == 1
    assert "not for embeddings" in error["message"]
    assert served.error("embed", "missing", "a")[0] == 4
