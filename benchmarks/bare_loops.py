"""What each family's own library does when nothing is around it: one call after the other, batches that are there.

``python -m benchmarks.bare_loops NAME --file FILE --batches 1,8 --threads N --seconds S`` prints a line of JSON: what
is computed a second, for each batch size. It runs in a process of its own, so that no library's settings stay behind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prompts, speech, tables
from benchmarks.load import WrongAnswer

SENTENCE = "A small boat waits on the river for the wind that comes over the hill."
SNIPPET = "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n"
TOKENS = 24
"""Of each generated answer."""

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


def tflite(file: Path, batch: int, threads: int) -> Call:
    """A TensorFlow Lite model, with LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=threads)
    given, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(given, (batch, 224, 224, 3))
    interpreter.allocate_tensors()
    rows = np.ascontiguousarray(image_rows(batch).transpose(0, 2, 3, 1))

    def call() -> object:
        interpreter.set_tensor(given, rows)
        interpreter.invoke()
        return interpreter.get_tensor(answer)

    return call


def generate(file: Path, batch: int, threads: int) -> Call:
    """Greedy answers to a batch of prompts, with transformers: tokens, `generate`, texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(file, local_files_only=True, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(file, local_files_only=True, dtype=torch.float32).eval()
    texts = [prompts.chatml(each) for each in prompts.several(prompts.distinct, 0, batch)]

    def call() -> object:
        with torch.inference_mode():
            tokens = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
            found = model.generate(**tokens, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
            return tokenizer.batch_decode(found[:, tokens["input_ids"].shape[1] :])

    return call


def whisper(file: Path, batch: int, threads: int) -> Call:
    """Recordings to text, with faster-whisper's own batches. Of each recording one window."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio

    model = WhisperModel(str(file), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)
    pipeline, clips = BatchedInferencePipeline(model), speech.clips(batch)
    ends = np.cumsum([clip.seconds for clip in clips]).tolist()
    silence = np.zeros(1600, np.float32)  # the library minds windows that end, by rounding, behind the sound
    windows = [{"start": end - clip.seconds, "end": end} for clip, end in zip(clips, ends, strict=True)]

    def call() -> object:
        sound = np.concatenate([*(decode_audio(io.BytesIO(clip.wav)) for clip in clips), silence])
        segments, _ = pipeline.transcribe(
            sound,
            language="en",
            beam_size=speech.BEAM,
            vad_filter=False,
            clip_timestamps=windows,
            without_timestamps=False,
            batch_size=batch,
        )
        return [segment.text for segment in segments]

    return call


def sklearn(file: Path, batch: int, threads: int) -> Call:  # noqa: ARG001
    """Texts, with a pipeline of scikit-learn."""
    import joblib

    pipeline = joblib.load(file)
    return lambda: pipeline.predict_proba([SENTENCE] * batch)


def forest(file: Path, batch: int, threads: int) -> Call:
    """A table, with a random forest of scikit-learn."""
    import joblib

    model, rows = joblib.load(file).set_params(n_jobs=threads), tables.rows(batch)
    vars(model).pop("feature_names_in_")  # else it warns of rows without names
    return lambda: model.predict_proba(rows)


def xgboost(file: Path, batch: int, threads: int) -> Call:
    """A table, with XGBoost."""
    import xgboost

    booster, rows = xgboost.Booster({"nthread": threads}, model_file=str(file)), tables.rows(batch)
    return lambda: booster.inplace_predict(rows, validate_features=False)


def lightgbm(file: Path, batch: int, threads: int) -> Call:
    """A table, with LightGBM."""
    import lightgbm

    booster, rows = lightgbm.Booster(model_file=file), tables.rows(batch)
    return lambda: booster.predict(rows, num_threads=threads)


def catboost(file: Path, batch: int, threads: int) -> Call:
    """A table, with CatBoost."""
    import catboost

    model, rows = catboost.CatBoost(), tables.rows(batch)
    model.load_model(str(file))
    return lambda: model.predict(rows, prediction_type="Probability", thread_count=threads)


LOOPS: dict[str, Callable[[Path, int, int], Call]] = {
    loop.__name__: loop
    for loop in (
        onnx,
        torch,
        tensorflow,
        tflite,
        transformers,
        sorted_texts,
        generate,
        whisper,
        sklearn,
        forest,
        xgboost,
        lightgbm,
        catboost,
    )
}


def measured(name: str, file: Path, batch: int, threads: int, seconds: float) -> float:
    """Rows a second of one loop, run in a process of its own. Raises `WrongAnswer` if that fails."""
    return rates(name, file, [batch], threads, seconds)[batch]


def rates(name: str, file: Path, batches: Sequence[int], threads: int, seconds: float) -> dict[int, float]:
    """The same for several batch sizes, in one process."""
    flags = ["--file", str(file), "--batches", ",".join(map(str, batches)), "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.bare_loops", name, *flags, "--seconds", str(seconds)]
    limit = 120 + len(batches) * (seconds + 60)
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise WrongAnswer(f"the bare loop {name} failed: {done.stderr[-500:]!r}")
    return {int(batch): rate for batch, rate in json.loads(done.stdout).items()}


def rate(call: Call, rows: int, seconds: float) -> float:
    """Rows a second of a call that has so many, after two that are not counted, or one that takes long."""
    begin = time.perf_counter()
    call()
    if time.perf_counter() - begin < 1:
        call()
    begin, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        call()
        calls += 1
    return calls * rows / elapsed


def main() -> None:
    """Prints rows a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=LOOPS)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--batches", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in map(int, arguments.batches.split(",")):
            call = LOOPS[arguments.name](arguments.file, batch, arguments.threads)
            found[batch] = rate(call, batch, arguments.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
