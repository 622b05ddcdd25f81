"""A server for development: what is saved is served."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from serving import FLOAT, Server, doubler, onnx_model, wait_until

PLUGIN = """
import os, time
from unimodel.plugins import BasePlugin
{imports}

class Model(BasePlugin):
    options = {{"suffix": ""}}

    def load_model(self, config):
        self.suffix = config.suffix

    def predict(self, body):
        while os.path.exists(body.get("blocker", "")):
            time.sleep(0.01)
        return {{"output": {output} + self.suffix}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("home"), "--reload", "true") as running:
        yield running


def save(file: Path, output: str = "'one'", imports: str = "") -> None:
    file.write_text(PLUGIN.format(output=output, imports=imports))


def says(server: Server, name: str, **body: Any) -> Any:
    return server.predict(name, {"input": "x", **body})["output"]


def view(server: Server, name: str) -> dict[str, Any]:
    return server.get(f"/v1/models/{name}")


def test_what_is_saved_is_served_and_requests_end_on_the_code_they_began_on(server: Server, tmp_path: Path) -> None:
    file, blocker = tmp_path / "model.py", tmp_path / "blocker"
    save(file)
    server.register("saved", f"{file}:Model", trust=True, config={"suffix": "!"})
    blocker.touch()
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(says, server, "saved", blocker=str(blocker))
        wait_until(lambda: server.status("saved")["in_flight"] == 1)
        save(file, "'two'")
        wait_until(lambda: view(server, "saved")["version"] == 2)
        assert says(server, "saved") == "two!"
        assert not under_way.done()
        blocker.unlink()
        assert under_way.result() == "one!"
    assert view(server, "saved")["config"] == {"suffix": "!"}


def test_the_versions_in_between_are_removed(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    save(file, "'0'")
    server.register("often", f"{file}:Model", trust=True)
    for number in (1, 2, 3):
        save(file, f"'{number}'")
        wait_until(lambda number=number: says(server, "often") == str(number))
    wait_until(lambda: view(server, "often")["versions"] == [1, 4])
    wait_until(lambda: [m["version"] for m in server.get("/v1/status")["models"] if m["name"] == "often"] == [4])


def test_a_mistake_is_shown_and_the_old_version_serves_on(server: Server, tmp_path: Path) -> None:
    """In the file, and then in a module that it has only just begun to import."""
    file, helper_file = tmp_path / "model.py", tmp_path / "new_helper.py"
    save(file)
    server.register("mistaken", f"{file}:Model", trust=True)
    file.write_text("def broken(:\n")
    wait_until(lambda: view(server, "mistaken")["reload_error"])
    assert view(server, "mistaken")["reload_error"] == "model.py cannot be imported: line 1: invalid syntax."
    assert server.status("mistaken")["reload_error"] == view(server, "mistaken")["reload_error"]
    assert (view(server, "mistaken")["state"], view(server, "mistaken")["version"]) == ("ready", 1)
    assert says(server, "mistaken") == "one"
    log = server.log.read_text()
    assert "the old version goes on serving" in log and "line 1: invalid syntax" in log
    helper_file.write_text("WORD = 1 / 0\n")
    save(file, "new_helper.WORD", "import new_helper")
    wait_until(lambda: "ZeroDivisionError" in view(server, "mistaken")["reload_error"])
    helper_file.write_text("WORD = 'mended'\n")
    wait_until(lambda: says(server, "mistaken") == "mended")
    assert view(server, "mistaken")["reload_error"] is None


def test_modules_beside_it_and_packages_are_watched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text("WORD = 'one'\n")
    save(tmp_path / "model.py", "words.WORD", "import words")
    server.register("modules", f"{tmp_path / 'model.py'}:Model", trust=True)
    (tmp_path / "unrelated.py").write_text("")
    package = tmp_path / "package"
    package.mkdir()
    (package / "words.py").write_text("WORD = 'one'\n")
    save(package / "__init__.py", "words.WORD", "from . import words")
    server.register("package", f"{package}:Model", trust=True)
    for folder, name in ((tmp_path, "modules"), (package, "package")):
        (folder / "words.py").write_text("WORD = 'two'\n")
        wait_until(lambda name=name: says(server, name) == "two")
        assert view(server, name)["version"] == 2


def test_a_model_of_any_backend_is_watched(server: Server, tmp_path: Path) -> None:
    file = doubler(tmp_path / "model.onnx")
    server.register("exported", file)
    assert server.predict("exported", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]
    three = helper.make_tensor("three", FLOAT, [], [3.0])
    new = onnx_model(
        tmp_path / "new.onnx",
        [helper.make_node("Mul", ["x", "three"], ["y"])],
        {"x": (FLOAT, ["batch", 4])},
        {"y": (FLOAT, ["batch", 4])},
        (three,),
    )
    assert onnx.load(new)
    shutil.move(new, file)  # as an export that is put in place whole
    wait_until(lambda: server.predict("exported", {"input": [1, 2, 3, 4]})["output"] == [3, 6, 9, 12])


def test_one_that_is_unregistered_stays_so(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    save(file)
    server.register("gone", f"{file}:Model", trust=True)
    server.http.delete("/v1/models/gone")
    save(file, "'two'")
    save(tmp_path / "other.py")
    server.register("other", f"{tmp_path / 'other.py'}:Model", trust=True)
    save(tmp_path / "other.py", "'two'")
    wait_until(lambda: says(server, "other") == "two")
    assert "gone" not in [m["name"] for m in server.get("/v1/models")["data"]]


def test_what_changed_while_no_server_ran(tmp_path: Path) -> None:
    """It is refused by a server that does not watch, and loaded by one that does."""
    file, home = tmp_path / "model.py", tmp_path / "home"
    save(file)
    with Server(home) as server:
        server.register("m", f"{file}:Model", trust=True)
        save(file, "'two'")
    with Server(home) as server:
        assert "has changed since it was registered" in server.predict("m", {}, 503)["error"]["message"]
        assert view(server, "m")["version"] == 1
    with Server(home, "--reload", "true") as server:
        wait_until(lambda: view(server, "m")["version"] == 2)
        assert says(server, "m") == "two"
