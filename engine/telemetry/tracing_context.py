"""Whether a request is traced: what its caller says in W3C's ``traceparent``, and the sampler."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(rb"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_SAMPLED: Final = 1
"""The bit of the flags that says that the caller is traced."""
_64_BITS: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Caller:
    """The span in which a request was sent."""

    trace_id: int
    span_id: int
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether it is traced."""
        return bool(self.flags & _SAMPLED)


def caller_of(traceparent: bytes | None) -> Caller | None:
    """What the header says; `None` for one that does not keep to the standard, as the standard has it.

    Of a later version of the standard, the part that this one knows counts.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    caller = Caller(int(trace_id, 16), int(span_id, 16), int(flags, 16))
    return caller if caller.trace_id and caller.span_id else None


class Sampler:
    """Decides by the rules of OpenTelemetry's sampler of this name, before anything is made for the request."""

    def __init__(self, name: str, ratio: float) -> None:
        self.asks_caller = name.startswith("parentbased_")
        self.takes_ratio = name.endswith("traceidratio")
        self._ratio = ratio if self.takes_ratio else float(name.endswith("always_on"))
        self._bound = round(self._ratio * (_64_BITS + 1))

    def wants(self, caller: Caller | None) -> bool:
        """Whether the request of this caller is traced."""
        if caller is None:
            return random.random() < self._ratio  # noqa: S311 - the id of its trace is yet to be drawn
        if self.asks_caller:
            return caller.sampled
        return caller.trace_id & _64_BITS < self._bound  # as every other service decides that sees this trace
