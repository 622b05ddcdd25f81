"""The life of a server: claim the home folder, bind, start the workers, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import uvicorn

from engine.api.connection import Connection
from engine.api.protocol import protocol_for
from engine.app import App, MetricsApp
from engine.blobs import Blobs
from engine.core import Engine
from engine.errors import Conflict, InvalidOption
from engine.home import Home
from engine.registry import Registry
from engine.settings import Provenance, ServerSettings, Settings
from engine.telemetry import logs, tracing_export
from engine.telemetry.metrics import Metrics
from engine.telemetry.tracing_export import Tracer
from engine.version import __version__

log = logging.getLogger("unimodel.server")

_BACKLOG = 4096


def run(settings: Settings, config: Mapping[str, Provenance], home_path: Path, stderr: TextIO) -> None:
    """Runs a server until it is told to stop. Raises `UniModelError` when it cannot start."""
    logs.configure(settings.monitoring.log_level, settings.monitoring.log_format, stderr)
    home = Home(home_path)
    home.lock()
    try:
        tracer = tracing_export.start(settings.monitoring, time.monotonic)
        registry = Registry(home.registry)
        Blobs(home_path).prune(registry.all())
        sock = bind(settings.server.host, settings.server.port, "--port")
        _raise_file_limit()
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_serve(settings, config, home, registry, sock, tracer))
        registry.close()
        if tracer is not None:
            tracer.close()
    finally:
        home.release()


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket. Raises `Conflict` for a taken port, `InvalidOption` for an address that is not ours."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as e:
        sock.close()
        if e.errno == errno.EADDRINUSE:
            raise Conflict(f"Port {port} on {host} is taken; choose another with {flag}.") from None
        if e.errno == errno.EACCES:
            raise InvalidOption(f"Port {port} needs privileges; choose one above 1023.", field="server.port") from None
        raise InvalidOption(f"Cannot listen on {host}:{port}: {e.strerror or e}.", field="server.host") from None
    return sock


async def _serve(
    settings: Settings,
    config: Mapping[str, Provenance],
    home: Home,
    registry: Registry,
    sock: socket.socket,
    tracer: Tracer | None,
) -> None:
    engine = Engine(settings, registry, Metrics(__version__), tracer=tracer)
    app = App(engine, config)
    protocol = protocol_for(app.predict, app.predict.max_body, settings.server.max_connections)
    server = _HttpServer(_http_config(app, settings.server, protocol))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.ask_to_stop)
    serving = [asyncio.create_task(server.serve(sockets=[sock]))]
    scraped = None
    try:
        if settings.monitoring.prometheus_port is not None:
            scraped = _HttpServer(_http_config(MetricsApp(engine), settings.server, Connection))
            metrics_sock = bind(settings.server.host, settings.monitoring.prometheus_port, "--prometheus-port")
            serving.append(asyncio.create_task(scraped.serve(sockets=[metrics_sock])))
        await engine.start()
        if settings.server.grpc_port is not None:
            log.warning("server.grpc_port is set, but this version serves no gRPC")
        host, port = sock.getsockname()[:2]
        url = home.announce(host, port)
        log.info("serving", extra={"url": url, "version": __version__, "workers": list(engine.pool.workers)})
        gc.freeze()  # what start-up made stays; the collector need not walk it on every full collection
        gc.set_threshold(10_000, 20, 50)  # requests make many objects and few cycles
        if tracer is not None:
            sys.setswitchinterval(0.0005)  # the thread that encodes spans must not hold up the loop for 5 ms at a time
        await serving[0]
    finally:
        log.info("stopping")
        for http in (server, scraped):
            if http is not None:
                http.should_exit = True
        await engine.stop(server.patience_left(settings.server.drain_seconds))
        await asyncio.gather(*serving, return_exceptions=True)
    log.info("stopped")


def _http_config(app: App | MetricsApp, server: ServerSettings, protocol: type[asyncio.Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(server.drain_seconds)),
        timeout_keep_alive=75,
    )


class _HttpServer(uvicorn.Server):
    """uvicorn, whose signals are ours: the first one drains, the second one stops at once."""

    _asked = 0.0
    """When the first one came."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again after the drain, and the exit would look like a death."""
        yield

    def ask_to_stop(self) -> None:
        """What SIGTERM and SIGINT do."""
        if self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True
            self._asked = time.monotonic()

    def patience_left(self, drain_seconds: float) -> float:
        """Seconds for which the stop may still wait for requests to end."""
        return 0.0 if self.force_exit else max(0.0, self._asked + drain_seconds - time.monotonic())


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _raise_file_limit() -> None:
    """As many open files as the system lets us: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
