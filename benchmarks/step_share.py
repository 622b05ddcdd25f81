"""How much of a step of generation is Python: everything that a worker does but llama.cpp's own calls.

``python -m benchmarks.step_share --model FILE --threads N --clients 1,8`` prints a line of JSON: percent by the number
of answers under way. They are streamed, greedy and not guessed; what the worker sends is read and dropped.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from backends.base import Device
from backends.generation import Sampling
from backends.gguf import GgufBackend
from backends.gguf.context import Context
from backends.gguf.options import GgufOptions
from engine.transport import channel
from engine.transport.channel import Channel
from engine.transport.generation import GenerateRequest, encode_request
from engine.transport.messages import StartStream
from engine.worker.gate import Gate, ModelGate
from engine.worker.generation_runner import GenerationRunner
from engine.worker.supervisor import SPINS

_DRAIN = "import socket, sys\nserver = socket.socket(fileno=int(sys.argv[1]))\nwhile server.recv(1 << 17): pass"
"""Stands for the server: a process of its own, as threads of this one would get in the way."""


def main() -> None:
    """Measures each number of clients in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clients", required=True)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as in a worker; read when llama.cpp is loaded
    backend = GgufBackend()
    device = Device("cpu", threads=arguments.threads)
    info = backend.load(arguments.model, device, GgufOptions(speculation="off")).generation
    assert info is not None
    gc.freeze()  # as in a worker
    ours, theirs = channel.pair()
    subprocess.Popen([sys.executable, "-c", _DRAIN, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    runner = GenerationRunner(backend, info, None, Channel(ours), ModelGate(Gate(device.threads)))
    shares = {int(n): _share(backend, runner, int(n), arguments.steps) for n in arguments.clients.split(",")}
    print(json.dumps(shares))


def _share(backend: GgufBackend, runner: GenerationRunner, clients: int, steps: int) -> float:
    tokens = 3 * clients + steps + 10  # more than are computed
    for number in range(clients):
        prompt = f"Story {clients}/{number} is about the sea:"
        request = GenerateRequest(
            prompt=prompt, max_tokens=tokens, sampling=Sampling(temperature=0), ignore_eos=True, stream=True
        )
        runner.start(StartStream(number, "", encode_request(request)))
    for _ in range(2 * clients + 2):
        runner.step()
    inside = _Timed(Context.decode)
    Context.decode = lambda self: inside(self)  # type: ignore[method-assign]
    begin = time.perf_counter()
    for _ in range(steps):
        runner.step()
    seconds = time.perf_counter() - begin
    Context.decode = inside.function  # type: ignore[method-assign]
    for number in range(clients):
        backend.cancel(number)
    return (seconds - inside.seconds) / seconds * 100


class _Timed:
    """A method of `Context`, and the time that was spent in it."""

    def __init__(self, function: Callable[[Context], None]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, context: Context) -> None:
        begin = time.perf_counter()
        self.function(context)
        self.seconds += time.perf_counter() - begin


if __name__ == "__main__":
    main()
