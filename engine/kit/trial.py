"""The test of one model: it is loaded as a worker would load it, and held to the contract."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from backends import discovery
from backends.base import BackendError, Device
from engine import model_options
from engine.errors import InvalidOption, UniModelError, UntrustedModel
from engine.kit.answers import CheckView
from engine.kit.contract import CHECKS, Broken, Model
from engine.kit.contract.model import told
from engine.scheduling.batcher import MAX_OUTSTANDING
from engine.settings import EngineSettings
from engine.transport.batchqueue import Slots
from engine.transport.messages import Load
from engine.worker import loader, memory
from engine.worker.gate import Gate

_SLOT_BYTES = 1 << 20

Report = Callable[[CheckView], None]


class Subject(msgspec.Struct):
    """What is tested."""

    path: str
    backend: str | None = None
    """`None` lets looking decide."""
    config: dict[str, Any] = {}
    """Options, as at registration."""
    body: dict[str, Any] | None = None
    """What a model of JSON values is asked, in place of its example."""
    trust: bool = False


def run(subject: Subject, report: Report) -> None:
    """Tells `report` of each check when it begins, and how it came out."""
    found: list[Model] = []
    if not _passes("its backend is found", lambda: found.append(_find(subject)), report):
        return
    (model,) = found
    if not _passes("it loads as in a worker", lambda: _load(model), report):
        return
    backend, _ = model.loaded
    for check in CHECKS:
        if isinstance(backend, check.kind):
            _passes(check.name, lambda run=check.run: run(model), report)  # type: ignore[misc]
    _passes("it closes", backend.close, report)


def _find(subject: Subject) -> Model:
    kind, match = discovery.choose(subject.path, subject.backend)
    if not issubclass(kind, loader.Served):
        raise InvalidOption(
            f"{Path(subject.path).name} is a {kind.name}, which computes nothing itself: it calls models that are "
            "registered, so it is tried where they are. Test those, and register it: that checks it.",
            field="path",
        )
    trusted = subject.trust or kind.name == "python"  # to run a plugin is what was asked for
    if match.runs_code and not trusted:
        raise UntrustedModel(f"{match.runs_code} Test it with --trust if you trust its author.", field="trust")
    threads = len(os.sched_getaffinity(0))
    return Model(kind, subject.path, subject.config, subject.body, Device("cpu", threads=threads), trusted)


def _passes(name: str, run: Callable[[], str | None], report: Report) -> bool:
    """Runs a check, tells how it came out, and returns whether it passed."""
    report(CheckView(name=name, state="running"))
    begin = time.perf_counter()
    failure: str | None = None
    message: str | None = None
    try:
        message = run()
    except (BackendError, UniModelError) as e:
        failure = e.message
    except Broken as e:
        failure = str(e)
    except Exception as e:
        failure = f"It raised {told(e)}."
    seconds = round(time.perf_counter() - begin, 4)
    report(CheckView(name=name, state="fail" if failure else "ok", message=failure or message, seconds=seconds))
    return failure is None


def _load(model: Model) -> str | None:
    """Loads and warms up by the worker's own code."""
    message = Load(
        key="test",
        path=model.path,
        backend=model.kind.name,
        task=None,
        config=model.config,
        device=model.device,
        slots=MAX_OUTSTANDING,
        slot_bytes=_SLOT_BYTES,
        batch_rows=EngineSettings().default_batch_size,
        dynamic_padding=True,
        trusted=model.trusted,
    )
    slots = Slots.create(message.slots, message.slot_bytes)
    with Gate(model.device.threads).model() as gate:
        loaded = loader.load(message, slots, gate)
    model.use(loaded.backend, loaded.reply.info)
    _check_memory(model)
    return " ".join(loaded.reply.info.notes) or None


def _check_memory(model: Model) -> None:
    """Raises `Broken` where a process with this model alone would be killed."""
    options, _ = model_options.split(model.config, model.kind.Options)
    limit, held = options.memory_bytes, memory.held(os.getpid())
    if limit is not None and held > limit:
        raise Broken(
            f"Its process holds {held >> 20} MiB once it is loaded, more than its memory_limit of {limit >> 20} MiB; "
            "a server would replace it. Raise the limit if it needs that much."
        )
