"""W3: texts of 8 to 256 tokens to vectors. What batches are worth where no two rows are equally long."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks import bare_loops, dialects, load, models, texts
from benchmarks.dialects import Call, Served
from benchmarks.harness import OURS, Metric, Options, Study, interleave
from benchmarks.models import Array
from benchmarks.peers import compute
from benchmarks.servers import TEXT_PEERS, Running, System, Unbatched, UniModel, started

TEXTS = 256
CONNECTIONS = 64
BATCH = 32
"""``max_batch_size`` of every system that batches: UniModel's own when nothing is set."""
LIST = 32
"""Texts of a request that has many."""
CHECKED = 32
"""Texts whose answers are compared with the library's before and after the load, asked for all at once."""
RATE = "texts/s"
WARM_UP = 5.0
"""Seconds, in any run: some answer nothing for the first ones."""
LONG = 30.0
"""Seconds of a full run: what is under way at its end is not counted, which is a batch or two."""


class Bare:
    """The library without a server, with all texts at hand."""

    name = "bare loop"

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers")}


def run(options: Options) -> Study:
    """Measures MiniLM with one text a request against its peers, and UniModel with many texts a request."""
    threads = psutil.cpu_count() or 1
    study = Study("ragged", f"W3 ragged: MiniLM, {texts.SHORTEST} to {texts.LONGEST} tokens a text, {threads} threads")
    model = models.minilm()
    served = [Served(model, "text", BATCH, text) for text in texts.ragged(model.path, TEXTS)]
    checked = served[:CHECKED]
    answers = dialects.expected_vectors(checked)

    def measure(system: System | Bare, folder: Path) -> None:
        if isinstance(system, Bare):
            rate = bare_loops.measured("sorted_texts", model.path, TEXTS, threads, options.seconds(LONG))
            study.add(Metric(f"c={CONNECTIONS} throughput", RATE), system.name, rate)
            return
        with started(system, served[:1], threads, folder) as server:
            _check(server, checked, answers)
            calls = [server.call(each) for each in served]
            load.wrk(server.port, calls, CONNECTIONS, WARM_UP)
            result = load.wrk(server.port, calls, CONNECTIONS, options.seconds(LONG))
            study.add(Metric(f"c={CONNECTIONS} throughput", RATE), system.name, result.throughput)
            study.add(Metric(f"c={CONNECTIONS} p50", "ms"), system.name, result.p50_ms)
            if system.name == OURS:
                _lists(study, server, model, [each.text for each in served], options)
            _check(server, checked, answers)

    interleave(study, options, [UniModel(), Unbatched(), *TEXT_PEERS, Bare()], measure)
    study.notes.append(
        f"One text a request, but in the lists, of {LIST} each with 2 connections. Any length is as likely as its "
        f"double. max_batch_size is {BATCH}. The peers sort a batch by length and compute {compute.PART} texts at a "
        f"time, padded to the longest of these; so does the loop with all {TEXTS} texts, and it has no client."
    )
    return study


def _check(server: Running, served: Sequence[Served], answers: Sequence[Array]) -> None:
    """Asks for all texts at once, so that they share batches. Raises `WrongAnswer` unless each gets its own vector."""
    with ThreadPoolExecutor(len(served)) as pool:
        asked = [
            pool.submit(load.check, server.port, server.call(each), answer)
            for each, answer in zip(served, answers, strict=True)
        ]
        for each in asked:
            each.result()


def _lists(study: Study, server: Running, model: models.Model, rows: list[str], options: Options) -> None:
    """Many texts in each request, as UniModel's own clients and as OpenAI's ask."""
    parts = [rows[i : i + LIST] for i in range(0, len(rows), LIST)]
    routes: dict[str, list[Call]] = {
        "lists": [dialects.unimodel_texts(model, part) for part in parts],
        "lists, /v1/embeddings": [dialects.openai_texts(model, part) for part in parts],
    }
    answers = dialects.expected_vectors([Served(model, "text", text=text) for text in parts[0]])
    for name, calls in routes.items():
        load.check(server.port, calls[0], answers)
        result = load.wrk(server.port, calls, 2, options.seconds(LONG))
        study.add(Metric(f"{name} throughput", RATE), OURS, result.throughput * LIST)
