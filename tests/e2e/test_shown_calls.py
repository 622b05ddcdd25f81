"""The calls that `unimodel show` shows, each done as it stands: on the command line, with curl, in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from onnx import helper
from serving import FLOAT, Server, onnx_model

from engine.schema import ModelView
from tests import (
    models,
    models_boosting,
    models_gguf,
    models_sklearn,
    models_speech,
    models_tensorflow,
    models_torch,
    models_transformers,
    models_transformers_speech,
)
from unimodel_cli.calls import calls

ROOT = Path(__file__).parents[2]

SHOWN: dict[str, Callable[[], Path]] = {
    "images": models.efficientnet,
    "finds": models.yolo,
    "segments": models.u2netp,
    "numbers": models.magika,
    "state": models.silero,
    "table": lambda: models_sklearn.path("iris"),
    "trees": lambda: models_boosting.path("xgboost_iris"),
    "texts": lambda: models_sklearn.path("profanity"),
    "plugin": lambda: ROOT / "examples" / "sentiment_plugin.py",
    "embeds": models_gguf.minilm,
    "ranks": models_gguf.reranker,
    "chats": models_gguf.smollm2,
    "torch": models_torch.efficientnet,
    "snippets": lambda: models.model("guesslang", "model"),
    "lite": lambda: models_tensorflow.path("digits.tflite"),
    "hears": models_speech.whisper,
    "listens": models_transformers_speech.ctc,
}

TASKS = {"segments": "image-segmentation"}
"""Of models that do not tell what they are for."""
HEADS = ("BertForTokenClassification", "BertForMaskedLM", "BertForQuestionAnswering", "BertForSequenceClassification")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the calls are made: with the files that they speak of."""
    folder = tmp_path_factory.mktemp("calls")
    shutil.copy(ROOT / "examples" / "cat.jpg", folder)
    (folder / "speech.wav").write_bytes(models_speech.clip("0930"))
    return folder


def run(server: Server, folder: Path, *command: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("UNIMODEL_")}
    env |= {"UNIMODEL_HOST": server.url, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("name", [*SHOWN, *HEADS])
def test_what_is_shown_works(server: Server, folder: Path, tmp_path: Path, name: str) -> None:
    source = SHOWN[name]() if name in SHOWN else models_transformers.bert(tmp_path / name, name)
    server.register(name, source, trust=True, **({"task": TASKS[name]} if name in TASKS else {}))
    view = msgspec.convert(server.get(f"/v1/models/{name}"), ModelView)
    shown = dict(calls(view, server.url))
    assert list(shown) == ["Command line", "curl", "Python"]
    assert run(server, folder, "bash", "-euo", "pipefail", "-c", shown["Command line"]).strip()
    answer = json.loads(run(server, folder, "bash", "-euo", "pipefail", "-c", shown["curl"]))
    assert answer["model"] == name
    program = f"{shown['Python']}\nassert 'error' not in answer, answer\nprint(answer)"
    assert run(server, folder, sys.executable, "-c", program).strip()


def test_it_is_shown_of_a_model_that_is_not_loaded(server: Server, folder: Path) -> None:
    server.register("cold", models_sklearn.path("iris"), trust=True)
    warm = server.get("/v1/models/cold")["example"]
    server.http.post("/v1/models/cold:unload").raise_for_status()
    view = msgspec.convert(server.get("/v1/models/cold"), ModelView)
    assert view.state == "unloaded"
    assert view.example == warm
    assert run(server, folder, "bash", "-euo", "pipefail", "-c", dict(calls(view, server.url))["Command line"]).strip()


def test_inputs_that_are_named_like_a_part_of_a_body(server: Server, folder: Path, tmp_path: Path) -> None:
    node = helper.make_node("Add", ["input", "parameters"], ["y"])
    tensors: dict[str, tuple[int, list[int | str]]] = {n: (FLOAT, ["batch", 2]) for n in ("input", "parameters")}
    path = onnx_model(tmp_path / "clash.onnx", [node], tensors, {"y": (FLOAT, ["batch", 2])})
    server.register("clash", path)
    shown = dict(calls(msgspec.convert(server.get("/v1/models/clash"), ModelView), server.url))
    assert run(server, folder, "bash", "-euo", "pipefail", "-c", shown["Command line"]).strip()


def test_what_is_not_known_is_not_made_up(server: Server, folder: Path) -> None:
    server.register("unknown", f"{ROOT / 'examples' / 'ocr' / 'lines.py'}:Cut", trust=True)
    assert calls(msgspec.convert(server.get("/v1/models/unknown"), ModelView), server.url) == []
    assert "curl" not in run(server, folder, "unimodel", "show", "unknown")
