"""A real worker process, its supervisor and the instances on it."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import Device
from engine.errors import ModelFileError, UniModelError, WorkerDied
from engine.scheduling.queue import Pending
from engine.settings import MonitoringSettings
from engine.transport.messages import Load, Loaded
from engine.types import Answer, JsonAnswer, JsonInput, Request, TensorAnswer, TensorInput
from engine.worker.instance import MAX_STREAM_BYTES, Instance, Stream
from engine.worker.supervisor import Worker

PLUGIN = """
import os, threading, time
from unimodel.plugins import BasePlugin

class Model(BasePlugin):
    def load_model(self, config):
        if config.options.get("abort"):
            os.abort()
        threading.Thread(target=threading.Event().wait, daemon=True).start()  # as a runtime has them
        time.sleep(config.options.get("sleep", 0))
        if config.options.get("fail"):
            raise ValueError("as it was told")
        self.config = config

    def predict(self, body):
        if body.get("abort"):
            os.abort()
        return {"pid": os.getpid(), "output": body.get("input"), "text": "x" * body.get("size", 0)}

    def stream(self, body):
        i = 0
        while i != body.get("chunks"):
            yield {"i": i, "text": "x" * body.get("size", 0)}
            i += 1

    def close(self):
        if self.config.options.get("fail_at_close"):
            raise ValueError("cannot close")
"""

MONITORING = MonitoringSettings(log_level="error")


class Bench:
    """A worker, and what its instances reported."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "model.py"
        self.file.write_text(PLUGIN)
        self.worker = Worker("cpu", Device("cpu", threads=1), MONITORING)
        self.deaths = 0
        self.lost: list[Instance] = []
        self.counter = 0
        self.worker.on_death = self._on_death

    def _on_death(self, worker: Worker) -> None:
        self.deaths += 1

    async def load(self, *, path: str | None = None, backend: str = "python", **config: Any) -> Instance:
        """A loaded instance, whose requests are delivered."""
        self.counter += 1
        instance = Instance(self.worker, f"m#{self.counter}", 8 << 20)
        message = Load(
            key=instance.key,
            path=path or str(self.file),
            backend=backend,
            task=None,
            config=config,
            device=self.worker.device,
            slots=instance.slots.count,
            slot_bytes=instance.slots.slot_bytes,
            batch_rows=8,
            dynamic_padding=True,
            trusted=True,
        )
        try:
            instance.loaded = await self.worker.load(message, instance, 60)
        except BaseException:
            instance.close()
            raise
        assert isinstance(instance.loaded, Loaded)
        instance.on_done = deliver
        instance.on_lost = self.lost.append
        return instance

    async def ask(self, instance: Instance, *bodies: dict[str, Any]) -> list[Any]:
        """The answers to one batch."""
        sources = [JsonInput(json.dumps(b).encode()) for b in bodies]
        return await asyncio.gather(*self.send(instance, [Request(s, "id", 0.0) for s in sources]))

    def send(self, instance: Instance, requests: list[Request]) -> list[asyncio.Future[Any]]:
        futures: list[asyncio.Future[Any]] = [asyncio.get_running_loop().create_future() for _ in requests]
        items = [
            Pending(r, "g", 1, 1, settle(future), lambda item, outcome: item.deliver(outcome), 0.0, waiting=False)
            for r, future in zip(requests, futures, strict=True)
        ]
        instance.send(items)
        return futures

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


def settle(future: asyncio.Future[Any]) -> Callable[[Answer | UniModelError], None]:
    def deliver(outcome: Answer | UniModelError) -> None:
        future.set_result(json.loads(outcome.data) if isinstance(outcome, JsonAnswer) else outcome)

    return deliver


def deliver(instance: Instance, batch: Any, answers: list[Answer | UniModelError], seconds: float) -> None:
    for item, answer in zip(batch.items, answers, strict=True):
        item.end(answer)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    made.worker.spawn()
    await made.worker.ready()
    yield made
    await made.worker.stop()


def descriptors(pid: int | None) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# -- life of a model --------------------------------------------------------------------------------------------------


async def test_a_model_is_loaded_asked_and_unloaded_and_nothing_stays_open(bench: Bench) -> None:
    pid = bench.worker.pid
    before = descriptors(pid), descriptors(os.getpid())
    for _ in range(3):
        instance = await bench.load()
        one, two = await bench.ask(instance, {"input": 1}, {"input": "zwei"})
        assert (one["output"], two["output"]) == (1, "zwei")
        assert one["pid"] == pid != os.getpid()
        await bench.worker.unload(instance)
    assert (descriptors(pid), descriptors(os.getpid())) == before
    assert bench.lost == []


async def test_threads_are_named_after_their_model(bench: Bench) -> None:
    instance = await bench.load()
    tasks = Path(f"/proc/{bench.worker.pid}/task").iterdir()
    names = sorted((task / "comm").read_text().strip() for task in tasks)
    assert [name for name in names if name.startswith(instance.key)] == ["m#1", "m#1/run"]


async def test_answers_of_every_size(bench: Bench) -> None:
    instance = await bench.load()
    sizes = [0, 1000, 40_000, 3_000_000]
    answers = await bench.ask(instance, *[{"size": n} for n in sizes])
    assert [len(a["text"]) for a in answers] == sizes
    assert len(instance.outstanding) == 0
    await bench.worker.unload(instance)


async def test_tensors_through_shared_memory(bench: Bench, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 100_000])],
        [helper.make_tensor_value_info("y", kind, ["n", 100_000])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "double.onnx")
    instance = await bench.load(path=str(tmp_path / "double.onnx"), backend="onnx")
    rows = [np.random.default_rng(i).random((1, 100_000), np.float32) for i in range(4)]
    first = bench.send(instance, [Request(TensorInput({"x": r}, 1), "id", 0.0, wants_tensors=True) for r in rows[:3]])
    second = bench.send(instance, [Request(TensorInput({"x": rows[3]}, 1), "id", 0.0, wants_tensors=True)])
    answers = await asyncio.gather(*first, *second)
    for answer, row in zip(answers, rows, strict=True):
        assert isinstance(answer, TensorAnswer)
        np.testing.assert_array_equal(answer.tensors["y"], row * 2)
    await bench.worker.unload(instance)


async def test_a_model_that_does_not_load_says_why_and_harms_no_other(bench: Bench) -> None:
    good = await bench.load()
    with pytest.raises(ModelFileError, match="as it was told"):
        await bench.load(fail=True)
    with pytest.raises(UniModelError) as e:
        await bench.load(path="/nowhere.py")
    assert e.value.code == "model_file_error"
    assert await bench.ask(good, {"input": 1})
    assert bench.deaths == 0


async def test_a_model_that_cannot_close_is_gone_all_the_same(bench: Bench) -> None:
    other = await bench.load()
    pid = bench.worker.pid
    instance = await bench.load(fail_at_close=True)
    await bench.worker.unload(instance)
    assert (await bench.ask(other, {}))[0]["pid"] == pid


async def test_a_model_that_streams_is_unloaded_in_the_middle_of_it(bench: Bench) -> None:
    other = await bench.load()
    pid = bench.worker.pid
    for number in range(5):
        instance = await bench.load()
        stream = Stream(number, b"{}", "id")
        instance.start_stream(stream)
        for _ in range(10):
            assert await stream.next()
        await bench.worker.unload(instance)
    assert (await bench.ask(other, {}))[0]["pid"] == pid


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_streams_and_batches_share_a_model(bench: Bench) -> None:
    instance = await bench.load()
    endless, short = Stream(1, b"{}", "a"), Stream(2, b'{"chunks":3}', "b")
    instance.start_stream(endless)
    instance.start_stream(short)
    assert (await bench.ask(instance, {"input": 1}))[0]["output"] == 1
    assert [json.loads(await short.next() or b"")["i"] for _ in range(3)] == [0, 1, 2]
    assert await short.next() is None
    assert json.loads(await endless.next() or b"")["i"] == 0
    instance.cancel_stream(endless)
    assert instance.streams == {}
    assert (await bench.ask(instance, {"input": 2}))[0]["output"] == 2


async def test_a_reader_that_is_too_slow_is_cut_off(bench: Bench) -> None:
    instance = await bench.load()
    stream = Stream(1, b'{"size":100000}', "a")
    ends: list[int] = []
    instance.on_stream_end = lambda: ends.append(stream.waiting_bytes)
    instance.start_stream(stream)
    await bench.until(lambda: not instance.streams)
    assert len(ends) == 1, "another one may start, though the reader is still there"
    assert MAX_STREAM_BYTES < stream.waiting_bytes < MAX_STREAM_BYTES + 200_000
    with pytest.raises(UniModelError, match="too slowly"):
        while True:
            await stream.next()
    assert (await bench.ask(instance, {"input": 1}))[0]["output"] == 1


# -- deaths -----------------------------------------------------------------------------------------------------------


async def test_a_request_that_kills_its_worker_is_reported_with_its_company(bench: Bench) -> None:
    instance = await bench.load()
    pid = bench.worker.pid
    bench.send(instance, [Request(JsonInput(b'{"abort":true}'), "poison", 0.0)])
    bench.send(instance, [Request(JsonInput(b"{}"), "next", 0.0)])
    await bench.until(lambda: bench.lost)
    assert bench.lost == [instance]
    waiting = [[i.request.request_id for i in b.items] for b in instance.outstanding]
    assert waiting == [["poison"], ["next"]]
    instance.close()
    await bench.until(lambda: bench.worker.state == "ready")
    assert bench.worker.pid != pid
    assert (bench.worker.restarts, bench.deaths) == (1, 1)
    again = await bench.load()
    assert (await bench.ask(again, {}))[0]["pid"] == bench.worker.pid


async def test_a_model_that_kills_its_worker_while_loading_is_named(bench: Bench) -> None:
    with pytest.raises(WorkerDied, match=r"died while loading the model \(SIGABRT\)"):
        await bench.load(abort=True)
    assert await bench.ask(await bench.load(), {"input": 1})


async def test_a_worker_that_is_killed_comes_back(bench: Bench) -> None:
    instance = await bench.load()
    pid = bench.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await bench.until(lambda: bench.lost and bench.worker.state == "ready" and bench.worker.pid != pid)
    instance.close()
    assert bench.deaths == 1


async def test_a_worker_does_not_outlive_its_server(bench: Bench) -> None:
    """Closing is all that the server's death does, however busy the worker is: it ends with all that it started."""
    instance = await bench.load()
    stream = Stream(1, b'{"size":1000}', "a")
    instance.start_stream(stream)
    await stream.next()
    process = bench.worker._process
    assert process is not None
    assert bench.worker._control is not None
    bench.worker._control.close()
    await bench.until(lambda: process.poll() is not None)
    assert process.returncode == 0
    instance.close()


async def test_a_worker_that_dies_as_soon_as_it_has_loaded_a_model(bench: Bench) -> None:
    """Its death is heard of before who waits for the load."""
    control = bench.worker._control
    assert control is not None
    hear = control._on_message

    def hear_and_die(data: bytes) -> None:
        hear(data)
        if any(load.done() for load in bench.worker._loads.values()):
            control.end()

    control._on_message = hear_and_die
    with pytest.raises(WorkerDied, match="as soon as it had loaded"):
        await bench.load()
    assert bench.deaths == 1
    assert await bench.ask(await bench.load(), {"input": 1})


async def test_instances_are_lost_with_what_their_worker_sent_before_it_died(bench: Bench) -> None:
    instance = await bench.load()
    bench.worker.settled(instance)
    (answer,) = bench.send(instance, [Request(JsonInput(b'{"input":1}'), "id", 0.0)])
    process = bench.worker._process
    assert process is not None
    select.select([instance._channel._sock], [], [])  # the loop hears of nothing meanwhile
    process.kill()
    process.wait()
    control = bench.worker._control
    assert control is not None
    control.end()
    assert bench.lost == [instance]
    assert answer.result()["output"] == 1
    instance.close()


async def test_a_load_that_kills_its_worker_is_the_cause(bench: Bench) -> None:
    with pytest.raises(WorkerDied):
        await bench.load(abort=True)
    assert bench.worker.load_is_the_cause


async def test_a_load_whose_worker_is_killed_from_outside_is_not_the_cause(bench: Bench) -> None:
    load = asyncio.create_task(bench.load(sleep=30))
    await bench.until(lambda: bench.worker.quarantine.loading)
    assert bench.worker.pid is not None
    os.kill(bench.worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="killed from outside"):
        await load
    assert not bench.worker.load_is_the_cause


async def test_a_load_waits_for_the_suspects_of_its_worker(bench: Bench) -> None:
    await bench.load()
    quarantine = bench.worker.quarantine

    def wake() -> None: ...

    assert quarantine.claim(wake)
    quarantine.begin(wake)
    load = asyncio.create_task(bench.load())
    await asyncio.sleep(0.1)
    assert (quarantine.loading, quarantine.loads) == (False, 1)
    quarantine.withdraw(wake)
    await asyncio.sleep(0.1)
    assert not quarantine.loading, "one is still running"
    quarantine.end()
    assert await bench.ask(await load, {"input": 1})
    await bench.until(lambda: quarantine.over)


async def test_a_suspect_waits_for_the_load_that_is_under_way(bench: Bench) -> None:
    quarantine = bench.worker.quarantine
    load = asyncio.create_task(bench.load(sleep=0.3))
    await bench.until(lambda: quarantine.loading)
    woken = asyncio.Event()
    assert not quarantine.claim(woken.set)
    assert not quarantine.held, "all others go on"
    await load
    await bench.until(woken.is_set)
    assert quarantine.claim(woken.set)
