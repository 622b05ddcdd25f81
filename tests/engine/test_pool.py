"""What becomes of a model that is unloaded, or given up, while it is loaded again after its worker died."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Device
from engine import digest, installed
from engine.errors import ModelFailed
from engine.model_options import ModelOptions
from engine.pool import Entry, Pool
from engine.schema import ModelState
from engine.settings import MonitoringSettings, Settings
from engine.telemetry.metrics import Metrics
from engine.transport.messages import Load, Loaded
from engine.worker.instance import Instance
from engine.worker.supervisor import Worker
from tests.engine.scheduling.stand_in import SPEC, loaded, request, worker
from tests.engine.scheduling.virtual_time import settle, virtual_time


class Slow:
    """Stands in for the two functions of a worker: its loads take until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.failures = 0
        """How many of the next loads fail."""
        self.unloaded: list[Instance] = []
        self.worker = worker()
        monkeypatch.setattr(Worker, "load", self._load)
        monkeypatch.setattr(Worker, "unload", self._unload)

    async def _load(self, message: Load, instance: Instance, timeout: float) -> Loaded:
        await self.go.wait()
        if self.failures:
            self.failures -= 1
            raise ModelFailed("as it was told")
        return loaded()

    async def _unload(self, instance: Instance) -> None:
        self.unloaded.append(instance)
        instance.close()


def served(pool: Pool) -> Entry:
    entry = pool._entry(SPEC, ModelOptions())
    entry.state = "ready"
    pool.entries[SPEC.key] = entry
    return entry


def new_pool() -> Pool:
    return Pool(Settings(), Metrics("1"), asyncio.get_running_loop().time)


@virtual_time
async def test_one_that_is_unloaded_meanwhile_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, pool = Slow(monkeypatch), new_pool()
    entry = served(pool)
    again = asyncio.create_task(pool._replace(entry, slow.worker))
    await settle()
    await pool.unload(SPEC)
    assert SPEC.key not in pool.entries
    slow.go.set()
    await again
    assert entry.dispatcher.instances == []
    assert len(slow.unloaded) == 1


@virtual_time
async def test_one_that_failed_meanwhile_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another copy of it could not be loaded again, upon which the model was given up."""
    slow, pool = Slow(monkeypatch), new_pool()
    entry = served(pool)
    again = asyncio.create_task(pool._replace(entry, slow.worker))
    await settle()
    entry.state, entry.error = "failed", ModelFailed("no")
    slow.go.set()
    await again
    assert entry.dispatcher.instances == []
    assert len(slow.unloaded) == 1


@pytest.mark.parametrize("state", ["ready", "unloading"])
@virtual_time
async def test_one_that_has_requests_comes_back(state: ModelState, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, pool = Slow(monkeypatch), new_pool()
    entry = served(pool)
    endings: list[Any] = []
    item = entry.dispatcher.submit(request(), endings.append)
    entry.state = state
    again = asyncio.create_task(pool._replace(entry, slow.worker))
    await settle()
    slow.go.set()
    await again
    (instance,) = entry.dispatcher.instances
    await settle()
    assert instance.outstanding[0].items == [item]
    assert slow.unloaded == []
    entry.dispatcher.detach(instance)
    instance.close()


async def keep_house(pool: Pool, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await pool._keep_house()
    await settle()


@virtual_time
async def test_an_instance_that_could_not_be_replaced_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, pool = Slow(monkeypatch), new_pool()
    slow.go.set()
    entry = served(pool)
    entry.workers = [worker(), worker()]
    await pool._replace(entry, entry.workers[0])
    slow.failures = 1
    await pool._replace(entry, entry.workers[1])
    assert entry.state == "ready"
    await keep_house(pool, 20)
    assert [instance.worker for instance in entry.dispatcher.instances] == entry.workers[:1]
    await keep_house(pool, 20)
    assert [instance.worker for instance in entry.dispatcher.instances] == entry.workers
    await pool._drop_instances(entry)


@virtual_time
async def test_an_instance_that_is_lost_while_another_is_loaded_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, pool = Slow(monkeypatch), new_pool()
    entry = served(pool)
    entry.workers = [worker()]
    entry.state = "loading"
    await pool._replace(entry, entry.workers[0])
    assert entry.dispatcher.instances == []
    entry.state = "ready"
    await keep_house(pool, 20)
    slow.go.set()
    await settle()
    assert [instance.worker for instance in entry.dispatcher.instances] == entry.workers, "once, whatever the time"
    await pool._drop_instances(entry)


async def test_an_instance_comes_back_of_the_file_that_was_registered_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was changed since would give answers of two models under one version."""
    slow, pool = Slow(monkeypatch), new_pool()
    slow.go.set()
    file = tmp_path / "model.onnx"
    file.write_bytes(b"as it was")
    sha256, size = digest.digest(file)
    spec = msgspec.structs.replace(SPEC, path=str(file), sha256=sha256, size_bytes=size, backend="onnx")
    entry = served(pool)
    entry.spec = spec
    entry.workers = [worker(), worker()]
    await pool._replace(entry, entry.workers[0])
    assert len(entry.dispatcher.instances) == 1
    file.write_bytes(b"as it is now")
    await pool._replace(entry, entry.workers[1])
    assert (len(entry.dispatcher.instances), entry.state) == (1, "ready"), "the other goes on serving"
    await pool._drop_instances(entry)
    await pool._replace(entry, entry.workers[0] if entry.workers else worker())
    assert entry.state == "failed"
    assert entry.error is not None
    assert "has changed since it was registered" in entry.error.message


@pytest.mark.parametrize(
    ("built_for", "device", "chosen"),
    [
        (("cpu",), "auto", "cpu"),
        (("cpu", "cuda"), "auto", "cuda:0"),
        (("cpu",), "cuda", "cuda:0"),  # where loading says what is missing
    ],
)
def test_a_model_goes_where_the_installed_runtime_can_compute(
    built_for: tuple[str, ...], device: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def place() -> list[Worker]:
        pool = new_pool()
        gpu = Worker("cuda:0", Device("cuda"), MonitoringSettings())
        pool.workers = {"cpu": worker(), "cuda:0": gpu}
        return await pool._place(pool._entry(SPEC, ModelOptions(device=device)))

    monkeypatch.setattr(installed, "kinds", lambda _: built_for)
    assert [each.name for each in asyncio.run(place())] == [chosen]
