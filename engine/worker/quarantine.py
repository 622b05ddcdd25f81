"""Who may compute on a worker beside a request that may have killed one.

A request that was computing when its worker died is a *suspect*. It is tried once more with no other batch on the
worker and no load under way, so that a second death names its culprit. Whoever has a suspect claims the worker; from
then on nobody else sends anything there, and when the last batch is done the suspect's turn comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

Wake = Callable[[], None]


class Quarantine:
    """Owns the order of suspects, loads and everything else on one worker.

    Callers are known by the callback that wakes them, which runs in a later turn of the event loop.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self.running = False
        """Whether a suspect is computing."""
        self.loading = False
        """Whether a load is under way, during which suspects wait and all others go on."""
        self.loads = 0
        """Loads that are under way or wait for their turn."""
        self.in_doubt = False
        """Whether a model was lost, and it is not known yet whether its worker died: what is sent now may be taken for
        the cause of a death that was before."""
        self._is_busy = is_busy
        """Whether any batch is with the worker."""
        self._claims: dict[Wake, None] = {}
        """In the order in which they came, so that the models take turns."""
        self._waiting: dict[Wake, None] = {}

    @property
    def held(self) -> bool:
        """Whether nothing but suspects may be sent to the worker."""
        return self.running or self.in_doubt or bool(self._claims)

    @property
    def over(self) -> bool:
        """Whether no suspect is left, nor any load that might bring the model of one back."""
        return not self.held and not self.loads

    def claim(self, wake: Wake) -> bool:
        """Asks for the worker. Returns whether a suspect may be sent now; if not, the caller is woken to ask again.

        The worker is held until the caller withdraws, but not before a load that is under way has ended.
        """
        if self.loading:
            self.when_over(wake)
            return False
        self._claims[wake] = None
        return not self.running and not self.in_doubt and not self._is_busy()

    def begin(self, wake: Wake) -> None:
        """A suspect of a claimant is being sent; the others are next."""
        self.running = True
        del self._claims[wake]
        self._claims[wake] = None

    def end(self) -> None:
        """The suspect has ended without killing the worker."""
        self.running = False
        self.progressed()

    def withdraw(self, wake: Wake) -> None:
        """The caller has no suspect any more."""
        self._claims.pop(wake, None)
        self.progressed()

    def when_over(self, wake: Wake) -> None:
        """Wakes the caller, once, when the worker is no longer held."""
        self._waiting[wake] = None

    async def wait(self) -> None:
        """Returns when the worker is not held."""
        while self.held:
            woken = asyncio.Event()
            self.when_over(woken.set)
            await woken.wait()

    def progressed(self) -> None:
        """A batch, a suspect or a load has ended: wakes who may go on."""
        if self.running or self.loading or self.in_doubt:
            return
        if not self._claims:
            self._wake_waiting()
        elif not self._is_busy():
            _wake(self._claims)

    def survive(self) -> None:
        """The worker lives on without a model that it lost, be it that of the suspect."""
        self.in_doubt = False
        self.running = self.running and self._is_busy()
        if self._claims:
            self.progressed()
        elif not self.running:
            self._wake_waiting()

    def reset(self) -> None:
        """The worker died, and with it whatever was computing."""
        self.running = self.in_doubt = False
        self._claims.clear()
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        _wake(waiting)


def _wake(callers: Iterable[Wake]) -> None:
    for caller in callers:
        asyncio.get_running_loop().call_soon(caller)
