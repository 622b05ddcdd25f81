"""``unimodel completion names``: the names that complete a model, one a line, from the running server.

A shell waits for it at each press of the tab key. So it uses the standard library alone, ends after `BUDGET_SECONDS`
whatever the network does, and prints nothing when there is no server.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

BUDGET_SECONDS = 0.2


def run() -> int:
    """Prints the names, if they come in time. Ends the process, since a thread may still wait for the network."""
    names: list[str] = []
    thread = threading.Thread(target=_fetch, args=(names,), daemon=True)
    thread.start()
    thread.join(BUDGET_SECONDS)
    try:
        sys.stdout.write("".join(f"{name}\n" for name in list(names)))
        sys.stdout.flush()
    finally:
        os._exit(0)


def _fetch(names: list[str]) -> None:
    try:
        parts = urlsplit(_url())
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=BUDGET_SECONDS)
        key = os.environ.get("UNIMODEL_API_KEY")
        connection.request("GET", f"{parts.path}/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
        models = json.loads(connection.getresponse().read())["data"]
        names.extend(dict.fromkeys(name for m in models for name in (m["name"], *m["aliases"])))
    except Exception:  # whatever it is, a completion has nothing to say about it
        return


def _url() -> str:
    """As `unimodel_cli.command.Session.url`, without its options."""
    given = os.environ.get("UNIMODEL_HOST", "")
    if given:
        return (given if "://" in given else f"http://{given}").rstrip("/")
    home = Path(os.environ.get("UNIMODEL_HOME") or "~/.unimodel").expanduser()
    try:
        return str(json.loads((home / "server.json").read_text())["url"])
    except (OSError, ValueError, KeyError):
        return "http://127.0.0.1:8000"
