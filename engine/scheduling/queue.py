"""The requests that wait for one model: admission, priority, deadlines, cancellation.

Order: requests that must be tried again after a crash, then by priority, then by arrival. Requests whose rows can be
laid side by side share a *group* (the same dtypes and row shapes); a batch takes the oldest request and others of its
group.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from engine.errors import Cancelled, Overloaded, UniModelError
from engine.scheduling.batcher import MAX_ITEMS
from engine.telemetry.tracing_calls import ModelCall
from engine.types import Answer, Request

Group = Hashable


@dataclass(slots=True, eq=False)
class Pending:
    """One accepted request. It ends exactly once, through `end`."""

    request: Request
    group: Group
    rows: int
    nbytes: int
    deliver: Callable[[Answer | UniModelError], None]
    """Brings the ending to whoever asked."""
    on_end: Callable[[Pending, Answer | UniModelError], None]
    """Where the owner of the request counts its ending, and delivers it."""
    accepted: float
    """When it was accepted, on the engine's clock."""
    ended: bool = False
    tick: int = 0
    """Where `Deadlines` keeps it."""
    waiting: bool = True
    """Whether it still waits; a batch, its deadline or its client took it otherwise."""
    lane: _Lane | None = None
    """Where it waits, or waited, for a batch; none for a suspect."""
    suspect: bool = False
    """It was computing when a worker died: it runs once more, alone."""
    deaths: int = 0
    """Of workers that were computing it."""
    call: ModelCall | None = None
    """Its span, if it is traced."""

    def end(self, outcome: Answer | UniModelError) -> None:
        """Gives the request its answer or error, unless it ended before."""
        if not self.ended:
            self.ended = True
            self.on_end(self, outcome)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """When a request is refused."""

    max_requests: int
    max_bytes: int
    max_wait: float
    """Longest predicted wait in seconds."""


@dataclass(slots=True)
class _Level:
    """The waiting requests of one priority, in order. Dictionaries, so that any of them can leave at once."""

    arrivals: OrderedDict[Pending, None] = field(default_factory=OrderedDict)
    lanes: dict[Group, _Lane] = field(default_factory=dict)


@dataclass(slots=True)
class _Lane:
    """The waiting requests of one priority and group, in order."""

    level: _Level
    items: OrderedDict[Pending, None] = field(default_factory=OrderedDict)
    rows: int = 0


class ModelQueue:
    """Owns what waits for one model."""

    def __init__(self, name: str, limits: QueueLimits) -> None:
        self.name = name
        self.limits = limits
        self.requests = 0
        self.rows = 0
        self.bytes = 0
        self._levels: dict[int, _Level] = {}
        self._order: list[int] = []
        self._suspects: OrderedDict[Pending, None] = OrderedDict()
        self.on_suspects_gone: Callable[[], None] | None = None
        """Runs when no request waits any more that must run alone."""

    def admit(self, nbytes: int, predicted_wait: float, time_left: float) -> None:
        """Raises `Overloaded` when a request of `nbytes` must not join."""
        if self.requests >= self.limits.max_requests:
            raise self.overloaded(f"{self.requests} requests wait already", predicted_wait)
        if self.requests and self.bytes + nbytes > self.limits.max_bytes:
            raise self.overloaded(f"{self.bytes >> 20} MiB of inputs wait already", predicted_wait)
        if predicted_wait > min(self.limits.max_wait, time_left):
            raise self.overloaded(f"the predicted wait is {predicted_wait:.1f} s", predicted_wait)

    def overloaded(self, reason: str, predicted_wait: float) -> Overloaded:
        """The error of a refused request, which says why and when to come back."""
        return Overloaded(f"Model {self.name!r} is overloaded: {reason}. Retry later.", retry_after=predicted_wait)

    def push(self, item: Pending) -> None:
        """Adds an admitted request at the end of its priority."""
        self._join(item)

    def put_back(self, item: Pending) -> None:
        """Takes a request back that was sent to a worker which died: to the front, alone if it is a suspect."""
        item.waiting = True
        if item.suspect:
            item.lane = None
            self._suspects[item] = None
            self._count(item, 1)
        else:
            lane = self._join(item)
            lane.items.move_to_end(item, last=False)
            lane.level.arrivals.move_to_end(item, last=False)

    def remove(self, item: Pending) -> None:
        """Forgets a waiting request: a batch took it, its deadline passed, or its client went away."""
        if not item.waiting:
            return
        item.waiting = False
        self._count(item, -1)
        lane = item.lane
        if lane is None:
            del self._suspects[item]
            if not self._suspects and self.on_suspects_gone is not None:
                self.on_suspects_gone()
            return
        lane.rows -= item.rows
        del lane.items[item]
        del lane.level.arrivals[item]
        if not lane.items:
            del lane.level.lanes[item.group]

    def has_suspect(self) -> bool:
        """Whether a request waits that must run alone."""
        return bool(self._suspects)

    def take_suspect(self) -> list[Pending]:
        """The next request that must run alone, as a batch."""
        item = next(iter(self._suspects))
        self.remove(item)
        return [item]

    def head(self) -> Pending | None:
        """The request that is next, suspects aside."""
        for priority in self._order:
            arrivals = self._levels[priority].arrivals
            if arrivals:
                return next(iter(arrivals))
        return None

    def waiting_with(self, head: Pending) -> tuple[int, int]:
        """How many requests and rows could join the batch of `head`, itself included."""
        lanes = [lane for p in self._order if (lane := self._levels[p].lanes.get(head.group)) is not None]
        return sum([len(lane.items) for lane in lanes]), sum([lane.rows for lane in lanes])

    def take(self, head: Pending, max_rows: int, max_bytes: int) -> list[Pending]:
        """The batch of `head`: it and the requests of its group, in order, up to the limits.

        A single request may exceed `max_rows`; the worker then computes it in pieces.
        """
        batch: list[Pending] = []
        rows = nbytes = 0
        for priority in self._order:
            lane = self._levels[priority].lanes.get(head.group)
            while lane is not None and lane.items:
                item = next(iter(lane.items))
                full = rows + item.rows > max_rows or nbytes + item.nbytes > max_bytes or len(batch) >= MAX_ITEMS
                if batch and full:
                    return batch
                self.remove(item)
                batch.append(item)
                rows += item.rows
                nbytes += item.nbytes
        return batch

    def drain(self, error: Callable[[], UniModelError]) -> None:
        """Ends everything that waits with an error."""
        items = [*self._suspects, *(item for level in self._levels.values() for item in level.arrivals)]
        for item in items:
            self.remove(item)
            item.end(error())

    def _join(self, item: Pending) -> _Lane:
        level = self._levels.get(item.request.priority)
        if level is None:
            level = self._levels[item.request.priority] = _Level()
            self._order = sorted(self._levels, reverse=True)
        lane = level.lanes.get(item.group)
        if lane is None:
            lane = level.lanes[item.group] = _Lane(level)
        item.lane = lane
        level.arrivals[item] = None
        lane.items[item] = None
        lane.rows += item.rows
        self._count(item, 1)
        return lane

    def _count(self, item: Pending, sign: int) -> None:
        self.requests += sign
        self.rows += sign * item.rows
        self.bytes += sign * item.nbytes


def drop_gone(batch: list[Pending], now: float) -> list[Pending]:
    """The requests of a batch that are still wanted; the others end as cancelled, without being computed."""
    wanted = []
    for item in batch:
        is_gone = item.request.is_gone
        if item.ended:
            continue
        if is_gone is not None and is_gone():
            item.end(Cancelled("The client closed the connection before its request was computed."))
        elif item.request.deadline > now:
            wanted.append(item)
        # a request past its deadline is about to be ended by `Deadlines`
    return wanted
