"""Settings and the doctor."""

import json
from pathlib import Path

import pytest

from engine.settings import TABLE, load


def test_show_names_the_source_of_each_value_without_a_server(cli, tmp_path):
    file = tmp_path / "unimodel.yaml"
    file.write_text("server:\n  port: 9001\n")
    view = cli.json("config", "show", "--config", file, env={"UNIMODEL_ENGINE_MAX_MODELS": "2"})
    sources = {s["key"]: (s["value"], s["source"]) for s in view["settings"]}
    assert set(sources) == set(TABLE)
    assert sources["server.port"] == (9001, f"file {file}")
    assert sources["engine.max_models"] == (2, "env UNIMODEL_ENGINE_MAX_MODELS")
    assert sources["server.host"] == ("127.0.0.1", "default")


def test_show_of_the_running_server(served):
    changed = served.json("config", "show", "--changed")["settings"]
    assert [(s["key"], s["source"]) for s in changed] == [("server.port", "flag --port")]
    assert "server.port" in served.ok("config", "show", "--changed")


def test_show_says_when_it_does_not_ask_a_server(cli):
    done = cli("config", "show")
    assert done.returncode == 0
    assert "No server runs" in done.stderr
    assert cli("config", "show", "--changed").stdout == ""


@pytest.mark.parametrize(("text", "problem"), [("server: {prot: 1}", "server.port"), ("a: [", "not valid YAML")])
def test_a_bad_file_is_a_usage_error(cli, tmp_path, text, problem):
    (tmp_path / "bad.yaml").write_text(text)
    code, error = cli.error("config", "show", "--config", tmp_path / "bad.yaml")
    assert code == 2
    assert problem in error["message"]


def test_init_writes_a_file_that_is_valid_and_changes_nothing(cli, tmp_path):
    cli.ok("config", "init", cwd=tmp_path)
    file = tmp_path / "unimodel.yaml"
    assert load(file, environ={})[0] == load(environ={})[0]
    text = file.read_text()
    assert all(f"  # {key.partition('.')[2]}: " in text for key in TABLE)
    uncommented = "\n".join(line.replace("  # ", "  ", 1) if ": " in line else line for line in text.splitlines())
    (tmp_path / "all.yaml").write_text("\n".join(x for x in uncommented.splitlines() if _is_setting(x)))
    assert load(tmp_path / "all.yaml", environ={})[0] == load(environ={})[0]
    assert cli.error("config", "init", cwd=tmp_path)[0] == 1
    assert cli.ok("config", "init", "--force", cwd=tmp_path)


def _is_setting(line: str) -> bool:
    name = line.strip().partition(":")[0]
    return name in {key.partition(".")[2] for key in TABLE} | {key.partition(".")[0] for key in TABLE}


def test_path(cli):
    paths = cli.json("config", "path")
    assert paths["home"] == str(cli.home)
    assert paths["config"] is None
    assert Path(paths["log"]).is_relative_to(cli.home)
    assert str(cli.home) in cli.ok("config", "path")


def checks(cli, *arguments, code=0, **options) -> dict[str, dict]:
    done = cli("doctor", "--json", *arguments, **options)
    assert done.returncode == code, done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] is (code == 0)
    return {c["name"]: c for c in report["checks"]}


def test_the_doctor_of_a_running_server(served):
    found = checks(served)
    assert {"python", "server", "port", "home", "disk", "shared memory", "open files", "clock"} <= set(found)
    assert found["server"]["state"] == found["port"]["state"] == found["backend onnx"]["state"] == "ok"
    assert "could not be checked" not in json.dumps(found)


def test_the_doctor_without_a_server_says_what_to_do(cli, free_port):
    env = {"UNIMODEL_SERVER_PORT": str(free_port)}
    found = checks(cli, env=env)
    assert (found["server"]["state"], found["server"]["advice"]) == ("warn", "unimodel start")
    assert found["extra onnx"]["state"] == "ok"
    assert found["port"]["found"] == f"{free_port} on 127.0.0.1 is free"
    assert "-> unimodel start" in cli.ok("doctor", env=env)


def test_the_doctor_finds_what_would_stop_a_server(cli, taken_port, tmp_path):
    (tmp_path / "file").touch()
    found = checks(
        cli, "--home", tmp_path / "file" / "home", code=1, env={"UNIMODEL_SERVER_PORT": str(taken_port)}
    )  # fmt: skip
    assert found["port"]["state"] == found["home"]["state"] == "fail"
    assert all(c["advice"] for c in found.values() if c["state"] != "ok")
    found = checks(cli, code=1, env={"UNIMODEL_SERVER_PRT": "1"})
    assert "UNIMODEL_SERVER_PORT" in found["settings"]["found"]
