"""Servers that are stopped, killed, started again, or cannot start."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from serving import Blocked, Load, Server, checked, doubler, plugin, wait_until


def ask(server: Server, name: str, body: object) -> httpx.Response:
    """A prediction whose status does not matter yet."""
    return httpx.post(f"{server.url}/v1/models/{name}:predict", json=body, timeout=60)


def test_sigterm_answers_what_was_accepted(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.register("obedient", plugin(tmp_path), trust=True)
    assert server.process is not None
    with ThreadPoolExecutor(6) as pool:
        with Blocked(server, "obedient") as blocked:
            asked = [pool.submit(ask, server, "obedient", {"input": i}) for i in range(6)]
            blocked.wait_for(7)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down" in server.log.read_text())
        assert sorted(f.result().json()["output"] for f in asked) == list(range(6))
    assert server.process.wait(20) == 0
    assert not (server.home / "server.json").exists()


def test_sigterm_under_load_breaks_no_connection(start: Callable[..., Server], tmp_path: Path) -> None:
    """Each client gets answers until it finds that nobody listens any more."""
    server = start()
    server.register("double", doubler(tmp_path / "double.onnx"))
    assert server.process is not None
    with Load(server, clients=12) as load:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert load.failures == []
    assert {type(e) for e in load.broken} == {httpx.ConnectError}


def test_a_request_that_waits_for_its_model_is_accepted_too(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    blocker = tmp_path / "blocker"
    server.register("cold", plugin(tmp_path), trust=True, config={"blocker": str(blocker)})
    checked(server.http.post("/v1/models/cold:unload"), 200)
    blocker.touch()
    assert server.process is not None
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(
                b'POST /v1/models/cold:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{"input": 7}'
            )
        wait_until(lambda: server.status("cold")["state"] == "loading")
        server.get("/healthz")  # by now the others have been read as well
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down" in server.log.read_text())
        blocker.unlink()
        for client in clients:
            with client.makefile("rb") as answer:
                assert b'"output":7' in answer.read()
    assert server.process.wait(20) == 0


def test_a_drain_has_an_end(start: Callable[..., Server], tmp_path: Path) -> None:
    """Whoever is left then is told so: the one that computes, those that wait, the stream, and the cold model."""
    server = start("--drain-seconds", "1")
    blocker, begun = tmp_path / "blocker", tmp_path / "begun"
    server.register("obedient", plugin(tmp_path), trust=True)
    server.register("streaming", plugin(tmp_path), trust=True)
    server.register("cold", plugin(tmp_path), trust=True, config={"blocker": str(blocker)})
    checked(server.http.post("/v1/models/cold:unload"), 200)
    blocker.touch()
    assert server.process is not None
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(ask, server, "obedient", {"input": {"sleep": 60}}) for _ in range(3)]
        asked.append(pool.submit(ask, server, "cold", {"input": 1}))
        endless = {"stream": True, "count": 10_000, "pause": 0.01, "log": str(begun)}
        stream = pool.submit(ask, server, "streaming", endless)
        wait_until(lambda: server.status("obedient")["in_flight"] == 3)
        wait_until(lambda: server.status("cold")["state"] == "loading")
        wait_until(begun.exists)
        server.process.send_signal(signal.SIGTERM)
        assert [f.result().status_code for f in asked] == [503] * 4
        assert {f.result().json()["error"]["code"] for f in asked} == {"server_stopping"}
        assert "event: error" in stream.result().text
        assert "server_stopping" in stream.result().text
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()


def test_a_second_sigterm_does_not_wait(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.register("obedient", plugin(tmp_path), trust=True)
    assert server.process is not None
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server, "obedient", {"input": {"sleep": 20}})
        wait_until(lambda: server.status("obedient")["in_flight"] == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down" in server.log.read_text())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert asked.exception() is not None or asked.result().status_code == 503


def test_a_killed_server_leaves_nothing_and_starts_again(start: Callable[..., Server], tmp_path: Path) -> None:
    home = tmp_path / "same"
    server = start(home=home)
    model = doubler(tmp_path / "double.onnx")
    for _ in range(2):
        server.register("double", model)
    checked(server.http.put("/v1/aliases/stable", json={"model": "double", "version": 1}), 200)
    workers = server.worker_pids()
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    again = start(home=home)
    wait_until(lambda: again.status("double")["state"] == "ready")  # preloaded
    answer = again.predict("double", {"input": [1, 2, 3, 4]})
    assert answer == {"model": "double", "version": 2, "output": [2, 4, 6, 8]}
    assert again.predict("stable", {"input": [1, 2, 3, 4]})["version"] == 1


def test_a_killed_server_takes_with_it_what_models_started(start: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "import subprocess\nfrom unimodel.plugins import BasePlugin\n"
        "class Model(BasePlugin):\n"
        "    def load_model(self, config):\n"
        "        self.child = subprocess.Popen(['sleep', '600'])\n"
        "    def predict(self, input_data):\n"
        "        return {'output': self.child.pid}\n"
    )
    server = start()
    server.register("parent", f"{tmp_path / 'parent.py'}:Model", trust=True)
    child = psutil.Process(server.predict("parent", {"input": 1})["output"])
    assert child.is_running()
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_was_registered_before_a_kill_is_registered(start: Callable[..., Server], tmp_path: Path) -> None:
    """Whoever got a 201 finds the model again, however suddenly the server went."""
    home = tmp_path / "same"
    server = start("--max-models", "2", home=home)
    model = doubler(tmp_path / "double.onnx")

    def register(name: str) -> list[int]:
        versions = []
        try:
            for _ in range(1000):
                answer = httpx.post(
                    f"{server.url}/v1/models", json={"name": name, "model_path": str(model)}, timeout=60
                )
                versions.append(answer.json()["version"])
        except httpx.TransportError:
            return versions
        raise AssertionError("the server was not killed")

    with ThreadPoolExecutor(3) as pool:
        promised = {name: pool.submit(register, name) for name in "abc"}
        wait_until(lambda: sum(len(m["versions"]) for m in server.get("/v1/models")["data"]) > 10, 30)
        assert server.process is not None
        server.process.kill()
        server.process.wait()
    again = start("--max-models", "2", home=home)
    found = {m["name"]: m["versions"] for m in again.get("/v1/models")["data"]}
    for name, versions in promised.items():
        got = versions.result()
        assert found[name][: len(got)] == got == list(range(1, len(got) + 1))
        assert len(found[name]) <= len(got) + 1, "and at most the one whose answer was on its way"
        assert again.predict(name, {"input": [1, 2, 3, 4]})["version"] == found[name][-1]


def refused(*flags: str) -> tuple[int, str]:
    """The exit code and the last line of a server that cannot start."""
    command = [sys.executable, "-m", "engine", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_servers_that_cannot_start_say_why(server: Server, tmp_path: Path) -> None:
    code, line = refused("--home", str(server.home), "--port", "0")
    assert (code, "runs already" in line) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line = refused("--home", str(tmp_path / "a"), "--port", port)
        assert (code, "is taken" in line) == (1, True)
        code, line = refused("--home", str(tmp_path / "a"), "--port", "0", "--prometheus-port", port)
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
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=False)
    if mount.returncode != 0:
        pytest.skip("mounting a small file system needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    """What was stored serves on, now and after a restart; what was not is refused in a sentence."""
    model = doubler(tmp_path / "double.onnx")
    home, ballast = small_disk / "home", small_disk / "ballast"
    server = Server(home, "--max-models", "2", log=tmp_path / "server.log")
    with server:
        ballast.write_bytes(b"x" * (192 << 10))
        names = []
        for i in range(300):
            answer = server.http.post("/v1/models", json={"name": f"m{i}", "model_path": str(model)})
            if answer.status_code != 201:
                break
            names.append(f"m{i}")
        assert checked(answer, 507)["error"]["code"] == "insufficient_storage"
        assert server.predict(names[0], {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
        assert {m["name"] for m in server.get("/v1/models")["data"]} == set(names)
    with contextlib.suppress(OSError), ballast.open("ab") as file:
        while file.write(b"x" * 4096):
            file.flush()
    code, line = refused("--home", str(home), "--port", "0")
    assert (code, "insufficient_storage" in line) == (1, True)
    ballast.unlink()
    with server:
        assert {m["name"] for m in server.get("/v1/models")["data"]} == set(names)
        assert server.predict(names[-1], {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
