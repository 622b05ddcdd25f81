"""For all tests: runtimes in the test process itself behave as they do in a worker, and leave no trace in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from engine.worker.supervisor import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read once, when the first runtime loads GNU OpenMP


@pytest.fixture(autouse=True)
def online() -> Iterator[None]:
    """Backends that must not reach for the network forbid it to their process, which elsewhere is a worker; what later
    tests start would inherit that."""
    yield
    os.environ.pop("HF_HUB_OFFLINE", None)
