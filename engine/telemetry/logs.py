"""Structured logs on the standard `logging`: one JSON object a line, or text for people.

Any module logs with ``logging.getLogger(__name__)``; what is passed as ``extra`` becomes a field of the line. Header
values and bodies never belong in a log: fields named after them are masked, and libraries whose debug lines quote what
they read are kept at warnings. The server and its workers share one stderr, so a line is always one write.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from engine.telemetry import tracing

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""Attributes that every record has, and uvicorn's coloured copy of the message."""

_UNLOGGED: Final = frozenset(
    ("header", "headers", "authorization", "cookie", "api_key", "token", "password", "body", "input", "inputs")
)
"""Names of fields whose values are never written, whoever passes them."""

_QUIET: Final = ("PIL", "asyncio", "httpcore", "httpx", "matplotlib", "urllib3", "uvicorn.access")
"""Libraries that log warnings only: at lower levels they quote what they read, or say what our own lines say."""


def configure(level: str, format: str, stream: TextIO, fields: dict[str, str] | None = None) -> None:
    """Sends every log record of this process to `stream`, which must have a file descriptor.

    `level` is the least severe one that is logged (``debug``, ``info``, ``warning``, ``error``), `format` is ``json``
    or ``text``, and `fields` join every line, such as ``{"worker": "cpu:0"}``. Takes over uvicorn's loggers (start it
    with ``log_config=None``) and Python's warnings. Calling it again replaces what it did before.
    """
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter(fields) if format == "json" else TextFormatter(fields))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


class LineHandler(logging.Handler):
    """Writes each record with one `os.write`, so that the lines of processes that share a file do not interleave.

    (A pipe guarantees that up to 4 KiB a line, a file opened for appending up to any length.)
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        stream.flush()
        self._fd = stream.fileno()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            while line:  # a nearly full pipe may take a part
                line = line[os.write(self._fd, line) :]
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    def __init__(self, fields: dict[str, str] | None) -> None:
        super().__init__()
        self._fields = fields or {}

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of a line beyond time, level, logger and message."""
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        masked = {k: "[not logged]" for k in extra if k.lower() in _UNLOGGED}
        span = tracing.current()
        return {**self._fields, **extra, **masked, **(span.log_fields if span is not None else {})}

    def trace(self, record: logging.LogRecord) -> str | None:
        """The exception's trace, several lines long."""
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts) or None


class JsonFormatter(_Formatter):
    """``{"ts": …, "level": …, "logger": …, "message": …, fields…, "trace": …}``; `ts` is RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": logger_name(record),
            "message": record.getMessage(),
        }
        line = line | self.fields(record) | line  # a field cannot pose as one of these four
        if trace := self.trace(record):
            line["trace"] = trace
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except (UnicodeEncodeError, TypeError, ValueError):
            return json.dumps(line, default=str, skipkeys=True)  # slower, but takes any string


class TextFormatter(_Formatter):
    """``2026-03-01T12:00:00.000Z INFO  engine.server  message  field=value``, and the trace below, indented."""

    def format(self, record: logging.LogRecord) -> str:
        head = (
            f"{timestamp(record.created)} {record.levelname:<7} {logger_name(record)}  {one_line(record.getMessage())}"
        )
        fields = "".join(f"  {one_line(key)}={_value(value)}" for key, value in self.fields(record).items())
        trace = self.trace(record) or ""
        return head + fields + "".join(f"\n    {one_line(line)}" for line in trace.splitlines())


def timestamp(seconds: float) -> str:
    """`seconds` since the epoch as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def logger_name(record: logging.LogRecord) -> str:
    """The logger's name; uvicorn calls its main logger, which logs more than errors, ``uvicorn.error``."""
    return "uvicorn" if record.name == "uvicorn.error" else record.name


def one_line(text: str) -> str:
    """`text` with line breaks and control characters escaped, so that it cannot pose as another line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _value(value: Any) -> str:
    text = one_line(value if isinstance(value, str) else str(value))
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=') else text
