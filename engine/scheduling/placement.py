"""Which worker gets a model, and which model makes room. Pure: states come in, decisions go out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker as placement sees it."""

    name: str
    device: str
    """``cpu`` or ``cuda:N``."""
    models: int
    """Instances that it holds or loads."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model as eviction sees it."""

    key: tuple[str, int]
    """Name and version."""
    idle: bool
    last_used: float


def choose_workers(seats: Sequence[Seat], wanted: str, replicas: int, supported: Iterable[str]) -> list[str]:
    """The workers for `replicas` copies of a model: those of the wanted device with the fewest models, GPUs first.

    `wanted` is the model's ``device`` option, `supported` the device kinds of its backend. Raises `InvalidOption`.
    """
    kinds = set(supported)
    fitting = [s for s in seats if s.device.partition(":")[0] in kinds and _matches(s.device, wanted)]
    if not fitting:
        have = ", ".join(sorted({s.device for s in seats}))
        if not any(s.device.partition(":")[0] in kinds for s in seats):
            needs = " or ".join(sorted(kinds))
            raise InvalidOption(f"The backend runs on {needs} alone; this server has {have}.", field="config.device")
        raise InvalidOption(f"No worker for device {wanted!r}; this server has {have}.", field="config.device")
    if wanted == "auto":
        fitting = [s for s in fitting if s.device != "cpu"] or fitting
    if replicas > len(fitting):
        remedy = "raise engine.cpu_workers" if fitting[0].device == "cpu" else "ask for fewer, or for device 'cpu'"
        raise InvalidOption(
            f"replicas is {replicas}, but only {len(fitting)} workers fit device {wanted!r}; {remedy}.",
            field="config.replicas",
        )
    return [s.name for s in sorted(fitting, key=lambda s: s.models)[:replicas]]


def _matches(device: str, wanted: str) -> bool:
    return wanted in ("auto", device, device.partition(":")[0])


def choose_victim(residents: Iterable[Resident]) -> Resident | None:
    """The model that makes room: the idle one that was used longest ago, or, when all are busy, the busy one."""
    return min(residents, key=lambda r: (not r.idle, r.last_used), default=None)
