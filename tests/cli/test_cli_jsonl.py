"""Bulk prediction over JSON lines: order, failures, retries, resuming, interruption."""

import asyncio
import json
import random
import signal
import threading
import time

import pytest

from tests.cli.conftest import error_response

ROWS = list(range(300))
LINES = "".join(f"[{n}]\n" for n in ROWS)


def echo(request, body):
    return body["input"]


async def shuffled(request, body):
    """Answers in another order than it was asked."""
    await asyncio.sleep(random.uniform(0, 0.02))
    return body["input"]


def outputs(text: str) -> list:
    return [json.loads(line).get("output") for line in text.splitlines()]


def test_answers_come_in_the_order_of_the_rows(cli, stand_in):
    server = stand_in(shuffled)
    done = cli("predict", "m", "--jsonl", "-j", "32", "--host", server.url, input=LINES)
    assert done.returncode == 0
    assert outputs(done.stdout) == [[n] for n in ROWS]
    assert "300 rows, 0 failed" in done.stderr
    assert 1 < server.most_in_flight <= 32


def test_rows_can_be_bodies_and_blank_lines_are_none(cli, stand_in):
    server = stand_in(lambda request, body: body)
    rows = '1\n\n{"inputs": 2}\n  {"a": 3}  \n"x"'
    answers = outputs(cli.ok("predict", "m", "--jsonl", "--host", server.url, input=rows))
    assert answers == [{"input": 1}, {"inputs": 2}, {"input": {"a": 3}}, {"input": "x"}]


def test_a_plugin_gets_objects_whole(cli, stand_in):
    server = stand_in(lambda request, body: body, task="custom")
    answers = outputs(cli.ok("predict", "m", "--jsonl", "--host", server.url, input='{"a": 3}\n4\n'))
    assert answers == [{"a": 3}, {"input": 4}]


def test_a_failed_row_is_an_error_line_and_fails_the_command(cli, stand_in):
    def picky(request, body):
        return error_response(400, "invalid_input") if body["input"] == 2 else body["input"]

    done = cli("predict", "m", "--jsonl", "--host", stand_in(picky).url, input="1\n2\nnonsense\n4\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("output") for line in lines] == [1, None, None, 4]
    assert [line["error"]["code"] for line in lines if "error" in line] == ["invalid_input", "invalid_json"]
    assert done.returncode == 1
    assert "2 of 4 rows failed" in done.stderr


def test_a_busy_server_is_asked_again_when_it_said(cli, stand_in):
    refused = {}

    def busy(request, body):
        now = time.monotonic()
        first = refused.setdefault(body["input"], now)
        if first == now:
            code = "overloaded" if body["input"] % 2 else "server_stopping"
            return error_response(429 if body["input"] % 2 else 503, code, {"retry-after": "1"})
        return now - first

    waits = outputs(cli.ok("predict", "m", "--jsonl", "--host", stand_in(busy).url, input="1\n2\n3\n"))
    assert all(wait >= 1 for wait in waits)


def test_a_model_that_cannot_load_is_not_asked_for_ever(cli, stand_in):
    server = stand_in(lambda request, body: error_response(503, "model_failed"))
    assert cli("predict", "m", "--jsonl", "--host", server.url, input="1\n2\n").returncode == 1
    assert server.requests == 2


def test_rows_survive_a_restart_of_the_server(cli, free_port):
    """A real server is stopped and started under the run; no row fails."""
    from tests.cli.conftest import PLUGINS

    cli.ok("start", "--port", free_port)
    cli.ok("register", "m", f"{PLUGINS / 'faulty.py'}:AbortOnRequest", "--trust")
    out = cli.home.parent / "out.jsonl"
    rows = cli.home.parent / "rows.jsonl"
    rows.write_text("0.01\n" * 200)
    run = cli.popen("predict", "m", rows, "--jsonl", "-j", "2", "-o", out)
    while not out.exists():
        time.sleep(0.02)
    time.sleep(0.3)
    cli.ok("restart")
    assert run.wait(60) == 0, run.stderr.read()
    assert len(outputs(out.read_text())) == 200
    run.communicate()


def test_an_unknown_model_ends_the_run_at_once(cli, stand_in):
    server = stand_in(lambda request, body: error_response(404, "model_not_found"))
    done = cli("predict", "m", "--jsonl", "--host", server.url, input=LINES)
    assert (done.returncode, done.stdout) == (4, "")


def test_it_goes_on_where_it_stopped(cli, stand_in, tmp_path):
    server = stand_in(echo)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text(LINES)
    arguments = ["predict", "m", rows, "--jsonl", "-o", out, "--host", server.url]
    cli.ok(*arguments)
    whole = out.read_bytes()
    cut = len(whole) // 2
    assert not whole[:cut].endswith(b"\n"), "the last line is torn"
    out.write_bytes(whole[:cut])
    before = server.requests
    done = cli(*arguments, "--resume")
    assert out.read_bytes() == whole
    assert server.requests - before == 300 - whole[:cut].count(b"\n")
    assert f"after {whole[:cut].count(chr(10).encode())} that were there" in done.stderr


def test_rows_that_failed_before_still_fail_the_command(cli, stand_in, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text('{"error":{"code":"invalid_input"}}\n')
    done = cli("predict", "m", "--jsonl", "-o", out, "--resume", "--host", stand_in(echo).url, input="1\n2\n")
    assert done.returncode == 1
    assert "1 of 2 rows failed" in done.stderr


def test_the_output_of_another_input_is_not_continued(cli, stand_in, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n" * 3)
    code, error = cli.error("predict", "m", "--jsonl", "-o", out, "--resume", "--host", stand_in(echo).url, input="1\n")
    assert code == 2
    assert "more rows than the input" in error["message"]
    assert out.read_text() == "{}\n" * 3


async def slow(request, body):
    await asyncio.sleep(0.02)
    return body["input"]


def test_an_interrupted_run_can_be_resumed(cli, stand_in, tmp_path):
    server = stand_in(slow)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text(LINES)
    arguments = ["predict", "m", rows, "--jsonl", "-j", "2", "-o", out, "--host", server.url]
    run = cli.popen(*arguments)
    while not (out.exists() and out.stat().st_size):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=20)
    assert run.returncode == 130
    assert b"--resume" in stderr and b"Traceback" not in stderr
    written = out.read_text()
    assert written.endswith("\n") and 0 < len(outputs(written)) < 300
    cli.ok(*arguments[:4], "-j", "32", *arguments[6:], "--resume")
    assert outputs(out.read_text()) == [[n] for n in ROWS]


def test_a_closed_pipe_ends_it_in_silence(cli, stand_in):
    run = cli.popen("predict", "m", "--jsonl", "--host", stand_in(slow).url, stdin=-1)
    run.stdin.write(LINES.encode())
    run.stdin.close()
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(20) == 141
    assert run.stderr.read() == b""
    run.stderr.close()


def test_answers_are_written_while_the_input_is_still_open(cli, stand_in):
    run = cli.popen("predict", "m", "--jsonl", "--host", stand_in(echo).url, stdin=-1)
    for row in (b"1\n", b"2\n"):
        run.stdin.write(row)
        run.stdin.flush()
        assert json.loads(run.stdout.readline())["output"] == int(row)
    run.stdin.close()
    assert run.wait(20) == 0
    run.stdout.close()
    run.stderr.close()


def test_rows_wait_outside_when_answers_do_not_come(cli, stand_in):
    """While the first row hangs, only a window of rows is read."""
    go = threading.Event()

    async def first_hangs(request, body):
        while body["input"] == 0 and not go.is_set():
            await asyncio.sleep(0.01)
        return body["input"]

    server = stand_in(first_hangs)
    run = cli.popen("predict", "m", "--jsonl", "-j", "4", "--host", server.url, stdin=-1)
    rows = "".join(f"{n}\n" for n in range(2000))
    writer = threading.Thread(target=lambda: (run.stdin.write(rows.encode()), run.stdin.close()))
    writer.start()
    while server.requests < 64:
        time.sleep(0.02)
    time.sleep(0.3)
    assert server.requests == 64
    go.set()
    stdout = run.stdout.read()
    assert run.wait(30) == 0
    assert outputs(stdout.decode()) == list(range(2000))
    writer.join()
    run.stdout.close()
    run.stderr.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--jsonl", "--resume"],
        ["--jsonl", "--stream"],
        ["--jsonl", "a", "b"],
        ["--resume", "x"],
        ["--jsonl", "missing"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together(cli, stand_in, arguments):
    assert cli("predict", "m", *arguments, "--host", stand_in(echo).url, input="1\n").returncode == 2


def test_a_full_disk_is_an_error_of_the_run(cli, stand_in):
    code, error = cli.error("predict", "m", "--jsonl", "-o", "/dev/full", "--host", stand_in(echo).url, input=LINES)
    assert code == 1
    assert error["code"] == "insufficient_storage"
