"""The commands about models, against a real server."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import PLUGINS, double_model
from unimodel_cli.errors import UsageError
from unimodel_cli.model_options import nested, text_of_file

ECHO = f"{PLUGINS / 'echo.py'}:BatchEcho"


def test_register_says_what_was_found_and_what_to_try(served, tmp_path):
    page = served.ok("register", "fresh", double_model(tmp_path))
    assert "Registered fresh@1: tensor on onnx." in page
    assert "[batch, 3]" in page
    assert "Try it:   unimodel predict fresh" in page
    again = served.json("register", "fresh", double_model(tmp_path), "--set", "batching.max_batch_size=7")
    assert (again["version"], again["versions"]) == (2, [1, 2])
    assert again["config"] == {"batching": {"max_batch_size": 7}}
    assert again["batching"]["max_batch_size"] == 7
    assert served.json("unregister", "fresh@1") == {"name": "fresh", "versions": [1]}
    assert served.ok("unregister", "fresh") == "Unregistered fresh (version 2).\n"
    assert served.error("show", "fresh")[0] == 4


def test_the_try_it_line_works(served, tmp_path):
    import shlex

    page = served.ok("register", "tried", double_model(tmp_path))
    command = shlex.split(next(line for line in page.splitlines() if line.startswith("Try it:")).partition(":")[2])
    assert command[:3] == ["unimodel", "predict", "tried"]
    served.ok(*command[1:])
    served.ok("unregister", "tried", "--yes")


def test_a_relative_path_is_found_by_the_server(served, tmp_path):
    double_model(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    view = served.json("register", "relative", "double.onnx", "--set", "labels=./labels.txt", cwd=tmp_path)
    assert view["path"] == str(tmp_path / "double.onnx")
    assert view["config"]["labels"] == str(tmp_path / "labels.txt")
    served.ok("unregister", "relative")


def test_code_is_not_run_without_trust(served):
    code, error = served.error("register", "untrusted", ECHO)
    assert (code, error["code"]) == (1, "untrusted_model")
    assert "--trust" in error["message"]
    assert served.error("show", "untrusted")[0] == 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["bad", "missing.onnx"], "model_file_error"),
        (["bad", ECHO, "--trust", "--set", "prefx=a"], "invalid_option"),
        (["bad", ECHO, "--trust", "--backend", "onx"], "invalid_option"),
        (["bad name", ECHO, "--trust"], "invalid_request"),
    ],
    ids=lambda a: a[-1] if isinstance(a, list) else a,
)
def test_a_registration_that_fails_registers_nothing(served, arguments, code):
    exit_code, error = served.error("register", *arguments)
    assert (exit_code, error["code"]) == (1, code)
    assert arguments[0] not in {m["name"] for m in served.json("list")["data"]}


@pytest.mark.parametrize("setting", ["novalue", "=1", "a..b=1", "a=[1", "a=1"])
def test_settings_that_make_no_sense(served, setting):
    more = ["--set", "a.b=2"] if setting == "a=1" else []
    code, error = served.error("register", "m", ECHO, "--trust", "--set", setting, *more)
    assert code == 2
    assert "--set" in error["message"]


def test_list_show_and_ps(served):
    assert {"echo", "words", "double"} <= {m["name"] for m in served.json("list")["data"]}
    lines = served.ok("list").splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "TASK", "BACKEND", "STATE", "SIZE", "ALIASES"]
    assert all(line == line.rstrip() for line in lines)
    page = served.ok("show", "words")
    assert "does not define predict_batch" in page
    assert "curl http://" in page and "httpx.post" in page and "unimodel predict words" in page
    assert served.json("show", "double")["inputs"][0]["shape"] == ["batch", 3]
    loaded = served.json("ps")["models"]
    assert next(m for m in loaded if m["name"] == "double")["instances"][0]["device"] == "cpu"
    assert "double@1" in served.ok("ps")


def test_the_example_of_a_model_is_a_body_that_it_takes(served):
    example = served.ok("show", "double", "--example")
    assert served.json("predict", "double", "-", input=example)["output"]
    code, error = served.error("show", "faulty", "--example")
    assert code == 1
    assert "gives no example" in error["message"]


def test_load_and_unload(served):
    assert served.json("unload", "words")["state"] == "unloaded"
    assert served.ok("load", "words").startswith("words@1 is ready on cpu")


def test_aliases(served):
    assert served.json("alias", "set", "prod", "double@1") == {"alias": "prod", "model": "double", "version": 1}
    assert served.json("predict", "prod", "[1, 2, 3]") == {"model": "double", "version": 1, "output": [2.0, 4.0, 6.0]}
    assert "prod" in served.ok("list")
    assert served.ok("alias", "list").splitlines()[1].split() == ["prod", "double@1"]
    assert served.ok("alias", "remove", "prod") == "Removed the alias prod, which stood for double@1.\n"
    assert served.error("alias", "remove", "prod")[0] == 4
    assert served.ok("alias", "list") == ""


def test_predict(served, tmp_path):
    assert served.ok("predict", "double", "[1, 2, 3]") == "[2.0, 4.0, 6.0]\n"
    assert served.ok("predict", "double@1", "[1, 2, 3]", "[4, 5, 6]") == "[[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]\n"
    assert served.ok("predict", "double", "--input", "x=[1, 2, 3]") == "[2.0, 4.0, 6.0]\n"
    assert served.ok("predict", "double", "-", input='{"instances": [[1, 2, 3]]}') == "[[2.0, 4.0, 6.0]]\n"
    assert served.ok("predict", "double", input="[1, 2, 3]") == "[2.0, 4.0, 6.0]\n"
    assert served.ok("predict", "words", "hello") == '"hello"\n'
    assert served.ok("predict", "words", "hello", "--raw") == "hello\n"
    assert json.loads(served.ok("predict", "echo", '{"input": "a"}')) == {"output": "a", "together": 1}


def test_predict_with_arrays(served, tmp_path):
    rows, out = tmp_path / "rows.npy", tmp_path / "out.npy"
    np.save(rows, np.array([[1, 2, 3]], np.float32))
    assert served.ok("predict", "double", rows, "-o", out) == ""
    assert np.load(out).tolist() == [[2, 4, 6]]
    assert served.ok("predict", "double", rows, "-o", out, "--tensor", "y") == ""
    assert served.error("predict", "double", rows, "-o", out, "--tensor", "z")[0] == 1
    assert served.error("predict", "double", rows, "--tensor", "y")[0] == 2


def test_predict_into_a_file(served, tmp_path):
    out = tmp_path / "out.json"
    assert served.ok("predict", "double", "[1, 2, 3]", "-o", out) == ""
    assert json.loads(out.read_text()) == [2, 4, 6]
    assert served.error("predict", "double", "[1, 2, 3]", "-o", tmp_path / "no" / "out.json")[1]["code"] == (
        "insufficient_storage"
    )


def test_an_input_that_does_not_fit_names_the_field(served):
    code, error = served.error("predict", "double", "[1, 2]")
    assert (code, error["code"], error["param"]) == (1, "invalid_input", "input")


def test_a_deadline(served):
    code, error = served.error("predict", "faulty", "5", "--timeout", "0.2")
    assert (code, error["code"]) == (6, "deadline_exceeded")


def test_a_worker_that_dies(served):
    code, error = served.error("predict", "faulty", "abort")
    assert (code, error["code"]) == (1, "worker_died")


def test_streams(served):
    assert served.ok("predict", "words", "one two", "--stream") == "onetwo\n"
    chunks = served.ok("predict", "words", "one two", "--stream", "--json").splitlines()
    assert [json.loads(c) for c in chunks] == [{"output": "one"}, {"output": "two"}]
    done = served("predict", "words", "one stop", "--stream")
    assert (done.returncode, done.stdout) == (1, "one\n")
    assert "stop is not allowed" in done.stderr
    assert served.error("predict", "echo", "one", "--stream")[0] == 1


def test_bench_counts_every_request(served, tmp_path):
    plot = tmp_path / "curve.png"
    measured = served.json("bench", "double", "-c", "1,4", "--duration", "0.5", "--plot", plot)
    assert [level["concurrency"] for level in measured["levels"]] == [1, 4]
    for level in measured["levels"]:
        assert level["requests"] > 0 and level["errors"] == 0
        assert level["rows_per_batch"] >= 1
        assert level["latency_ms"]["p50"] <= level["latency_ms"]["p99"] <= level["latency_ms"]["p100"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    table = served.ok("bench", "echo", "-c", "2", "--duration", "0.2", "--input", "hello").splitlines()
    assert table[0].split()[:3] == ["IN", "FLIGHT", "REQ/S"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["missing"], 4),
        (["double", "-c", "0"], 2),
        (["double", "-c", "one"], 2),
        (["faulty"], 2),
        (["double", "--input", "[1]"], 1),
    ],
)
def test_bench_refuses_what_it_cannot_measure(served, arguments, code):
    assert served("bench", *arguments, "--duration", "0.1").returncode == code


def test_backends(served):
    assert {"onnx", "python", "sklearn"} <= {b["name"] for b in served.json("backend", "list")["backends"]}
    assert "onnx" in served.ok("backend", "list")


def test_backends_without_a_server(cli, tmp_path):
    metadata = tmp_path / "hungry-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hungry\nVersion: 1.5\n")
    (metadata / "entry_points.txt").write_text("[unimodel.backends]\nhungry = hungry:Hungry\ngone = nowhere:Gone\n")
    (tmp_path / "hungry.py").write_text(
        "from backends.onnx import OnnxBackend\n"
        "class Hungry(OnnxBackend):\n"
        "    name, package, extra = 'hungry', 'no_such_runtime', 'torch'\n"
    )
    done = cli("backend", "list", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0
    assert "No server runs" in done.stderr
    rows = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
    assert rows["python"][:4] == ["built", "in", "-", "cpu"]
    assert "gone: nowhere:Gone of hungry cannot be imported: ModuleNotFoundError" in done.stdout
    assert "hungry needs no_such_runtime. Install it with: pip install 'unimodel[torch]'" in done.stdout
    answer = cli.json("backend", "list")
    assert {"onnx", "python", "sklearn"} <= {b["name"] for b in answer["backends"]}


def test_a_chat_template_comes_from_its_file(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    assert text_of_file(str(template), "--chat-template") == "{{ messages[0]['content'] }}"
    with pytest.raises(UsageError, match=r"--chat-template .*none\.jinja: cannot read the file: No such file"):
        text_of_file(str(tmp_path / "none.jinja"), "--chat-template")


def test_on_and_off_are_words_among_options() -> None:
    settings = ["speculation=off", "flash_attention=on", "isolated=true", "top_k=3"]
    assert nested(settings) == {"speculation": "off", "flash_attention": "on", "isolated": True, "top_k": 3}
