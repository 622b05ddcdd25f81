"""Real servers for the end-to-end tests: one for each module, and as many more as a test starts itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The module's server, with a home of its own."""
    with Server(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test; flags as on the command line."""
    running: list[Server] = []

    def start_one(*flags: str, home: Path | None = None) -> Server:
        one = Server(home or tmp_path / f"home{len(running)}", *flags)
        running.append(one)
        return one.__enter__()

    yield start_one
    for one in running:
        one.__exit__()
