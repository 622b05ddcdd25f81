"""What each family's own library does when nothing is around it: one call after the other, batches that are there.

``python -m benchmarks.bare_loops NAME --file FILE --batch N --threads N --seconds S`` prints rows a second. It runs in
a process of its own, so that no library's settings stay behind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import WrongAnswer

SENTENCE = "A small boat waits on the river for the wind that comes over the hill."
SNIPPET = "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n"

Call = Callable[[], object]
"""Computes one batch."""


def image_rows(count: int) -> Any:
    """[count, 3, 224, 224] float32."""
    return np.repeat(np.random.default_rng(7).standard_normal((1, 3, 224, 224), np.float32), count, axis=0)


def onnx(file: Path, batch: int, threads: int) -> Call:
    """An ONNX network, with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: image_rows(batch)}
    return lambda: session.run(None, inputs)


def torch(file: Path, batch: int, threads: int) -> Call:
    """TorchScript, with PyTorch."""
    import torch

    torch.set_num_threads(threads)
    module = torch.jit.load(str(file)).eval()  # type: ignore[no-untyped-call]
    rows = torch.from_numpy(image_rows(batch))

    def call() -> object:
        with torch.inference_mode():
            return module(rows).numpy()

    return call


def tensorflow(file: Path, batch: int, threads: int) -> Call:
    """A SavedModel, with TensorFlow."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    function = tf.saved_model.load(str(file)).signatures["serving_default"]
    (name,) = function.structured_input_signature[1]
    rows = tf.constant([SNIPPET] * batch)
    return lambda: {key: value.numpy() for key, value in function(**{name: rows}).items()}


def transformers(file: Path, batch: int, threads: int) -> Call:
    """Sentences to vectors, with transformers: tokens, encoder, mean, norm."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(file, local_files_only=True)
    model = AutoModel.from_pretrained(file, local_files_only=True).eval()

    def call() -> object:
        with torch.inference_mode():
            tokens = tokenizer([SENTENCE] * batch, padding=True, return_tensors="pt")
            states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            means = (states * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(means, dim=1).numpy()

    return call


def sorted_texts(file: Path, batch: int, threads: int) -> Call:
    """So many texts of all lengths to vectors, as the peers of the workload ``ragged`` do."""
    from benchmarks import texts
    from benchmarks.peers.compute import Embedder

    model, rows = Embedder(str(file), threads), texts.ragged(file, batch)
    return lambda: model.predict(rows)


def sklearn(file: Path, batch: int, threads: int) -> Call:  # noqa: ARG001
    """Texts, with a pipeline of scikit-learn."""
    import joblib

    pipeline = joblib.load(file)
    return lambda: pipeline.predict_proba([SENTENCE] * batch)


def xgboost(file: Path, batch: int, threads: int) -> Call:
    """A table, with XGBoost."""
    import xgboost

    booster = xgboost.Booster({"nthread": threads}, model_file=str(file))
    rows = np.repeat(np.array([[5.1, 3.5, 1.4, 0.2]]), batch, axis=0)
    return lambda: booster.inplace_predict(rows)


LOOPS: dict[str, Callable[[Path, int, int], Call]] = {
    each.__name__: each for each in (onnx, torch, tensorflow, transformers, sorted_texts, sklearn, xgboost)
}


def measured(name: str, file: Path, batch: int, threads: int, seconds: float) -> float:
    """Rows a second of one loop, run in a process of its own. Raises `WrongAnswer` if that fails."""
    flags = ["--file", str(file), "--batch", str(batch), "--threads", str(threads), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "benchmarks.bare_loops", name, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if done.returncode:
        raise WrongAnswer(f"the bare loop {name} failed: {done.stderr[-500:]!r}")
    return float(done.stdout)


def main() -> None:
    """Prints rows a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=LOOPS)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        call = LOOPS[arguments.name](arguments.file, arguments.batch, arguments.threads)
        call()
        call()
        begin, calls = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begin) < arguments.seconds:
            call()
            calls += 1
    print(calls * arguments.batch / elapsed)


if __name__ == "__main__":
    main()
