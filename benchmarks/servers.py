"""The systems that the workloads compare: UniModel, its peers, and the bare floors. Each serves the same model files
with the same threads, and is ready when every model that it serves has given its right answer."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks import dialects, environments, harness, load
from benchmarks.dialects import Call, Served
from benchmarks.environments import Environment
from benchmarks.peers import compute
from benchmarks.processes import Process, free_port

HERE = Path(__file__).parent
MAX_BODY_BYTES = 256 << 20


@dataclass(frozen=True)
class Running:
    """A started server that has given the right answer for each of its models."""

    port: int
    process: Process
    call: Callable[[Served], Call]


class System(harness.System, Protocol):
    """Something that serves predictions."""

    def start(self, served: Sequence[Served], threads: int, folder: Path) -> Running:
        """Starts it; its files go into `folder`. Raises `StartFailed`, `PeerMissing` or `WrongAnswer`."""
        ...


@contextmanager
def started(system: System, served: Sequence[Served], threads: int, folder: Path) -> Iterator[Running]:
    """`system` for as long as the block lasts."""
    server = system.start(served, threads, folder)
    try:
        yield server
    finally:
        server.process.stop()


@contextmanager
def running(system: System, served: Sequence[Served], threads: int, folder: Path) -> Iterator[Running]:
    """`system` for as long as the block lasts, its answers checked before and after."""
    with started(system, served, threads, folder) as server:
        _check(server, served)
        yield server
        _check(server, served)


def _check(server: Running, served: Sequence[Served]) -> None:
    for each in served:
        load.check(server.port, server.call(each), dialects.expected(each))


def wait_answering(server: Running, served: Sequence[Served]) -> None:
    """Waits until each model answers with 200; stops the server and raises when it ends or takes too long."""
    try:
        for each in served:
            call = server.call(each)
            while _status(server.port, call) != 200:
                server.process.check_alive()
                time.sleep(0.02)
    except BaseException:
        server.process.stop()
        raise


def _status(port: int, call: Call) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", call.path, call.body, dict(call.headers))
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A POST of JSON to UniModel. Raises `WrongAnswer` when it is not answered with 2xx."""
    answer: dict[str, Any] = json.loads(_exchange(port, "POST", path, json.dumps(body)))
    return answer


def delete(port: int, path: str) -> None:
    """A DELETE at UniModel. Raises `WrongAnswer` when it is not answered with 2xx."""
    _exchange(port, "DELETE", path)


def _exchange(port: int, method: str, path: str, body: str | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.status >= 300:
        raise load.WrongAnswer(f"{method} {path} was answered with {response.status}: {data[:500]!r}")
    return data


class UniModel:
    """This repository's server, with its default settings but for the thread count and the port."""

    name = "unimodel"

    def versions(self) -> dict[str, str]:
        names = ("unimodel", "uvicorn", "uvloop", "httptools", "numpy", "onnxruntime", "scikit-learn")
        return {"python": sys.version.split()[0], **{name: version(name) for name in names}}

    def start(self, served: Sequence[Served], threads: int, folder: Path) -> Running:
        server = self.start_empty(threads, folder)
        try:
            for request in self.registrations(served):
                post(server.port, "/v1/models", request)
        except BaseException:
            server.process.stop()
            raise
        wait_answering(server, served)
        return server

    def registrations(self, served: Sequence[Served]) -> list[dict[str, Any]]:
        """How each model is registered."""
        return registrations(served)

    def start_empty(self, threads: int, folder: Path) -> Running:
        """Starts it with whatever is registered in `folder`, and waits until it is ready."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "engine", "--home", str(folder), "--port", "0", "--cpu-threads", str(threads)]
        process = Process(command, folder / "server.txt")
        state = folder / "server.json"
        try:
            while not state.exists():
                process.check_alive()
                time.sleep(0.005)
            port = int(json.loads(state.read_text())["port"])
            process.wait_ready(port, "/readyz")
        except BaseException:
            process.stop()
            raise
        return Running(port, process, dialects.unimodel)


def registrations(served: Sequence[Served]) -> list[dict[str, Any]]:
    """The bodies of ``POST /v1/models``: each model once, whatever the kinds of input it is served for."""
    requests: dict[str, dict[str, Any]] = {}
    for each in served:
        config: dict[str, Any] = {"batching": {"max_batch_size": each.max_batch_size}}
        if each.model.is_image:
            mean, std = compute.MEAN.tolist(), compute.STD.tolist()
            config["preprocess"] = {"size": 224, "resize": 256, "interpolation": "bilinear", "mean": mean, "std": std}
        path = str(each.model.path)
        request = {"name": each.model.name, "model_path": path, "config": config, "trust": each.model.trust}
        requests[each.model.name] = request
    return list(requests.values())


@dataclass(frozen=True)
class Peer:
    """Another server, run by its script in `peers/` with the interpreter of its own environment."""

    name: str
    environment: Environment
    script: str
    dialect: Callable[[Served], Call]
    flags: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    """What it takes as a request to end in order."""

    def versions(self) -> dict[str, str]:
        names = [p.partition("=")[0].partition("<")[0] for p in self.environment.packages + self.environment.runtimes]
        installed = self.environment.versions()
        return {name: installed[name] for name in [*names, "numpy", "uvicorn"] if name in installed}

    def start(self, served: Sequence[Served], threads: int, folder: Path) -> Running:
        server = self.spawn(served, threads, folder)
        wait_answering(server, served)
        return server

    def spawn(self, served: Sequence[Served], threads: int, folder: Path) -> Running:
        """Starts it without waiting. Raises `PeerMissing`."""
        folder.mkdir(parents=True, exist_ok=True)
        interpreter = self.environment.ensure()
        port = free_port()
        command = [str(interpreter), str(HERE / "peers" / self.script), "--port", str(port), "--threads", str(threads)]
        for each in served:
            shape = "x".join(map(str, each.model.shape)) if each.model.is_image else "-1"
            command += ["--serve", f"{each.model.name}:{each.kind}:{shape}:{each.max_batch_size}:{each.model.path}"]
        log, env = folder / f"{self.name}.txt", {"TMPDIR": str(folder)}
        process = Process([*command, *self.flags], log, env, self.stop_signal)
        return Running(port, process, self.dialect)


_MOSEC_FLAGS = ("--address", "127.0.0.1", "--log-level", "error", "--max-request-size", str(MAX_BODY_BYTES))

PEERS: tuple[Peer, ...] = (
    Peer("mosec", environments.MOSEC, "mosec_server.py", dialects.plain, _MOSEC_FLAGS),
    Peer("mosec+msgspec", environments.MOSEC, "mosec_server.py", dialects.plain, (*_MOSEC_FLAGS, "--msgspec")),
    Peer("triton", environments.PYTRITON, "triton_server.py", dialects.triton, stop_signal=signal.SIGINT),
    Peer("litserve", environments.LITSERVE, "litserve_server.py", dialects.plain, stop_signal=signal.SIGINT),
    Peer("mlserver", environments.MLSERVER, "mlserver_server.py", dialects.mlserver),
)

TEXT_PEERS: tuple[Peer, ...] = (
    Peer("mosec", environments.MOSEC_TEXTS, "mosec_server.py", dialects.plain, _MOSEC_FLAGS),
    Peer("mosec+msgspec", environments.MOSEC_TEXTS, "mosec_server.py", dialects.plain, (*_MOSEC_FLAGS, "--msgspec")),
    Peer("litserve", environments.LITSERVE_TEXTS, "litserve_server.py", dialects.plain, stop_signal=signal.SIGINT),
    Peer("mlserver", environments.MLSERVER_TEXTS, "mlserver_server.py", dialects.mlserver),
)
"""Those that embed texts, with transformers. Triton's Python stub is of another Python than the environments'."""


class Unbatched(UniModel):
    """The same server, told to compute each row alone."""

    name = "unimodel unbatched"

    def registrations(self, served: Sequence[Served]) -> list[dict[str, Any]]:
        return registrations([replace(each, max_batch_size=1) for each in served])


class Echo:
    """A bare uvicorn ASGI application (uvloop, httptools) that sends each body back."""

    name = "uvicorn echo"

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("uvicorn", "uvloop", "httptools")}

    def start(self, served: Sequence[Served], threads: int, folder: Path) -> Running:  # noqa: ARG002
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "echo_app:app", "--app-dir", str(HERE / "peers")]
        command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
        process = Process([*command, "--no-access-log", "--log-level", "warning"], folder / "echo.txt")
        server = Running(port, process, dialects.echo)
        wait_answering(server, served)
        return server


@dataclass(frozen=True)
class Floor:
    """`peers/floor_server.py` in this environment: what transport, one copy and the model itself cost."""

    name: str
    with_model: bool

    def versions(self) -> dict[str, str]:
        return {}

    def start(self, served: Sequence[Served], threads: int, folder: Path) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        (each,) = served
        port = free_port()
        command = [sys.executable, str(HERE / "peers" / "floor_server.py"), "--port", str(port)]
        command += ["--threads", str(threads), "--model", str(each.model.path), "--bytes", str(each.model.row().nbytes)]
        process = Process([*command, *([] if self.with_model else ["--no-model"])], folder / "floor.txt")
        server = Running(port, process, dialects.floor)
        wait_answering(server, served)
        return server


FLOORS = (Floor("memcpy bound", with_model=True), Floor("bare transport", with_model=False))

NAMES = (UniModel.name, Unbatched.name, *(peer.name for peer in PEERS), Echo.name, *(floor.name for floor in FLOORS))
"""Every system by the name that results and ``--systems`` have for it."""
