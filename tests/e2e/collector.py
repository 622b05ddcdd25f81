"""An OpenTelemetry collector: takes OTLP over HTTP, and keeps the spans."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

UNSET, ERROR = Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR
SERVER, INTERNAL = SentSpan.SPAN_KIND_SERVER, SentSpan.SPAN_KIND_INTERNAL


class Spans(list[SentSpan]):
    """Spans that were sent, in the order of their ends."""

    def named(self, name: str) -> SentSpan:
        """The only one of that name."""
        (found,) = [span for span in self if span.name == name]
        return found

    def below(self, parent: SentSpan) -> list[str]:
        """The names of those right below one, by their beginning."""
        children = [span for span in self if span.parent_span_id == parent.span_id]
        return [span.name for span in sorted(children, key=lambda span: span.start_time_unix_nano)]

    def tree(self, root: SentSpan) -> dict[str, Any]:
        """The names below a span, as nested dictionaries. Siblings of one name are one."""
        children = [span for span in self if span.parent_span_id == root.span_id]
        return {span.name: self.tree(span) for span in children}


class Collector:
    """Listens while the block runs."""

    def __init__(self) -> None:
        self.spans: list[SentSpan] = []
        self.resource: dict[str, Any] = {}
        self.bodies: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, path: str, body: bytes) -> None:
        """What a server posts."""
        assert path == "/v1/traces"
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = attributes(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans.extend(scope.spans)

    def trace_of(self, request_id: str) -> Spans:
        """The whole trace of a request, once its first span, which ends last, is here."""

        def of_request(span: SentSpan) -> bool:
            return attributes(span.attributes).get("unimodel.request.id") == request_id

        trace_id = self.wait(lambda: [span for span in self.spans if of_request(span)])[0].trace_id
        return Spans(span for span in self.spans if span.trace_id == trace_id)

    @property
    def trace_ids(self) -> set[str]:
        """Of all spans so far."""
        return {span.trace_id.hex() for span in self.spans}

    def wait(self, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        """What the condition gives, as soon as it gives something."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it never came; there are {[s.name for s in self.spans]}"
            time.sleep(0.02)
        return found


def attributes(pairs: Any) -> dict[str, Any]:
    """Attributes as a dictionary."""
    return {pair.key: _value(pair.value) for pair in _checked(pairs)}


def _checked(pairs: Any) -> list[KeyValue]:
    found = list(pairs)
    assert len({pair.key for pair in found}) == len(found)
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def events(span: SentSpan) -> list[str]:
    """The names of a span's events."""
    return [event.name for event in span.events]
