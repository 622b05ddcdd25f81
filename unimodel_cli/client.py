"""The HTTP client of the commands. Every failure becomes a typed error of `engine.errors`."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from engine.errors import DeadlineExceeded, InternalError, ServerUnreachable, UniModelError, from_code
from unimodel_cli.errors import UsageError

if TYPE_CHECKING:
    import httpx
    import msgspec

    from engine.schema import ModelView

T = TypeVar("T", bound="msgspec.Struct")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""For requests that do not compute or load anything."""


class Client:
    """One server. Methods raise `UniModelError`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        # httpx's own command line would double the time that `import httpx` takes
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
        import httpx

        self.url = normalize_url(url)
        headers = _trace_context() | ({"authorization": f"Bearer {api_key}"} if api_key else {})
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not is_loopback(self.url),  # a proxy cannot reach this machine's own loopback
            verify=self.url.startswith("https:"),  # certificates take time to load, and plain HTTP needs none
        )

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def call(
        self,
        answer: type[T],
        method: str,
        path: str,
        body: msgspec.Struct | None = None,
        *,
        params: dict[str, Any] | None = None,
        timeout: float | None = ANSWER_SECONDS,
    ) -> T:
        """Sends `body` as JSON and reads the response as `answer`. `timeout` in seconds; `None` waits for ever."""
        import msgspec

        content = msgspec.json.encode(body) if body is not None else None
        headers = {"content-type": "application/json"} if content is not None else {}
        response = self.send(method, path, content, headers, params=params, timeout=timeout)
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError:
            raise self._not_unimodel() from None

    def send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        params: dict[str, Any] | None = None,
        timeout: float | None = ANSWER_SECONDS,
    ) -> httpx.Response:
        """One request, as it is; raises for every status from 400 on."""
        import httpx

        with self._typed_errors():
            response = self._http.request(
                method,
                path,
                content=content,
                headers=headers,
                params=params,
                timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            )
        if response.status_code >= 400:
            raise error_of(response.status_code, response.headers, response.content)
        return response

    def events(
        self, path: str, content: bytes, headers: dict[str, str], timeout: float | None
    ) -> Generator[dict[str, Any], None, None]:
        """The chunks of a streamed answer. An error midway is raised. Closing the generator ends the request."""
        with self._stream(path, content, headers, timeout) as lines:
            yield from _parse_events(lines)

    def json_lines(
        self, path: str, content: bytes, headers: dict[str, str], timeout: float | None
    ) -> Generator[Any, None, None]:
        """The values of an answer that is one JSON value a line. An error midway is raised."""
        with self._stream(path, content, headers, timeout) as lines:
            for line in lines:
                if line:
                    value = _decoded(line)
                    raise_error_in(value)
                    yield value

    @contextmanager
    def _stream(
        self, path: str, content: bytes, headers: dict[str, str], timeout: float | None
    ) -> Iterator[Iterator[bytes]]:
        import httpx

        limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        with (
            self._typed_errors(),
            self._http.stream("POST", path, content=content, headers=headers, timeout=limits) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise error_of(response.status_code, response.headers, response.content)
            yield split_lines(response.iter_bytes())

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise unreachable(self.url) from None
        except httpx.TimeoutException:
            raise DeadlineExceeded(
                f"{self.url} did not answer in time. Look at 'unimodel status', or raise --timeout."
            ) from None
        except httpx.TransportError as e:
            raise ServerUnreachable(f"The connection to {self.url} broke: {e}. Look at 'unimodel logs'.") from None

    def _not_unimodel(self) -> UniModelError:
        return ServerUnreachable(f"{self.url} answers, but not as a UniModel server. Check --host.")


def split_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream, without their ends. Text may hold other characters that end a line in Unicode's view."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


def _parse_events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    event = b"message"
    for line in lines:
        name, _, value = line.partition(b":")
        if not line:
            event = b"message"
        elif name == b"event":
            event = value.strip()
        elif name == b"data" and value.strip() == b"[DONE]":
            return
        elif name == b"data":
            chunk = _decoded(value)
            if event == b"error":
                raise _from_body(chunk, {})
            yield chunk
    raise ServerUnreachable("The stream ended before the model was done. Look at 'unimodel logs'.")


def _decoded(text: bytes) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise ServerUnreachable("The server sent something that is no JSON. Check --host.") from None


def raise_error_in(value: Any) -> None:
    """Raises the error that a piece of an answer is, if it is one."""
    if isinstance(value, dict) and isinstance(value.get("error"), dict) and "message" in value["error"]:
        raise _from_body(value, {})


def unreachable(url: str) -> ServerUnreachable:
    """No server answers at `url`; says how to start one."""
    if is_loopback(url):
        return ServerUnreachable(f"No server answers at {url}. Start one with: unimodel start")
    return ServerUnreachable(f"No server answers at {url}. Check --host, or start one there with: unimodel start")


def _trace_context() -> dict[str, str]:
    """The trace in which the command was started, which OpenTelemetry's tools hand on in the environment."""
    given = {name: os.environ.get(name.upper(), "") for name in ("traceparent", "tracestate")}
    return {name: value for name, value in given.items() if value.isascii() and value.isprintable() and value}


def error_of(status: int, headers: Any, body: bytes) -> UniModelError:
    """The typed error that an HTTP response describes."""
    import msgspec

    try:
        document = msgspec.json.decode(body)
        return _from_body(document, headers)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return ServerUnreachable(f"There is no UniModel server at that address: it answers {status}. Check --host.")


def _from_body(document: Any, headers: Any) -> UniModelError:
    detail = document["error"]
    retry_after = headers.get("retry-after")
    details = dict(detail.get("details") or {})
    if detail.get("request_id"):
        details["request_id"] = detail["request_id"]
    return from_code(
        detail.get("code") or InternalError.code,
        detail["message"],
        field=detail.get("param"),
        retry_after=float(retry_after) if retry_after else None,
        details=details,
    )


def normalize_url(url: str) -> str:
    """`url` with a scheme and without a trailing slash. ``host:port`` means HTTP. Raises `UsageError`."""
    full = url if "://" in url else f"http://{url}"
    parts = urlsplit(full)
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{url!r} is no server's address; expected one like http://127.0.0.1:8000.", field="host")
    return full.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine itself."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def split_reference(reference: str) -> tuple[str, int | None]:
    """``NAME`` or ``NAME@VERSION`` as name and version. Raises `UsageError`."""
    name, at, version = reference.rpartition("@")
    if not at:
        return reference, None
    if not name or not (version.isascii() and version.isdigit()):
        raise UsageError(f"{reference!r} must be NAME or NAME@VERSION, such as resnet@2.", field="name")
    return name, int(version)


def model_path(reference: str) -> str:
    """The API path of ``NAME`` or ``NAME@VERSION``."""
    name, version = split_reference(reference)
    path = f"/v1/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def loaded_view(client: Client, reference: str) -> ModelView:
    """A model once it is loaded, which is when it has its example."""
    from engine.schema import ModelView, StatusView

    client.call(StatusView, "POST", f"{model_path(reference)}:load", timeout=None)
    return client.call(ModelView, "GET", model_path(reference))
