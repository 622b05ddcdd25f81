"""For development: watches the files of the registered models, and serves what was saved.

A changed model is registered anew: the new version is loaded beside the old one, which answers the requests that it
has, and goes on serving when the new one cannot be loaded. The versions in between, whose files are gone, are removed.

The files are looked at a few times a second. That needs no further package, and works on network file systems and in
containers, where notifications of changes do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine import digest
from engine.errors import UniModelError
from engine.schema import RegisterRequest
from engine.types import ModelSpec

if TYPE_CHECKING:
    from engine.core import Engine

log = logging.getLogger("unimodel.reload")

_INTERVAL = 0.25
"""Seconds between two looks. A file that changed is loaded when it is found unchanged by the next."""
_COARSE = 0.01
"""Seconds by which the time of a file's change may lag behind the clock; a load takes longer."""

Snapshot = frozenset[tuple[str, int, int]]
"""Path, time of the last change and size of each file."""


@dataclass
class _Watched:
    """What is known of the serving version of a name."""

    version: int
    seen: Snapshot | None
    """Its files as they were loaded, or could not be; `None` when they are not those that were registered."""
    changed: Snapshot | None = None
    """As they were at the last look, if they were others then."""
    error: str | None = None
    """Why what was saved last could not be loaded."""


class Reloader:
    """Owns what is known of the files of the models."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watched: dict[str, _Watched] = {}
        self._busy: set[str] = set()
        """Names that are being looked at, which takes as long as a load."""
        self._made: set[tuple[str, int]] = set()
        """Versions that were registered here."""

    def error(self, spec: ModelSpec) -> str | None:
        """Why the changed files of a version could not be loaded in its place; `None` when all is well."""
        watched = self._watched.get(spec.name)
        return watched.error if watched is not None and watched.version == spec.version else None

    async def run(self) -> None:
        """Looks at the files of all models, for ever."""
        log.info("watching the files of the registered models")
        while True:
            await asyncio.sleep(_INTERVAL)
            for spec in self._engine.registry.list():
                if spec.sha256 and spec.name not in self._busy:  # one that is installed has no file to watch
                    self._busy.add(spec.name)
                    self._engine.pool.background(self._look(spec))

    async def _look(self, spec: ModelSpec) -> None:
        try:
            await self._look_closely(spec)
        except (UniModelError, OSError) as e:  # its backend was uninstalled, or its folder is being replaced
            log.debug("files cannot be looked at", extra={"model": spec.name, "reason": str(e)})
        finally:
            self._busy.discard(spec.name)

    async def _look_closely(self, spec: ModelSpec) -> None:
        watched = self._watched.get(spec.name)
        if watched is None or watched.version != spec.version:
            watched = self._watched[spec.name] = await asyncio.to_thread(self._begin, spec)
        now = await asyncio.to_thread(self._snapshot, spec, watched.error is not None)
        if now == watched.seen or not self._source(spec).exists():
            watched.changed = None
        elif now != watched.changed:
            watched.changed = now  # and may be changing still
        elif self._engine.state == "ready" and self._serves(spec):
            watched.seen, watched.changed = await asyncio.to_thread(self._snapshot, spec, True), None
            await self._reload(spec, watched)

    def _begin(self, spec: ModelSpec) -> _Watched:
        """The first look at a version. It may have been changed since it was registered."""
        snapshot = self._snapshot(spec, False)
        try:
            same = digest.of_model(self._engine.pool.backend(spec.backend), spec.path) == (spec.sha256, spec.size_bytes)
        except UniModelError:
            same = False
        registered = int((spec.created - _COARSE) * 1e9)  # the digest does not cover the sources
        newer = any(changed > registered and path in spec.info.sources for path, changed, _ in snapshot)
        return _Watched(spec.version, snapshot if same and not newer else None)

    async def _reload(self, spec: ModelSpec, watched: _Watched) -> None:
        request = RegisterRequest(
            name=spec.name,
            model_path=spec.path,
            backend=spec.backend,
            task=spec.task or None,
            config=spec.config,
            trust=spec.trusted,
        )
        try:
            new = await self._engine.register(request)
        except UniModelError as e:
            watched.error = e.message
            fields = {"model": spec.name, "version": spec.version, "reason": e.message}
            log.error("changed model could not be loaded, the old version goes on serving", extra=fields)
            return
        log.info("changed model was loaded", extra={"model": new.name, "version": new.version})
        self._made.add(new.key)
        if spec.key in self._made:
            self._made.discard(spec.key)
            with contextlib.suppress(UniModelError):  # an alias is pinned to it, or somebody removed it
                await self._engine.unregister(*spec.key)

    def _serves(self, spec: ModelSpec) -> bool:
        """Whether nobody registered or removed anything under its name meanwhile."""
        with contextlib.suppress(UniModelError):
            return self._engine.registry.get(spec.name).key == spec.key
        return False

    def _source(self, spec: ModelSpec) -> Path:
        return self._engine.pool.backend(spec.backend).source(spec.path)

    def _snapshot(self, spec: ModelSpec, widely: bool) -> Snapshot:
        """The files of a model; `widely` also all modules beside them, one of which may be why it cannot be loaded."""
        found = set()
        for file in self._files(spec, widely):
            with contextlib.suppress(OSError):
                status = file.stat()
                found.add((str(file), status.st_mtime_ns, status.st_size))
        return frozenset(found)

    def _files(self, spec: ModelSpec, widely: bool) -> Iterator[Path]:
        source = self._source(spec)
        yield source
        if source.is_dir():
            yield from (file for file in source.rglob("*") if "__pycache__" not in file.parts and file.is_file())
        yield from self._engine.pool.backend(spec.backend).parts(source)
        yield from map(Path, spec.info.sources)
        if widely:
            yield from source.parent.glob("*.py")
