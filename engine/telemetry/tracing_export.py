"""OpenTelemetry itself: spans are made by its SDK, and sent to a collector in the background.

The SDK's processor keeps ended spans in a bounded queue, and a thread sends them; when the collector cannot keep up, or
is down, spans are dropped, and requests go on. What the SDK would log of every failed try is said here once, in plain
words.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from backends.base import install_command
from engine.errors import InvalidOption
from engine.settings import TABLE, MonitoringSettings
from engine.telemetry.tracing import Attributes, Span, Trace
from engine.telemetry.tracing_context import Sampler, caller_of
from engine.version import __version__

if TYPE_CHECKING:
    import requests
    from opentelemetry import trace as otel
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("unimodel.tracing")

_ENDPOINT: Final = "monitoring.otlp_endpoint"
_PATH: Final = "/v1/traces"
_GRPC_PORT: Final = 4317
_LAST_WORDS: Final = 1.5
"""Seconds that a stop waits for the last spans to be sent."""
_REMINDER: Final = 600.0
"""Seconds after which an outage that lasts is mentioned again."""


def start(settings: MonitoringSettings, clock: Callable[[], float]) -> Tracer | None:
    """What makes the spans, if the settings want any. Raises `InvalidOption` when it cannot."""
    if settings.otlp_endpoint is None:
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        log.info("nothing is traced, since OTEL_SDK_DISABLED is true")
        return None
    url = traces_url(settings.otlp_endpoint)
    _check_protocol()
    sampler = Sampler(settings.trace_sampler, settings.trace_sample_ratio)
    if not sampler.takes_ratio and settings.trace_sample_ratio != TABLE["monitoring.trace_sample_ratio"].default:
        log.warning(
            "monitoring.trace_sample_ratio means nothing to the sampler", extra={"sampler": settings.trace_sampler}
        )
    try:
        provider = provider_of(settings.service_name, _exporter(url))
    except ImportError as e:
        raise InvalidOption(
            f"{_ENDPOINT} is set, but {e.name} is not installed. Install it with: {install_command('otel')}",
            field=_ENDPOINT,
        ) from None
    except ValueError as e:  # of a variable that the SDK reads
        raise InvalidOption(f"OpenTelemetry cannot start: {e}.", field=_ENDPOINT) from None
    log.info("requests are traced", extra={"endpoint": url, "sampler": settings.trace_sampler})
    return Tracer(provider, sampler, clock)


def traces_url(endpoint: str) -> str:
    """Where spans are posted: the endpoint, and ``/v1/traces`` unless it ends so. Raises `InvalidOption`."""
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise InvalidOption(
            f"{_ENDPOINT} must be a URL such as http://localhost:4318; got {endpoint[:200]!r}.", field=_ENDPOINT
        )
    if "@" in parts.netloc:
        raise InvalidOption(
            f"{_ENDPOINT} is logged and shown, so it must have no password; set OTEL_EXPORTER_OTLP_HEADERS instead, to "
            "authorization=Basic%20 and the Base64 of USER:PASSWORD.",
            field=_ENDPOINT,
        )
    return endpoint if endpoint.endswith(_PATH) else endpoint.rstrip("/") + _PATH


def _check_protocol() -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(name)
        if protocol and protocol != "http/protobuf":
            raise InvalidOption(
                f"{name} is {protocol!r}, but UniModel sends http/protobuf. Set it to that, and the endpoint to the "
                "collector's HTTP port, which is mostly 4318.",
                field=_ENDPOINT,
            )
        if protocol:
            return


class Tracer:
    """Makes the spans of sampled requests."""

    def __init__(self, provider: TracerProvider, sampler: Sampler, clock: Callable[[], float]) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        self._api = trace
        self._nothing = Context()
        self._provider = provider
        self._sampler = sampler
        self._clock = clock
        self._tracer = provider.get_tracer("unimodel", __version__)

    def request(self, name: str, headers: Mapping[bytes, bytes], begin: float) -> Span | None:
        """The span of a request that came at `begin`, which goes on with its caller's trace; `None` if not sampled."""
        caller = caller_of(headers.get(b"traceparent"))
        if not self._sampler.wants(caller):
            return None
        parent = None
        if caller is not None:
            api = self._api
            state = api.TraceState.from_header([headers.get(b"tracestate", b"").decode("latin-1")])
            flags = api.TraceFlags(caller.flags)
            parent = api.SpanContext(caller.trace_id, caller.span_id, True, flags, state)
        return Trace(self._make, self._clock, time.time_ns()).span(name, parent, {}, begin)

    def _make(
        self,
        name: str,
        parent: otel.SpanContext | None,
        attributes: Attributes,
        links: tuple[otel.SpanContext, ...],
        begin: int,
    ) -> otel.Span:
        api = self._api
        around = (
            self._nothing if parent is None else api.set_span_in_context(api.NonRecordingSpan(parent), self._nothing)
        )
        kind = api.SpanKind.SERVER if parent is None or parent.is_remote else api.SpanKind.INTERNAL
        span = self._tracer.start_span(name, around, kind, None, [api.Link(c) for c in links], begin)
        if attributes:
            span.set_attributes(attributes)  # costs half of what it does to hand them over in the beginning
        return span

    def close(self) -> None:
        """Sends what is left, but not for long: a collector that is down must not hold up a stop."""
        thread = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        thread.start()
        thread.join(_LAST_WORDS)
        if thread.is_alive():
            log.warning("the last spans could not be sent in time")


def provider_of(service_name: str | None, exporter: SpanExporter) -> TracerProvider:
    """An SDK that sends to `exporter` in the background. Its sampler takes all: the choice was made before."""
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # `_Outage` says it
    logging.getLogger("opentelemetry.sdk._shared_internal").addFilter(_in_plain_words)
    ours = Resource({SERVICE_NAME: "unimodel", SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: str(uuid.uuid4())})
    theirs = Resource.create({SERVICE_NAME: service_name} if service_name else {})
    if str(theirs.attributes[SERVICE_NAME]).startswith("unknown_service"):
        ours, theirs = theirs, ours
    provider = TracerProvider(sampler=ALWAYS_ON, resource=ours.merge(theirs), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(url: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(url, session=_session(_Outage(url)))


def _session(outage: _Outage) -> requests.Session:
    """An HTTP session that tells what becomes of its requests."""
    import requests

    class Session(requests.Session):
        def request(self, *args: Any, **kwargs: Any) -> requests.Response:
            try:
                response = super().request(*args, **kwargs)
            except requests.RequestException as e:
                outage.begin(_reason(e))
                raise
            if response.ok:
                outage.end()
            else:
                outage.begin(f"it answered {response.status_code} {response.reason}")
            return response

    return Session()


class _Outage:
    """Says that the collector takes no spans: when that begins, now and then while it lasts, and when it is over."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._said: float | None = None

    def begin(self, reason: str) -> None:
        """A try failed."""
        now = self._clock()
        if self._said is None or now - self._said >= _REMINDER:
            self._said = now
            if urlsplit(self._url).port == _GRPC_PORT:
                reason += f"; {_GRPC_PORT} is mostly the port for gRPC, and 4318 that for HTTP"
            log.warning(
                "the collector takes no spans, they are dropped", extra={"endpoint": self._url, "reason": reason}
            )

    def end(self) -> None:
        """A try succeeded."""
        if self._said is not None:
            self._said = None
            log.info("the collector takes spans again", extra={"endpoint": self._url})


def _reason(error: BaseException) -> str:
    """What the system says at the bottom of an error of requests."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _in_plain_words(record: logging.LogRecord) -> bool:
    """What the SDK says when its queue is full, which it does at most every 20 seconds."""
    if str(record.msg).startswith("Queue full"):
        record.name, record.args = log.name, ()
        record.msg = "spans are made faster than they can be sent, and dropped; lower monitoring.trace_sample_ratio"
    return True
