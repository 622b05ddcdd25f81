"""``python -m benchmarks.soak``: mixed load over three models while a worker is killed again and again.

Every answer is compared with what it must be. Prints one JSON object; exit code 1 if any request failed. Stops by
itself after ``--seconds``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts import fetch_models

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 0.002
"""Seconds between a client's answer and its next request, so that the clients leave the server some of the machine."""


@dataclass
class Report:
    """What happened."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    kills: int = 0
    rss_mb: list[float] = field(default_factory=list)
    """Of the server process, at each kill."""


def main() -> int:
    """Runs the load. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--kill-every", type=float, default=5, help="seconds between two kills of a worker")
    parser.add_argument("--clients", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        log = (Path(folder) / "server.log").open("wb")
        command = [sys.executable, "-m", "engine", "--home", str(home), "--port", "0"]
        server = subprocess.Popen(command, stderr=log, stdout=log, cwd=ROOT)
        try:
            report = asyncio.run(_soak(server.pid, _url(home), arguments))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    summary = {
        "seconds": arguments.seconds,
        "kills": report.kills,
        "answered": dict(report.answered),
        "failed": len(report.failures),
        "failures": report.failures[:5],
        "slowest_seconds": round(report.slowest, 3),
        "server_rss_mb": report.rss_mb[:: max(1, len(report.rss_mb) // 10)],
        "server_exit_code": server.returncode,
    }
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    return 1 if report.failures else 0


def _url(home: Path) -> str:
    for _ in range(600):
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads((home / "server.json").read_text())["url"])
        time.sleep(0.05)
    raise SystemExit("the server did not start")


async def _soak(pid: int, url: str, arguments: argparse.Namespace) -> Report:
    report = Report()
    stop = time.monotonic() + arguments.seconds
    limits = httpx.Limits(max_connections=arguments.clients + 4)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        kinds = await _register(http)
        clients = [_client(http, kinds, stop, report, i) for i in range(arguments.clients)]
        await asyncio.gather(_kill(pid, stop, arguments.kill_every, report), *clients)
    return report


async def _register(http: httpx.AsyncClient) -> list[tuple[str, dict[str, Any], Any]]:
    """Registers an image classifier, a table and a plugin. Returns (model, body, its right answer) of each."""
    from benchmarks import models

    iris = models.cache() / "models" / models.iris_sklearn().file
    iris.parent.mkdir(parents=True, exist_ok=True)
    if not iris.exists():
        models.iris_sklearn().write(iris)
    image = models.jpeg_base64()
    for name, path in (
        ("image", fetch_models.fetch("efficientnet") / "model.onnx"),
        ("table", iris),
        ("plugin", ROOT / "examples" / "sentiment_plugin.py"),
    ):
        answer = await http.post("/v1/models", json={"name": name, "model_path": str(path), "trust": True})
        answer.raise_for_status()
    kinds = []
    for name, body in (
        ("image", {"input": image}),
        ("table", {"input": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}),
        ("plugin", {"input": "a wonderful day"}),
    ):
        kinds.append((name, body, _essence(name, (await http.post(f"/v1/models/{name}:predict", json=body)).json())))
    return kinds


def _essence(name: str, answer: dict[str, Any]) -> Any:
    """What of an answer must not depend on what else is in the batch: scores may differ in their last digits."""
    output = answer.get("output")
    return output[0]["index"] if name == "image" and output else output


async def _client(
    http: httpx.AsyncClient, kinds: list[tuple[str, dict[str, Any], Any]], stop: float, report: Report, seed: int
) -> None:
    chance = random.Random(seed)
    while time.monotonic() < stop:
        name, body, right = chance.choices(kinds, weights=(1, 4, 4))[0]
        begin = time.monotonic()
        try:
            answer = await http.post(f"/v1/models/{name}:predict", json=body)
        except httpx.HTTPError as e:
            report.failures.append(f"{name}: {type(e).__name__} {e}")
            continue
        report.slowest = max(report.slowest, time.monotonic() - begin)
        if answer.status_code != 200:
            report.failures.append(f"{name}: {answer.status_code} {answer.text[:300]}")
        elif _essence(name, answer.json()) != right:
            report.failures.append(f"{name}: wrong answer {answer.text[:300]}")
        else:
            report.answered[name] += 1
        await asyncio.sleep(PAUSE)


async def _kill(pid: int, stop: float, period: float, report: Report) -> None:
    server = psutil.Process(pid)
    while time.monotonic() + period < stop:
        await asyncio.sleep(period)
        report.rss_mb.append(round(server.memory_info().rss / 1e6, 1))
        for worker in server.children():
            os.kill(worker.pid, signal.SIGKILL)
            report.kills += 1


if __name__ == "__main__":
    sys.exit(main())
