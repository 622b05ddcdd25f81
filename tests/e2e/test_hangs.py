"""Models that hang while they stream or generate, and those that only seem to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import Server, plugin, wait_until

BACKEND = '''
import time

from backends.base import NO_MATCH, GenerationInfo, Match, ModelInfo
from backends.generation import Generation, GenerationBackend, Piece, Usage


class Script(GenerationBackend):
    """Does what the words of its prompts say: `silence` is twenty steps without a piece, `hang` one without an end,
    which is noted in the file that is named behind it, `deaf` no step at all; everything else it says."""

    name = "script"
    summary = "files that end in .script"
    out_of_process = True

    @classmethod
    def sniff(cls, path):
        return Match(0.9) if path.suffix == ".script" else NO_MATCH

    def load(self, path, device, options):
        self.left = {}
        return ModelInfo(task="completion", generation=GenerationInfo(context_length=64, sequences=8))

    def example(self):
        return Generation(prompt="example")

    def add(self, request_id, request):
        self.left[request_id] = request.prompt.replace("silence", ". " * 20).split()

    def wait(self, seconds):
        if not any(words[:1] == ["deaf"] for words in self.left.values()):
            return True
        time.sleep(seconds)
        return False

    def step(self):
        time.sleep(0.1)
        pieces = []
        for number, words in list(self.left.items()):
            word = words.pop(0) if words else ""
            if word.startswith("hang"):
                if word != "hang":
                    open(word.removeprefix("hang:"), "w").close()
                time.sleep(600)
            if not words:
                del self.left[number]
                usage = Usage(prompt_tokens=1, completion_tokens=1)
                pieces.append(Piece(id=number, text=word, tokens=1, finish="stop", usage=usage))
            elif word != ".":
                pieces.append(Piece(id=number, text=word, tokens=1))
        return pieces

    def cancel(self, request_id):
        self.left.pop(request_id, None)

    @property
    def busy(self):
        return bool(self.left)

    def count(self, request):
        return len(request.prompt)

    def tokenize(self, text, *, add_bos=True):
        return list(text.encode())
'''


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models that count as hung after a second without a sign, each on a worker of its own."""
    folder = tmp_path_factory.mktemp("models")
    metadata = folder / "packages" / "script_backend-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "packages" / "script_backend.py").write_text(BACKEND)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: script-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[unimodel.backends]\nscript = script_backend:Script\n")
    (folder / "model.script").write_text("It does what it is told.")
    environment = {"PYTHONPATH": str(folder / "packages")}
    with Server(folder / "home", "--hang-timeout-s", "1", env=environment) as server:
        server.register("script", folder / "model.script", config={"isolated": True})
        server.register("obedient", plugin(folder), trust=True, config={"isolated": True})
        yield server


def pid(server: Server, name: str) -> int:
    """Of the worker that serves a model."""
    wait_until(lambda: server.status(name)["instances"])
    return int(server.status(name)["instances"][0]["pid"])


def read(server: Server, name: str, **body: Any) -> list[str]:
    """The lines of a stream."""
    with server.http.stream("POST", f"/v1/models/{name}:predict", json={"stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        return [line for line in response.iter_lines() if line]


def test_steps_that_add_nothing_are_no_hang(served: Server) -> None:
    before = pid(served, "script")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda text: served.predict("script", {"input": text})["output"], ["silence a", "b"]))
    assert answers == ["a", "b"]
    assert pid(served, "script") == before


def test_a_reader_that_waits_is_no_hang(served: Server) -> None:
    before = pid(served, "obedient")
    body = {"stream": True, "count": 300, "bytes": 10_000, "pause": 0.01}
    with served.http.stream("POST", "/v1/models/obedient:predict", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        wait_until(lambda: served.predict("script", {"input": "silence waited"})["output"] == "waited")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert pid(served, "obedient") == before


def test_an_answer_that_hangs_is_tried_once_more(served: Server) -> None:
    before = pid(served, "script")
    error = served.predict("script", {"input": "hang"}, 502)["error"]
    assert error["code"] == "worker_died"
    assert pid(served, "script") != before
    assert served.predict("script", {"input": "again"})["output"] == "again"


def test_a_model_that_only_waits_is_a_hang(served: Server) -> None:
    """As for an engine in another process that has stopped."""
    before = pid(served, "script")
    assert served.predict("script", {"input": "deaf"}, 502)["error"]["code"] == "worker_died"
    assert pid(served, "script") != before


def test_an_answer_that_hangs_in_the_middle_ends_with_an_error(served: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        hung = pool.submit(read, served, "script", input="first hang")
        beside = pool.submit(served.predict, "script", {"input": "beside"})
        *_, kind, data = hung.result()
        assert beside.result()["output"] == "beside"
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "worker_died"


@pytest.mark.parametrize("name", ["script", "obedient"])
def test_a_hang_whose_client_left_is_noticed_too(served: Server, name: str, tmp_path: Path) -> None:
    before = pid(served, name)
    hangs = tmp_path / "hangs"
    wish = {"input": f"hang:{hangs}"} if name == "script" else {"log": str(hangs), "pause": 600}
    body = json.dumps({"stream": True, **wish}).encode()
    with served.connect() as connection:
        head = f"POST /v1/models/{name}:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(hangs.exists)
    assert served.predict(name, {"input": "on"})["output"] == "on"
    assert pid(served, name) != before


def test_a_plugins_stream_that_hangs_is_replaced(served: Server) -> None:
    before = pid(served, "obedient")
    error = served.predict("obedient", {"stream": True, "pause": 600}, 502)["error"]
    assert error["code"] == "worker_died"
    assert pid(served, "obedient") != before
    assert read(served, "obedient", count=1)[-1] == "data: [DONE]"
