"""The server's side of the worker processes: spawn, watch, restart.

A worker that dies is replaced at once; what it had loaded is loaded again by whoever owns those models (`on_ready`).
One that dies again and again before it is of any use is replaced more and more slowly.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from collections.abc import Callable
from typing import Literal

from backends.base import Device
from engine.errors import ModelFailed, ServerStopping, UniModelError, WorkerDied, from_code
from engine.settings import MonitoringSettings
from engine.transport import channel, messages
from engine.transport.channel import AsyncChannel
from engine.transport.messages import Hello, Load, Loaded, LoadFailed
from engine.worker.exits import Exit, oom_kills
from engine.worker.group import kill_group
from engine.worker.instance import Instance
from engine.worker.interpreter import OWN, Interpreter
from engine.worker.memory import MemoryLimit, MemoryWatch
from engine.worker.quarantine import Quarantine

log = logging.getLogger("unimodel.supervisor")

WorkerState = Literal["starting", "ready", "restarting", "stopped"]

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0
_START_PATIENCE = 60.0
"""Seconds that a load waits for a process to come up."""
_UNLOAD_PATIENCE = 10.0
"""Seconds that a model may take to unload."""
_DYING = 0.05
"""Seconds between the end of a process's sockets and its own, at most."""
SPINS = "500"
"""Rounds that a thread of GNU OpenMP waits actively for the others of its team. By default it does so for milliseconds,
at hundreds of barriers in each token of an LLM, and takes the core from the very thread that it waits for when anything
else runs on the machine, such as the server."""
_USEFUL_LIFE = 1.0
"""Seconds of life after which a death does not count as one of a series."""


class Worker:
    """One worker process and its successors.

    Owns the process and the control channel. `on_ready(worker)` runs whenever a process is up, the first and every
    later one; `on_death(worker)` whenever one died, after its instances reported their loss.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        monitoring: MonitoringSettings,
        interpreter: Interpreter = OWN,
        limit: MemoryLimit | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.interpreter = interpreter
        self.limit = limit
        """Of memory, for the process of an isolated model."""
        self.state: WorkerState = "starting"
        self.restarts = 0
        self.quarantine = Quarantine(lambda: any(i.outstanding for i in self._instances))
        self._instances: set[Instance] = set()
        self._at_work_at_death: bool | None = None
        self._killed = False
        self._excess: int | None = None
        """Bytes that the process held when it was killed for that."""
        self._watch: MemoryWatch | None = None
        self._oom_kills = 0
        """Of the system, when the process was started."""
        self.load_is_the_cause = False
        """Whether only the load that was under way, if any, can have caused the last death."""
        self.on_ready: Callable[[Worker], None] | None = None
        self.on_death: Callable[[Worker], None] | None = None
        self._monitoring = monitoring
        self._process: subprocess.Popen[bytes] | None = None
        self._control: AsyncChannel | None = None
        self._loads: dict[str, asyncio.Future[Loaded]] = {}
        self._unloads: dict[str, asyncio.Future[None]] = {}
        self._load_lock = asyncio.Lock()
        self._ready = asyncio.Event()
        self._born = 0.0
        self._deaths_in_series = 0
        self._respawn: asyncio.TimerHandle | None = None

    def settled(self, instance: Instance) -> None:
        """An instance serves on the present process."""
        self._instances.add(instance)
        self._at_work_at_death = None

    def left(self, instance: Instance) -> None:
        """It does no longer."""
        self._instances.discard(instance)

    def lost(self, instance: Instance) -> None:
        """It went down, and the process with it or not. Called while it still holds what it was computing."""
        self._note_who_was_at_work()
        self._instances.discard(instance)
        self.quarantine.in_doubt = True

    def _note_who_was_at_work(self) -> bool:
        """Whether any instance was computing or streaming when the process died, as the first to hear of it saw it."""
        if self._at_work_at_death is None:
            self._at_work_at_death = any(i.has_work for i in self._instances)
        return self._at_work_at_death

    def _was_killed_from_outside(self) -> bool:
        """Whether SIGKILL ended the process, and neither ours nor the system's for want of memory."""
        if self._process is None or self._killed:
            return False
        try:
            return self._exit(self._process, _DYING).from_outside
        except subprocess.TimeoutExpired:
            return False  # its sockets ended, it did not

    def _exit(self, process: subprocess.Popen[bytes], timeout: float | None = None) -> Exit:
        return Exit(process.wait(timeout), out_of_memory=oom_kills() > self._oom_kills)

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return self._process.pid if self._process is not None and self.state != "stopped" else None

    def spawn(self) -> None:
        """Starts a process. A fresh interpreter, never a fork: runtimes do not survive forks."""
        ours, theirs = channel.pair()
        with theirs:
            logs = self._monitoring
            self._process = subprocess.Popen(
                self.interpreter.command(
                    "engine.worker.main", str(theirs.fileno()), self.name, logs.log_level, logs.log_format
                ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(self.device, self.interpreter),
                start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
            )
        self._born = time.monotonic()
        self._killed = False
        self._excess = None
        if self.limit is not None:
            self._watch = MemoryWatch(self._process.pid, self.limit, self._on_excess)
        self._at_work_at_death = None
        self._oom_kills = oom_kills()
        self._control = AsyncChannel(ours, self._on_message, self._on_death)

    async def ready(self) -> None:
        """Waits until a process is up."""
        await self._ready.wait()

    async def load(self, message: Load, instance: Instance, timeout: float) -> Loaded:
        """Loads a model. One load at a time, so that a death during a load has one culprit.

        Raises the typed error of the failed load, `WorkerDied` when the process died, `ModelFailed` at the timeout.
        """
        self.quarantine.loads += 1
        try:
            async with self._load_lock:
                while not self._ready.is_set() or self.quarantine.held:
                    await self._started()
                    await self.quarantine.wait()
                return await self._load_alone(message, instance, timeout)
        finally:  # the caller attaches the instance first, whose suspects then have their turn before the next load
            asyncio.get_running_loop().call_soon(self._load_ended)

    async def _started(self) -> None:
        """Waits until a process is up. Raises `ModelFailed` when none comes up, as in an environment that broke."""
        try:
            async with asyncio.timeout(_START_PATIENCE):
                await self._ready.wait()
        except TimeoutError:
            raise ModelFailed(
                f"Its worker process does not start on {self.interpreter.executable}; the server's log says why."
            ) from None

    def _load_ended(self) -> None:
        self.quarantine.loads -= 1
        self.quarantine.progressed()

    async def _load_alone(self, message: Load, instance: Instance, timeout: float) -> Loaded:
        if self._control is None or self.state == "stopped":
            raise ServerStopping("The worker has stopped.")
        future: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._loads[message.key] = future
        restarts = self.restarts
        self.quarantine.loading = True
        try:
            sockets = [instance.child_socket.fileno(), instance.slots.fd]
            self._control.send(messages.encode(message), sockets)
            async with asyncio.timeout(timeout):
                loaded = await future
            if self.restarts != restarts:  # a new one is on its way, without the model
                raise WorkerDied("The worker process died as soon as it had loaded the model.")
            instance.child_socket.close()  # ours goes, so that the worker's end alone keeps the queue open
            return loaded
        except TimeoutError:
            self.kill()
            raise ModelFailed(
                f"Loading took longer than engine.load_timeout_s ({timeout:g} s); the worker was restarted."
            ) from None
        finally:
            del self._loads[message.key]
            self.quarantine.loading = False

    async def unload(self, instance: Instance) -> None:
        """Unloads a model that nobody waits for, and waits until its memory is free.

        A model that does not let go, since it hangs in a computation, costs the process.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unloads[instance.key] = future
        instance.close()
        try:
            if self.state == "ready":
                async with asyncio.timeout(_UNLOAD_PATIENCE):
                    await future
        except TimeoutError:
            log.error("model does not unload, its worker is replaced", extra={"worker": self.name})
            self.kill()
        finally:
            del self._unloads[instance.key]

    def kill(self) -> None:
        """Kills the process, and those that it started; it is replaced."""
        if self._process is not None and self._process.poll() is None:
            self._killed = True
            kill_group(self._process.pid)

    def _on_excess(self, held: int) -> None:
        """The process holds more memory than it may."""
        assert self.limit is not None
        log.error("model exceeds its memory_limit", extra={"model": self.limit.model, "held_mb": held >> 20})
        self._excess = held
        self.kill()

    def ending(self, message: str) -> UniModelError:
        """The error of what has ended with the process: `WorkerDied`, or that it held too much memory."""
        if self.limit is not None and self._excess is not None:
            return self.limit.exceeded_by(self._excess)
        return WorkerDied(message)

    def died(self, model: str, when: str, advice: str) -> UniModelError:
        """The error of a request to `model` that has ended with the process."""
        return self.ending(
            f"The worker process of model {model!r} died {when}; {advice}. The server's log says how it ended."
        )

    async def stop(self) -> None:
        """Ends the process for good."""
        self.state = "stopped"
        if self._respawn is not None:
            self._respawn.cancel()
        if self._control is not None:
            self._control.close()
        if self._watch is not None:
            self._watch.stop()
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(2.0):
                while process.poll() is None:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            process.kill()
            process.wait()
        kill_group(process.pid)
        self._end_futures(ServerStopping("The server is stopping."))
        self._ready.set()

    def _on_message(self, data: bytes) -> None:
        message = messages.decode_control_up(data)
        if isinstance(message, Hello):
            self.state = "ready"
            self._ready.set()
            if self.on_ready is not None:
                self.on_ready(self)
        elif isinstance(message, Loaded):
            self._resolve_load(message.key, message)
        elif isinstance(message, LoadFailed):
            self._resolve_load(message.key, from_code(message.code, message.message, field=message.field))
        elif message.key not in self._unloads:
            self._on_dropped(message.key)
        elif not self._unloads[message.key].done():
            self._unloads[message.key].set_result(None)

    def _on_dropped(self, key: str) -> None:
        """The thread of a model ended though nobody unloaded it; the process goes on."""
        for instance in [i for i in self._instances if i.key == key]:
            instance.lose()
        self.quarantine.survive()

    def _resolve_load(self, key: str, result: Loaded | UniModelError) -> None:
        future = self._loads.get(key)
        if future is None or future.done():
            return
        if isinstance(result, Loaded):
            future.set_result(result)
        else:
            future.set_exception(result)

    def _on_death(self) -> None:
        """The control channel ended: the process died, or is about to."""
        if self._process is None or self.state == "stopped":
            return
        self.load_is_the_cause = not self._note_who_was_at_work() and not self._was_killed_from_outside()
        if self._watch is not None:
            self._watch.stop()
        kill_group(self._process.pid)
        cause = str(self._exit(self._process))
        lived = time.monotonic() - self._born
        log.error("worker died", extra={"worker": self.name, "cause": cause, "lived_seconds": round(lived, 3)})
        self.state = "restarting"
        self.restarts += 1
        self._ready.clear()
        self._deaths_in_series = 0 if lived > _USEFUL_LIFE else self._deaths_in_series + 1
        self._end_futures(self.ending(f"The worker process died while loading the model ({cause})."))
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2**self._deaths_in_series) if self._deaths_in_series > 1 else 0.0
        self._respawn = asyncio.get_running_loop().call_later(delay, self.spawn)
        self.quarantine.in_doubt = True
        for instance in list(self._instances):  # all at once, so that none is given anything any more
            instance.lose()
        self.quarantine.reset()
        if self.on_death is not None:
            self.on_death(self)

    def _end_futures(self, error: UniModelError) -> None:
        for load in self._loads.values():
            if not load.done():
                load.set_exception(error)
        for unload in self._unloads.values():
            if not unload.done():
                unload.set_result(None)  # a dead process has unloaded everything


def _environment(device: Device, interpreter: Interpreter) -> dict[str, str]:
    """The child's environment: thread counts of the libraries that read them once, when they are imported."""
    threads = str(device.threads)
    env = interpreter.environment()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        env.setdefault(name, threads)
    env.setdefault("GOMP_SPINCOUNT", SPINS)
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of NVML, whose indexes the settings use
    return env
