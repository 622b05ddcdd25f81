"""What the documents promise, done: the quickstart, and every `bash` block with the answer that stands below it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from document_parts import DOCUMENTS, ROOT, Block, blocks

UNIMODEL = Path(sys.executable).with_name("unimodel")
PATIENCE = 300
CLOSE = 0.05
"""Between a number in a document, which is rounded, and the one that is answered."""


@dataclass(frozen=True)
class Quickstart:
    """A folder in which the quickstart was made, and what it said."""

    folder: Path
    url: str
    said: str
    env: dict[str, str]

    def unimodel(self, *arguments: str) -> Any:
        """The JSON answer of a command to its server."""
        command = [UNIMODEL, *arguments, "--json"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True, timeout=PATIENCE)
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """Looks like a copy of the repository after ``make quickstart``, as far as the documents can see."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").symlink_to(sys.prefix)
    home = folder / ".quickstart"
    said = run_quickstart(home)
    url = json.loads((home / "server.json").read_text())["url"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("UNIMODEL_")}
    env |= {"UNIMODEL_HOME": str(home), "PATH": f"{UNIMODEL.parent}:{env['PATH']}", "NO_COLOR": "1"}
    yield Quickstart(folder, url, said, env)
    subprocess.run([UNIMODEL, "stop", "--home", home, "--timeout", "20", "--force"], check=True, timeout=PATIENCE)


def run_quickstart(home: Path) -> str:
    """What it prints. Its environment is one that would lead it astray."""
    env = os.environ | {"UNIMODEL_HOST": "http://127.0.0.1:1", "UNIMODEL_ENGINE_MAX_MODELS": "1"}
    command = [sys.executable, "-m", "scripts.quickstart", "--home", home, "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quickstart_serves_what_it_shows(quickstart: Quickstart) -> None:
    said = quickstart.said
    models = quickstart.unimodel("list")["data"]
    names = {m["name"] for m in models}
    assert {"efficientnet", "profanity", "iris", "sentiment", "chat"} <= names
    assert {"onnx", "sklearn", "python", "gguf"} <= {m["backend"] for m in models}
    called = "curl -sS -f" if shutil.which("curl") else "curl is not installed"
    for name in ("efficientnet", "profanity", "iris", "sentiment"):
        assert f"$ unimodel register {name} " in said
        assert f"$ unimodel predict {name} " in said
        assert f"{quickstart.url}/v1/models/{name}:predict" in said
    assert said.count(called) >= 5
    for answer in ("Egyptian cat", '"label": "offensive"', '"label": "setosa"', '"label": "positive"', "2 + 2 = 4"):
        assert answer in said
    assert f"{quickstart.url}/v1/chat/completions" in said
    assert "stop --home" in said


def test_a_second_quickstart_changes_nothing(quickstart: Quickstart) -> None:
    before = quickstart.unimodel("status")["pid"]
    said = run_quickstart(quickstart.folder / ".quickstart")
    assert said.count("is registered already") == 5
    assert "unimodel register" not in said.partition("To try more")[0]
    assert quickstart.unimodel("status")["pid"] == before
    assert {m["version"] for m in quickstart.unimodel("list")["data"]} == {1}


def examples(document: Path) -> list[tuple[Block, Block | None]]:
    """The blocks that are to be run, each with the answer that stands below it, if one does."""
    found = blocks(document)
    pairs = []
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.language == "bash":
            between = (
                following
                and document.read_text().splitlines()[block.line + block.code.count("\n") + 1 : following.line - 1]
            )
            answers = following and following.language in ("json", "text") and not any(between or ())
            pairs.append((block, following if answers else None))
    return pairs


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if blocks(d, "bash")], ids=lambda d: str(d.relative_to(ROOT))
)
def test_examples_work(document: Path, quickstart: Quickstart) -> None:
    for block in blocks(document, "python"):
        file = re.match(r"# (\w+\.py)\n", block.code)
        assert file, f"name the file in the first line, so that it can be run: {block}"
        (quickstart.folder / file[1]).write_text(block.code.replace("http://127.0.0.1:8000", quickstart.url))
    for block, answer in examples(document):
        if "curl" in block.code and not shutil.which("curl"):
            pytest.skip("curl is not installed")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code.replace("http://127.0.0.1:8000", quickstart.url)],
            cwd=quickstart.folder,
            env=quickstart.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        assert '"error"' not in done.stdout or (answer and '"error"' in answer.code), f"{block}{done.stdout}"
        if answer and answer.language == "json":
            compare(json.loads(answer.code), json.loads(done.stdout.splitlines()[-1]), str(block))
        elif answer:
            assert lines(done.stdout)[-len(lines(answer.code)) :] == lines(answer.code), block


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def compare(shown: Any, got: Any, where: str) -> None:
    """Raises unless the answer is the one that the document shows, but for rounding and the ids of requests."""
    if isinstance(shown, dict):
        assert list(shown) == list(got), where
        for key in shown:
            if key != "request_id":
                compare(shown[key], got[key], where)
    elif isinstance(shown, list):
        assert len(shown) == len(got), where
        for a, b in zip(shown, got, strict=True):
            compare(a, b, where)
    elif isinstance(shown, float):
        assert got == pytest.approx(shown, abs=CLOSE), where
    else:
        assert shown == got, where


def test_the_default_file_starts_a_server(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "home")]
    file = str(ROOT / "config" / "default.yaml")
    env = {k: v for k, v in os.environ.items() if not k.startswith("UNIMODEL_")}
    options: dict[str, Any] = {"env": env, "check": True, "capture_output": True, "text": True, "timeout": PATIENCE}
    try:
        subprocess.run([UNIMODEL, "start", *home, "--config", file, "--port", "0"], **options)
        done = subprocess.run([UNIMODEL, "config", "show", *home, "--json"], **options)
    finally:
        subprocess.run([UNIMODEL, "stop", *home], **options)
    sources = {s["key"]: s["source"] for s in json.loads(done.stdout)["settings"]}
    assert sources["engine.max_models"] == f"file {file}"
    assert sources["server.port"] == "flag --port"
