"""What is printed where: colours, terminals, pipes, tables."""

import os
import pty
import re
import subprocess
from types import SimpleNamespace

import pytest

from engine.schema import FindingView
from tests.cli.conftest import COMMAND
from unimodel_cli import answers, model_card, output

ESCAPE = re.compile(r"\x1b")


def on_a_terminal(cli, *arguments: str, env: dict[str, str] | None = None, typed: bytes = b"") -> tuple[int, str]:
    """Runs a command on a pseudo-terminal; returns its exit code and all that it printed."""
    primary, secondary = pty.openpty()
    run = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        env=cli.env | {"TERM": "xterm-256color", "COLUMNS": "100"} | (env or {}),
    )
    os.close(secondary)
    if typed:
        os.write(primary, typed)
    shown = b""
    while True:
        try:
            data = os.read(primary, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(primary)
    return run.wait(60), shown.decode().replace("\r\n", "\n")


def test_colours_on_a_terminal_and_nowhere_else(served):
    assert ESCAPE.search(on_a_terminal(served, "list")[1])
    assert not ESCAPE.search(on_a_terminal(served, "list", env={"NO_COLOR": "1"})[1])
    assert not ESCAPE.search(served.ok("list"))


def test_an_error_is_red_on_a_terminal(served):
    code, shown = on_a_terminal(served, "show", "missing")
    assert code == 4
    assert "\x1b[31mError:\x1b[0m No model 'missing' is registered." in shown
    _, plain = on_a_terminal(served, "show", "missing", env={"NO_COLOR": "1"})
    assert plain == "Error: No model 'missing' is registered.\n"


def test_json_on_a_terminal_is_pure(served):
    _, shown = on_a_terminal(served, "predict", "double", "[1, 2, 3]", "--json")
    assert shown == '{"model": "double", "version": 1, "output": [2.0, 4.0, 6.0]}\n'


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_on_a_terminal_trust_is_asked_for(served, answer, code):
    from tests.cli.conftest import PLUGINS

    name = f"asked-{code}"
    done, shown = on_a_terminal(served, "register", name, f"{PLUGINS / 'echo.py'}:Echo", typed=answer)
    assert done == code
    assert "A plugin is Python code" in shown and "Do you trust" in shown
    assert (served("show", name).returncode == 0) is (code == 0)
    if code == 0:
        assert on_a_terminal(served, "unregister", name, typed=b"y\n")[0] == 0


def test_without_an_input_on_a_terminal_nothing_waits(served):
    code, shown = on_a_terminal(served, "predict", "double")
    assert code == 2
    assert "Give an INPUT" in shown


def test_a_closed_pipe_is_silent(served):
    run = subprocess.Popen([*COMMAND, "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=served.env)
    run.stdout.close()
    assert run.wait(30) == 141
    assert run.stderr.read() == b""
    run.stderr.close()


def test_an_interrupted_command_is_silent(served):
    import signal
    import time

    run = served.popen("predict", "faulty", "20")
    while not served.json("status")["in_flight"]:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=20) == (b"", b"")
    assert run.returncode == 130


def test_sizes_and_times():
    assert [output.size(n) for n in (0, 5, 2048, 3 << 20, 5 << 40)] == ["-", "5 B", "2.0 KiB", "3.0 MiB", "5120.0 GiB"]
    assert [output.duration(s) for s in (0, 59.9, 61, 3700, 90000)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 1 min",
        "1 d 1 h",
    ]


def test_answers_for_people():
    labels = [{"label": "cat", "index": 1, "score": 0.9}, {"label": "dog", "index": 2, "score": 0.1}]
    assert answers.scores(labels) == labels
    assert answers.scores({"label": 1, "probabilities": {"0": 0.2, "1": 0.8}}) == [
        {"label": "1", "score": 0.8},
        {"label": "0", "score": 0.2},
    ]
    assert answers.scores([1.0, 2.0]) is None
    assert answers.scores([]) is None
    assert answers.for_people([[1, 2]]) == "[[1, 2]]"
    assert answers.for_people(["x" * 60, "y" * 60]).count("\n") == 3
    assert answers.value_of({"model": "m", "version": 1, "outputs": {"a": 1}}) == {"a": 1}
    assert answers.value_of({"model": "m", "version": 1, "a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_boxes_and_words_are_shown_with_their_labels(capsys):
    box = {"xmin": 1.5, "ymin": 2.0, "xmax": 30.0, "ymax": 40.25}
    output.Output(False).render(answers.labels_table([{"label": "dog", "index": 1, "score": 0.9, "box": box}]))
    assert "dog    0.9000  1.5, 2, 30, 40.25" in capsys.readouterr().out
    entity = {"label": "PER", "word": "Ada", "score": 0.99, "start": 0, "end": 3}
    output.Output(False).render(answers.labels_table([entity]))
    assert ["PER", "0.9900", "Ada", "0", "3"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert answers.scores_of_several([[entity], []]) == [[entity], []]
    assert answers.scores_of_several([[], []]) is None
    assert answers.scores_of_several([[1.0]]) is None


def test_flags_that_change_what_was_found_stay_whole_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    options = ["--set preprocess.mean=[…] --set preprocess.std=[…]", "--task tensor"]
    found = [FindingView(subject="task", value="v" * 30, sure="guess", source="its shapes", option=o) for o in options]
    output.Output(False).render(*model_card._findings(SimpleNamespace(findings=found)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["FOUND", "VALUE", "SURE", "FROM", "CHANGE", "WITH"]
    assert all(option in line for option, line in zip(options, lines[1:], strict=False))
