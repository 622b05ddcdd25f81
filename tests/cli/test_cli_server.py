"""The life of the server on this machine, as the commands see it. Every server here is real."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import PLUGINS
from unimodel_cli.home import Home


def test_a_whole_life(cli):
    started = cli.json("start", "--port", "0")
    assert started["already"] is False
    again = cli("start")
    assert again.returncode == 0
    assert f"runs already at {started['url']} (pid {started['pid']})" in again.stdout
    status = cli.json("status")
    assert (status["state"], status["pid"]) == ("ready", started["pid"])
    assert [w["state"] for w in status["workers"]] == ["ready"]
    page = cli.ok("status")
    assert started["url"] in page and "cpu" in page
    assert cli.json("stop") == {"stopped": True, "pid": started["pid"]}
    assert not Home(cli.home).locked()
    assert cli.json("stop") == {"stopped": False, "pid": None}
    assert cli("status").returncode == 3


def test_many_starts_at_once_make_one_server(cli):
    runs = [cli.popen("start", "--port", "0", "--json") for _ in range(4)]
    answers = [json.loads(run.communicate(timeout=60)[0]) for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert len({a["pid"] for a in answers}) == 1
    assert sum(not a["already"] for a in answers) == 1


def test_restart_keeps_the_flags(cli, free_port):
    first = cli.json("start", "--port", free_port, "--max-models", "3")
    second = cli.json("restart", "--log-level", "debug")
    assert second["url"] == first["url"] and second["pid"] != first["pid"]
    sources = {s["key"]: (s["value"], s["source"]) for s in cli.json("config", "show")["settings"]}
    assert sources["engine.max_models"] == (3, "flag --max-models")
    assert sources["monitoring.log_level"] == ("debug", "flag --log-level")
    assert sources["server.drain_seconds"][1] == "default"


def test_restart_starts_a_server_where_none_runs(cli):
    done = cli("restart", "--port", "0")
    assert done.returncode == 0
    assert "No server was running" in done.stderr


def test_a_crashed_server_is_told_from_one_that_never_ran(cli):
    pid = cli.json("start", "--port", "0")["pid"]
    os.kill(pid, signal.SIGKILL)
    while Home(cli.home).locked():
        time.sleep(0.02)
    code, error = cli.error("list")
    assert code == 3
    assert f"(pid {pid}) ended without being stopped" in error["message"]
    again = cli("start", "--port", "0")
    assert again.returncode == 0
    assert f"(pid {pid}) was killed or crashed" in again.stderr
    assert (cli.home / "logs" / "server.log.1").exists()
    assert cli.json("list") == {"object": "list", "data": []}


def test_a_taken_port(cli, taken_port):
    code, error = cli.error("start", "--port", taken_port)
    assert (code, error["code"]) == (1, "conflict")
    assert f"Port {taken_port}" in error["message"] and "--port" in error["message"]


@pytest.mark.parametrize("command", ["start", "serve", "restart"])
@pytest.mark.parametrize(
    ("arguments", "env", "problem"),
    [
        (["--port", "many"], {}, "server.port must be an integer from 0 to 65535; got 'many' from flag --port"),
        (["--config", "missing.yaml"], {}, "missing.yaml"),
        ([], {"UNIMODEL_SERVER_PROT": "1"}, "Did you mean 'UNIMODEL_SERVER_PORT'?"),
    ],
)
def test_a_bad_setting_is_found_before_anything_starts(cli, command, arguments, env, problem):
    done = cli(command, *arguments, env=env)
    assert done.returncode == 2
    assert problem in done.stderr
    assert not cli.home.exists()


def test_a_setting_that_only_the_server_can_judge(cli):
    """Its reason is printed, with the exit code of a usage error."""
    done = cli("start", "--port", "0", "--host", "203.0.113.1")
    assert done.returncode == 2
    assert "Error: Cannot listen on 203.0.113.1:0" in done.stderr


def test_a_home_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "file").touch()
    code, error = cli.error("start", "--home", tmp_path / "file" / "home")
    assert (code, error["code"]) == (1, "insufficient_storage")
    assert "--home" in error["message"]


def test_a_server_that_dies_while_it_starts_shows_its_last_words(cli):
    """A broken registry is one reason; the log's last lines and the reason are printed."""
    cli.home.mkdir()
    (cli.home / "registry.db").write_bytes(b"this is no database" * 100)
    done = cli("start", "--port", "0")
    assert done.returncode == 1
    assert "Error: " in done.stderr and "registry.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_stop_drains_or_says_that_it_still_does(cli):
    cli.ok("start", "--port", "0")
    cli.ok("register", "m", f"{PLUGINS / 'faulty.py'}:AbortOnRequest", "--trust")
    request = cli.popen("predict", "m", "6")
    url = json.loads((cli.home / "server.json").read_text())["url"]
    while not httpx.get(f"{url}/v1/status").json()["in_flight"]:
        assert request.poll() is None
        time.sleep(0.05)
    code, error = cli.error("stop", "--timeout", "0.5")
    assert (code, error["code"]) == (6, "deadline_exceeded")
    assert "--force" in error["message"]
    stdout, _ = request.communicate(timeout=30)
    assert json.loads(stdout)["output"] == 6, "the accepted request was answered"
    cli.ok("stop")


def test_stop_by_force_ends_a_server_that_hangs(cli):
    pid = cli.json("start", "--port", "0")["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert cli.json("stop", "--timeout", "0.2", "--force") == {"stopped": True, "pid": pid}
    assert not Home(cli.home).locked()


def test_the_foreground_server_stops_at_ctrl_c(cli):
    run = cli.popen("serve", "--port", "0")
    while not (cli.home / "server.json").exists():
        time.sleep(0.05)
    assert Home(cli.home).record().pid == run.pid, "it is the process itself"
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 0
    events = [json.loads(line)["message"] for line in stderr.splitlines()]
    assert "serving" in events and "stopped" in events


def test_logs_are_followed_across_a_restart(cli):
    cli.ok("start", "--port", "0")
    follower = cli.popen("logs", "-f", "-n", "1", "--json")
    follower.stdout.readline()  # it has found the end of the log
    cli.ok("restart")
    seen = []
    while "serving" not in seen:
        seen.append(json.loads(follower.stdout.readline())["message"])
    assert "stopped" in seen
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=20)
    assert follower.returncode == 130


def test_logs_for_people_and_for_programs(cli):
    log = cli.home / "logs" / "server.log"
    log.parent.mkdir(parents=True)
    event = {
        "ts": "2026-01-02T03:04:05.678Z",
        "level": "warning",
        "logger": "x",
        "message": "slow",
        "model": "m",
        "n": 2,
    }
    log.write_text("old\n" + json.dumps(event) + "\nTraceback: no JSON\n")
    assert cli.ok("logs", "-n", "2") == "2026-01-02 03:04:05.678 warning slow  model=m n=2\nTraceback: no JSON\n"
    lines = [json.loads(line) for line in cli.ok("logs", "-n", "2", "--json").splitlines()]
    assert lines == [event, {"message": "Traceback: no JSON"}]
    assert cli.ok("logs", "-n", "0") == ""


def test_no_log(cli):
    code, error = cli.error("logs")
    assert code == 4
    assert "has not been started" in error["message"]


def test_a_folder_named_engine_is_not_run(cli, tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__main__.py").write_text("raise SystemExit('the wrong engine')")
    installed = Path(sys.executable).with_name("unimodel")
    done = subprocess.run([installed, "start", "--port", "0"], cwd=tmp_path, env=cli.env, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_server_for_development_serves_what_is_saved(cli, tmp_path):
    plugin = tmp_path / "model.py"
    source = (PLUGINS / "echo.py").read_text()
    plugin.write_text(source)
    run = cli.popen("serve", "--port", "0", "--dev")
    while not (cli.home / "server.json").exists():
        time.sleep(0.05)
    cli.ok("register", "echo", f"{plugin}:Echo", "--trust")

    def until(text, *arguments):
        deadline = time.monotonic() + 30
        while text not in cli.ok(*arguments):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    plugin.write_text(source.replace("{self.prefix}{input_data", "new {input_data"))
    until("new hello", "predict", "echo", "hello")
    plugin.write_text("import\n")
    until("Reload      its changed files cannot be loaded: model.py cannot be imported: line 1:", "show", "echo")
    until("echo@2 goes on serving; its changed files cannot be loaded: model.py cannot be imported: line 1:", "status")
    assert json.loads(cli.ok("predict", "echo", "hello")) == "new hello"
    (setting,) = [s for s in cli.json("config", "show")["settings"] if s["key"] == "engine.reload"]
    assert (setting["value"], setting["source"]) == (True, "flag --reload")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
