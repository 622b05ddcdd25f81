"""Loads GGUF files, each in a process of its own, and tells how it ended: ``python -m tests.gguf_loads``.

Reads lines ``BACKEND<tab>PATH``, and writes a line of JSON for each: the exit code, negative for a signal, and what was
raised (``ok`` for nothing). llama.cpp is loaded once; each file gets a fork of that.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from backends.base import BackendError, Device
from backends.generation import IMAGE, GenerationBackend
from backends.gguf import GgufBackend
from backends.gguf.embedding import GgufEmbeddingBackend
from backends.gguf.library import library
from backends.gguf.pooled import PooledBackend
from backends.gguf.rerank import GgufRerankBackend
from tests.models_mmproj import picture

BACKENDS = {backend.name: backend for backend in (GgufBackend, GgufEmbeddingBackend, GgufRerankBackend)}


def compute(name: str, path: Path) -> None:
    """Loads a model and computes its example."""
    backend = BACKENDS[name]()
    info = backend.load(path, Device("cpu", threads=1), backend.Options())
    if isinstance(backend, GenerationBackend):
        request = msgspec.structs.replace(backend.example(), max_tokens=4)
        if info.generation is not None and info.generation.images:
            request = msgspec.structs.replace(request, prompt=IMAGE, images=(picture(),))
        backend.add(1, request)
        while backend.busy:
            for piece in backend.step():
                if piece.error is not None:
                    raise piece.error
    elif isinstance(backend, PooledBackend):
        backend.predict(backend.example())
    backend.close()


def outcome(name: str, path: Path) -> str:
    try:
        compute(name, path)
    except BackendError as e:
        return f"refused: {e}"
    except BaseException as e:
        return f"raised: {e!r}"
    return "ok"


def fork(name: str, path: Path) -> tuple[int, str]:
    """The exit code and the outcome of a child that loads the file."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.write(writer, outcome(name, path).encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    said = os.read(reader, 4096).decode("utf-8", "replace")
    os.close(reader)
    return os.waitstatus_to_exitcode(status), said


def main() -> None:
    library()
    for line in sys.stdin:
        name, _, path = line.rstrip("\n").partition("\t")
        print(json.dumps(fork(name, Path(path))), flush=True)


if __name__ == "__main__":
    main()
