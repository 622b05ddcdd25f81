"""``python -m engine.kit WHAT``: answers as JSON, one a line, on stdout. What the code of others prints goes to stderr.

`engine.kit.answers` and `engine.schema` say what they look like:

- ``backends`` gives a `BackendList`, ``plugins SECONDS`` a `PluginList`, ``plugin NAME`` a `PluginView`.
- ``test SECONDS SUBJECT`` gives a `CheckView` for each check of a `Subject`; ``trial SUBJECT`` is the process in which
  they run, and gives one when a check begins, too.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from engine import installed
from engine.kit import plugins, runner, trial

Answer = Callable[[Any], None]


def main() -> None:
    """Answers."""
    what, *arguments = sys.argv[1:]
    answer = _answers()
    if what == "backends":
        answer(installed.backends())
    elif what == "plugins":
        answer(plugins.found(float(arguments[0])))
    elif what == "plugin":
        answer(plugins.describe(arguments[0]))
        os._exit(0)  # whatever threads it started
    elif what == "test":
        runner.run(arguments[1], float(arguments[0]), answer)
    elif what == "trial":
        _end_with_parent()
        subject = msgspec.json.decode(arguments[0], type=trial.Subject)
        model = threading.Thread(target=trial.run, args=(subject, answer))  # models have threads of their own
        model.start()
        model.join()
        os._exit(0)


def _answers() -> Answer:
    """What writes an answer. From now on, stdout is stderr."""
    stdout = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lambda value: _write(stdout, msgspec.json.encode(value) + b"\n")


def _write(fd: int, line: bytes) -> None:
    while line:
        line = line[os.write(fd, line) :]


def _end_with_parent() -> None:
    """Ends this process when the other end of stdin is closed. From now on, stdin is empty."""
    stdin = os.dup(sys.stdin.fileno())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)

    def wait() -> None:
        os.read(stdin, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
