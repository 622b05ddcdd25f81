"""Lines that native libraries write to stderr when they begin, which no level of logging stops."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(lines: re.Pattern[bytes]) -> Iterator[None]:
    """Keeps lines that begin so from stderr; others pass."""
    stderr = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    thread = threading.Thread(target=_pass_on, args=(reader, stderr, lines), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        thread.join(1.0)  # a process that another thread started meanwhile has the pipe open for longer


def _pass_on(reader: int, stderr: int, unwanted: re.Pattern[bytes]) -> None:
    with open(reader, "rb") as lines, open(stderr, "wb", buffering=0) as out:
        for line in lines:
            if not unwanted.match(line):
                out.write(line)
