"""Help pages, usage errors, and what a light start must not import."""

import json
import subprocess
import sys

import pytest

from unimodel_cli.completion import Node, tree

NODES = list(tree().walk())
COMMANDS = [node for node in NODES if not node.children]


def ids(node: Node) -> str:
    return "-".join(node.path) or "root"


@pytest.mark.parametrize("node", NODES, ids=ids)
def test_every_help_page_is_short_and_has_examples(node, capsys):
    from unimodel_cli.main import run

    assert run([*node.path, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: unimodel")
    if node in COMMANDS:
        assert f"\n  Examples:\n    unimodel {' '.join(node.path)}" in page or f"unimodel {' '.join(node.path)}" in page
        assert {"--json", "--home"} <= {name for option in node.options for name in option.names}
    assert all(option.help for option in node.options), "every option says what it does"


@pytest.mark.parametrize("node", [n for n in NODES if n.path], ids=ids)
def test_the_list_of_commands_shows_whole_sentences(node, capsys):
    from unimodel_cli.main import run

    run([*node.path[:-1], "--help"])
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith(f"  {node.path[-1]} "))
    assert line.endswith(".") and not line.endswith("...")


def test_the_exit_codes_are_in_the_help(cli):
    from engine.errors import ExitCode

    page = cli.ok("--help")
    assert all(f" {int(code)} " in page for code in ExitCode)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["predict", "--help"], ["start", "--help"], ["--version"]], ids=" ".join
)
def test_a_light_command_imports_nothing_heavy(arguments):
    heavy = {"numpy", "httpx", "rich.table", "psutil", "asyncio", "yaml", "matplotlib", "httptools"}
    program = f"""
import sys
from unimodel_cli.main import run
assert run({arguments!r}) == 0
print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_version(cli):
    from importlib.metadata import version

    assert cli.ok("--version") == f"unimodel {version('unimodel')}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["prdict", "m"], "Did you mean 'predict'?"),
        (["alias", "lst"], "Did you mean 'list'"),
        (["start", "--prot", "1"], "--port"),
        (["predict"], "NAME"),
        (["bench", "m", "--duration", "soon"], "'--duration': Input should be a valid number"),
    ],
)
def test_a_usage_error_exits_with_2_and_points_to_the_way(cli, arguments, hint):
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert hint in done.stderr


def test_a_usage_error_is_json_too_if_asked_for(cli):
    code, error = cli.error("prdict")
    assert code == 2
    assert error["code"] == "invalid_request"
    assert "Did you mean 'predict'?" in error["message"]


@pytest.mark.parametrize("arguments", [["list", "--json"], ["--json", "list"]])
def test_the_common_options_work_on_both_sides_of_the_command(cli, arguments, free_port):
    done = cli("--host", f"127.0.0.1:{free_port}", *arguments)
    assert done.returncode == 3
    assert json.loads(done.stderr)["error"]["code"] == "server_unreachable"


def test_a_command_about_this_machine_refuses_the_address_of_a_server(cli):
    code, error = cli.error("--host", "http://elsewhere:8000", "stop")
    assert code == 2
    assert "about this machine" in error["message"]


def test_an_unexpected_error_shows_its_trace_only_when_asked(monkeypatch, capsys):
    from unimodel_cli import main

    def broken(_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(main, "_dispatch", broken)
    monkeypatch.delenv("UNIMODEL_DEBUG", raising=False)
    assert main.run(["list"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("Error: Unexpected ZeroDivisionError: a defect.")
    assert "Traceback" not in message
    monkeypatch.setenv("UNIMODEL_DEBUG", "1")
    assert main.run(["list"]) == 1
    assert "Traceback" in capsys.readouterr().err
