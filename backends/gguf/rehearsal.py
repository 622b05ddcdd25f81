"""Tries out a projector in a process of its own: llama.cpp ends the process on many files that are damaged.

There are some forty kinds of projectors, each with tensors and numbers of its own that llama.cpp takes for granted.
Rather than to know them all, we let a child load the file and encode a picture with it, beside no more of the model
than its vocabulary, and look how it ends.
"""

from __future__ import annotations

import contextlib
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np

from backends import rehearsal
from backends.base import ModelFileError
from backends.generation import IMAGE
from backends.gguf.library import library
from backends.gguf.projector import Projector

_SECONDS = 300.0
_ASSERT = re.compile(r"GGML_(?:ASSERT|ABORT)\(.*?\) failed|Fatal error|invalid .*|it took longer than .*")


def rehearse(path: Path, model: Path, threads: int) -> None:
    """Raises `ModelFileError` if the projector at `path` is not to be loaded with `model`."""
    arguments = [str(model), str(path), str(threads)]
    outcome = rehearsal.rehearse(__name__, arguments, seconds=_SECONDS, environment={"GGML_NO_BACKTRACE": "1"})
    if outcome.ending == "refused":
        raise ModelFileError(outcome.said, field="config.mmproj")
    if outcome.ending != "well":
        found = _ASSERT.search(outcome.said)
        raise _unfit(path, f"llama.cpp ends on it{f' ({found[0]})' if found else ''}")


def _unfit(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"The projector {path.name} is damaged, or of a kind that this version of llama.cpp cannot use: {reason}. "
        "Download it again.",
        field="config.mmproj",
    )


def main() -> None:
    """Loads and encodes; in the child."""
    model, path, threads = sys.argv[1:]
    rehearsal.perform(partial(_try, Path(model), Path(path), int(threads)))


def _try(model: Path, path: Path, threads: int) -> None:
    llama = library()
    params = llama.api.llama_model_default_params()
    params.vocab_only = True
    handle = llama.api.llama_model_load_from_file(str(model).encode(), params)
    if not handle:
        raise ModelFileError(f"llama.cpp cannot load {model.name}: {llama.last_error or 'it does not say why.'}")
    with contextlib.closing(Projector(llama, path, handle, threads=threads, gpu=False)) as projector:
        columns = np.linspace(0, 255, 96).astype(np.uint8)
        picture = np.broadcast_to(columns[None, :, None], (64, 96, 3))
        _, images = projector.tokens(IMAGE, [picture])
        images[0].encode()
    llama.api.llama_model_free(handle)


if __name__ == "__main__":
    main()
