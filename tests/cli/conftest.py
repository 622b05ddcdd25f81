"""Runs the real command as a process of its own, against a real server, or a stand-in for what one seldom does."""

import contextlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests import models
from unimodel_cli import main

COMMAND = [sys.executable, "-m", "unimodel_cli"]
OWN_PROCESS = ("serve", "start", "restart", "completion")
"""Commands that become another process, leave one behind, or end their own."""
PLUGINS = Path(__file__).parents[1] / "plugins"
PATIENCE = 60


@dataclass
class Cli:
    """Runs commands with a home folder of their own."""

    home: Path
    host: str | None = None

    @property
    def env(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("UNIMODEL_") and k != "NO_COLOR"}
        return env | {"UNIMODEL_HOME": str(self.home)} | ({"UNIMODEL_HOST": self.host} if self.host else {})

    def __call__(
        self,
        *arguments: object,
        input: str | bytes | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """One command from its start to its end, in this process where that makes no difference, since starting Python
        takes longer than most of them. Without `input`, stdin is empty."""
        words = [str(argument) for argument in arguments]
        stdin = input.encode() if isinstance(input, str) else input or b""
        environ = self.env | (env or {})
        if any(word in OWN_PROCESS for word in words):
            done = subprocess.run(
                [*COMMAND, *words], input=stdin, capture_output=True, env=environ, timeout=PATIENCE, cwd=cwd
            )
            return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())
        return run_here(words, stdin, environ, cwd)

    def ok(self, *arguments: object, **options: Any) -> str:
        """The stdout of a command that must succeed."""
        done = self(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: object, **options: Any) -> Any:
        """The one JSON value that a command must print with ``--json``, and nothing else."""
        done = self(*arguments, "--json", **options)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    def error(self, *arguments: object, **options: Any) -> tuple[int, dict[str, Any]]:
        """Exit code and error of a command that must fail, from its JSON on stderr."""
        done = self(*arguments, "--json", **options)
        assert done.stdout == "", done.stdout
        assert done.returncode != 0
        return done.returncode, json.loads(done.stderr)["error"]

    def popen(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """A command that runs on, with pipes for its output."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env, **options
        )


def run_here(
    words: list[str], stdin: bytes, environ: dict[str, str], cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    """One command in this process, with standard streams, environment and working directory of its own."""
    with (
        tempfile.TemporaryFile() as file,
        contextlib.chdir(cwd or Path.cwd()),
        unittest.mock.patch.dict(os.environ, environ, clear=True),
        io.TextIOWrapper(file) as text,
        unittest.mock.patch.multiple(sys, stdin=text, stdout=io.TextIOWrapper(io.BytesIO()), stderr=io.StringIO()),
    ):
        file.write(stdin)
        file.seek(0)
        code = main.run(words)
        sys.stdout.flush()
        stdout, stderr = sys.stdout.buffer.getvalue(), sys.stderr.getvalue()
    return subprocess.CompletedProcess(words, code, stdout.decode(), stderr)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """Commands with a fresh home. A server that a test leaves behind is stopped."""
    cli = Cli(tmp_path / "home")
    yield cli
    if (cli.home / "server.lock").exists():
        cli("stop", "--timeout", "1", "--force")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Commands against one real server for all tests, which serves the test plugins and a tiny ONNX model."""
    folder = tmp_path_factory.mktemp("served")
    cli = Cli(folder / "home")
    cli.ok("start", "--port", "0")
    cli.ok("register", "echo", f"{PLUGINS / 'echo.py'}:BatchEcho", "--trust")
    cli.ok("register", "words", f"{PLUGINS / 'echo.py'}:StreamEcho", "--trust")
    cli.ok("register", "faulty", f"{PLUGINS / 'faulty.py'}:AbortOnRequest", "--trust")
    cli.ok("register", "parrot", f"{PLUGINS / 'parrot.py'}:Parrot", "--trust")
    cli.ok("register", "double", double_model(folder))
    yield cli
    cli.ok("stop", "--timeout", "10", "--force")


@pytest.fixture(scope="session")
def smol(served: Cli) -> str:
    """The name of a small LLM that the server of `served` serves."""
    if importlib.util.find_spec("llama_cpp") is None:  # importing it here would be slow
        pytest.skip("llama-cpp-python is not installed")
    served.ok("register", "smol", models.model("smollm2", "model.gguf"), "--set", "max_context_length=2048")
    return "smol"


def double_model(folder: Path) -> Path:
    """An ONNX model that doubles rows of three numbers."""
    import onnx
    from onnx import TensorProto, helper

    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", rows[:1], rows[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "double.onnx"
    onnx.save(model, path)
    return path


def model_view(name: str = "m", **changes: Any) -> dict[str, Any]:
    """A model as the server describes it."""
    batching = {"enabled": True, "max_batch_size": 32, "max_batch_wait_ms": 50.0, "dynamic_padding": True}
    view = {
        "id": name, "created": 1, "name": name, "version": 1, "versions": [1], "aliases": [], "backend": "onnx",
        "task": "tensor", "state": "ready", "path": "/m.onnx", "sha256": "0" * 64, "size_bytes": 1, "config": {},
        "trusted": False, "runtime": "onnxruntime", "device": "cpu", "inputs": [], "outputs": [], "labels": 0,
        "streams": False, "batching": batching, "notes": [],
    }  # fmt: skip
    return view | changes


def error_response(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
    """An error as the server sends it."""
    error = {"code": code, "message": f"It is {code}.", "type": "server_error"}
    return JSONResponse({"error": error}, status, headers)


Predict = Callable[[Request, Any], Any]


class StandIn:
    """A server whose answers a test writes: `predict` gets the request and its JSON body, and returns a `Response`
    or a value that becomes the ``output``. It says that it serves the model ``m``."""

    def __init__(self, predict: Predict, view: dict[str, Any], more: list[Route]) -> None:
        self.in_flight = 0
        self.most_in_flight = 0
        self.requests = 0

        async def answer(request: Request) -> Response:
            self.in_flight += 1
            self.requests += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                result = predict(request, json.loads(await request.body()))
                result = await result if hasattr(result, "__await__") else result
            finally:
                self.in_flight -= 1
            if isinstance(result, Response):
                return result
            return JSONResponse({"model": "m", "version": 1, "output": result})

        async def models(_: Request) -> Response:
            return JSONResponse({"object": "list", "data": [view]})

        async def model(_: Request) -> Response:
            return JSONResponse(view)

        routes = [
            Route("/v1/models", models),
            Route("/v1/models/m:predict", answer, methods=["POST"]),
            Route("/v1/models/m", model),
            *more,
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stops it, and closes its connections."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def stand_in() -> Iterator[Callable[..., StandIn]]:
    """Makes stand-ins: ``stand_in(predict, routes, **changes to the model's view)``."""
    made: list[StandIn] = []

    def make(predict: Predict, routes: Sequence[Route] = (), **changes: Any) -> StandIn:
        made.append(StandIn(predict, model_view(**changes), list(routes)))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which something else listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
