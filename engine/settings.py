"""ONE table of every setting: name, type, default, environment variable, help.

The table is the dataclasses below; a field's metadata holds what a person needs to know of it. Precedence:
flag > environment ``UNIMODEL_*`` > environment ``OTEL_*`` (OpenTelemetry's own) > file > default. `load` returns the
settings, frozen, and where each value came from. Everything that lists settings (``--help``, ``unimodel config show``,
``docs/configuration.md``) reads `TABLE`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InvalidOption


def _setting(default: Any, help: str, **limits: Any) -> Any:
    metadata = {"help": help, **limits}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ServerSettings:
    """The front end: where it listens and what it accepts."""

    host: str = _setting("127.0.0.1", "Address to listen on. 0.0.0.0 serves every network; put a proxy in front.")
    port: int = _setting(8000, "Port of the HTTP API; 0 takes a free one.", minimum=0, maximum=65535)
    grpc_port: int | None = _setting(
        None,
        "Port of the gRPC API. Reserved: this version serves none, and says so at start.",
        minimum=1,
        maximum=65535,
    )
    max_body_mb: int = _setting(256, "Largest request body in MiB; a larger one gets 413.", minimum=1, maximum=65536)
    max_buffered_mb: int = _setting(
        2048, "MiB of large request bodies held at once; a further one gets 429.", minimum=1
    )
    max_upload_mb: int = _setting(
        131_072, "Largest model file in MiB that a client may upload; a larger one gets 413.", minimum=1
    )
    deadline_ms: int = _setting(
        60_000, "Default deadline of a request; the x-request-timeout-ms header overrides it.", minimum=1
    )
    max_connections: int = _setting(
        16_384, "Open connections; further ones get 503 at once.", minimum=1, maximum=1_000_000
    )
    drain_seconds: float = _setting(30.0, "How long a stop waits for accepted requests to end.", minimum=0)


@dataclass(frozen=True)
class EngineSettings:
    """Batching, admission, workers and the pool of loaded models."""

    max_models: int = _setting(10, "Models loaded at once; the least recently used idle one makes room.", minimum=1)
    default_batch_size: int = _setting(
        32, "max_batch_size of models that set none: most rows in one batch.", minimum=1, maximum=65536
    )
    max_batch_wait_ms: float = _setting(
        50.0,
        "Upper bound of the time a request waits for company while its model is busy. An idle model starts at once.",
        minimum=0,
    )
    dynamic_padding: bool = _setting(
        True, "Batch rows of different lengths by padding, where the load-time check shows that it is exact."
    )
    max_batch_mb: int = _setting(
        512, "Most MiB of inputs and outputs in one batch. Address space, not memory.", minimum=1, maximum=65536
    )
    max_queue_requests: int = _setting(10_000, "Requests that may wait for one model; more get 429.", minimum=1)
    max_queue_mb: int = _setting(1024, "MiB of inputs that may wait for one model; more get 429.", minimum=1)
    cpu_workers: int = _setting(1, "CPU worker processes; models are spread over them.", minimum=1, maximum=256)
    cpu_threads: int = _setting(0, "CPU threads for computing; 0 is one for each core.", minimum=0, maximum=4096)
    load_timeout_s: float = _setting(600.0, "A model that takes longer to load fails.", minimum=1)
    hang_timeout_s: float = _setting(
        300.0,
        "A model that computes longer than this for one batch, chunk or step is taken for hung, and its worker is "
        "replaced.",
        minimum=1,
    )
    reload: bool = _setting(
        False, "For development: watch the files of the registered models, and load a changed one as a new version."
    )
    preload: bool = _setting(True, "Load the registered models when the server starts, newest first, up to max_models.")


@dataclass(frozen=True)
class GpuSettings:
    """Which GPUs serve, and how much of them."""

    device_ids: list[int] | None = _setting(None, "GPUs to use, by index; unset is all of them, [] is none.")
    memory_fraction: float = _setting(
        0.8, "Share of each GPU's memory that models may take.", minimum=0.01, maximum=1.0
    )
    enable_pooling: bool = _setting(
        True, "Unload idle models to make room for others; when false, a load that does not fit is refused."
    )


@dataclass(frozen=True)
class MonitoringSettings:
    """Metrics, logs and traces."""

    prometheus_port: int | None = _setting(
        None, "Serve /metrics on this port too; unset leaves it on the main port alone.", minimum=1, maximum=65535
    )
    log_level: str = _setting(
        "info", "Least severe level that is logged.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("json", "json: one object a line. text: for people.", choices=("json", "text"))
    access_log: bool = _setting(False, "Log every request, not only the failed ones.")
    otlp_endpoint: str | None = _setting(
        None,
        "Trace requests, and send the spans to this OpenTelemetry collector: a URL for OTLP over HTTP, such as "
        "http://localhost:4318. Unset, nothing is traced.",
        other_envs=("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    trace_sampler: str = _setting(
        "parentbased_traceidratio",
        "Who decides whether a request is traced. parentbased: the caller, if it sends a traceparent.",
        choices=(
            *("parentbased_traceidratio", "parentbased_always_on", "parentbased_always_off"),
            *("traceidratio", "always_on", "always_off"),
        ),
        other_envs=("OTEL_TRACES_SAMPLER",),
    )
    trace_sample_ratio: float = _setting(
        1.0,
        "Share of requests that are traced, where the server decides, and the sampler is a ratio.",
        minimum=0,
        maximum=1,
        other_envs=("OTEL_TRACES_SAMPLER_ARG",),
    )
    service_name: str | None = _setting(
        None,
        "Name of this server in traces; unset is the service.name of OTEL_RESOURCE_ATTRIBUTES, else unimodel.",
        other_envs=("OTEL_SERVICE_NAME",),
    )


@dataclass(frozen=True)
class Settings:
    """All settings of one server. Built once by `load`, passed down, never changed."""

    server: ServerSettings = field(default_factory=ServerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    gpu: GpuSettings = field(default_factory=GpuSettings)
    monitoring: MonitoringSettings = field(default_factory=MonitoringSettings)


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    key: str
    """Dotted, as in the file: ``server.port``."""
    type: Any
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    other_envs: tuple[str, ...] = ()
    """Variables of a standard beyond UniModel that set it too, the first that is not empty. `env` goes before them."""

    @property
    def env(self) -> str:
        """Its environment variable, such as ``UNIMODEL_SERVER_PORT``."""
        return "UNIMODEL_" + self.key.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """Its flag on ``unimodel serve`` and ``unimodel start``: ``--port`` or ``--max-models``."""
        return "--" + self.key.partition(".")[2].replace("_", "-")

    @property
    def type_name(self) -> str:
        """Its type for people: ``integer``, ``list of integers or unset``."""
        base, optional = _unwrap(self.type)
        name = {int: "integer", float: "number", bool: "true or false", str: "text"}.get(base, "list of integers")
        return f"{name}, or unset" if optional else name


def _rows() -> dict[str, Setting]:
    rows = {}
    for section, cls in typing.get_type_hints(Settings).items():
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            row = Setting(f"{section}.{f.name}", hints[f.name], default, **f.metadata)
            rows[row.key] = row
    return rows


def _unwrap(kind: Any) -> tuple[Any, bool]:
    """`X | None` as (X, True), anything else as (itself, False); `list[int]` becomes `list`."""
    if isinstance(kind, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return (typing.get_origin(inner[0]) or inner[0]), True
    return (typing.get_origin(kind) or kind), False


TABLE: dict[str, Setting] = _rows()
"""Every setting by its dotted key."""


@dataclass(frozen=True)
class Provenance:
    """Where a value came from: ``default``, ``file PATH``, ``env NAME`` or ``flag --NAME``."""

    key: str
    value: Any
    source: str


def parse(row: Setting, value: Any, source: str) -> Any:
    """`value` as the type of `row`. Flags and the environment give text, a file may give text or the value itself.

    Raises `InvalidOption`, which names the key, what was expected, what came and from where.
    """
    base, optional = _unwrap(row.type)
    try:
        parsed = _from_text(base, value, optional) if isinstance(value, str) else value
        if base is float and type(parsed) is int:
            parsed = float(parsed)
    except (ValueError, OverflowError):
        raise _bad(row, value, source) from None
    if base is str and type(parsed) in (int, float):
        parsed = str(parsed)
    if base is list and type(parsed) is int:
        parsed = [parsed]
    if parsed is None and optional:
        return None
    if type(parsed) is not base or parsed == "" or (base is float and not math.isfinite(parsed)):
        raise _bad(row, value, source)
    if base is list and not all(type(v) is int and v >= 0 for v in parsed):
        raise _bad(row, value, source)
    too_small = row.minimum is not None and parsed < row.minimum
    too_large = row.maximum is not None and parsed > row.maximum
    if too_small or too_large or (row.choices and parsed not in row.choices):
        raise _bad(row, value, source)
    return parsed


_WORDS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


def _from_text(base: Any, text: str, optional: bool) -> Any:
    """`text` as a value of type `base`; nothing, ``null`` and ``none`` unset a setting. Raises `ValueError`."""
    word = text.strip().lower()
    if word in ("", "null", "none", "~") and (optional or base is not str):
        return None
    if base is str:
        return text
    if base is bool:
        return _WORDS.get(word)
    if base is list:
        inner = word[1:-1] if word.startswith("[") and word.endswith("]") else word
        return [int(part) for part in inner.split(",")] if inner.strip() else []
    return base(word)


def _bad(row: Setting, value: Any, source: str) -> InvalidOption:
    kind, _, unset = row.type_name.partition(", ")
    expected = {"i": "an ", "n": "a ", "l": "a "}.get(kind[0], "") + kind
    if row.choices:
        expected = "one of " + ", ".join(row.choices)
    elif row.minimum is not None and row.maximum is not None:
        expected += f" from {row.minimum} to {row.maximum}"
    elif row.minimum is not None:
        expected += f" of at least {row.minimum}"
    expected += f", {unset}" if unset else ""
    got = reprlib.repr(value)  # shortened, should it be long
    return InvalidOption(f"{row.key} must be {expected}; got {got} from {source}.", field=row.key)


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A sentence that points to the known name most like `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def _from_file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except OSError as e:
        raise InvalidOption(f"Cannot read the configuration file {path}: {e.strerror}.", field="config") from None
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as e:  # the last three: PyYAML on odd scalars
        where = getattr(e, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise InvalidOption(f"{path} is not valid YAML{line}.", field="config") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidOption(f"{path} must hold a mapping of sections, such as 'server:'.", field="config")
    flat = {}
    sections = [f.name for f in dataclasses.fields(Settings)]
    for section, body in document.items():
        if section not in sections:
            raise InvalidOption(
                f"{path}: unknown section {section!r}.{nearest(str(section), sections)}", field="config"
            )
        if not isinstance(body, dict | None):
            raise InvalidOption(f"{path}: section {section!r} must hold a mapping.", field=section)
        for name, value in (body or {}).items():
            key = f"{section}.{name}"
            if key not in TABLE:
                raise InvalidOption(f"{path}: unknown setting {key!r}.{nearest(key, TABLE)}", field=key)
            flat[key] = value
    return flat


OTHER_ENV = (
    "UNIMODEL_HOST",
    "UNIMODEL_API_KEY",
    "UNIMODEL_HOME",
    "UNIMODEL_CONFIG",
    "UNIMODEL_DEBUG",
    "UNIMODEL_TEST_MODELS",
    "UNIMODEL_WHEELS",
)
"""Variables of the client, the start and the tests, which are not settings of the server."""


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set the variable: a Service named *unimodel* or *unimodel-server* puts some in every pod."""
    return bool(
        re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP|SCTP)", name) or re.match(r"(tcp|udp|sctp)://", value)
    )


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Settings, dict[str, Provenance]]:
    """Builds the settings from the file, the environment and the flags (dotted key to value, `None` is not given).

    `config` falls back to ``UNIMODEL_CONFIG``. Raises `InvalidOption` for any unknown key or bad value.
    """
    values = {key: Provenance(key, row.default, "default") for key, row in TABLE.items()}
    if config is None and environ.get("UNIMODEL_CONFIG"):
        config = Path(environ["UNIMODEL_CONFIG"])
    if config is not None:
        for key, value in _from_file(config).items():
            source = f"file {config}"
            values[key] = Provenance(key, parse(TABLE[key], value, source), source)
    for row in TABLE.values():
        if name := next((name for name in row.other_envs if environ.get(name)), None):
            values[row.key] = Provenance(row.key, parse(row, environ[name], f"env {name}"), f"env {name}")
    by_env = {row.env: row for row in TABLE.values()}
    for name, text in environ.items():
        if not name.startswith("UNIMODEL_") or name in OTHER_ENV or _is_service_link(name, text):
            continue
        if name not in by_env:
            raise InvalidOption(f"Unknown setting {name} in the environment.{nearest(name, by_env)}", field=name)
        row = by_env[name]
        values[row.key] = Provenance(row.key, parse(row, text, f"env {name}"), f"env {name}")
    for key, value in (flags or {}).items():
        if value is not None:
            source = f"flag {TABLE[key].flag}"
            values[key] = Provenance(key, parse(TABLE[key], value, source), source)
    sections: dict[str, Any] = {}
    for f in dataclasses.fields(Settings):
        cls = typing.get_type_hints(Settings)[f.name]
        names = [g.name for g in dataclasses.fields(cls)]
        sections[f.name] = cls(**{name: values[f"{f.name}.{name}"].value for name in names})
    return Settings(**sections), values
