"""A small real HTTP server that speaks as much of the Hugging Face hub's API as a pull needs.

Like the hub, it answers ``/api/models/…`` with the files and their digests, and ``/ORG/REPO/resolve/…`` with the file,
or for a large file with a redirect to another host (here: another port), which serves ranges.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """The files of a repository. Those in `large` are served by the other host, and known by their sha256."""

    files: dict[str, bytes]
    small: frozenset[str] = frozenset()
    gated: bool = False
    lies: dict[str, bytes] = field(default_factory=dict)
    """Content that is sent instead of what the API describes."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that the API claims."""

    def describe(self, name: str) -> dict[str, object]:
        content = self.files[name]
        size = self.sizes.get(name, len(content))
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        described: dict[str, object] = {"rfilename": name, "size": size, "blobId": git}
        if name not in self.small:
            described["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return described


class Hub:
    """The stand-in: what it has, what it was asked, and how it misbehaves."""

    def __init__(self, repos: dict[str, Repo], token: str | None = None) -> None:
        self.repos = repos
        self.token = token
        """Without it, nothing is found."""
        self.ranges: list[str | None] = []
        """The ``Range`` header of every request for a large file."""
        self.authorized: list[tuple[str, bool]] = []
        """For every request for a model, which host it was to, and whether it had the token."""
        self.break_after: list[int] = []
        """For the next requests for a large file: after how many bytes the connection breaks."""
        self.serves_ranges = True
        self.held = threading.Event()
        """Is set when a response waits for `go`."""
        self.go = threading.Event()
        self.hold_after: int | None = None
        """Bytes of a large file that are sent before waiting for `go`."""
        self._cdn = _serve(self, _CdnHandler)
        self._api = _serve(self, _ApiHandler)
        self.url = f"http://127.0.0.1:{self._api.server_port}"
        self.cdn_url = f"http://127.0.0.1:{self._cdn.server_port}"

    def close(self) -> None:
        """Stops it."""
        self.go.set()
        for server in (self._api, self._cdn):
            server.shutdown()
            server.server_close()


@contextmanager
def serving(repos: dict[str, Repo], token: str | None = None) -> Iterator[Hub]:
    """A stand-in while the block runs."""
    hub = Hub(repos, token)
    try:
        yield hub
    finally:
        hub.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the tests."""


def _serve(hub: Hub, handler: type[BaseHTTPRequestHandler]) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.hub = hub
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        authorized = self.headers.get("authorization") == f"Bearer {self.hub.token}"
        if not self.path.startswith("/api/") or self.path.startswith("/api/models/"):
            self.hub.authorized.append((self.host, authorized))
        self.answer(unquote(urlsplit(self.path).path), authorized or self.hub.token is None)

    def answer(self, path: str, allowed: bool) -> None:
        raise NotImplementedError

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, b"{}", {"x-error-code": code, "x-error-message": code, "content-type": "application/json"})


class _ApiHandler(_Handler):
    """``/api/models/ORG/REPO[/revision/REV]`` and ``/ORG/REPO/resolve/REV/FILE``."""

    host = "api"

    def answer(self, path: str, allowed: bool) -> None:
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        repo = self.hub.repos.get(name)
        if repo is None or not allowed:
            self.refuse(401, "RepoNotFound")
        elif is_api and parts[4:] not in ([], ["revision", "main"], ["revision", COMMIT]):
            self.refuse(404, "RevisionNotFound")
        elif is_api:
            info = {
                "_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "gated": repo.gated,
                "tags": [], "siblings": [repo.describe(f) for f in repo.files],
            }  # fmt: skip
            self.reply(200, json.dumps(info).encode(), {"content-type": "application/json"})
        elif repo.gated:
            self.refuse(403, "GatedRepo")
        else:
            self.file(name, repo, parts[3], "/".join(parts[4:]))

    def file(self, name: str, repo: Repo, revision: str, file: str) -> None:
        content = repo.files.get(file)
        if content is None or revision != COMMIT:
            self.refuse(404, "EntryNotFound")
            return
        described = repo.describe(file)
        common = {"x-repo-commit": COMMIT}
        if file in repo.small:
            self.reply(200, repo.lies.get(file, content), {**common, "etag": f'"{described["blobId"]}"'})
            return
        lfs = described["lfs"]
        assert isinstance(lfs, dict)
        linked = {"x-linked-etag": f'"{lfs["sha256"]}"', "x-linked-size": str(lfs["size"])}
        self.reply(302, b"", {**common, **linked, "location": f"{self.hub.cdn_url}/{name}/{file}"})


class _CdnHandler(_Handler):
    """Large files, with ranges."""

    host = "cdn"

    def answer(self, path: str, allowed: bool) -> None:
        org, name, file = path.strip("/").split("/", 2)
        repo = self.hub.repos[f"{org}/{name}"]
        content = repo.lies.get(file, repo.files[file])
        wanted = self.headers.get("range")
        self.hub.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.hub.serves_ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("content-length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.hub.break_after:
            self.wfile.write(body[: self.hub.break_after.pop(0)])
            self.close_connection = True
            return
        if self.hub.hold_after is not None:
            self.wfile.write(body[: self.hub.hold_after])
            self.hub.held.set()
            self.hub.go.wait()
            body = body[self.hub.hold_after :]
        self.wfile.write(body)
