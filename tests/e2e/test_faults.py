"""Workers that die, servers that are stopped or killed, and what becomes of the requests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from serving import Server, doubler, plugin, wait_until


class Load:
    """Clients that send distinct rows without pause, and count what comes back."""

    def __init__(self, server: Server, name: str = "double", clients: int = 8) -> None:
        self.url = f"{server.url}/v1/models/{name}:predict"
        self.stop = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        wait_until(lambda: self.answered > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _run(self, client: int) -> None:
        number = 0
        with httpx.Client(timeout=30) as http:
            while not self.stop.is_set():
                number += 1
                row = [float(client), float(number), 0.0, 1.0]
                try:
                    answer = http.post(self.url, json={"input": row})
                except httpx.TransportError as e:
                    self.failures.append(f"{type(e).__name__}: {e}")
                    return
                if answer.status_code == 200:
                    assert answer.json()["output"] == [2 * x for x in row]
                    self.answered += 1
                else:
                    self.failures.append(answer.text)


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    server.register("double", doubler(folder / "double.onnx"))
    server.register("obedient", plugin(folder), trust=True)
    server.register("apart", plugin(folder), trust=True, config={"isolated": True})
    return server


def test_killed_workers_lose_no_request(served: Server) -> None:
    restarts = served.get("/v1/status")["workers"][0]["restarts"]
    with Load(served) as load:
        for _ in range(3):
            served.kill_workers()
            before = load.answered
            wait_until(lambda before=before: load.answered > before + 100, 20)
    assert load.failures == []
    assert served.get("/v1/status")["workers"][0]["restarts"] > restarts


def test_a_request_that_kills_its_worker_fails_alone(served: Server) -> None:
    with Load(served, clients=4) as load, ThreadPoolExecutor(8) as pool:
        poison = [pool.submit(served.predict, "obedient", {"input": {"abort": True}}, 502) for _ in range(2)]
        others = [pool.submit(served.predict, "obedient", {"input": i}) for i in range(20)]
        assert [f.result()["output"] for f in others] == list(range(20))
        assert {f.result()["error"]["code"] for f in poison} == {"worker_died"}
    assert load.failures == []


def test_an_isolated_model_dies_alone(served: Server) -> None:
    shared = served.predict("obedient", {"input": 1})["pid"]
    own = served.predict("apart", {"input": 1})["pid"]
    assert own != shared
    served.predict("apart", {"input": {"abort": True}}, 502)
    assert served.predict("obedient", {"input": 1})["pid"] == shared
    assert served.predict("apart", {"input": 1})["pid"] != own


def test_a_model_that_kills_its_worker_while_loading(served: Server, tmp_path: Path) -> None:
    target = plugin(tmp_path).replace(":Model", ":AbortOnLoad")
    with Load(served, clients=4) as load:
        error = served.register("fatal", target, 502, trust=True)["error"]
        assert error["code"] == "worker_died"
        assert "SIGABRT" in error["message"]
        wait_until(lambda: served.get("/v1/status")["workers"][0]["state"] == "ready")
    assert load.failures == []
    assert "fatal" not in [m["name"] for m in served.get("/v1/models")["data"]]


def test_a_hung_model_is_replaced(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--hang-timeout-s", "1")
    server.register("obedient", plugin(tmp_path), trust=True)
    pid = server.predict("obedient", {"input": 1})["pid"]
    server.predict("obedient", {"input": {"sleep": 600}}, 504, x_request_timeout_ms="300")
    assert server.predict("obedient", {"input": 2})["pid"] != pid


def test_sigterm_answers_what_was_accepted(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.register("obedient", plugin(tmp_path), trust=True)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.predict, "obedient", {"input": {"sleep": 0.2, "i": i}}) for i in range(6)]
        wait_until(lambda: server.status("obedient")["in_flight"] == 6)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert sorted(f.result()["output"]["i"] for f in asked) == list(range(6))
    assert server.process.wait(20) == 0
    assert not (server.home / "server.json").exists()


def test_a_second_sigterm_does_not_wait(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.register("obedient", plugin(tmp_path), trust=True)
    assert server.process is not None
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{server.url}/v1/models/obedient:predict", json={"input": {"sleep": 20}})
        wait_until(lambda: server.status("obedient")["in_flight"] == 1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        assert asked.exception() is not None or asked.result().status_code == 503


def test_a_killed_server_leaves_nothing_and_starts_again(start: Callable[..., Server], tmp_path: Path) -> None:
    home = tmp_path / "same"
    server = start(home=home)
    server.register("double", doubler(tmp_path / "double.onnx"))
    workers = server.worker_pids()
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    again = start(home=home)
    wait_until(lambda: again.status("double")["state"] == "ready")  # preloaded
    assert again.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]


def refused(*flags: str) -> tuple[int, str]:
    """The exit code and the last line of a server that cannot start."""
    command = [sys.executable, "-m", "engine", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_servers_that_cannot_start_say_why(server: Server, tmp_path: Path) -> None:
    code, line = refused("--home", str(server.home), "--port", "0")
    assert (code, "runs already" in line) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, line = refused("--home", str(tmp_path / "a"), "--port", str(taken.getsockname()[1]))
        assert (code, "is taken" in line) == (1, True)
    (tmp_path / "file").write_text("")
    code, line = refused("--home", str(tmp_path / "file"))
    assert (code, "cannot be used" in line) == (1, True)
    code, line = refused("--home", "/proc/unimodel")
    assert (code, "cannot be used" in line) == (1, True)
    code, line = refused("--home", str(tmp_path / "b"), "--port", "many")
    assert (code, "server.port" in line) == (2, True)
    config = tmp_path / "bad.yaml"
    config.write_text("server:\n  prot: 1\n")
    code, line = refused("--home", str(tmp_path / "c"), "--config", str(config))
    assert (code, "'server.port'" in line) == (2, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is full after some registrations."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    model = doubler(tmp_path / "double.onnx")
    home = small_disk / "home"

    class Elsewhere(Server):
        """Its log is on another disk."""

        def __init__(self) -> None:
            super().__init__(home)
            self.log = tmp_path / "server.log"

    with Elsewhere() as server:
        names = []
        for i in range(300):
            answer = server.http.post("/v1/models", json={"name": f"m{i}", "model_path": str(model)})
            if answer.status_code != 201:
                break
            names.append(f"m{i}")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (507, "insufficient_storage")
        assert server.predict(names[0], {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
        assert {m["name"] for m in server.get("/v1/models")["data"]} == set(names)
    with Elsewhere() as server:
        assert {m["name"] for m in server.get("/v1/models")["data"]} == set(names)


def test_nothing_is_left_in_shared_memory() -> None:
    assert not list(Path("/dev/shm").glob("*unimodel*"))
