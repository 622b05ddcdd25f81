"""The requests that wait for one model: admission, priority, deadlines, cancellation.

Order: requests that must be tried again after a crash, then by priority, then by arrival. Requests whose rows can be
laid side by side share a *group* (the same dtypes and row shapes); a batch takes the oldest request and others of its
group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from engine.errors import Cancelled, Overloaded, UniModelError
from engine.scheduling.batcher import MAX_ITEMS
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
    """Where it waits for a batch; none for a suspect."""
    suspect: bool = False
    """It was computing when a worker died: it runs once more, alone."""

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
class _Lane:
    """The waiting requests of one priority and group."""

    items: deque[Pending] = field(default_factory=deque)
    requests: int = 0
    """Those that wait; taken ones stay in `items` until they reach the front."""
    rows: int = 0


@dataclass(slots=True)
class _Level:
    """The waiting requests of one priority. Taken ones stay in the deques until they reach the front."""

    arrivals: deque[Pending] = field(default_factory=deque)
    lanes: dict[Group, _Lane] = field(default_factory=dict)


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
        self._suspects: deque[Pending] = deque()

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
        level = self._level(item.request.priority)
        level.arrivals.append(item)
        self._lane(level, item).items.append(item)
        self._count(item, 1)

    def put_back(self, item: Pending) -> None:
        """Takes a request back that was sent to a worker which died: to the front, alone if it is a suspect."""
        item.waiting = True
        if item.suspect:
            self._suspects.append(item)
            item.lane = None
        else:
            level = self._level(item.request.priority)
            level.arrivals.appendleft(item)
            self._lane(level, item).items.appendleft(item)
        self._count(item, 1)

    def remove(self, item: Pending) -> None:
        """Forgets a waiting request that ended: its deadline passed, or its client went away."""
        if item.waiting:
            item.waiting = False
            self._count(item, -1)

    def has_suspect(self) -> bool:
        """Whether a request waits that must run alone."""
        while self._suspects and not self._suspects[0].waiting:
            self._suspects.popleft()
        return bool(self._suspects)

    def take_suspect(self) -> list[Pending]:
        """The next request that must run alone, as a batch."""
        item = self._suspects.popleft()
        self.remove(item)
        return [item]

    def head(self) -> Pending | None:
        """The request that is next, suspects aside."""
        for priority in self._order:
            level = self._levels[priority]
            arrivals = level.arrivals
            while arrivals and not arrivals[0].waiting:
                gone = arrivals.popleft()
                lane = level.lanes.get(gone.group)
                if lane is not None and not lane.requests:
                    del level.lanes[gone.group]  # all in it ended without being computed
            if arrivals:
                return arrivals[0]
        return None

    def waiting_with(self, head: Pending) -> tuple[int, int]:
        """How many requests and rows could join the batch of `head`, itself included."""
        lanes = [lane for p in self._order if (lane := self._levels[p].lanes.get(head.group)) is not None]
        return sum([lane.requests for lane in lanes]), sum([lane.rows for lane in lanes])

    def take(self, head: Pending, max_rows: int, max_bytes: int) -> list[Pending]:
        """The batch of `head`: it and the requests of its group, in order, up to the limits.

        A single request may exceed `max_rows`; the worker then computes it in pieces.
        """
        batch: list[Pending] = []
        rows = nbytes = 0
        for priority in self._order:
            level = self._levels[priority]
            lane = level.lanes.get(head.group)
            while lane is not None and lane.items:
                item = lane.items[0]
                if item.waiting:
                    full = rows + item.rows > max_rows or nbytes + item.nbytes > max_bytes or len(batch) >= MAX_ITEMS
                    if batch and full:
                        return batch
                    self.remove(item)
                    batch.append(item)
                    rows += item.rows
                    nbytes += item.nbytes
                lane.items.popleft()
            if lane is not None:
                del level.lanes[head.group]
        return batch

    def drain(self, error: Callable[[], UniModelError]) -> None:
        """Ends everything that waits with an error."""
        items = list(self._suspects)
        for level in self._levels.values():
            items.extend(level.arrivals)
        self._levels.clear()
        self._order.clear()
        self._suspects.clear()
        for item in items:
            if item.waiting:
                self.remove(item)
                item.end(error())

    def _level(self, priority: int) -> _Level:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level()
            self._order = sorted(self._levels, reverse=True)
        return level

    def _lane(self, level: _Level, item: Pending) -> _Lane:
        lane = level.lanes.get(item.group)
        if lane is None:
            lane = level.lanes[item.group] = _Lane()
        item.lane = lane
        return lane

    def _count(self, item: Pending, sign: int) -> None:
        rows = sign * item.rows
        self.requests += sign
        self.rows += rows
        self.bytes += sign * item.nbytes
        lane = item.lane
        if lane is not None:
            lane.requests += sign
            lane.rows += rows


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
