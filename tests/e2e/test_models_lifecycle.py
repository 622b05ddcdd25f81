"""Registering, versions, aliases, loading, eviction, and files that are no models."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from openapi_spec_validator import validate
from serving import Load, Server, checked, doubler, plugin, wait_until

from tests import models_sklearn


def test_versions_and_aliases(server: Server, tmp_path: Path) -> None:
    model = doubler(tmp_path / "double.onnx")
    assert server.register("v", model)["version"] == 1
    assert server.register("v", model, config={"batching": {"max_batch_size": 4}})["version"] == 2
    row = {"input": [1, 2, 3, 4]}
    assert server.predict("v", row)["version"] == 2
    assert server.predict("v/versions/1", row)["version"] == 1
    checked(server.http.put("/v1/aliases/v", json={"model": "v", "version": 1}), 200)
    assert server.predict("v", row)["version"] == 1
    checked(server.http.put("/v1/aliases/stable", json={"model": "v", "version": 2}), 200)
    assert server.predict("stable", row)["version"] == 2
    assert server.get("/v1/models/v")["versions"] == [1, 2]
    assert checked(server.http.delete("/v1/models/v?version=2"), 409)["error"]["code"] == "conflict"
    checked(server.http.delete("/v1/aliases/stable"), 200)
    checked(server.http.delete("/v1/aliases/v"), 200)
    assert checked(server.http.delete("/v1/models/v"), 200)["versions"] == [1, 2]
    error = server.predict("v", row, 404)["error"]
    assert error["code"] == "model_not_found"
    assert server.register("v", model)["version"] == 3, "numbers are never used again"


def test_a_new_version_loses_no_request(server: Server, tmp_path: Path) -> None:
    model = doubler(tmp_path / "double.onnx")
    server.register("double", model)
    with Load(server) as load:
        for _ in range(3):
            server.register("double", model)
    load.check()
    wait_until(lambda: server.get("/v1/models/double/versions/1")["state"] == "unloaded")


def test_a_version_that_cannot_be_loaded_changes_nothing(server: Server, tmp_path: Path) -> None:
    model = doubler(tmp_path / "double.onnx")
    server.register("kept", model)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:-20])
    with Load(server, "kept", clients=2) as load:
        for _ in range(3):
            server.register("kept", broken, 422)
    load.check()
    assert server.get("/v1/models/kept")["versions"] == [1]


def test_registrations_at_once_get_numbers_of_their_own(server: Server, tmp_path: Path) -> None:
    model = doubler(tmp_path / "double.onnx")
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: server.register("crowd", model)["version"], range(8)))
    assert sorted(versions) == list(range(1, 9))
    assert server.predict("crowd", {"input": [1, 2, 3, 4]})["version"] == 8
    wait_until(lambda: [v for v in range(1, 9) if state(server, "crowd", v) == "ready"] == [8])


def state(server: Server, name: str, version: int) -> str:
    return str(server.get(f"/v1/models/{name}/versions/{version}")["state"])


def test_unloading_under_load_loses_no_request(server: Server, tmp_path: Path) -> None:
    server.register("restless", doubler(tmp_path / "double.onnx"))
    with Load(server, "restless") as load:
        for _ in range(4):
            checked(server.http.post("/v1/models/restless:unload"), 200)
            before = load.answered
            wait_until(lambda before=before: load.answered > before + 20)
    load.check()


def test_unregistering_under_load_answers_what_was_accepted(server: Server, tmp_path: Path) -> None:
    server.register("leaving", doubler(tmp_path / "double.onnx"))
    with Load(server, "leaving") as load:
        checked(server.http.delete("/v1/models/leaving"), 200)
        wait_until(lambda: len(load.failures) > 20)
    assert load.broken == []
    assert all('"model_not_found"' in failure for failure in load.failures)


def test_load_and_unload(server: Server, tmp_path: Path) -> None:
    server.register("l", doubler(tmp_path / "double.onnx"))
    assert checked(server.http.post("/v1/models/l:unload"), 200)["state"] == "unloaded"
    assert server.predict("l", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8], "it loads at its first request"
    checked(server.http.post("/v1/models/l:unload"), 200)
    assert checked(server.http.post("/v1/models/l:load"), 200)["state"] == "ready"


def test_a_file_that_changed_is_not_served(server: Server, tmp_path: Path) -> None:
    model = doubler(tmp_path / "double.onnx")
    server.register("changed", model)
    checked(server.http.post("/v1/models/changed:unload"), 200)
    model.write_bytes(model.read_bytes() + b"\0")
    error = server.predict("changed", {"input": [1, 2, 3, 4]}, 503)["error"]
    assert error["code"] == "model_failed"
    assert "has changed since it was registered" in error["message"]


def test_what_cannot_be_registered(server: Server, tmp_path: Path) -> None:
    good = doubler(tmp_path / "good.onnx")
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(good.read_bytes()[:-20])
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for path, status, code, extra in (
        (tmp_path / "missing.onnx", 422, "model_file_error", {}),
        (truncated, 422, "model_file_error", {}),
        (empty, 422, "model_file_error", {}),
        (text, 422, "model_file_error", {}),
        (models_sklearn.path("iris"), 403, "untrusted_model", {}),
        (plugin(tmp_path), 403, "untrusted_model", {}),
        (good, 400, "invalid_option", {"backend": "onyx"}),
        (good, 400, "invalid_option", {"task": "chess"}),
        (good, 400, "invalid_option", {"config": {"batchin": {}}}),
        (good, 400, "invalid_option", {"config": {"batching": {"max_batch_size": "many"}}}),
        (good, 400, "invalid_option", {"config": {"device": "cuda"}}),
        (good, 400, "invalid_option", {"config": {"replicas": 9}}),
    ):
        error = server.register("bad", path, status, **extra)["error"]
        assert error["code"] == code, error
    error = server.register("no spaces", good, 400)["error"]
    assert error["param"] == "name"
    assert "bad" not in [m["name"] for m in server.get("/v1/models")["data"]]
    error = checked(server.http.post("/v1/models", json={"name": "x", "model_path": "y", "colour": 1}), 400)["error"]
    assert error["param"] == "colour"


class Touch:
    """When it is unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".bin"])
def test_a_pickle_that_runs_code_runs_none_untrusted(server: Server, tmp_path: Path, suffix: str) -> None:
    file, mark = tmp_path / f"hostile{suffix}", tmp_path / "mark"
    file.write_bytes(pickle.dumps(Touch(mark)))
    error = server.register("hostile", file, 403)["error"]
    assert error["code"] == "untrusted_model"
    assert not mark.exists()
    server.register("hostile", file, 422, trust=True)  # and then it is no model
    assert mark.exists()


OTHER_BACKEND = '''
from backends.base import NO_MATCH, Match, ModelInfo, ValueBackend


class Other(ValueBackend):
    """Somebody else's backend, installed beside the built-in ones."""

    name = "other"
    summary = "ONNX files, read in another way"

    @classmethod
    def sniff(cls, path):
        return Match(0.9) if path.suffix == ".onnx" else NO_MATCH

    def load(self, path, device, options):
        return ModelInfo(task="custom", runtime="other 1.0")

    def predict_values(self, bodies):
        return [{"output": "of the other backend"} for _ in bodies]
'''


def test_a_file_that_two_backends_could_load(tmp_path: Path) -> None:
    """The second one comes by the door of every third party: a package with an entry point."""
    packages = tmp_path / "packages"
    metadata = packages / "other_backend-1.0.dist-info"
    metadata.mkdir(parents=True)
    (packages / "other_backend.py").write_text(OTHER_BACKEND)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[unimodel.backends]\nother = other_backend:Other\n")
    model = doubler(tmp_path / "double.onnx")
    with Server(tmp_path / "home", env={"PYTHONPATH": str(packages)}) as server:
        error = server.register("double", model, 422)["error"]
        assert (error["code"], error["param"]) == ("ambiguous_backend", "backend")
        assert "--backend onnx or --backend other" in error["message"]
        server.register("double", model, backend="onnx")
        assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
        server.register("double", model, backend="other")
        assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == "of the other backend"


def test_a_renamed_file_is_recognised_by_its_content(server: Server, tmp_path: Path) -> None:
    server.register("odd", doubler(tmp_path / "model.bin"))
    assert server.get("/v1/models/odd")["backend"] == "onnx"


def test_routes(server: Server) -> None:
    assert server.get("/healthz")["status"] == "ok"
    assert server.get("/readyz")["status"] == "ok"
    assert server.get("/nothing", 404)["error"]["code"] == "not_found"
    assert checked(server.http.put("/v1/models", json={}), 405)["error"]["code"] == "method_not_allowed"
    assert server.get("/v1/models/x:predict", 405)["error"]["code"] == "method_not_allowed"
    assert server.predict("x/versions/zero", {}, 400)["error"]["param"] == "version"
    document = server.get("/openapi.json")
    validate(document)
    for path, operations in document["paths"].items():
        url = path.format(name="nothing", version=1, alias="nothing", digest="nothing")
        for method, operation in operations.items():
            if method != "parameters":
                answer = server.http.request(method, url, json={} if "requestBody" in operation else None)
                assert str(answer.status_code) in operation["responses"], (method, path, answer.text)
                assert "There is no route" not in answer.text
                assert answer.status_code == 200 or "{" in path or "requestBody" in operation


def test_metrics_count_what_was_sent(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.register("double", doubler(tmp_path / "double.onnx"))
    for _ in range(7):
        server.predict("double", {"input": [[1, 2, 3, 4]] * 3})
    text = server.http.get("/metrics").text
    assert 'unimodel_requests_total{model="double",outcome="ok",version="1"} 7.0' in text
    assert 'unimodel_batch_rows_sum{model="double",version="1"} 21.0' in text
    assert 'unimodel_model_loaded{model="double",version="1"} 1.0' in text


def test_metrics_on_a_port_of_their_own(start: Callable[..., Server]) -> None:
    import socket

    import httpx

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start("--prometheus-port", str(port))
    assert "unimodel_build_info" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 404


def test_the_least_recently_used_model_makes_room(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-models", "2")
    model = doubler(tmp_path / "double.onnx")
    for name in ("a", "b", "c"):
        server.register(name, model)
        server.predict(name, {"input": [1, 2, 3, 4]})
    states = {m["name"]: m["state"] for m in server.get("/v1/models")["data"]}
    assert states == {"a": "unloaded", "b": "ready", "c": "ready"}
    for name in "abcabcbca":
        assert server.predict(name, {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
        assert sum(m["state"] == "ready" for m in server.get("/v1/models")["data"]) <= 2


def test_more_cold_models_at_once_than_may_be_loaded(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-models", "2")
    model = doubler(tmp_path / "double.onnx")
    for name in "abcdef":
        server.register(name, model)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(server.predict, name, {"input": [1, 2, 3, 4]}) for name in "abcdef" * 4]
        assert {tuple(f.result()["output"]) for f in asked} == {(2, 4, 6, 8)}
    assert sum(m["state"] == "ready" for m in server.get("/v1/models")["data"]) <= 2


def test_without_pooling_a_model_too_many_is_refused(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-models", "1", "--enable-pooling", "false")
    model = doubler(tmp_path / "double.onnx")
    server.register("a", model)
    error = server.register("b", model, 507)["error"]
    assert (error["code"], "engine.max_models" in error["message"]) == ("insufficient_memory", True)


def test_replicas_share_the_work(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--cpu-workers", "2")
    server.register("obedient", plugin(tmp_path), trust=True, config={"replicas": 2})
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.predict, "obedient", {"input": {"sleep": 0.2}}) for _ in range(4)]
        assert len({f.result()["pid"] for f in asked}) == 2


@pytest.mark.parametrize("rounds", [12])
def test_memory_does_not_grow_with_loading(start: Callable[..., Server], tmp_path: Path, rounds: int) -> None:
    server = start()
    server.register("double", doubler(tmp_path / "double.onnx"))
    worker = psutil.Process(server.worker_pids()[0])
    sizes = []
    for _ in range(rounds):
        checked(server.http.post("/v1/models/double:unload"), 200)
        server.predict("double", {"input": [1, 2, 3, 4]})
        sizes.append((worker.memory_info().rss + psutil.Process(server.pid).memory_info().rss) / 1e6)
    assert sizes[-1] - sizes[rounds // 2] < 8, sizes
    assert len(worker.open_files()) < 20
