"""Models with a process, and perhaps an environment, of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from serving import Server, wait_until

from tests import environments

PLUGIN = """
import importlib.util, os, sys
import only_there
from unimodel.plugins import BasePlugin

class Model(BasePlugin):
    options = {"factor": 1}
    example = {"input": "x"}

    def load_model(self, config):
        self.factor = config.factor

    def predict(self, body):
        return self.predict_batch([body])[0]

    def predict_batch(self, inputs):
        return [{
            "output": body["input"], "answer": only_there.ANSWER * self.factor, "prefix": sys.prefix,
            "pid": os.getpid(), "httpx": importlib.util.find_spec("httpx") is not None,
        } for body in inputs]

    def stream(self, body):
        for word in body["input"].split():
            yield {"output": word}
"""


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.with_what_a_worker_needs(tmp_path_factory.mktemp("environments") / "venv")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("plugins") / "elsewhere.py"
    file.write_text(PLUGIN)
    return f"{file}:Model"


def test_a_plugin_runs_in_its_own_environment(server: Server, venv: Path, target: str) -> None:
    """Small bodies in messages, large ones in shared memory, streams; and again when its process was killed."""
    assert "only_there" in server.register("here", target, 422, trust=True)["error"]["message"]
    config = {"isolated": True, "python": str(venv), "factor": 2}
    server.register("elsewhere", target, trust=True, config=config)
    answer = server.predict("elsewhere", {"input": "x"})
    assert (answer["answer"], answer["prefix"], answer["httpx"]) == (84, str(venv), False)
    text = "x" * 300_000
    assert server.predict("elsewhere", {"input": text})["output"] == text
    with server.http.stream("POST", "/v1/models/elsewhere:predict", json={"input": "a b", "stream": True}) as response:
        assert [line for line in response.iter_lines() if line][-1] == "data: [DONE]"
    os.kill(answer["pid"], signal.SIGKILL)
    again = server.predict("elsewhere", {"input": "x"})
    assert (again["answer"], again["prefix"]) == (84, str(venv))
    assert again["pid"] != answer["pid"]
    server.http.delete("/v1/models/elsewhere")
    wait_until(lambda: not any("elsewhere" in w["name"] for w in server.get("/v1/status")["workers"]))


def test_what_cannot_be_is_said_before_anything_runs(server: Server, venv: Path, target: str, tmp_path: Path) -> None:
    error = server.register("m", target, 400, trust=True, config={"python": str(venv)})["error"]
    assert (error["code"], error["param"]) == ("invalid_option", "config.python")
    assert "set isolated=true, too" in error["message"]
    trap = tmp_path / "python"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    trap.chmod(0o755)
    config = {"isolated": True, "python": str(trap)}
    assert server.register("m", target, 403, config=config)["error"]["code"] == "untrusted_model"
    from tests import models

    error = server.register("m", models.silero(), 403, config=config)["error"]
    assert (error["code"], error["param"]) == ("untrusted_model", "trust")
    assert str(trap) in error["message"]
    assert not (tmp_path / "ran").exists()
    error = server.register("m", target, 400, trust=True, config=config)["error"]
    assert (error["code"], error["param"]) == ("invalid_option", "config.python")
    assert "is not a Python interpreter" in error["message"]
    assert server.get("/v1/models")["data"] == []
    assert len(server.get("/v1/status")["workers"]) == 1


# --- limits ----------------------------------------------------------------------------------------------------------

GLUTTON = """
import os, subprocess, time
from unimodel.plugins import BasePlugin

class Model(BasePlugin):
    options = {"at_load": 0}

    def load_model(self, config):
        self.kept = [bytes(1) * (config.at_load << 20)]

    def take(self, body):
        if "child" in body:
            child = subprocess.Popen(["sleep", "600"])
            with open(body["child"], "w") as file:
                file.write(str(child.pid))
        if body.get("abort"):
            os.abort()
        self.kept.append(b"x" * (body.get("mb", 0) << 20))
        time.sleep(body.get("sleep", 0))
        return {"pid": os.getpid(), "times": len(self.kept) - 1}

    def predict(self, body):
        return self.take(body)

    def stream(self, body):
        yield {"begun": True}
        yield self.take(body)
"""
LIMIT = "200MiB"


@pytest.fixture(scope="module")
def glutton(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("plugins") / "glutton.py"
    file.write_text(GLUTTON)
    server.register("neighbour", f"{file}:Model", trust=True)
    server.register("glutton", f"{file}:Model", trust=True, config={"isolated": True, "memory_limit": LIMIT})
    return str(file)


@pytest.mark.usefixtures("glutton")
def test_a_leak_costs_a_process_now_and_then_but_no_request(server: Server) -> None:
    neighbour = server.predict("neighbour", {})["pid"]
    answers = [server.predict("glutton", {"mb": 40, "sleep": 0.3}) for _ in range(8)]
    assert len({a["pid"] for a in answers}) > 1
    assert max(a["times"] for a in answers) < 6, "more than the limit was never held"
    assert server.predict("neighbour", {})["pid"] == neighbour


@pytest.mark.usefixtures("glutton")
def test_a_request_that_takes_too_much_is_told_so(server: Server) -> None:
    error = server.predict("glutton", {"mb": 500, "sleep": 20}, 507)["error"]
    assert error["code"] == "insufficient_memory"
    assert "Model 'glutton' took " in error["message"]
    assert "more than its memory_limit of 200 MiB" in error["message"]
    assert server.predict("glutton", {})["times"] == 1
    assert "model exceeds its memory_limit" in server.log.read_text()


@pytest.mark.usefixtures("glutton")
def test_a_stream_that_takes_too_much_is_told_so(server: Server) -> None:
    body = {"mb": 500, "sleep": 20, "stream": True}
    with server.http.stream("POST", "/v1/models/glutton:predict", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert "begun" in lines[0]
    assert "insufficient_memory" in lines[-1] and "200 MiB" in lines[-1]


def test_a_model_that_takes_too_much_at_load_is_not_registered(server: Server, glutton: str) -> None:
    config = {"isolated": True, "memory_limit": 150 << 20, "at_load": 1000}
    error = server.register("greedy", f"{glutton}:Model", 507, trust=True, config=config)["error"]
    assert error["code"] == "insufficient_memory"
    assert "Model 'greedy' took " in error["message"]
    assert "memory_limit of 150 MiB" in error["message"]
    wait_until(lambda: not any("greedy" in w["name"] for w in server.get("/v1/status")["workers"]))
    error = server.register("greedy", f"{glutton}:Model", 400, trust=True, config={"memory_limit": "1GiB"})["error"]
    assert error["param"] == "config.memory_limit"


def test_what_a_process_started_ends_with_it(server: Server, glutton: str, tmp_path: Path) -> None:
    """However it ends: crashed, taken for hung, or unloaded."""

    def child() -> int:
        return int((tmp_path / "child").read_text())

    body = {"child": str(tmp_path / "child")}
    server.predict("glutton", {**body, "abort": True}, 502)
    wait_until(lambda: not psutil.pid_exists(child()))
    server.predict("glutton", body)
    assert psutil.pid_exists(child())
    server.http.post("/v1/models/glutton:unload")
    wait_until(lambda: not psutil.pid_exists(child()))
    with Server(tmp_path / "home", "--hang-timeout-s", "1") as other:
        other.register("hangs", f"{glutton}:Model", trust=True, config={"isolated": True})
        other.predict("hangs", {**body, "sleep": 600}, 502)
        wait_until(lambda: not psutil.pid_exists(child()))
