"""The families that the workload ``families`` compares: a model of each backend, how it is served, and its loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import bare_loops, llm_servers, models, tables
from benchmarks.bare_loops import SENTENCE, SNIPPET, image_rows
from benchmarks.harness import Metric, Options
from benchmarks.points import NAME, PATH, Answers, Point, Recordings, Rows, json_call, tensor_call


def batching(batch: int) -> dict[str, Any]:
    """The options that give most models a batch size."""
    return {"batching": {"max_batch_size": batch}}


@dataclass(frozen=True)
class Family:
    """A model of a backend."""

    name: str
    """Of the backend, and what else tells it from others."""
    package: str
    """The module of its library."""
    file: Callable[[], Path]
    """Raises `scripts.packages.FetchError` for a model that cannot be had."""
    points: tuple[Point, ...]
    loop: str = ""
    """In `benchmarks.bare_loops`, if that is not the family's name."""
    threads: int | None = None
    """Of the model and the loop; all cores if not given."""
    batched: Callable[[int], dict[str, Any]] = batching
    """The options that give it a batch size."""
    task: str | None = None

    def metric(self, point: Point) -> Metric:
        """What is measured."""
        return Metric(f"{self.name}, {point.name}" if point.name else self.name, point.unit)

    @property
    def batches(self) -> list[int]:
        """The sizes that its points have."""
        return sorted({point.batch for point in self.points})

    def registration(self, batch: int) -> dict[str, Any]:
        """The body that registers the model."""
        request = {"name": NAME, "model_path": str(self.file()), "config": self.batched(batch), "trust": True}
        return {**request, "task": self.task} if self.task else request

    def lacks(self) -> str | None:
        """Why it cannot be measured here; `None` if it can."""
        from scripts.packages import FetchError

        if find_spec(self.package) is None:
            return f"{self.package} is not installed"
        try:
            self.file()
            for point in self.points:
                _ = point.per_row
        except FetchError as e:
            return str(e)
        return None

    def bare_rates(self, options: Options, cores: int) -> dict[int, float]:
        """Rows a second of the library's own loop, by batch size."""
        seconds = options.seconds(max(point.seconds for point in self.points))
        name = self.loop or self.name
        return bare_loops.rates(name, self.file(), self.batches, self.threads or cores, seconds)


def _fetched(name: str, file: str = "") -> Path:
    from scripts import fetch_models

    return Path(fetch_models.fetch(name)) / file


def _of_tables(name: str, package: str, loop: str) -> Family:
    """Few rows of a table are computed in less time than it takes to ask for them, so there are points with many."""
    points = [Rows(tables.call(PATH, "rows", 1), 32, 1, "1 row", seconds=1)]
    forms: dict[int, tuple[tables.Form, ...]] = {64: ("rows", "binary"), 1024: ("rows", "columns", "binary")}
    for count, chosen in forms.items():
        for form in chosen:
            point = f"{count} rows as {tables.FORMS[form]}"
            points.append(Rows(tables.call(PATH, form, count), count, count, point, seconds=1))
    return Family(name, package, lambda: tables.MODELS[loop]().path, tuple(points), loop, threads=1)


def _of_texts(text: str, batch: int) -> tuple[Rows, ...]:
    """Texts one by one, and as many as a batch has in each request."""
    together = Rows(json_call([text] * batch), batch, batch, f"{batch} a request")
    return Rows(json_call(text), batch), together


def _of_sequences(batch: int) -> dict[str, Any]:
    return {"sequences": batch}


class _Gguf(Family):
    """Its loop is that of the workload ``llm``."""

    def bare_rates(self, options: Options, cores: int) -> dict[int, float]:  # noqa: ARG002
        work = {point.batch: point.conversations(0) for point in self.points if isinstance(point, Answers)}
        tokens = bare_loops.TOKENS
        return {n: speed / tokens for n, speed in llm_servers.LOOP.speeds(work, tokens, cores).items()}


_IMAGE = tensor_call(image_rows(1))
_LITE_IMAGE = tensor_call(image_rows(1).transpose(0, 2, 3, 1))
_ANSWERS = (Answers(1), Answers(8))

FAMILIES = (
    Family(
        "onnx",
        "onnxruntime",
        lambda: _fetched("efficientnet", "model.onnx"),
        (Rows(_IMAGE, 8, slow=True, seconds=2),),
        task="tensor",
    ),
    Family(
        "torch",
        "torch",
        lambda: _fetched("efficientnet-torch", "model.pt"),
        (Rows(_IMAGE, 8, slow=True, seconds=3),),
        task="tensor",
    ),
    Family(
        "tflite",
        "ai_edge_litert",
        lambda: models.mobilenet_lite().path,
        (Rows(_LITE_IMAGE, 8, slow=True, seconds=2),),
        task="tensor",
    ),
    Family("tensorflow", "tensorflow", lambda: _fetched("guesslang", "model"), _of_texts(SNIPPET, 16)),
    Family(
        "transformers-embedding",
        "transformers",
        lambda: _fetched("minilm"),
        (Rows(json_call(SENTENCE), 8, slow=True, seconds=2),),
        "transformers",
    ),
    Family(
        "transformers", "transformers", lambda: _fetched("smollm2-folder"), _ANSWERS, "generate", batched=_of_sequences
    ),
    _Gguf("gguf", "llama_cpp", llm_servers.model, _ANSWERS, batched=_of_sequences),
    Family(
        "whisper",
        "faster_whisper",
        lambda: _fetched("whisper"),
        (Recordings(4),),
        batched=lambda batch: {"batch_windows": batch},
    ),
    Family("sklearn texts", "sklearn", lambda: models.profanity().path, _of_texts(SENTENCE, 32), "sklearn"),
    _of_tables("sklearn forest", "sklearn", "forest"),
    _of_tables("xgboost", "xgboost", "xgboost"),
    _of_tables("lightgbm", "lightgbm", "lightgbm"),
    _of_tables("catboost", "catboost", "catboost"),
)
QUICK = frozenset({"onnx", "sklearn texts", "xgboost"})
"""Those whose libraries are there in a moment."""
