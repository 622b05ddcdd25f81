"""A real server process, and the models that the end-to-end tests serve on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import onnx
import psutil
from onnx import TensorProto, helper

PLUGIN = '''
import os, time
from unimodel.plugins import BasePlugin, InvalidInput


class Model(BasePlugin):
    """Does what its input says."""

    options = {"blocker": ""}

    def load_model(self, config):
        while config.blocker and os.path.exists(config.blocker):
            time.sleep(0.02)

    def predict(self, input_data):
        wish = input_data.get("input")
        if isinstance(wish, dict):
            if "log" in wish:
                with open(wish["log"], "a") as file:
                    file.write(str(wish.get("id")) + "\\n")
            time.sleep(wish.get("sleep", 0))
            while os.path.exists(wish.get("blocker", "")):
                time.sleep(0.01)
            if wish.get("abort"):
                os.abort()
            if "raise" in wish:
                raise RuntimeError(wish["raise"])
            if "refuse" in wish:
                raise InvalidInput(wish["refuse"], field="input.refuse")
        return {"output": wish, "pid": os.getpid()}

    def stream(self, input_data):
        try:
            if "log" in input_data:
                with open(input_data["log"], "a") as file:
                    file.write("begun\\n")
            for i in range(input_data.get("count", 3)):
                if i == input_data.get("fail_at"):
                    raise RuntimeError("in the middle")
                time.sleep(input_data.get("pause", 0))
                yield {"number": i, "filler": "x" * input_data.get("bytes", 0)}
        finally:
            if "closed" in input_data:
                open(input_data["closed"], "w").close()


class AbortOnLoad(BasePlugin):
    def load_model(self, config):
        os.abort()

    def predict(self, input_data):
        return {}
'''


class Server:
    """``python -m engine`` on a free port, with its output in a file."""

    def __init__(
        self,
        home: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.home = home
        self.flags = flags
        self.log = log or home.parent / f"{home.name}.log"
        self.env = env or {}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.launch()
        deadline = time.monotonic() + 30
        while not self._announced():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.url = json.loads((self.home / "server.json").read_text())["url"]
        self.http.base_url = httpx.URL(self.url)
        return self

    def _announced(self) -> bool:
        """Whether this very process has said where it listens; a killed one leaves its file behind."""
        file = self.home / "server.json"
        return self.process is not None and file.exists() and json.loads(file.read_text())["pid"] == self.process.pid

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the process without waiting for it."""
        command = [sys.executable, "-m", "engine", "--home", str(self.home), "--port", "0", *self.flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
            )
        self.http = httpx.Client(timeout=60)
        return self.process

    def __exit__(self, *_: object) -> None:
        self.http.close()
        if self.process is None:
            return
        workers = self.worker_pids() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the server did not stop: {self.log.read_text()[-2000:]}") from None
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def worker_pids(self) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [p.pid for p in psutil.Process(self.pid).children()]
        return []

    def kill_workers(self) -> None:
        for pid in self.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def register(self, name: str, path: Path | str, status: int = 201, **fields: Any) -> dict[str, Any]:
        """Registers a model, and checks the answer's status."""
        body = {"name": name, "model_path": str(path), **fields}
        return checked(self.http.post("/v1/models", json=body), status)

    def predict(self, name: str, body: Any, status: int = 200, **headers: str) -> dict[str, Any]:
        """A JSON prediction, and a check of its status. Underscores in header names stand for dashes."""
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        return checked(self.http.post(f"/v1/models/{name}:predict", json=body, headers=names), status)

    def get(self, path: str, status: int = 200) -> dict[str, Any]:
        return checked(self.http.get(path), status)

    def connect(self, timeout: float = 20) -> socket.socket:
        """A bare connection to the server."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout)

    def status(self, name: str) -> dict[str, Any]:
        return self.get(f"/v1/models/{name}/status")


class Load:
    """Clients that send distinct rows to a doubler without pause, and count what comes back."""

    def __init__(self, server: Server, name: str = "double", clients: int = 8) -> None:
        self.url = f"{server.url}/v1/models/{name}:predict"
        self._answers = [0] * clients
        self.failures: list[str] = []
        """What the server answered instead."""
        self.broken: list[httpx.TransportError] = []
        """Connections that could not be made, or ended without an answer."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: min(self._answers) > 2, 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """Right answers so far."""
        return sum(self._answers)

    def answered_anew(self) -> None:
        """Waits until each client has had another answer, so that none has a request that a kill has hit already."""
        before = list(self._answers)
        wait_until(lambda: all(now > then for now, then in zip(self._answers, before, strict=True)), 30)

    def _run(self, client: int) -> None:
        number = 0
        with httpx.Client(timeout=30) as http:
            while not self._stop.is_set():
                number += 1
                row = [float(client), float(number), 0.0, 1.0]
                try:
                    answer = http.post(self.url, json={"input": row})
                except httpx.TransportError as e:
                    self.broken.append(e)
                    return
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                elif answer.json()["output"] == [2 * x for x in row]:
                    self._answers[client] += 1
                else:
                    self.failures.append(f"swapped: {row} {answer.text}")

    def check(self) -> None:
        """Raises unless every request was answered, and rightly."""
        assert self.failures == []
        assert self.broken == []


class Blocked:
    """Keeps the plugin `name` computing, so that what comes next has to wait."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.blocker = server.home.parent / f"{name}.blocker"
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        body = {"input": {"blocker": str(self.blocker)}}
        checked(httpx.post(f"{self.server.url}/v1/models/{self.name}:predict", json=body, timeout=60), 200)

    def __enter__(self) -> Blocked:
        self.blocker.touch()
        self._thread.start()
        self.wait_for(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.blocker.unlink()
        self._thread.join()

    def wait_for(self, number: int) -> None:
        """Waits until so many requests are under way, the blocking one among them."""
        wait_until(lambda: self.server.status(self.name)["in_flight"] == number)


def checked(response: httpx.Response, status: int) -> dict[str, Any]:
    """The JSON body, if the status is the expected one."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["x-request-id"]
    body: dict[str, Any] = response.json()
    if status >= 400:
        assert body["error"]["request_id"] == response.headers["x-request-id"]
        assert "Traceback" not in response.text
    return body


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def plugin(folder: Path) -> str:
    """The path of a plugin that does what its input says."""
    file = folder / "obedient.py"
    file.write_text(PLUGIN)
    return f"{file}:Model"


def onnx_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, tuple[int, list[int | str]]],
    constants: tuple[onnx.TensorProto, ...] = (),
) -> Path:
    """Writes an ONNX model."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


FLOAT = TensorProto.FLOAT


def doubler(path: Path, batch: int | str = "batch") -> Path:
    """``y = 2x`` over rows of four numbers."""
    two = helper.make_tensor("two", FLOAT, [], [2.0])
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    return onnx_model(path, [node], {"x": (FLOAT, [batch, 4])}, {"y": (FLOAT, [batch, 4])}, (two,))
