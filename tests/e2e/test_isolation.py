"""Models with a process, and perhaps an environment, of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

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
