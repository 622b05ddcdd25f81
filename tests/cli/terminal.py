"""A command at a terminal of its own: a pseudo-terminal, whose keys a test presses and whose screen it reads."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

from tests.cli.conftest import COMMAND, PATIENCE, Cli


class Terminal:
    """One running command. Use it as a context manager."""

    def __init__(self, cli: Cli, *arguments: object, **env: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env={**cli.env, "TERM": "xterm", **env},
            preexec_fn=lambda: os.login_tty(slave),
        )
        os.close(slave)
        self._screen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self._master, keys.encode())

    def until(self, text: str) -> str:
        """What is on the screen up to and with the next `text`."""
        end = time.monotonic() + PATIENCE
        while text not in self._screen:
            assert time.monotonic() < end, f"no {text!r} in {self._screen!r}"
            assert self._read(), f"ended without {text!r}: {self._screen!r}"
        at = self._screen.index(text) + len(text)
        seen, self._screen = self._screen[:at], self._screen[at:]
        return seen

    def ask(self, line: str, answer: str) -> str:
        """Types a line at the prompt, and returns the screen from then until the next prompt, which has `answer`."""
        self.until(">>> ")
        self.press(line + "\r")
        return self.until(answer)

    def end(self, key: str = "") -> int:
        """The exit code, once the command has ended; `key` is pressed now, and again until then.

        A Ctrl-C that comes just while Python draws its prompt is seen at the next key only: it waits for input already.
        """
        end = time.monotonic() + PATIENCE
        self.press(key)
        while self._read():
            assert time.monotonic() < end, f"it goes on: {self._screen!r}"
            if key and not select.select([self._master], [], [], 0.5)[0]:
                self.press(key)
        return self._process.wait(PATIENCE)

    @property
    def rest(self) -> str:
        """What is on the screen beyond what was looked for."""
        return self._screen

    def _read(self) -> bool:
        """Reads more; false at the end."""
        if not select.select([self._master], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self._master, 4096)
        except OSError:  # Linux says so when the other end is closed
            return False
        self._screen += data.decode(errors="replace")
        return bool(data)
