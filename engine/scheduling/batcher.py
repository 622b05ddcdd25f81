"""When a batch closes. Pure: time comes in as numbers, nothing is kept.

Requests wait in the server until an instance has room (late binding). An idle instance takes what is there at once,
so ``max_batch_wait_ms`` is an upper bound and never a toll. While an instance computes, requests gather; one more
batch is queued behind it only when it is full, or when its oldest request has waited long enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_OUTSTANDING = 2
"""Batches given to an instance: one that computes, one that follows without a gap."""

MAX_ITEMS = 1024
"""Most requests in one batch, so that its message stays small."""

GATHER_SHARE = 0.1
"""Part of a batch's compute time that an instance may idle to let the clients it just answered come back."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The limits of one model's batches."""

    max_rows: int
    max_wait: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """What one instance is doing."""

    outstanding: int
    """Batches given to it that are not done."""
    last_requests: int = 0
    """Requests in the batch that it finished last; 0 when it was a while ago."""
    since_last: float = math.inf
    """Seconds since it finished that batch."""
    compute_seconds: float = 0.0
    """Moving average of a batch."""


def due_in(
    policy: BatchPolicy, waiting_requests: int, waiting_rows: int, oldest_wait: float, load: InstanceLoad
) -> float:
    """Seconds until the waiting requests should go to this instance; 0 is now, infinity is not before it has room.

    An idle instance that has just answered several clients waits a moment for them: closed-loop clients would
    otherwise send it batches of 1 and n-1 in turn.
    """
    if not waiting_requests or load.outstanding >= MAX_OUTSTANDING:
        return math.inf
    if waiting_rows >= policy.max_rows or waiting_requests >= MAX_ITEMS:
        return 0.0
    if load.outstanding:
        return max(0.0, policy.max_wait - oldest_wait)
    if waiting_requests >= load.last_requests:
        return 0.0
    gather = min(policy.max_wait, load.compute_seconds * GATHER_SHARE)
    return max(0.0, gather - load.since_last)
