"""Tests of engine.telemetry.logs: formatters on real records, and `configure` in processes of its own."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.telemetry.logs import JsonFormatter, LineHandler, TextFormatter


def record(message: str = "loaded", *args: Any, **extra: Any) -> logging.LogRecord:
    r = logging.getLogger("engine.test").makeRecord(
        "engine.test", logging.INFO, __file__, 1, message, args, None, extra=extra
    )
    r.created = 1772366400.5
    return r


def failed(message: str) -> logging.LogRecord:
    try:
        raise ValueError(message)
    except ValueError:
        return logging.LogRecord("engine.test", logging.ERROR, __file__, 1, "it broke", (), sys.exc_info())


def run(script: str) -> list[str]:
    """The lines that a process wrote to its stderr."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_json_line() -> None:
    line = JsonFormatter({"worker": "cpu:0"}).format(record("loaded %s", "resnet", model="resnet", seconds=0.5))
    assert list(json.loads(line).items()) == [
        ("ts", "2026-03-01T12:00:00.500Z"),
        ("level", "info"),
        ("logger", "engine.test"),
        ("message", "loaded resnet"),
        ("worker", "cpu:0"),
        ("model", "resnet"),
        ("seconds", 0.5),
    ]


def test_a_text_line() -> None:
    line = TextFormatter({"worker": "cpu:0"}).format(record("loaded %s", "resnet", path="/a b", empty="", n=3))
    assert line == (
        '2026-03-01T12:00:00.500Z INFO    engine.test  loaded resnet  worker=cpu:0  path="/a b"  empty=""  n=3'
    )


def test_a_trace_is_one_json_string() -> None:
    line = JsonFormatter(None).format(failed("two\nlines"))
    assert "\n" not in line
    trace = json.loads(line)["trace"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ValueError: two\nlines")


def test_a_trace_in_text_is_indented() -> None:
    first, *rest = TextFormatter(None).format(failed("x\n2026-03-01T12:00:00.500Z INFO forged\x1b[2J")).split("\n")
    assert first.endswith("it broke")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    2026-03-01T12:00:00.500Z INFO forged\\x1b[2J"


@given(st.text(), st.text(), st.dictionaries(st.text(min_size=1), st.text(), max_size=2))
def test_nothing_that_is_logged_can_pose_as_another_line(message: str, value: str, fields: dict[str, str]) -> None:
    r = record("%s", message, model=value)
    vars(r).update({f"x{key}": v for key, v in fields.items()})
    text = TextFormatter(None).format(r)
    assert text.isprintable()
    line = JsonFormatter(None).format(r)
    assert not any(ord(c) < 32 for c in line)
    parsed = json.loads(line)
    assert (parsed["level"], parsed["message"], parsed["model"]) == ("info", message, value)
    assert {key: parsed[f"x{key}"] for key in fields} == fields


def test_a_string_that_is_not_unicode_is_still_logged() -> None:
    line = JsonFormatter(None).format(record("opened %s", os.fsdecode(b"/m\xff"), big=10**100, path=Path("/m")))
    parsed = json.loads(line)
    assert parsed["message"] == "opened /m\udcff"
    assert parsed["path"] == "/m"
    assert "\\udcff" in TextFormatter(None).format(record(os.fsdecode(b"/m\xff")))


def test_fields_cannot_replace_the_first_four() -> None:
    parsed = json.loads(JsonFormatter({"level": "debug"}).format(record("real", ts="never", logger="other")))
    assert parsed == {
        "ts": "2026-03-01T12:00:00.500Z",
        "level": "info",
        "logger": "engine.test",
        "message": "real",
    }


@pytest.mark.parametrize("formatter", [JsonFormatter(None), TextFormatter(None)])
def test_headers_and_bodies_are_masked(formatter: logging.Formatter) -> None:
    line = formatter.format(
        record("request", headers={"authorization": "Bearer s3cret"}, body=b"s3cret", Cookie="s3cret")
    )
    assert "s3cret" not in line
    assert line.count("[not logged]") == 3


def test_levels_libraries_and_warnings() -> None:
    lines = run(
        """
import logging, sys, warnings
from engine.telemetry.logs import configure
configure("error", "text", sys.stderr)
configure("debug", "json", sys.stderr, {"worker": "cpu:0"})
logging.getLogger("engine.core").debug("ours")
logging.getLogger("my_plugin").debug("a plugin's")
logging.getLogger("PIL.PngImagePlugin").debug("STREAM b'tEXt'")
logging.getLogger("uvicorn.access").info('127.0.0.1 - "GET /?key=s3cret"')
logging.getLogger("uvicorn.error").info("started", extra={"color_message": "started in colour"})
warnings.warn("old\\nmodel", UserWarning)
configure("error", "json", sys.stderr)
logging.getLogger("engine.core").warning("too small")
logging.getLogger("PIL").warning("too small")
"""
    )
    parsed = [json.loads(line) for line in lines]
    assert [(p["logger"], p["level"], p["worker"]) for p in parsed] == [
        ("engine.core", "debug", "cpu:0"),
        ("my_plugin", "debug", "cpu:0"),
        ("uvicorn", "info", "cpu:0"),
        ("py.warnings", "warning", "cpu:0"),
    ]
    assert "colour" not in lines[2]
    assert "UserWarning: old\nmodel" in parsed[3]["message"]


def test_uvicorn_logs_through_us() -> None:
    lines = run(
        """
import asyncio, sys
import uvicorn
from engine.telemetry.logs import configure

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

async def main():
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /?q=s3cret HTTP/1.1\\r\\nhost: x\\r\\nauthorization: s3cret\\r\\nconnection: close\\r\\n\\r\\n")
    assert b"200 OK" in await reader.read()
    writer.close()
    server.should_exit = True
    await task

configure("debug", "json", sys.stderr)
asyncio.run(main())
"""
    )
    parsed = [json.loads(line) for line in lines]
    assert any(p["message"].startswith("Started server process") for p in parsed)
    assert {p["logger"] for p in parsed} == {"uvicorn"}
    assert not any("s3cret" in line for line in lines)


def test_lines_of_several_processes_do_not_interleave(tmp_path: Path) -> None:
    script = """
import logging, sys
from engine.telemetry.logs import configure
configure("info", "json", sys.stderr)
for i in range(300):
    logging.info("x" * 20_000, extra={"i": i})
"""
    log = tmp_path / "server.log"
    with log.open("ab") as stderr:
        children = [subprocess.Popen([sys.executable, "-c", script], stderr=stderr) for _ in range(3)]
        assert [child.wait() for child in children] == [0, 0, 0]
    numbers = [json.loads(line)["i"] for line in log.read_text().splitlines()]
    assert sorted(numbers) == sorted([*range(300)] * 3)


def test_a_reader_that_went_away_stops_nothing(tmp_path: Path) -> None:
    script = """
import logging, os, sys
from engine.telemetry.logs import configure
configure("info", "json", sys.stderr)
os.close(2)
logging.info("nobody reads this")
os.write(1, b"alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "alive"


def test_a_stream_without_a_descriptor_is_refused() -> None:
    with pytest.raises(io.UnsupportedOperation):
        LineHandler(io.StringIO())
