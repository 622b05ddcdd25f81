"""The worker process: ``python -m engine.worker.main FD``. One thread for the control channel, one for each model.

It only ever attaches to what the server created. When the server goes away, in whatever way, the control channel ends
and so does this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import socket
import sys
import threading
import time
from typing import NoReturn

from backends.base import BackendError, TensorBackend
from engine.errors import UniModelError
from engine.telemetry import logs
from engine.transport.batchqueue import Slots
from engine.transport.channel import Channel
from engine.transport.messages import (
    CancelStream,
    Hello,
    Load,
    LoadFailed,
    StartStream,
    Unloaded,
    decode_batch_down,
    decode_load,
    encode,
)
from engine.worker import loader
from engine.worker.batch_loop import BatchLoop
from engine.worker.gate import Gate, ModelGate
from engine.worker.group import kill_group
from engine.worker.thread_names import RUN, name_thread

log = logging.getLogger("unimodel.worker")

_LONGEST_PAUSE = 0.05
"""Seconds without a step after which messages, such as those that begin streams, wait for the next one."""


def main() -> None:
    """Serves until the control channel ends."""
    fd, name, level, log_format = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    logs.configure(level, log_format, sys.stderr, {"worker": name})
    faulthandler.enable()
    control = Channel(socket.socket(fileno=fd))
    control.send(encode(Hello(os.getpid())))
    gate: Gate | None = None
    while True:
        data, fds = control.receive_with_fds()
        if not data:
            _exit()
        message = decode_load(data)
        gate = gate or Gate(message.device.threads)  # a worker has one device
        arguments = (control, message, gate, *fds)
        thread = threading.Thread(target=_serve_model, args=arguments, name=message.key, daemon=True)
        thread.start()


def _exit() -> NoReturn:
    """At once, as a thread may be deep in a runtime that cannot be interrupted, and with what the models started."""
    if os.getpgrp() == os.getpid():  # the server, which does this otherwise, may have been killed
        kill_group(os.getpid())
    os._exit(0)


def _serve_model(control: Channel, message: Load, gate: Gate, queue_fd: int, memory_fd: int) -> None:
    """The life of one model: load, serve until its queue is closed, free. Whatever happens, its end is reported."""
    queue = Channel(socket.socket(fileno=queue_fd))
    slots = Slots.attach(memory_fd, message.slots, message.slot_bytes)
    try:
        with gate.model() as own:
            _load_and_serve(control, message, own, queue, slots)
    except BaseException as e:
        log.error("model's thread failed", exc_info=e, extra={"model": message.key})
    queue.close()
    slots.close()
    _free_memory()
    with contextlib.suppress(OSError):  # the server is gone too
        control.send(encode(Unloaded(message.key)))


def _load_and_serve(control: Channel, message: Load, gate: ModelGate, queue: Channel, slots: Slots) -> None:
    try:
        name_thread(message.key, RUN)  # the threads that the runtime makes inherit the name
        model = loader.load(message, slots, gate)
        name_thread(message.key)
    except BaseException as e:
        control.send(encode(_failure(message, e)))
        return
    gc.freeze()  # what a load made stays; the collector need not walk it between two batches
    control.send(encode(model.reply))
    try:
        if model.runner is not None and isinstance(model.backend, TensorBackend):
            BatchLoop(queue, model.runner, model.streams(queue).start).run()
        else:
            _serve_queue(queue, model)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server closed the queue while something was on its way
    finally:
        model.backend.close()


def _serve_queue(queue: Channel, model: loader.LoadedModel) -> None:
    """Batches as they come; while streams are open, a step of them whenever no message waits, after a batch, and when
    messages have come for a while without a pause."""
    streams = model.streams(queue)
    due = 0.0
    while True:
        idle = not streams.busy
        data = queue.receive(block=idle)
        if data == b"":
            return
        if idle:
            due = time.monotonic() + _LONGEST_PAUSE
        message = None if data is None else decode_batch_down(data)
        if isinstance(message, StartStream):
            streams.start(message)
        elif isinstance(message, CancelStream):
            streams.cancel(message)
        elif message is not None and model.runner is not None:
            queue.send(model.runner.run(model.runner.prepare(message)))
            due = 0.0
        if streams.busy and (message is None or time.monotonic() >= due):
            streams.step()
            due = time.monotonic() + _LONGEST_PAUSE


def _failure(message: Load, error: BaseException) -> LoadFailed:
    """A failed load as the user may see it; what nobody raised on purpose is logged whole."""
    if isinstance(error, BackendError | UniModelError):
        return LoadFailed(message.key, error.code, error.message, error.field)
    log.error("model failed to load", exc_info=error, extra={"model": message.key})
    if isinstance(error, MemoryError):
        return LoadFailed(message.key, "insufficient_memory", "There is not enough memory to load the model.")
    reason = f"{type(error).__name__}: {str(error)[:500]}"
    return LoadFailed(message.key, "model_failed", f"The model failed to load or to warm up: {reason}")


def _free_memory() -> None:
    """Gives what an unloaded model held back to the system, which the C allocator would keep."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
