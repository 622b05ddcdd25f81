"""Workers that die or hang, and what becomes of the requests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from serving import Load, Server, checked, doubler, plugin, wait_until


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    server.register("double", doubler(folder / "double.onnx"))
    server.register("obedient", plugin(folder), trust=True)
    server.register("apart", plugin(folder), trust=True, config={"isolated": True})
    return server


def test_killed_workers_lose_no_request(served: Server) -> None:
    restarts = served.get("/v1/status")["workers"][0]["restarts"]
    served.predict("double", {"input": [1, 2, 3, 4]})
    files = psutil.Process(served.pid).num_fds()
    with Load(served) as load:
        for _ in range(3):
            served.kill_workers()
            load.answered_anew()
    load.check()
    assert served.get("/v1/status")["workers"][0]["restarts"] > restarts
    wait_until(lambda: served.status("apart")["instances"] and served.status("obedient")["instances"])
    wait_until(lambda: psutil.Process(served.pid).num_fds() <= files)


def test_registering_while_workers_die(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    model = doubler(tmp_path / "double.onnx")
    server.register("double", model)
    with Load(server, clients=4) as load, ThreadPoolExecutor(1) as pool:
        for number in range(8):
            registered = pool.submit(server.register, "other", model)
            time.sleep(0.02 * number)  # at another point of the load each time
            server.kill_workers()
            assert registered.result()["version"] == number + 1
            load.answered_anew()
    load.check()


def test_a_load_that_takes_too_long(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--load-timeout-s", "1")
    server.register("double", doubler(tmp_path / "double.onnx"))
    blocker = tmp_path / "blocker"
    blocker.touch()
    with Load(server, clients=4) as load:
        error = server.register("slow", plugin(tmp_path), 503, trust=True, config={"blocker": str(blocker)})["error"]
        assert error["code"] == "model_failed"
        assert "engine.load_timeout_s" in error["message"]
    load.check()
    assert [m["name"] for m in server.get("/v1/models")["data"]] == ["double"]


def test_the_processes_of_isolated_models_come_and_go(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    target, own = plugin(tmp_path), {"isolated": True, "replicas": 2}
    assert len(server.worker_pids()) == 1
    server.register("apart", target, trust=True, config=own)
    assert len(server.worker_pids()) == 3
    checked(server.http.post("/v1/models/apart:unload"), 200)
    assert len(server.worker_pids()) == 1
    server.predict("apart", {"input": 1})
    assert len(server.worker_pids()) == 3
    checked(server.http.delete("/v1/models/apart"), 200)
    assert len(server.worker_pids()) == 1
    fatal = target.replace(":Model", ":AbortOnLoad")
    assert server.register("apart", fatal, 502, trust=True, config=own)["error"]["code"] == "worker_died"
    wait_until(lambda: len(server.worker_pids()) == 1)


def test_a_request_that_kills_its_worker_fails_alone(served: Server) -> None:
    with Load(served, clients=4) as load, ThreadPoolExecutor(8) as pool:
        poison = [pool.submit(served.predict, "obedient", {"input": {"abort": True}}, 502) for _ in range(2)]
        others = [pool.submit(served.predict, "obedient", {"input": i}) for i in range(20)]
        assert [f.result()["output"] for f in others] == list(range(20))
        errors = [f.result()["error"] for f in poison]
        assert {error["code"] for error in errors} == {"worker_died"}
        assert {error["message"] for error in errors} == {
            "The worker process of model 'obedient' died twice while it computed this request; change the request, "
            "since it is the likely cause. The server's log says how it ended."
        }
    load.check()


def test_a_request_is_tried_again_once(served: Server, tmp_path: Path) -> None:
    log, blocker = tmp_path / "log", tmp_path / "blocker"
    body = {"input": {"log": str(log), "blocker": str(blocker)}}

    def computed(times: int) -> bool:
        return log.exists() and len(log.read_text().splitlines()) == times

    blocker.touch()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(served.predict, "obedient", body)
        wait_until(lambda: computed(1))
        served.kill_workers()
        wait_until(lambda: computed(2))
        blocker.unlink()
        assert asked.result()["output"] == body["input"]
        log.unlink()
        blocker.touch()
        asked = pool.submit(served.predict, "obedient", body, 502)
        for times in (1, 2):
            wait_until(lambda times=times: computed(times))
            served.kill_workers()
        assert asked.result()["error"]["code"] == "worker_died"
        assert computed(2)


LEAVER = """
import asyncio, os
from unimodel.plugins import BasePlugin

class Model(BasePlugin):
    def load_model(self, config):
        pass

    def predict(self, body):
        if body["input"] == "leave":
            raise asyncio.CancelledError  # which is no `Exception`
        return {"output": body["input"], "pid": os.getpid()}
"""


def test_a_plugin_that_would_take_its_thread_down_fails_alone(served: Server, tmp_path: Path) -> None:
    (tmp_path / "leaver.py").write_text(LEAVER)
    served.register("leaver", f"{tmp_path / 'leaver.py'}:Model", trust=True)
    pid = served.predict("leaver", {"input": 1})["pid"]
    assert served.predict("leaver", {"input": "leave"}, 500)["error"]["code"] == "model_error"
    assert served.predict("obedient", {"input": 1})["pid"] == pid
    assert served.predict("leaver", {"input": 2}) == {"model": "leaver", "version": 1, "output": 2, "pid": pid}


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
    load.check()
    assert "fatal" not in [m["name"] for m in served.get("/v1/models")["data"]]


def test_a_hung_model_is_replaced(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--hang-timeout-s", "1")
    server.register("obedient", plugin(tmp_path), trust=True)
    pid = server.predict("obedient", {"input": 1})["pid"]
    server.predict("obedient", {"input": {"sleep": 600}}, 504, x_request_timeout_ms="300")
    assert server.predict("obedient", {"input": 2})["pid"] != pid
    error = server.predict("obedient", {"input": {"sleep": 600}}, 502)["error"]
    assert "twice" in error["message"]


def test_nothing_is_left_in_shared_memory() -> None:
    assert not list(Path("/dev/shm").glob("*unimodel*"))


def test_a_killed_replica_loses_no_request(start: Callable[..., Server], tmp_path: Path) -> None:
    """Two workers, each with a copy; and two processes of its own for an isolated model."""
    server = start("--cpu-workers", "2")
    model = doubler(tmp_path / "double.onnx")
    server.register("double", model, config={"replicas": 2})
    server.register("apart", model, config={"replicas": 2, "isolated": True})
    instances = {name: server.status(name)["instances"] for name in ("double", "apart")}
    assert len({i["pid"] for i in [*instances["double"], *instances["apart"]]}) == 4
    for name, victims in instances.items():
        with Load(server, name) as load:
            for victim in victims:
                os.kill(victim["pid"], signal.SIGKILL)
                before = load.answered
                wait_until(lambda before=before: load.answered > before + 100, 20)
        load.check()
        wait_until(lambda name=name: len(server.status(name)["instances"]) == 2)
        assert {i["pid"] for i in server.status(name)["instances"]}.isdisjoint(v["pid"] for v in victims)
