"""What an engine generates by itself, on an event loop of its own, waits here until a step of the model takes it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

Key = tuple[int, int]
"""A request, and one of its choices."""
_PULSE = 0.5
"""Seconds between two questions to an engine whether it is alive."""


class Output(NamedTuple):
    """What an engine added to one choice."""

    tokens: Sequence[int]
    logprobs: Sequence[Mapping[int, float]] | None = None
    """For each of the tokens: its own logarithm of probability, and those of the likeliest."""
    finished: bool = False
    cached: int = 0
    """Tokens of the prompt that were computed for an earlier request."""


class Streams:
    """Owns the thread with the event loop, and the choices that are under way on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        """Only touched on the loop, as is the next."""
        self._watch: asyncio.Task[None] | None = None
        self._news = threading.Condition()
        self._arrived: list[tuple[Key, Output | Exception]] = []
        self._alive = False
        """Whether the engine has said that it is, since the last look at what has come."""
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does something on the loop, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def open(self, key: Key, outputs: Callable[[], AsyncGenerator[Output, None]]) -> None:
        """Begins a choice. Its outputs come one after the other; the last one is finished, or an exception."""
        self._loop.call_soon_threadsafe(self._start, key, outputs)

    def watch(self, answers: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Asks the engine for signs of life while choices are under way, which are waited for as outputs are."""
        self._loop.call_soon_threadsafe(self._begin_watch, answers)

    def cancel(self, key: Key) -> None:
        """Ends a choice, of which something may still come. One that has ended is none."""
        self._loop.call_soon_threadsafe(self._stop, key)

    def wait(self, seconds: float) -> bool:
        """Whether anything has come, if only a sign of life, which is waited for at most so long."""
        with self._news:
            return self._news.wait_for(lambda: self._alive or bool(self._arrived), seconds)

    def take(self) -> list[tuple[Key, Output | Exception]]:
        """All that has come."""
        with self._news:
            arrived, self._arrived = self._arrived, []
            self._alive = False
        return arrived

    def close(self) -> None:
        """Ends all choices, and the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        if not self._loop.is_running() and not self._loop.is_closed():
            self._loop.close()

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _start(self, key: Key, outputs: Callable[[], AsyncGenerator[Output, None]]) -> None:
        self._tasks[key] = self._loop.create_task(self._pass_on(key, outputs))

    def _stop(self, key: Key) -> None:
        if key in self._tasks:
            self._tasks[key].cancel()

    def _begin_watch(self, answers: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._watch = self._loop.create_task(self._ask(answers))

    async def _ask(self, answers: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ends at the first error, of which the choices tell more."""
        with contextlib.suppress(Exception):
            while True:
                await asyncio.sleep(_PULSE)
                if self._tasks:
                    await answers()
                    with self._news:
                        self._alive = True
                        self._news.notify()

    async def _pass_on(self, key: Key, outputs: Callable[[], AsyncGenerator[Output, None]]) -> None:
        try:
            async with contextlib.aclosing(outputs()) as stream:
                async for output in stream:
                    self._put(key, output)
        except Exception as e:
            self._put(key, e)
        finally:
            del self._tasks[key]

    def _put(self, key: Key, what: Output | Exception) -> None:
        with self._news:
            self._arrived.append((key, what))
            self._news.notify()

    async def _end(self) -> None:
        """Cancels everything on the loop, also what the engine began there by itself."""
        others = asyncio.all_tasks() - {task for task in [asyncio.current_task()] if task is not None}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
