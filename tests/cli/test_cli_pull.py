"""`unimodel pull`: from a stand-in of the hub's HTTP API into a real server."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import double_model
from tests.cli.terminal import Terminal
from tests.hub_stand_in import Repo, serving
from tests.models_gguf import llama, llama_in_parts
from unimodel_cli.commands.pull import _repository

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, which the servers that are started in the test ask."""
    repos = {
        "org/Double-ONNX": Repo({"model.onnx": double_model(tmp_path).read_bytes(), "README.md": b"# Double"}),
        "org/broken": Repo({"model.onnx": b"not a model"}),
        "org/several": Repo({"a.gguf": b"a", "b.gguf": b"b"}),
        "org/folder": Repo({"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"# Folder"}),
        "org/sizes": Repo({f"llama-{q}.gguf": llama().read_bytes() for q in ("Q8_0", "Q4_K_M")}),
        "org/parts": Repo({part.name: part.read_bytes() for part in llama_in_parts()}),
    }
    with serving(repos) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def pulling(cli, hub):
    """Commands against a server that asks the stand-in."""
    cli.ok("start", "--port", "0")
    return cli


def test_a_model_is_pulled_registered_and_served(pulling, hub):
    done = pulling("pull", "hf:org/Double-ONNX:model.onnx")
    assert done.returncode == 0, done.stderr
    assert "Registered Double-ONNX@1" in done.stdout
    view = pulling.json(
        "pull", "hf:org/Double-ONNX:model.onnx", "--name", "twice", "--set", "batching.max_batch_size=7"
    )
    assert (view["name"], view["config"]) == ("twice", {"batching": {"max_batch_size": 7}})
    assert view["path"].startswith(str(pulling.home / "models" / "org" / "Double-ONNX"))
    assert len(hub.ranges) == 1
    assert pulling.ok("predict", "twice", "[1, 2, 3]") == "[2.0, 4.0, 6.0]\n"


@pytest.mark.parametrize(
    ("source", "exit_code", "code"),
    [
        ("org/Double-ONNX", 1, "invalid_request"),
        ("hf:org/none", 4, "not_found"),
        ("hf:org/several", 1, "invalid_request"),
        ("hf:org/broken:model.onnx", 1, "model_file_error"),
    ],
)
def test_what_cannot_be_pulled(pulling, source, exit_code, code):
    got, error = pulling.error("pull", source)
    assert (got, error["code"]) == (exit_code, code)
    assert pulling.json("list")["data"] == []
    if source == "hf:org/several":
        assert error["details"]["files"] == ["a.gguf", "b.gguf"]


def test_a_folder_that_no_backend_recognises_stays(pulling):
    code, error = pulling.error("pull", "hf:org/folder")
    assert (code, error["code"]) == (1, "model_file_error")
    assert "No backend recognises" in error["message"]
    folder = Path(error["message"].partition("stays in ")[2].removesuffix("."))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


BACKEND = '''
from backends.base import NO_MATCH, Match, ModelInfo, ValueBackend


class Folders(ValueBackend):
    """Serves folders of safetensors, after a fashion."""

    name = "folders"
    summary = "folders"

    @classmethod
    def sniff(cls, path):
        return Match(0.9) if (path / "model.safetensors").is_file() else NO_MATCH

    def load(self, path, device, options):
        self.weights = (path / "model.safetensors").read_text()
        return ModelInfo(task="custom")

    def predict_values(self, bodies):
        return [{"output": self.weights} for _ in bodies]
'''


def test_a_folder_is_registered_where_a_backend_serves_it(cli, hub, tmp_path):
    metadata = tmp_path / "packages" / "folders_backend-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata.parent / "folders_backend.py").write_text(BACKEND)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: folders-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[unimodel.backends]\nfolders = folders_backend:Folders\n")
    cli.ok("start", "--port", "0", env={"PYTHONPATH": str(metadata.parent)})
    assert cli.json("pull", "hf:org/folder", "--name", "f")["backend"] == "folders"
    assert cli.ok("predict", "f", "{}") == '"weights"\n'


def test_a_split_model_is_served_as_one(pulling):
    view = pulling.json("pull", "hf:org/parts")
    assert view["path"].endswith("llama-00001-of-00003.gguf")
    assert view["size_bytes"] == sum(part.stat().st_size for part in llama_in_parts())
    last = Path(view["path"]).with_name("llama-00003-of-00003.gguf")
    pulling.ok("unload", "parts")
    last.write_bytes(last.read_bytes()[:-1] + b"\0")
    code, error = pulling.error("load", "parts")
    assert code != 0
    assert "has changed since it was registered" in error["message"]


def test_of_several_sizes_one_is_chosen_and_it_is_said(pulling):
    done = pulling("pull", "hf:org/sizes")
    assert done.returncode == 0, done.stderr
    assert "Registered sizes@1" in done.stdout
    assert "org/sizes has llama-Q8_0.gguf, llama-Q4_K_M.gguf. Pulling llama-Q4_K_M.gguf, as" in done.stderr
    assert pulling.json("pull", "hf:org/sizes:Q8_0")["path"].endswith("llama-Q8_0.gguf")


def test_an_error_midway_is_told(pulling, hub):
    hub.repos["org/Double-ONNX"].lies["model.onnx"] = b"x" * len(hub.repos["org/Double-ONNX"].files["model.onnx"])
    code, error = pulling.error("pull", "hf:org/Double-ONNX:model.onnx")
    assert (code, error["code"]) == (1, "model_file_error")
    assert "digest" in error["message"]


def test_ctrl_c_ends_it_and_another_pull_goes_on(pulling, hub):
    model = hub.repos["org/Double-ONNX"].files["model.onnx"]
    hub.hold_after = len(model) // 2
    with Terminal(pulling, "pull", "hf:org/Double-ONNX:model.onnx") as t:
        assert hub.held.wait(60)
        t.press("\x03")
        assert t.end() == 130
    hub.hold_after = None
    assert pulling.json("pull", "hf:org/Double-ONNX:model.onnx")["name"] == "Double-ONNX"


def test_a_terminal_gets_a_bar(pulling):
    with Terminal(pulling, "pull", "hf:org/Double-ONNX:model.onnx") as t:
        t.until("Looking for hf:org/Double-ONNX")
        t.until("Registered Double-ONNX@1")
        assert t.end() == 0


def test_progress_is_one_object_a_line(pulling, hub):
    import httpx

    url = json.loads((pulling.home / "server.json").read_text())["url"]
    answer = httpx.post(f"{url}/v1/pull", json={"source": "hf:org/Double-ONNX:model.onnx"}, timeout=60)
    assert answer.headers["content-type"] == "application/x-ndjson"
    steps = [json.loads(line) for line in answer.text.splitlines()]
    assert steps[0] == {"status": "resolving"}
    assert steps[-1]["status"] == "success"
    assert steps[-1]["completed"] == steps[-1]["total"] == len(hub.repos["org/Double-ONNX"].files["model.onnx"])
    refused = httpx.post(f"{url}/v1/pull", json={"source": "hf:org/several"}, timeout=60)
    assert refused.status_code == 400
    assert httpx.post(f"{url}/v1/pull", json={"sauce": "hf:org/several"}, timeout=60).status_code == 400


@pytest.mark.parametrize(
    "source",
    [
        "hf:org/Repo",
        "hf:org/Repo:a/b.gguf",
        "hf:org/Repo@refs/pr/1",
        "hf:org/Repo:x@v",
        "https://hf.co/org/Repo:x",
        "hf.co/org/Repo/",
    ],
)
def test_the_name_is_the_repositorys(source):
    assert _repository(source) == "Repo"
