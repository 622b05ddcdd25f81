"""Tests of engine.registry: versions and aliases, and what survives kill -9, full disks and damaged files."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import ModelInfo, TensorSpec
from engine.errors import Conflict, InsufficientStorage, InvalidRequest, ModelNotFound, Unavailable
from engine.registry import SCHEMA_VERSION, Registry, check_name
from engine.types import ModelSpec

INFO = ModelInfo(
    task="image-classification",
    inputs=(TensorSpec("pixels", "float32", ("batch", 3, 224, 224)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 1000)), TensorSpec("state", "int64", (4,), None)),
    labels=("cat", "dog"),
    metadata={"author": "a"},
    notes=("a guess",),
)
CONFIG = {"batching": {"max_batch_size": 64}, "labels": ["cat", "dog"], "é": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    registry = Registry(path, clock=lambda: 1700000000.25)
    yield registry
    registry.close()


def add(registry: Registry, name: str, **changes: Any) -> ModelSpec:
    fields = {
        "path": f"/models/{name}.onnx",
        "sha256": "ab" * 32,
        "size_bytes": 123,
        "backend": "onnx",
        "task": "tensor",
        "config": CONFIG,
        "trusted": False,
        "info": INFO,
    }
    return registry.add(name, **{**fields, **changes})


def test_a_registration_comes_back_whole_after_a_restart(registry: Registry, path: Path) -> None:
    spec = add(registry, "resnet", trusted=True)
    assert (spec.version, spec.created, spec.info, spec.config) == (1, 1700000000.25, INFO, CONFIG)
    registry.close()
    again = Registry(path)
    assert again.get("resnet") == spec
    again.close()


def test_the_newest_version_serves(registry: Registry) -> None:
    first, second = add(registry, "m"), add(registry, "m", path="/other")
    assert (first.version, second.version) == (1, 2)
    assert registry.get("m") == second
    assert registry.get("m", 1) == first
    assert registry.versions("m") == [1, 2]


def test_listing(registry: Registry) -> None:
    for name in ("b", "a", "b"):
        add(registry, name)
    registry.set_alias("prod", "b", 1)
    assert registry.names() == ["a", "b"]
    assert [(s.name, s.version) for s in registry.list()] == [("a", 1), ("b", 2)]
    assert [(s.name, s.version) for s in registry.all()] == [("a", 1), ("b", 1), ("b", 2)]


def test_a_version_number_is_never_used_again(registry: Registry, path: Path) -> None:
    add(registry, "m"), add(registry, "m")
    assert registry.remove("m", 2) == [2]
    assert registry.get("m").version == 1
    assert registry.remove("m") == [1]
    registry.close()
    again = Registry(path)
    assert again.names() == []
    assert add(again, "m").version == 3
    again.close()


def test_an_unknown_model_is_named_with_the_nearest_one(registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="Nothing is registered yet"):
        registry.get("resnet")
    add(registry, "resnet50")
    with pytest.raises(ModelNotFound, match="Did you mean 'resnet50'"):
        registry.get("resnet")
    with pytest.raises(ModelNotFound, match="has no version 7; it has 1") as e:
        registry.get("resnet50", 7)
    assert e.value.field == "version"
    with pytest.raises(ModelNotFound):
        registry.remove("nothing")
    with pytest.raises(ModelNotFound) as long:
        registry.get("x" * 100_000)
    assert len(long.value.message) < 300


def test_an_alias_stands_for_a_model_or_a_version(registry: Registry, path: Path) -> None:
    for _ in range(3):
        add(registry, "m")
    registry.set_alias("latest", "m")
    registry.set_alias("stable", "m", 1)
    registry.close()
    again = Registry(path)
    assert [(a.alias, a.model, a.version) for a in again.aliases()] == [("latest", "m", None), ("stable", "m", 1)]
    assert (again.get("latest").version, again.get("stable").version, again.get("stable", 2).version) == (3, 1, 2)
    assert again.versions("stable") == [1, 2, 3]
    add(again, "m")
    assert (again.get("latest").version, again.get("stable").version) == (4, 1)
    assert again.set_alias("stable", "m", 2).version == 2
    assert again.get("stable").version == 2
    assert again.remove_alias("stable").version == 2
    with pytest.raises(ModelNotFound):
        again.get("stable")
    with pytest.raises(ModelNotFound, match="No alias 'stabl' exists"):
        again.remove_alias("stabl")
    again.close()


def test_a_name_may_have_a_version(registry: Registry) -> None:
    for _ in range(2):
        add(registry, "m")
    registry.set_alias("best", "m")
    assert registry.get("m@1").version == registry.get("best@1").version == 1
    assert registry.get("m@2") is registry.get("m")
    for name in ("m@3", "n@1", "m@", "m@0", "m@01", "m@x", "m@1@1", "@1"):
        with pytest.raises(ModelNotFound):
            registry.get(name)
    with pytest.raises(ModelNotFound):
        registry.get("m@1", 2)


def test_an_alias_equal_to_the_name_pins_what_serves(registry: Registry) -> None:
    add(registry, "m"), add(registry, "m")
    registry.set_alias("m", "m", 1)
    add(registry, "m")
    assert registry.get("m").version == 1
    assert [(s.name, s.version) for s in registry.list()] == [("m", 1)]
    with pytest.raises(Conflict, match="Alias 'm' stands for version 1"):
        registry.remove("m", 1)
    assert registry.remove("m") == [1, 2, 3]
    assert registry.aliases() == []


def test_aliases_that_would_mislead_are_refused(registry: Registry) -> None:
    add(registry, "a"), add(registry, "b")
    registry.set_alias("prod", "a", 1)
    with pytest.raises(Conflict, match="'b' is the name of a model"):
        registry.set_alias("b", "a")
    with pytest.raises(Conflict, match="'a' has no version 2; it has 1"):
        registry.set_alias("x", "a", 2)
    with pytest.raises(Conflict, match="'prod' is an alias"):
        registry.set_alias("x", "prod")
    with pytest.raises(Conflict, match="'prod' is an alias of 'a'"):
        add(registry, "prod")
    with pytest.raises(ModelNotFound):
        registry.set_alias("x", "nothing")
    with pytest.raises(InvalidRequest):
        registry.set_alias("x/y", "a")


def test_what_an_alias_stands_for_is_not_removed(registry: Registry) -> None:
    add(registry, "m"), add(registry, "m")
    registry.set_alias("prod", "m", 1)
    registry.set_alias("latest", "m")
    with pytest.raises(Conflict, match="'prod' is an alias of 'm'"):
        registry.remove("prod")
    with pytest.raises(Conflict, match="Alias 'prod' stands for version 1 of 'm'"):
        registry.remove("m", 1)
    registry.remove_alias("prod")
    assert registry.remove("m", 1) == [1]
    with pytest.raises(Conflict, match="Alias 'latest' stands for 'm'"):
        registry.remove("m", 2)
    with pytest.raises(Conflict, match="Alias 'latest' stands for 'm'"):
        registry.remove("m")
    registry.remove_alias("latest")
    assert registry.remove("m") == [2]


@pytest.mark.parametrize("name", ["a", "9", "Resnet-50_v1.5", "x" * 128])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "_a", "a b", "a/b", "a:b", "a@b", "é", "a\n", "x" * 129, "../../etc", "١"]
)
def test_bad_names(name: str, registry: Registry) -> None:
    with pytest.raises(InvalidRequest) as e:
        check_name(name)
    assert e.value.field == "name"
    with pytest.raises(InvalidRequest):
        add(registry, name)
    assert registry.names() == []


# -- what the disk does to it ---------------------------------------------------------------------------------------

REGISTER_FOR_EVER = """
import itertools, sys
from pathlib import Path
from backends.base import ModelInfo
from engine.registry import Registry
registry = Registry(Path(sys.argv[1]))
for i in itertools.count():
    config = {"i": i, "padding": "x" * 3000}
    spec = registry.add("m", "/m", "ab", 1, "onnx", "tensor", config, False, ModelInfo(task="t"))
    registry.set_alias("newest", "m", spec.version)
    print(spec.version, flush=True)
"""


def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(path: Path) -> None:
    acknowledged: list[int] = []
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", REGISTER_FOR_EVER, path], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        acknowledged += [int(child.stdout.readline()) for _ in range(random.randint(1, 10))]
        time.sleep(random.uniform(0, 0.01))
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
        child.wait()
        child.stdout.close()
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
        registry = Registry(path)
        assert set(acknowledged) <= set(registry.versions("m"))
        assert registry.get("newest").version >= max(acknowledged)
        registry.close()
    assert acknowledged == sorted(set(acknowledged))


FILL_THE_DISK = """
import sys
from pathlib import Path
from backends.base import ModelInfo
from engine.errors import InsufficientStorage
from engine.registry import Registry
registry = Registry(Path(sys.argv[1]))
try:
    for i in range(1000):
        registry.add("m", "/m", "ab", 1, "onnx", "tensor", {"padding": "x" * 3000}, False, ModelInfo(task="t"))
except InsufficientStorage as e:
    assert registry.versions("m") == list(range(1, i + 1))
    print(i)
    print(e.message)
"""


def test_a_file_that_cannot_grow_is_an_error_and_changes_nothing(path: Path) -> None:
    """A limit on the size of files stands for a full disk: writes fail in the same places."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    out = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, path], preexec_fn=limit, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    stored, message = out.splitlines()
    assert int(stored) > 0
    assert str(path) in message
    registry = Registry(path)
    assert registry.versions("m") == list(range(1, int(stored) + 1))
    assert add(registry, "m").version == int(stored) + 1
    registry.close()


def test_a_folder_that_takes_no_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InsufficientStorage, match=f"{tmp_path}/missing/registry.db"):
        Registry(tmp_path / "missing" / "registry.db")


def test_a_locked_file_is_an_error_and_changes_nothing(registry: Registry, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="Does another program hold it open"):
        add(registry, "m")
    assert registry.names() == []
    other.close()
    assert add(registry, "m").version == 1


def test_a_newer_file_is_refused(registry: Registry, path: Path) -> None:
    registry.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(Unavailable, match="written by a newer version of UniModel"):
        Registry(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to hold a header " * 100)
    with pytest.raises(Unavailable, match="is damaged"):
        Registry(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_damaged_file_is_refused(registry: Registry, path: Path) -> None:
    for _ in range(20):
        add(registry, "m", config={"padding": "x" * 3000})
    registry.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(Unavailable, match=f"{path} is damaged"):
        Registry(path)


def test_a_row_that_does_not_parse_is_refused(registry: Registry, path: Path) -> None:
    add(registry, "m")
    registry.close()
    with sqlite3.connect(path) as db:
        db.execute("""UPDATE models SET info = '{"task": 5}'""")
    db.close()
    with pytest.raises(Unavailable, match="is damaged"):
        Registry(path)
