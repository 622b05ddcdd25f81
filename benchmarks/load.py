"""Load: many connections through ``wrk``, or one connection that sends and receives large bodies with few copies."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.dialects import Call, Headers
from benchmarks.models import Array

_WARM_UP = 1.0
_PATIENCE = 120.0
"""Seconds for which a slow model is waited for."""


class WrongAnswer(Exception):
    """A server answered with an error or with other numbers than the model gives. The benchmark is void."""


@dataclass(frozen=True)
class Load:
    """What one run of load measured."""

    throughput: float
    """Answered requests per second."""
    p50_ms: float
    p99_ms: float
    requests: int


_SCRIPT = """
wrk.method = "POST"
{headers}
local bodies = {{}}
for i = 1, {count} do
  local file = io.open({bodies} .. i, "rb")
  bodies[i] = file:read("*a")
  file:close()
end
if #bodies == 1 then
  wrk.body = bodies[1]
else
  local turn = 0
  request = function()
    turn = turn % #bodies + 1
    return wrk.format(nil, nil, nil, bodies[turn])
  end
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {{"requests": %d, "us": %d, "p50": %f, "p99": %f, "status": %d, "broken": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


def wrk(port: int, calls: Call | Sequence[Call], connections: int, seconds: float) -> Load:
    """Keeps `connections` requests in flight for `seconds`. Raises `WrongAnswer` if any was not answered with 2xx.

    Several calls, of one path and with the same headers, are made in turn.
    """
    program = shutil.which("wrk")
    if program is None:
        raise FileNotFoundError("wrk is not installed; install it with: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="unimodel-bench-") as folder:
        calls = [calls] if isinstance(calls, Call) else calls
        call, script = calls[0], Path(folder, "load.lua")
        for i, each in enumerate(calls, 1):
            Path(folder, f"body-{i}").write_bytes(each.body)
        headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in call.headers.items())
        script.write_text(_SCRIPT.format(bodies=json.dumps(f"{folder}/body-"), count=len(calls), headers=headers))
        command = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s"]
        command += ["-s", str(script), f"http://127.0.0.1:{port}{call.path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90)
    return parse_wrk(done.stdout, done.stderr)


def parse_wrk(output: str, problem: str = "") -> Load:
    """Reads the line that the script prints. Raises `WrongAnswer` for a run with failed requests, or with none."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise WrongAnswer(f"wrk printed no result: {(problem or output).strip()[-300:]}")
    result = json.loads(line.removeprefix("RESULT "))
    if result["status"] or result["broken"] or not result["requests"]:
        raise WrongAnswer(
            f"of {result['requests']} requests, {result['status']} were answered with an error status and "
            f"{result['broken']} connections broke or timed out"
        )
    throughput = result["requests"] / (result["us"] / 1e6)
    return Load(throughput, result["p50"] / 1000, result["p99"] / 1000, result["requests"])


class Connection:
    """One keep-alive HTTP connection. Bodies go from and to preallocated memory, so that the client costs little."""

    def __init__(self, port: int, capacity: int = 1 << 16) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=180)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(capacity + (1 << 16))

    def close(self) -> None:
        self._socket.close()

    def exchange(self, request: bytes) -> tuple[int, Headers, memoryview]:
        """Sends one whole request; returns the status, the headers and the body, which the next call overwrites."""
        self._socket.sendall(request)
        view, filled, end = memoryview(self._buffer), 0, -1
        while end < 0:
            filled += self._receive(view[filled:])
            end = self._buffer.find(b"\r\n\r\n", 0, filled)
        status, headers = parse_head(bytes(view[:end]))
        start = end + 4
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return status, headers, memoryview(self._read_chunked(bytes(view[start:filled])))
        whole = start + int(headers.get("content-length", 0))
        if whole > len(self._buffer):
            grown = bytearray(whole + (1 << 16))
            grown[:filled] = view[:filled]
            self._buffer, view = grown, memoryview(grown)
        while filled < whole:
            filled += self._receive(view[filled:whole])
        return status, headers, view[start:whole]

    def _receive(self, into: memoryview) -> int:
        count = self._socket.recv_into(into)
        if count == 0:
            raise WrongAnswer("the server closed the connection in the middle of an answer")
        return count

    def _read_chunked(self, data: bytes) -> bytes:
        body = bytearray()
        pending = bytearray(data)
        while True:
            while (end := pending.find(b"\r\n")) < 0:
                pending += self._more()
            size = int(pending[:end].split(b";")[0], 16)
            while len(pending) < end + 2 + size + 2:
                pending += self._more()
            body += pending[end + 2 : end + 2 + size]
            del pending[: end + 2 + size + 2]
            if size == 0:
                return bytes(body)

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 20)
        if not data:
            raise WrongAnswer("the server closed the connection in the middle of an answer")
        return data


def parse_head(head: bytes) -> tuple[int, Headers]:
    """Status and headers (lower-case names) of a response's head, without the empty line."""
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def encode(call: Call) -> bytes:
    """The whole HTTP request of `call`."""
    headers = {"host": "127.0.0.1", "content-length": str(len(call.body)), **call.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {call.path} HTTP/1.1\r\n{lines}\r\n".encode() + call.body


def check(port: int, call: Call, expected: Array) -> None:
    """Makes one call. Raises `WrongAnswer` unless its answer is `expected`, within float32's accuracy."""
    connection = Connection(port, len(call.body))
    try:
        status, headers, body = connection.exchange(encode(call))
        if status != 200:
            raise WrongAnswer(f"POST {call.path} was answered with {status}: {bytes(body[:300])!r}")
        answer = call.read(bytes(body), headers)
    finally:
        connection.close()
    if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=1e-2, atol=1e-4):
        raise WrongAnswer(f"POST {call.path} gave {answer.ravel()[:5]}, but the model gives {expected.ravel()[:5]}")


def steady(port: int, calls: Sequence[Call], connections: int, seconds: float, batch: int) -> float:
    """Answers per second of a server that is in the midst of it, for models of which a batch takes long.

    Several calls are made in turn, for `seconds`, or for longer if there are no two batches of answers by then. What
    counts is the time between an answer and another one, so many later that whole batches of `batch` answers lie
    between them; the first second is a warm-up, and so is a batch. Raises `WrongAnswer`.
    """
    requests, turns = [encode(call) for call in calls], itertools.count()
    warm = time.perf_counter() + _WARM_UP
    times: list[float] = []
    """Of answers after the warm-up."""
    problems: list[str] = []

    def goes_on(now: float) -> bool:
        over = now - warm - seconds
        return not problems and (over < 0 or (len(times) <= 3 * batch and over < _PATIENCE))

    def ask() -> None:
        connection = Connection(port, max(map(len, requests)))
        try:
            while goes_on(time.perf_counter()):
                status, _, body = connection.exchange(requests[next(turns) % len(requests)])
                if (now := time.perf_counter()) >= warm:
                    times.append(now)
                if status != 200:
                    problems.append(f"a request was answered with {status}: {bytes(body[:300])!r}")
        except (OSError, WrongAnswer) as e:
            problems.append(str(e))
        finally:
            connection.close()

    clients = [threading.Thread(target=ask) for _ in range(connections)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if problems:
        raise WrongAnswer(problems[0])
    # What is answered when the first clients have stopped is left out: there are fewer in flight by then.
    return between(sorted(times)[batch : len(times) - connections + 1], batch)


def between(times: Sequence[float], batch: int) -> float:
    """Answers per second between the first of `times` and the last that is whole batches later."""
    whole = (len(times) - 1) // batch * batch
    if whole <= 0:
        raise WrongAnswer(f"{len(times)} answers came, which is less than two batches of {batch}")
    return whole / (times[whole] - times[0])


def one_by_one(port: int, call: Call, seconds: float, least: int) -> Load:
    """Calls over one connection, each after the other: for `seconds`, and at least `least` times after a warm-up."""
    connection = Connection(port, len(call.body))
    request = encode(call)
    times: list[float] = []
    try:
        connection.exchange(request)
        begin = time.perf_counter()
        while len(times) < least or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            status, _, body = connection.exchange(request)
            times.append(time.perf_counter() - start)
            if status != 200:
                raise WrongAnswer(f"POST {call.path} was answered with {status}: {bytes(body[:300])!r}")
    finally:
        connection.close()
    p50 = statistics.median(times)
    p99 = float(np.percentile(times, 99))
    return Load(len(times) / sum(times), p50 * 1000, p99 * 1000, len(times))
