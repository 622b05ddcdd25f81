"""Bulk prediction: JSON lines in, JSON lines out, in the same order, with many requests in flight and bounded memory.

A thread reads lines. Each takes a place in the *window*; its place in the order is a future. Workers, one a connection,
answer rows in any order, and the writer waits for the futures in order::

    reader ──rows──► workers ──futures──► writer
      └────────────── order ──────────────┘

Rows that were refused because the server is busy, or that were lost with a connection, are sent again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from engine.errors import (
    DeadlineExceeded,
    InvalidJSON,
    ModelFailed,
    NotFound,
    UniModelError,
)
from engine.schema import ModelView
from unimodel_cli.client import error_of, model_path, unreachable
from unimodel_cli.connection import Address, Connection, ConnectionBroke, request
from unimodel_cli.errors import UsageError
from unimodel_cli.inputs import BODY_KEYS
from unimodel_cli.jsonl_files import FAILED_ROW, lines, resume_point, sink, source, storage_error
from unimodel_cli.output import console_for, error_body

if TYPE_CHECKING:
    from unimodel_cli.command import Session

BUSY_SECONDS = 300.0
"""How long a row is offered to a server that says it is overloaded or not ready."""
LOST_SECONDS = 30.0
"""How long the server may be away before the run ends."""
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """What to predict: `source` and `output` are files, `None` is stdin or stdout. `timeout` is in seconds."""

    name: str
    source: Path | None
    output: Path | None
    jobs: int
    resume: bool
    headers: dict[str, str]
    timeout: float | None


@dataclass
class Tally:
    """Counts of one run. Rows that an earlier run wrote count as `skipped`."""

    rows: int = 0
    failed: int = 0
    skipped: int = 0
    bytes: int = 0


def predict_lines(session: Session, job: Job) -> None:
    """Runs `job`. Raises `UniModelError` if any row failed, also one that an earlier run wrote."""
    plugin = session.client.call(ModelView, "GET", model_path(job.name)).task == "custom"
    tally = Tally()
    if job.resume and job.output:
        tally.skipped, tally.failed = resume_point(job.output)
    begun = time.monotonic()
    with source(job.source) as rows, sink(job.output, job.resume) as out:
        head = Address.of(session.url, session.api_key).head(
            f"{model_path(job.name)}:predict", {"content-type": "application/json", **job.headers}
        )
        run = _Run(session, job, head, plugin, rows, out, tally)
        try:
            with _progress(session, job, tally), asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(run.all())
        except KeyboardInterrupt:
            out.flush()
            if job.output:
                session.out.note(f"Stopped after {tally.rows} rows. Run it again with --resume to go on.")
            raise
    seconds = time.monotonic() - begun
    session.out.note(_summary(tally, seconds))
    if tally.failed:
        raise UniModelError(
            f'{tally.failed} of {tally.skipped + tally.rows} rows failed: their lines are {{"error": ...}}.'
        )


class _Run:
    """The reader, the workers and the writer of one run."""

    def __init__(
        self, session: Session, job: Job, head: bytes, plugin: bool, source: IO[bytes], sink: IO[bytes], tally: Tally
    ) -> None:
        self._url = session.url
        self._address = Address.of(session.url, session.api_key)
        self._job = job
        self._head = head
        self._plugin = plugin
        self._source = source
        self._sink = sink
        self._tally = tally
        self._rows: asyncio.Queue[tuple[bytes, asyncio.Future[bytes]] | None] = asyncio.Queue()
        self._order: asyncio.Queue[tuple[asyncio.Future[bytes], int] | None] = asyncio.Queue()
        self._window = asyncio.Semaphore(max(64, 4 * job.jobs))
        self._last_contact = time.monotonic()

    async def all(self) -> None:
        """Runs until every row is written, or until the first error that no other row could escape."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        threading.Thread(target=self._read, args=(loop, ended), daemon=True).start()
        tasks = [asyncio.ensure_future(ended), loop.create_task(self._write())]
        tasks += [loop.create_task(self._work()) for _ in range(self._job.jobs)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # The reader's thread

    def _read(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        try:
            skip = self._tally.skipped
            for rows in lines(self._source):
                new = rows[skip:]
                skip = max(0, skip - len(rows))
                if new:
                    asyncio.run_coroutine_threadsafe(self._feed(new), loop).result()
            error = (
                UsageError(f"{self._job.output} has more rows than the input: it is not from this input.")
                if skip
                else None
            )
            asyncio.run_coroutine_threadsafe(self._finish(ended, error), loop).result()
        except (RuntimeError, concurrent.futures.CancelledError):
            return  # the loop has ended: Ctrl-C, or an error elsewhere
        except OSError as e:
            problem = UsageError(f"Cannot read {self._job.source or 'stdin'}: {e.strerror}.")
            asyncio.run_coroutine_threadsafe(self._finish(ended, problem), loop)

    async def _feed(self, lines: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        for line in lines:
            await self._window.acquire()
            slot: asyncio.Future[bytes] = loop.create_future()
            self._order.put_nowait((slot, len(line) + 1))
            self._rows.put_nowait((line, slot))

    async def _finish(self, ended: asyncio.Future[None], error: UniModelError | None) -> None:
        if error:
            ended.set_exception(error)
            return
        ended.set_result(None)
        self._order.put_nowait(None)
        for _ in range(self._job.jobs):
            self._rows.put_nowait(None)

    # The workers

    async def _work(self) -> None:
        connection = Connection(self._address)
        try:
            while (row := await self._rows.get()) is not None:
                line, slot = row
                try:
                    slot.set_result(await self._answer(connection, line))
                except UniModelError as e:
                    if isinstance(e, NotFound) or e.code == "server_unreachable":
                        raise
                    slot.set_result(msgspec.json.encode(error_body(e)))
        finally:
            connection.close()

    async def _answer(self, connection: Connection, line: bytes) -> bytes:
        """The output line of one row. Raises `UniModelError` when it failed for good."""
        data = request(self._head, self._body(line))
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                async with asyncio.timeout(self._job.timeout and self._job.timeout + GRACE_SECONDS):
                    response = await connection.send(data)
            except TimeoutError:
                raise DeadlineExceeded("The server did not answer in time.") from None
            except ConnectionBroke:
                if time.monotonic() > self._last_contact + LOST_SECONDS:
                    raise unreachable(self._url) from None
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - spreads the retries
                continue
            self._last_contact = time.monotonic()
            if response.status == 200:
                return response.body.replace(b"\n", b"") if b"\n" in response.body else response.body
            error = error_of(response.status, response.headers, response.body)
            busy = response.status in (429, 503) and not isinstance(error, ModelFailed)
            if not busy or time.monotonic() > give_up:
                raise error
            await asyncio.sleep((error.retry_after or 0.5) * random.uniform(1.0, 1.2))  # noqa: S311

    def _body(self, line: bytes) -> bytes:
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as e:
            raise InvalidJSON(f"This row is not JSON: {e}.") from None
        if isinstance(value, dict) and (self._plugin or any(k in value for k in BODY_KEYS)):
            return line
        return b'{"input":%b}' % line

    # The writer

    async def _write(self) -> None:
        while (place := await self._order.get()) is not None:
            slot, size = place
            if not slot.done():
                self._flush()  # whoever reads the output sees what is there
            line = await slot
            self._tally.failed += line.startswith(FAILED_ROW)
            try:
                self._sink.write(line + b"\n")
            except OSError as e:
                raise storage_error(e, self._job.output) from None
            self._tally.rows += 1
            self._tally.bytes += size
            self._window.release()
        self._flush()

    def _flush(self) -> None:
        try:
            self._sink.flush()
        except OSError as e:
            raise storage_error(e, self._job.output) from None


@contextmanager
def _progress(session: Session, job: Job, tally: Tally) -> Iterator[None]:
    """A bar on stderr; only on a terminal."""
    if session.json or not sys.stderr.isatty() or (job.output is None and sys.stdout.isatty()):
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total = job.source.stat().st_size if job.source and not tally.skipped else None
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console_for(sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=total)
        stop = threading.Event()

        def refresh() -> None:
            begun = time.monotonic()
            while not stop.wait(0.2):
                rate = tally.rows / (time.monotonic() - begun)
                failed = f", {tally.failed} failed" if tally.failed else ""
                bar.update(task, completed=tally.bytes, description=f"{tally.rows} rows, {rate:.0f}/s{failed}")

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _summary(tally: Tally, seconds: float) -> str:
    rate = tally.rows / seconds if seconds > 0 else 0.0
    skipped = f" after {tally.skipped} that were there" if tally.skipped else ""
    return f"{tally.rows} rows{skipped}, {tally.failed} failed, in {seconds:.1f} s ({rate:.0f}/s)."


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
