"""Talking to a server that is not there, is another one, or says no."""

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from tests.cli.conftest import error_response
from unimodel_cli.client import is_loopback, model_path, normalize_url, split_reference
from unimodel_cli.errors import UsageError

ABOUT_A_SERVER = [
    ["status"], ["list"], ["show", "m"], ["load", "m"], ["unload", "m"], ["unregister", "m"], ["ps"],
    ["register", "m", "m.onnx"], ["predict", "m", "[1]"], ["predict", "m", "--jsonl"], ["bench", "m"],
    ["chat", "m", "hi"], ["embed", "m", "hi"], ["pull", "hf:org/repo"],
    ["alias", "list"], ["alias", "set", "a", "m"], ["alias", "remove", "a"], ["backend", "list"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ABOUT_A_SERVER, ids=" ".join)
def test_without_a_server_every_command_says_how_to_start_one(cli, arguments, free_port):
    host = {"UNIMODEL_HOST": f"127.0.0.1:{free_port}"}
    done = cli(*arguments, env=host, input="1\n")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == f"Error: No server answers at http://127.0.0.1:{free_port}. Start one with: unimodel start\n"


def test_a_port_on_which_something_else_answers(cli, stand_in):
    other = stand_in(lambda request, body: None)
    code, error = cli.error("status", "--host", other.url)
    assert code == 3
    assert "no UniModel server" in error["message"]


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "invalid_input", 1),
        (404, "model_not_found", 4),
        (429, "overloaded", 5),
        (504, "deadline_exceeded", 6),
        (503, "server_stopping", 1),
        (500, "internal", 1),
    ],
)
def test_the_exit_code_tells_errors_apart(cli, stand_in, status, code, exit_code):
    server = stand_in(lambda request, body: error_response(status, code))
    assert cli.error("predict", "m", "[1]", "--host", server.url)[1]["code"] == code
    done = cli("predict", "m", "[1]", "--host", server.url)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr == f"Error: It is {code}.\n"


def test_the_key_and_the_deadline_are_sent(cli, stand_in):
    seen = {}

    def predict(request, body):
        seen.update(request.headers)

    server = stand_in(predict)
    cli.ok(
        "predict",
        "m",
        "[1]",
        "--host",
        server.url,
        "--timeout",
        "2.5",
        "--priority",
        "3",
        env={"UNIMODEL_API_KEY": "k"},
    )
    assert seen["authorization"] == "Bearer k"
    assert seen["x-request-timeout-ms"] == "2500"
    assert seen["x-request-priority"] == "3"


def test_a_proxy_is_not_asked_for_this_machine(cli, stand_in):
    server = stand_in(lambda request, body: 1)
    proxy = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    assert cli.ok("predict", "m", "[1]", "--host", server.url, env=proxy) == "1\n"


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            'data: {"output": "a"}\n\nevent: error\ndata: {"error": {"code": "model_error", "message": "Lost."}}\n\n',
            "Lost.",
        ),
        ('data: {"output": "a"}\n\n', "The stream ended before the model was done."),
    ],
)
def test_a_stream_that_breaks_off_is_an_error_after_what_came(cli, stand_in, stream, message):
    server = stand_in(lambda request, body: StreamingResponse(iter([stream]), media_type="text/event-stream"))
    done = cli("predict", "m", "[1]", "--stream", "--host", server.url)
    assert done.stdout == "a\n"
    assert message in done.stderr
    assert done.returncode != 0


def test_an_error_that_no_server_of_ours_would_send(cli, stand_in):
    server = stand_in(lambda request, body: PlainTextResponse("<html>Bad gateway", 502))
    assert cli("predict", "m", "[1]", "--host", server.url).returncode == 3


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://a.b/", "http://a.b"),
        ("https://a/base/", "https://a/base"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_addresses(given, url):
    assert normalize_url(given) == url


@pytest.mark.parametrize("given", ["http://", "ftp://a", "http://a:99999", "http://a:b", ""])
def test_what_is_no_address(given):
    with pytest.raises(UsageError, match="no server's address"):
        normalize_url(given)


def test_loopback():
    assert all(is_loopback(f"http://{host}:1") for host in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]"))
    assert not is_loopback("http://example.org")


def test_names_and_versions():
    assert split_reference("m") == ("m", None)
    assert model_path("m@3") == "/v1/models/m/versions/3"
    assert model_path("a/b") == "/v1/models/a%2Fb"
    for wrong in ("m@", "@1", "m@x", "m@-1"):
        with pytest.raises(UsageError):
            split_reference(wrong)
