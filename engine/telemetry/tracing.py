"""Spans: what the rest of the engine knows of tracing.

A `Span` is a part of a request that is traced: its parent for whatever happens in it, and where to say what did. What
runs in a task of its own finds the span around it by `current`, as do the log lines. Nothing of OpenTelemetry is
imported here, and nothing at all exists for a request that is not traced: `current` is `None` then.

Times are seconds on the engine's clock; `Trace` turns them into the time of day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from engine.errors import Cancelled, InternalError, UniModelError

if TYPE_CHECKING:
    from opentelemetry import trace as otel

P = ParamSpec("P")
T = TypeVar("T")

Attributes = Mapping[str, str | bool | int | float | tuple[str, ...]]

MOST_SPANS: Final = 1000
"""Of one request, so that a pipeline with thousands of elements does not crowd out all others."""

ERROR_TYPE: Final = "error.type"
REQUEST_ID: Final = "unimodel.request.id"

_current: ContextVar[Span | None] = ContextVar("span", default=None)


def current() -> Span | None:
    """The span of what is running now, if it is traced. What outlives the request that began it is a part of none."""
    span = _current.get()
    return None if span is None or span.ended else span


class Trace:
    """What the spans of one request share: how they are made, what time it is, and how many more there may be."""

    __slots__ = ("_clock", "_epoch", "_make", "_room")

    def __init__(self, make: Callable[..., otel.Span], clock: Callable[[], float], now_ns: int) -> None:
        self._make = make
        """A span of OpenTelemetry by its name, its parent's context, attributes, links, and beginning."""
        self._clock = clock
        self._epoch = now_ns - int(clock() * 1e9)
        self._room = MOST_SPANS

    def span(
        self,
        name: str,
        parent: otel.SpanContext | None,
        attributes: Attributes,
        begin: float | None = None,
        links: tuple[otel.SpanContext, ...] = (),
    ) -> Span | None:
        """A span that begins now, or at `begin`; `None` when the request has too many."""
        if not self._room:
            return None
        self._room -= 1
        return Span(self, self._make(name, parent, attributes, links, self.nanoseconds(begin)))

    def now(self) -> float:
        """The time on the engine's clock."""
        return self._clock()

    def nanoseconds(self, at: float | None) -> int:
        """A time on the engine's clock, or now, since the epoch."""
        return self._epoch + int((self._clock() if at is None else at) * 1e9)


class Span:
    """A part of a traced request. It ends once; what is said of it afterwards is not heard."""

    __slots__ = ("_span", "_trace", "ended", "failed")

    def __init__(self, trace: Trace, span: otel.Span) -> None:
        self._trace = trace
        self._span = span
        self.ended = False
        """Whether it is over."""
        self.failed = False
        """Whether an error was noted."""

    @property
    def context(self) -> otel.SpanContext:
        """What another span links to."""
        return self._span.get_span_context()

    @property
    def log_fields(self) -> dict[str, str]:
        """The ids, as they stand in a log line."""
        context = self.context
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def now(self) -> float:
        """The time on the engine's clock."""
        return self._trace.now()

    def child(
        self,
        name: str,
        attributes: Attributes,
        begin: float | None = None,
        links: tuple[otel.SpanContext, ...] = (),
    ) -> Span | None:
        """A span below this one, if the request may have another."""
        return self._trace.span(name, self.context, attributes, begin, links)

    def set(self, attributes: Attributes) -> None:
        """Says more of it."""
        if not self.ended:
            self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes | None = None, at: float | None = None) -> None:
        """Something happened in it, now or at that time."""
        if not self.ended:
            self._span.add_event(name, attributes, self._trace.nanoseconds(at))

    def fail(self, code: str, *, is_fault: bool = True) -> None:
        """Notes the error that ended it. The first one counts, as the later ones follow from it.

        `is_fault`: whether its status is *error*, which is not so when the client erred, or left. The message is not
        kept, since it may quote the input.
        """
        if not self.failed and not self.ended:
            self.failed = True
            self.set({ERROR_TYPE: code})
            if is_fault and code != Cancelled.code:
                from opentelemetry.trace import StatusCode

                self._span.set_status(StatusCode.ERROR, code)

    def answered(self, error: UniModelError) -> None:
        """Notes the error that a request is answered with. What its client did wrong is no fault of the server."""
        self.fail(error.code, is_fault=error.status >= 500)

    def end(self, at: float | None = None) -> None:
        """It is over, now or at that time."""
        if not self.ended:
            self.ended = True
            self._span.end(self._trace.nanoseconds(at))

    def around(self, work: Callable[P, T]) -> Callable[P, T]:
        """`work`, with this as its current span."""

        def inside(*args: P.args, **kwargs: P.kwargs) -> T:
            token = _current.set(self)
            try:
                return work(*args, **kwargs)
            finally:
                _current.reset(token)

        return inside


@contextmanager
def within(span: Span | None) -> Iterator[Span | None]:
    """With this as the current span, which ends with the block. What the block raises is its error."""
    if span is None:
        yield None
        return
    token = _current.set(span)
    try:
        yield span
    except BaseException as e:
        span.fail(code_of(e))
        raise
    finally:
        _current.reset(token)
        span.end()


def part(name: str, attributes: Attributes) -> AbstractContextManager[Span | None]:
    """The block as a span below the current one, if there is one."""
    above = current()
    return within(above.child(name, attributes) if above is not None else None)


def code_of(error: BaseException) -> str:
    """The stable code of an error."""
    if isinstance(error, UniModelError):
        return error.code
    return Cancelled.code if isinstance(error, asyncio.CancelledError | GeneratorExit) else InternalError.code
