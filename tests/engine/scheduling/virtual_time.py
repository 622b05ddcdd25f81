"""An event loop whose time is a number: it jumps to the next timer instead of sleeping, so that no test waits."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """Never blocks. Where it would, time moves on."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("the test waits for something that nothing will bring about")
            self.loop.now += max(1e-9, timeout)  # a little at least, as in reality: rounding must not stop it
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time starts at 1000 seconds. An exception in a callback fails the test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.broken: list[dict[str, Any]] = []
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self.set_exception_handler(lambda _, context: self.broken.append(context))

    def time(self) -> float:
        """Seconds."""
        return self.now


async def settle() -> None:
    """Lets everything run that needs no time."""
    for _ in range(5):
        await asyncio.sleep(0)


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on a `VirtualLoop`."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        loop = VirtualLoop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(test(*args, **kwargs))
        for context in loop.broken:
            raise AssertionError(context["message"]) from context.get("exception")

    return run
