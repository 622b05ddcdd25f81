"""`unimodel chat`: one turn in a pipe, and a conversation at a terminal."""

import json
import os
import pty
import subprocess

import pytest
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.cli.conftest import COMMAND, PATIENCE, error_response
from tests.cli.terminal import Terminal
from unimodel_cli.conversation import Conversation
from unimodel_cli.errors import UsageError

QUESTION = "What is artificial intelligence?"
PNG = b"\x89PNG\r\n\x1a\n rest"

# --- one turn -------------------------------------------------------------------------------------------------------


def test_a_prompt_is_one_turn(served):
    done = served("chat", "parrot", "hello there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1] hello there\n", "")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_stdin_is_one_turn(served, arguments):
    done = served("chat", "parrot", *arguments, input="hello\nthere\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1] hello\nthere\n", "")


def test_a_version_may_be_named(served):
    assert served.ok("chat", "parrot@1", "hello") == "[1] hello\n"


def test_stdin_is_not_read_when_there_is_a_prompt(served):
    assert served.ok("chat", "parrot", "hello", input="not this") == "[1] hello\n"


def test_the_turn_as_json(served):
    answer = served.json("chat", "parrot", "hello")
    assert answer == {"model": "parrot", "content": "[1] hello", "finish_reason": "stop", "usage": {}}


def test_flags_and_parameters_go_into_the_request(served, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    flags = ["--system", "be kind", "--temperature", "0.5", "--max-tokens", "7", "--top-p", "0.9", "--seed", "3"]
    more = ["--stop", "a", "--stop", "b", "--params", "top_k=4", "--image", tmp_path / "a.png"]
    assert served.ok("chat", "parrot", "hi", *flags, *more) == (
        "[2] (be kind) <data:image/png;base64,> temperature=0.5 max_tokens=7 top_p=0.9 top_k=4 seed=3 "
        "stop=['a', 'b'] hi\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["missing", "hi"], 4, "missing"),
        (["parrot"], 2, "Nothing to say"),
        (["parrot", ""], 2, "Nothing to say"),
        (["parrot@9", "hi"], 4, "no version 9"),
        (["parrot", "hi", "--params", "stream=false"], 2, "cannot be set"),
        (["parrot", "hi", "--params", "novalue"], 2, "KEY=VALUE"),
        (["parrot", "hi", "--json-schema", "missing.json"], 2, "cannot read missing.json"),
        (["parrot", "hi", "--json-schema", "{"], 2, "not valid JSON"),
        (["parrot", "hi", "--json-schema", '{"type": "object"}'], 1, "response_format"),
        (["parrot", "hi", "--image", "missing.png"], 2, "missing.png"),
        (["parrot", "hi", "--temperature", "-1"], 2, "--temperature"),
        (["parrot", "hi", "--params", "tempreature=1"], 1, "tempreature"),
        (["double", "hi"], 1, "double"),
    ],
)
def test_what_cannot_be_said(served, arguments, code, word):
    got, error = served.error("chat", *arguments)
    assert got == code
    assert word in error["message"]


def test_an_error_midway_comes_after_what_was_said(served):
    done = served("chat", "parrot", "oh sigh no")
    assert (done.returncode, done.stdout) == (1, "[1] oh sigh\n")
    assert "sigh is not allowed" in done.stderr
    assert served.error("chat", "parrot", "oh sigh no")[0] == 1


def test_without_a_server(cli, free_port):
    done = cli("chat", "m", "hi", env={"UNIMODEL_HOST": f"127.0.0.1:{free_port}"})
    assert (done.returncode, done.stdout) == (3, "")
    assert "unimodel start" in done.stderr


def stream_of(*events):
    """A stand-in's route that answers a chat with these events, as they are."""

    async def answer(_):
        return StreamingResponse(iter(events), media_type="text/event-stream")

    return Route("/v1/chat/completions", answer, methods=["POST"])


def chunk(**delta):
    return f"data: {json.dumps({'choices': [{'delta': delta}]}, ensure_ascii=False)}\n\n"


def test_reasoning_goes_to_stderr_or_nowhere(cli, stand_in):
    events = [chunk(reasoning_content="Hm, "), chunk(reasoning_content="2."), chunk(content="Two"), "data: [DONE]\n\n"]
    server = stand_in(None, [stream_of(*events)])
    done = cli("chat", "m", "1+1?", "--host", server.url)
    assert (done.stdout, done.stderr) == ("Two\n", "Hm, 2.\n\n")
    done = cli("chat", "m", "1+1?", "--host", server.url, "--hide-reasoning")
    assert (done.stdout, done.stderr) == ("Two\n", "")
    assert cli.json("chat", "m", "1+1?", "--host", server.url)["reasoning"] == "Hm, 2."


def test_chunks_of_other_shapes(cli, stand_in):
    """Nulls, comments, carriage returns, characters that end lines elsewhere, and pieces cut anywhere."""
    text = (
        ": hello\r\n\r\n" + chunk(content="a\u2028b\x85c").replace("\n", "\r\n") + chunk(content=None, role="assistant")
    )
    text += 'data: {"choices": [], "usage": {"prompt_tokens": 3}}\n\ndata: {"choices": null}\n\ndata: [DONE]\n\n'
    raw = text.encode()
    server = stand_in(None, [stream_of(*(raw[i : i + 7] for i in range(0, len(raw), 7)))])
    answer = cli.json("chat", "m", "hi", "--host", server.url)
    assert answer["content"] == "a\u2028b\x85c"
    assert answer["usage"] == {"prompt_tokens": 3}


@pytest.mark.parametrize(
    ("end", "code", "word"),
    [
        ('data: {"error": {"code": "overloaded", "message": "Full."}}\n\n', 5, "Full."),
        ('data: {"error": {"message": "Odd."}}\n\n', 1, "Odd."),
        ("", 3, "ended before the model was done"),
        ("data: {not json\n\n", 3, "no JSON"),
    ],
)
def test_a_stream_that_breaks_off(cli, stand_in, end, code, word):
    server = stand_in(None, [stream_of(chunk(content="So"), end)])
    done = cli("chat", "m", "hi", "--host", server.url)
    assert (done.returncode, done.stdout) == (code, "So\n")
    assert word in done.stderr


def test_a_refusal_has_its_own_exit_code(cli, stand_in):
    async def refuse(_):
        return error_response(429, "overloaded")

    server = stand_in(None, [Route("/v1/chat/completions", refuse, methods=["POST"])])
    assert cli("chat", "m", "hi", "--host", server.url).returncode == 5


# --- a conversation -------------------------------------------------------------------------------------------------


def test_a_conversation_remembers(served):
    with Terminal(served, "chat", "parrot") as t:
        assert "/help" in t.until(">>> ")
        t.press("one\r")
        t.until("[1] one")
        t.ask("two", "[3] two")
        t.ask("/undo", "Took back")
        t.ask("three", "[3] three")
        t.ask("/retry", "[3] three")
        t.ask("/reset", "Forgot")
        t.ask("four", "[1] four")
        t.until(">>> ")
        t.press("\x04")
        assert t.end() == 0


def test_slash_commands(served, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    with Terminal(served, "chat", "parrot", "--temperature", "1") as t:
        assert "/retry" in t.ask("/help", "Ctrl-C")
        t.ask("/system be kind", "System message: be kind")
        t.ask("/set top_k 3", "top_k=3")
        t.ask("/set temperature", "Parameters: top_k=3")
        t.ask(f"/image {tmp_path / 'a.png'}", "next message")
        t.ask("hi", "[2] (be kind) <data:image/png;base64,> top_k=3 hi")
        t.ask("/set model x", "cannot be set")
        t.ask("/nothing", "There is no command /nothing")
        t.ask("/save", "Usage: /save FILE")
        t.ask("/undo", "Took back")
        t.ask("/undo", "Nothing was said")
        t.ask("/quit", "/quit")
        assert t.end() == 0


def test_a_conversation_is_saved_and_loaded(served, tmp_path):
    file = tmp_path / "talk.json"
    with Terminal(served, "chat", "parrot", "--system", "be kind") as t:
        t.ask("one", "[2] (be kind) one")
        t.ask(f"/save {file}", "Saved")
        t.ask(f"/save {file}", "Saved")
        t.ask("/quit", "/quit")
        assert t.end() == 0
    with Terminal(served, "chat", "parrot") as t:
        t.ask(f"/load {file}", "Loaded 1 turn from")
        t.ask("two", "[4] (be kind) two")
        other = tmp_path / "other.json"
        other.write_text("{}")
        t.ask(f"/save {other}", "is no saved conversation")
        t.ask(f"/load {other}", "is no saved conversation")
    assert other.read_text() == "{}"


def test_several_lines(served):
    with Terminal(served, "chat", "parrot") as t:
        t.until(">>> ")
        t.press('"""/one\r')
        t.until("... ")
        t.press('two"""\r')
        assert "[1] /one\r\ntwo" in t.until(">>> ")


def test_ctrl_c_stops_the_answer_and_then_the_program(served):
    with Terminal(served, "chat", "parrot") as t:
        t.ask("go on forever", " 100 ")
        t.press("\x03")
        t.until("(stopped)")
        t.ask("still there?", "[3] still there?")
        t.until(">>> ")
        assert t.end("\x03") == 130


def test_an_error_ends_a_turn_and_not_the_conversation(served):
    with Terminal(served, "chat", "parrot") as t:
        t.ask("sigh", "sigh is not allowed")
        t.ask("better", "[1] better")


def test_commands_and_files_are_completed_and_lines_are_remembered(served, tmp_path):
    (tmp_path / "conversation-1.json").touch()
    with Terminal(served, "chat", "parrot", UNIMODEL_HOME=str(tmp_path / "home"), UNIMODEL_HOST=url(served)) as t:
        t.until(">>> ")
        t.press("/sy\tbe kind\r")
        t.until("System message: be kind")
        t.until(">>> ")
        t.press(f"/load {tmp_path}/conv\t\r")
        t.until("conversation-1.json is no saved conversation")
        t.ask("/quit", "/quit")
        assert t.end() == 0
    history = tmp_path / "home" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    with Terminal(served, "chat", "parrot", UNIMODEL_HOME=str(tmp_path / "home"), UNIMODEL_HOST=url(served)) as t:
        t.until(">>> ")
        t.press("\x1b[A\x1b[A\x1b[A\r")
        t.until("System message: be kind")


def url(cli):
    return json.loads((cli.home / "server.json").read_text())["url"]


def test_json_at_a_terminal_is_one_object_a_turn(served):
    with Terminal(served, "chat", "parrot", "--json") as t:
        t.ask("one", '"content": "[1] one"')
        t.ask("sigh", '"code": "invalid_input"')
        t.ask("two", '"content": "[3] two"')


def test_colours_only_where_they_are_wanted(cli, stand_in):
    events = [chunk(reasoning_content="Hm"), chunk(content="Two"), "data: [DONE]\n\n"]
    server = stand_in(None, [stream_of(*events)])
    with Terminal(cli, "chat", "m", "--host", server.url) as t:
        assert "\x1b[2mHm\x1b[0m" in t.ask("hi", "Two")
    with Terminal(cli, "chat", "m", "--host", server.url, NO_COLOR="1") as t:
        assert "\x1b[2m" not in t.ask("hi", "Two")


def test_answers_go_into_a_file_and_prompts_to_the_terminal(served, tmp_path):
    keys, terminal = pty.openpty()
    out = tmp_path / "out.txt"
    with (
        out.open("wb") as stdout,
        subprocess.Popen(
            [*COMMAND, "chat", "parrot"], stdin=terminal, stdout=stdout, stderr=subprocess.PIPE, env=served.env
        ) as chat,
    ):
        os.close(terminal)
        os.write(keys, b"one\n/system be kind\ntwo\n\x04")
        said = chat.stderr.read().decode()
        assert chat.wait(PATIENCE) == 0
    os.close(keys)
    assert out.read_text() == "[1] one\n[4] (be kind) two\n"
    assert said.count(">>> ") == 4


def test_a_reader_that_goes_away_ends_it_quietly(served):
    with served.popen("chat", "parrot", "go on forever") as chat:
        chat.stdout.read(20)
        chat.stdout.close()
        assert chat.wait(PATIENCE) == 141
        assert chat.stderr.read() == b""


def test_a_prompt_at_a_terminal_is_one_turn(served):
    with Terminal(served, "chat", "parrot", "hello") as t:
        assert t.end() == 0
        assert t.rest == "[1] hello\r\n"
    with Terminal(served, "chat", "parrot", "go on forever") as t:
        t.until(" 100 ")
        t.press("\x03")
        assert t.end() == 130


# --- the conversation itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "not json",
        '{"format": "unimodel-conversation"}',
        '{"format": "unimodel-conversation", "system": 1, "parameters": {}, "messages": []}',
        '{"format": "unimodel-conversation", "system": null, "parameters": {}, "messages": [{"role": "tool"}]}',
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(tmp_path, document):
    conversation = Conversation("m")
    conversation.say("hi")
    (tmp_path / "file").write_text(document)
    with pytest.raises(UsageError, match="no saved conversation"):
        conversation.load(tmp_path / "file")
    assert conversation.messages == [{"role": "user", "content": "hi"}]


def test_undo_takes_back_a_question_with_its_answer():
    conversation = Conversation("m")
    for text in ("one", "two"):
        conversation.say(text)
        conversation.answer(text.upper())
    assert conversation.undo() == {"role": "user", "content": "two"}
    assert [m["content"] for m in conversation.messages] == ["one", "ONE"]
    conversation.undo()
    assert conversation.undo() is None


def test_what_is_no_image(tmp_path):
    (tmp_path / "notes").write_text("no picture")
    with pytest.raises(UsageError, match="is no image"):
        Conversation("m").attach(str(tmp_path / "notes"))


# --- a real LLM -----------------------------------------------------------------------------------------------------


def test_a_real_model_chats(served, smol, tmp_path):
    greedy = ["--temperature", "0", "--max-tokens", "16"]
    answer = served.json("chat", smol, QUESTION, *greedy)
    assert "rtificial intelligence" in answer["content"]
    assert answer["usage"]["completion_tokens"] <= 16
    assert served.ok("chat", smol, *greedy, input=QUESTION) == answer["content"] + "\n"
    assert served.json("chat", smol, "Write a story.", *greedy)["finish_reason"] == "length"


def test_a_real_model_answers_in_a_schema(served, smol, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"],'
        ' "additionalProperties": false}'
    )
    said = served.ok("chat", smol, "The capital of France?", "--json-schema", schema, "--temperature", "0")
    assert list(json.loads(said)) == ["city"]


def test_a_prompt_that_is_too_long_is_told(served, smol):
    code, error = served.error("chat", smol, "word " * 5000)
    assert code == 1
    assert "2048" in error["message"]
