"""What is registered: names, versions, aliases. The only owner of that, on disk and in memory.

SQLite in WAL mode with ``synchronous=FULL``: what a method returned from is on the disk, whatever happens to the
process or the machine next. One process writes (the server, which holds a lock on its home), so reads are answered from
a copy in memory; `Registry.get` is part of every request and costs a dictionary lookup. Writes are rare and take
milliseconds, so they run on the server's loop as plain calls.
"""

from __future__ import annotations

import builtins
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from backends.base import ModelInfo
from engine.errors import Conflict, InsufficientStorage, InvalidRequest, ModelNotFound, Unavailable, UniModelError
from engine.schema import Alias
from engine.settings import nearest
from engine.types import ModelSpec

SCHEMA_VERSION: Final = 1
"""Stored in the file as ``PRAGMA user_version``."""

_SCHEMA: Final = """
CREATE TABLE names (                 -- outlives the versions, so that a number is never used again
    name         TEXT PRIMARY KEY,
    last_version INTEGER NOT NULL
) STRICT;
CREATE TABLE models (
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    path       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    backend    TEXT NOT NULL,
    task       TEXT NOT NULL,
    config     TEXT NOT NULL,        -- JSON
    trusted    INTEGER NOT NULL,
    created    REAL NOT NULL,        -- seconds since the epoch
    info       TEXT NOT NULL,        -- JSON
    PRIMARY KEY (name, version)
) STRICT;
CREATE TABLE aliases (
    alias   TEXT PRIMARY KEY,
    model   TEXT NOT NULL,
    version INTEGER                  -- NULL: the newest
) STRICT;
"""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


def check_name(name: str) -> str:
    """`name`, if it can name a model or an alias. Raises `InvalidRequest` otherwise."""
    if _NAME.fullmatch(name):
        return name
    raise InvalidRequest(
        f"{name[:140]!r} cannot be a name: use 1 to 128 letters (a-z), digits, '.', '_' and '-', "
        "and begin with a letter or digit.",
        field="name",
    )


def split_version(name: str, version: int | None = None) -> tuple[str, int | None]:
    """``NAME@3`` as its name and version, and any other name as it is."""
    bare, at, number = name.partition("@")
    if version is None and at and _VERSION.fullmatch(number):
        return bare, int(number)
    return name, version


class Registry:
    """The registered models of one server, stored in the file `path`.

    Every method that writes raises `InsufficientStorage` when the disk is full or read-only, and changes nothing then.
    Opening raises `Unavailable` when the file is corrupt or was written by a newer version.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._models: dict[str, dict[int, ModelSpec]] = {}
        self._aliases: dict[str, Alias] = {}
        self._serving: dict[str, ModelSpec] = {}
        """By name and by alias."""
        with self._translated():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            self._db.row_factory = sqlite3.Row
        try:
            with self._translated():
                self._prepare()
                self._read()
        except BaseException:
            self._db.close()
            raise

    @property
    def home(self) -> Path:
        """The folder that the file is in, which is the server's home."""
        return self._path.parent

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, name: str, version: int | None = None) -> ModelSpec:
        """The version of `name` (a model or an alias) that serves, or the one asked for. Raises `ModelNotFound`.

        A version may be asked for in the name, too: ``NAME@3``.
        """
        spec = self._serving.get(name)
        if spec is None and "@" in name:
            name, version = split_version(name, version)
            spec = self._serving.get(name)
        if spec is not None and version is not None:
            spec = self._models[spec.name].get(version)
        if spec is None:
            raise self._not_found(name, version)
        return spec

    def names(self) -> builtins.list[str]:
        """The names of the registered models, sorted."""
        return sorted(self._models)

    def versions(self, name: str) -> builtins.list[int]:
        """The versions of a model, oldest first; of the model that it stands for, when `name` is an alias."""
        return sorted(self._models[self.get(name).name])

    def list(self) -> builtins.list[ModelSpec]:
        """The serving version of every model, by name."""
        return [self._serving[name] for name in self.names()]

    def all(self) -> builtins.list[ModelSpec]:
        """Every version of every model, by name and version."""
        return [self._models[name][version] for name in self.names() for version in sorted(self._models[name])]

    def aliases(self) -> builtins.list[Alias]:
        """Every alias, by its name."""
        return [self._aliases[alias] for alias in sorted(self._aliases)]

    # -- writing ------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        path: str,
        sha256: str,
        size_bytes: int,
        backend: str,
        task: str,
        config: dict[str, Any],
        trusted: bool,
        info: ModelInfo,
    ) -> ModelSpec:
        """Registers a new version of `name`, numbered one above the highest that the name ever had.

        Raises `InvalidRequest` for a bad name, `Conflict` if the name is an alias of another model.
        """
        check_name(name)
        alias = self._aliases.get(name)
        if alias is not None and alias.model != name:
            raise Conflict(
                f"{name!r} is an alias of {alias.model!r}. Register under another name, or remove the alias.",
                field="name",
            )
        with self._transaction() as db:
            (version,) = db.execute(
                "INSERT INTO names VALUES (?, 1)"
                " ON CONFLICT DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
                (name,),
            ).fetchone()
            spec = ModelSpec(
                name=name,
                version=version,
                path=path,
                sha256=sha256,
                size_bytes=size_bytes,
                backend=backend,
                task=task,
                config=config,
                trusted=trusted,
                created=self._clock(),
                info=info,
            )
            db.execute(
                "INSERT INTO models VALUES (:name, :version, :path, :sha256, :size_bytes,"
                " :backend, :task, :config, :trusted, :created, :info)",
                _row(spec),
            )
        self._models.setdefault(name, {})[version] = spec
        self._resolve()
        return spec

    def remove(self, name: str, version: int | None = None) -> builtins.list[int]:
        """Removes one version of a model, or all of them and the alias that pins its own name. Returns their numbers.

        Raises `ModelNotFound`, or `Conflict` if `name` is an alias or another alias would stand for nothing.
        """
        model = self.get(name, version).name
        if model != name:
            raise Conflict(f"{name!r} is an alias of {model!r}. Name the model, or remove the alias.", field="name")
        removed = self.versions(name) if version is None else [version]
        rest = self._models[name].keys() - set(removed)
        for alias in self.aliases():
            pinned = alias.version in removed and not (version is None and alias.alias == name)
            dangling = not rest and alias.alias != name
            if alias.model == name and (pinned or dangling):
                what = f"version {alias.version} of {name!r}" if pinned else repr(name)
                raise Conflict(
                    f"Alias {alias.alias!r} stands for {what}. Remove or move the alias first.", field="name"
                )
        with self._transaction() as db:
            db.executemany("DELETE FROM models WHERE name = ? AND version = ?", [(name, v) for v in removed])
            if not rest:
                db.execute("DELETE FROM aliases WHERE alias = ?", (name,))
        for number in removed:
            del self._models[name][number]
        if not rest:
            del self._models[name]
            self._aliases.pop(name, None)
        self._resolve()
        return removed

    def set_alias(self, alias: str, model: str, version: int | None = None) -> Alias:
        """Lets `alias` stand for a model, or one version of it. An alias equal to its model's name pins what serves.

        Raises `InvalidRequest` for a bad name, `ModelNotFound` if there is no such model, `Conflict` if `alias` is the
        name of another model, `model` is itself an alias, or the model has no such version.
        """
        check_name(alias)
        if model in self._aliases and model not in self._models:
            raise Conflict(f"{model!r} is an alias. Point to the model: {self._aliases[model].model!r}.", field="model")
        if model not in self._models:
            raise self._not_found(model, None)
        if alias in self._models and alias != model:
            raise Conflict(f"{alias!r} is the name of a model, so it cannot stand for {model!r}.", field="alias")
        if version is not None and version not in self._models[model]:
            known = ", ".join(map(str, self.versions(model)))
            raise Conflict(f"{model!r} has no version {version}; it has {known}.", field="version")
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", (alias, model, version))
        self._aliases[alias] = Alias(alias=alias, model=model, version=version)
        self._resolve()
        return self._aliases[alias]

    def remove_alias(self, alias: str) -> Alias:
        """Removes an alias. Raises `ModelNotFound` if there is none of that name."""
        if alias not in self._aliases:
            raise ModelNotFound(f"No alias {alias!r} exists.{nearest(alias, self._aliases)}", field="alias")
        with self._transaction() as db:
            db.execute("DELETE FROM aliases WHERE alias = ?", (alias,))
        removed = self._aliases.pop(alias)
        self._resolve()
        return removed

    # -- inside -------------------------------------------------------------------------------------------------

    def _resolve(self) -> None:
        """Computes what every name and alias stands for."""
        newest = {name: versions[max(versions)] for name, versions in self._models.items()}
        aliased = {
            a.alias: newest[a.model] if a.version is None else self._models[a.model][a.version]
            for a in self._aliases.values()
        }
        self._serving = newest | aliased

    def _not_found(self, name: str, version: int | None) -> ModelNotFound:
        if name in self._serving:
            known = ", ".join(map(str, self.versions(name)))
            return ModelNotFound(f"Model {name!r} has no version {version}; it has {known}.", field="version")
        hint = nearest(name[:140], self._serving)
        if not self._serving:
            hint = " Nothing is registered yet; 'unimodel register NAME PATH' adds a model."
        return ModelNotFound(f"No model {name[:140]!r} is registered.{hint}", field="name")

    def _prepare(self) -> None:
        """Settles the durability of the file, and creates its tables if it is new."""
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA_VERSION:
            raise Unavailable(
                f"{self._path} was written by a newer version of UniModel (format {found}; this one knows up to "
                f"{SCHEMA_VERSION}). Install that version again, or use another home."
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if found < SCHEMA_VERSION:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _read(self) -> None:
        """Fills the copy in memory."""
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self._corrupt(verdict)
        try:
            for row in self._db.execute("SELECT * FROM models"):
                spec = _spec(row)
                self._models.setdefault(spec.name, {})[spec.version] = spec
            for alias, model, version in self._db.execute("SELECT * FROM aliases"):
                self._aliases[alias] = Alias(alias=alias, model=model, version=version)
            self._resolve()
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as e:
            raise self._corrupt(str(e)) from e

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A write: all of it is on the disk after the block, or none of it."""
        with self._translated():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise self._error(e) from e

    def _error(self, e: sqlite3.Error) -> UniModelError:
        primary = getattr(e, "sqlite_errorcode", 0) & 0xFF
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            return InsufficientStorage(
                f"The registry {self._path} cannot be written ({e}). Free space on its disk, make its folder "
                "writable, or choose another home with --home."
            )
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._corrupt(str(e))
        return Unavailable(f"The registry {self._path} cannot be used: {e}. Does another program hold it open?")

    def _corrupt(self, what: str) -> Unavailable:
        return Unavailable(
            f"The registry {self._path} is damaged ({what}). Put back a copy of it, or move it away "
            "and register the models again; the model files themselves are not touched."
        )


def _row(spec: ModelSpec) -> dict[str, Any]:
    config, info = (msgspec.json.encode(part).decode() for part in (spec.config, spec.info))
    return msgspec.structs.asdict(spec) | {"config": config, "info": info}


def _spec(row: sqlite3.Row) -> ModelSpec:
    fields = dict(row)
    fields["config"] = msgspec.json.decode(fields["config"], type=dict[str, Any])
    fields["info"] = msgspec.json.decode(fields["info"], type=ModelInfo)
    fields["trusted"] = bool(fields["trusted"])
    return ModelSpec(**fields)
