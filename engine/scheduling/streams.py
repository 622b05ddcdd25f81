"""The requests of one loaded model that take many steps: which wait for an instance, and which goes next. They are
streamed, generated, or transcribed.

An instance takes as many at once as its model has sequences; a plugin's streams have no such bound. They wait here, not
in the worker, so that a higher priority still goes first, and one whose client left is never computed.

One that is tried again may have killed its worker: it starts there only when no suspect is left that it might take
along. As that may take the loads of other models, those behind it need not wait with it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

from engine.errors import UniModelError
from engine.worker.instance import Instance, Stream

_UNBOUNDED = 1 << 30
"""Sequences of a model that does not say how many it has, such as a plugin."""

DIED_TWICE = ("twice while it computed this request", "change the request, since it is the likely cause")
"""When a worker died, and what to do then."""
_BEGUN = ("while it streamed this answer", "send the request again, or change it if it dies again")


class Streams:
    """Owns the streams from their admission until their reader closes them."""

    def __init__(self, instances: list[Instance]) -> None:
        self._instances = instances
        """Of the model, as they come and go."""
        self.open = 0
        """Those that their readers have not closed."""
        self._waiting: list[Stream] = []
        """In the order in which they are to start."""

    @property
    def waiting(self) -> int:
        """Those that no instance has."""
        return len(self._waiting)

    def add(self, stream: Stream) -> None:
        """Takes in a stream; follow with `start`."""
        self.open += 1
        self._wait(stream)

    def _wait(self, stream: Stream) -> None:
        bisect.insort(self._waiting, stream, key=lambda s: (-s.priority, s.id))

    def close(self, stream: Stream) -> None:
        """The reader has all it will take."""
        self.open -= 1
        if stream in self._waiting:
            self._waiting.remove(stream)
        for instance in self._instances:
            instance.cancel_stream(stream)
        self.start()

    def start(self) -> None:
        """Gives streams that wait to the instances with the most room, while there is some."""
        at = 0
        while at < len(self._waiting):
            stream = self._waiting[at]
            instance = max(self._open_to(stream), key=_room, default=None)
            if instance is None and stream.retried:
                at += 1
                continue
            if instance is None or (_room(instance) < stream.choices and instance.streams):
                return
            instance.start_stream(self._waiting.pop(at))

    def _open_to(self, stream: Stream) -> list[Instance]:
        """The instances on whose workers a stream may start. When others become so, another try follows by itself."""
        may = []
        for instance in self._instances:
            quarantine = instance.worker.quarantine
            is_open = quarantine.over if stream.retried else not quarantine.held
            if is_open:
                may.append(instance)
            else:
                quarantine.when_over(self.start)
        return may

    def lost(self, instance: Instance, model: str) -> None:
        """The worker of an instance of `model` died: what its reader has seen nothing of is tried once more."""
        for stream in instance.streams.values():
            if stream.call is not None:
                stream.call.waits_again("worker died")
            if stream.begun or stream.retried:
                when, advice = _BEGUN if stream.begun else DIED_TWICE
                stream.end(instance.worker.died(model, when, advice))
            else:
                stream.retried = True
                self._wait(stream)
        instance.streams.clear()

    def end_all(self, error: Callable[[], UniModelError]) -> None:
        """Ends those that wait: no instance will come back."""
        for stream in self._waiting:
            stream.end(error())
        self._waiting.clear()


def _room(instance: Instance) -> float:
    """Sequences that an instance has left."""
    sequences = instance.loaded.info.sequences if instance.loaded is not None else None
    taken = sum(s.choices for s in instance.streams.values())
    return (_UNBOUNDED if sequences is None else sequences) - taken
