"""Each family of models: how much of a bare loop in its own library is left when it is served, one row a request."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import bare_loops, load, models
from benchmarks.bare_loops import SENTENCE, SNIPPET, image_rows
from benchmarks.dialects import Call, Headers
from benchmarks.harness import Metric, Options, Study, interleave
from benchmarks.servers import System, UniModel, post

BARE = "bare loop"


@dataclass(frozen=True)
class Family:
    """A model, and a request for one row of it."""

    name: str
    """Of the backend."""
    loop: str
    """In `benchmarks.bare_loops`."""
    batch: int
    file: Callable[[], Path]
    body: bytes
    headers: dict[str, str]

    @property
    def metric(self) -> Metric:
        """What is measured."""
        return Metric(f"{self.name} throughput", "rows/s")


def _json(value: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps({"input": value}).encode(), {"content-type": "application/json"}


def _image() -> tuple[bytes, dict[str, str]]:
    shape = {"x-tensor-dtype": "float32", "x-tensor-shape": "1,3,224,224", "accept": "application/octet-stream"}
    return image_rows(1).astype(np.float32).tobytes(), {"content-type": "application/octet-stream", **shape}


def _fetched(name: str, file: str) -> Callable[[], Path]:
    def path() -> Path:
        from scripts import fetch_models

        return fetch_models.fetch(name) / file

    return path


FAMILIES = (
    Family("onnx", "onnx", 8, _fetched("efficientnet", "model.onnx"), *_image()),
    Family("torch", "torch", 8, _fetched("efficientnet-torch", "model.pt"), *_image()),
    Family("tensorflow", "tensorflow", 16, _fetched("guesslang", "model"), *_json(SNIPPET)),
    Family("transformers-embedding", "transformers", 8, _fetched("minilm", ""), *_json(SENTENCE)),
    Family("sklearn", "sklearn", 32, lambda: models.profanity().path, *_json(SENTENCE)),
    Family("xgboost", "xgboost", 32, lambda: models.iris_xgboost().path, *_json([5.1, 3.5, 1.4, 0.2])),
)


class Bare:
    """The libraries themselves."""

    name = BARE

    def versions(self) -> dict[str, str]:
        names = ("onnxruntime", "torch", "tensorflow-cpu", "transformers", "scikit-learn", "xgboost-cpu")
        return {name: version(name) for name in names}


def run(options: Options) -> Study:
    """Measures each family alone: its library in a process of its own, and then served."""
    threads = psutil.cpu_count() or 1
    study = Study(
        "families", f"Every family against a bare loop in its own library, {threads} threads, one row a request"
    )
    study.notes.append(
        "The loop and the server have the same batch size: "
        + ", ".join(f"{family.name} {family.batch}" for family in FAMILIES)
        + ". Twice as many requests are in flight. The client runs on the same cores, and the loop has none."
    )

    def measure(system: System, folder: Path) -> None:
        for family in FAMILIES:
            if isinstance(system, UniModel):
                rate = _served(system, family, threads, folder / family.name, options.seconds(5))
            else:
                rate = bare_loops.measured(family.loop, family.file(), family.batch, threads, options.seconds(5))
            study.add(family.metric, system.name, rate)

    interleave(study, options, [UniModel(), Bare()], measure)
    return study


def _unread(_: bytes, __: Headers) -> models.Array:
    return np.empty(0)


def _served(system: UniModel, family: Family, threads: int, folder: Path, seconds: float) -> float:
    server = system.start_empty(threads, folder)
    try:
        config = {"batching": {"max_batch_size": family.batch}}
        request = {"name": "model", "model_path": str(family.file()), "config": config, "trust": True}
        if family.headers["content-type"] != "application/json":
            request["task"] = "tensor"
        post(server.port, "/v1/models", request)
        call = Call("/v1/models/model:predict", family.headers, family.body, _unread)
        load.wrk(server.port, call, 2 * family.batch, 1)  # warm-up
        return load.wrk(server.port, call, 2 * family.batch, seconds).throughput
    finally:
        server.process.stop()
