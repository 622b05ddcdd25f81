"""The shell completions: fresh, valid, and quick to say nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from unimodel_cli.completion import FILES, script

FOLDER = Path(__file__).parents[2] / "completions"


@pytest.mark.parametrize("shell", FILES)
def test_the_scripts_in_the_repository_are_fresh(shell):
    assert (FOLDER / FILES[shell]).read_text() == script(shell), "run: python -m unimodel_cli.completion"


@pytest.mark.parametrize("shell", FILES)
def test_the_scripts_are_valid(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", FOLDER / FILES[shell]], check=True)


def complete_in_bash(folder: Path, env: dict[str, str], *words: str) -> list[str]:
    """What bash offers for the last word. `folder` gets an ``unimodel`` that is the one under test."""
    from tests.cli.conftest import COMMAND

    command = folder / "unimodel"
    command.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    program = f"""
        source {FOLDER / FILES["bash"]}
        compopt() {{ :; }}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _unimodel
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{folder}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", program, "bash", *words], env=env | {"PATH": path}, cwd=folder, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["unimodel", "st"], ["start", "stop", "status"]),
        (["unimodel", "--host", "serve", "al"], ["alias"]),
        (["unimodel", "alias", ""], ["set", "list", "remove"]),
        (["unimodel", "predict", "m", "--js"], ["--jsonl", "--json", "--json-schema"]),
        (["unimodel", "predict", "m", "--as", "t"], ["text"]),
        (["unimodel", "start", "--log-level", "w"], ["warning"]),
        (["unimodel", "start", "--port", ""], []),
        (["unimodel", "register", "m", "mod"], ["model.onnx"]),
        (["unimodel", "predict", "m", "mod"], ["model.onnx"]),
        (["unimodel", "predict", "mod"], []),
        (["unimodel", "completion", "install", ""], ["bash", "zsh", "fish"]),
    ],
    ids=lambda words: "_".join(words) or "nothing",
)
def test_bash_offers_what_fits(cli, tmp_path, words, offered):
    (tmp_path / "model.onnx").touch()
    assert sorted(complete_in_bash(tmp_path, cli.env, *words)) == sorted(offered)


def test_bash_offers_the_models_of_the_running_server(served, tmp_path):
    assert complete_in_bash(tmp_path, served.env, "unimodel", "predict", "dou") == ["double"]
    assert complete_in_bash(tmp_path, served.env, "unimodel", "alias", "set", "prod", "ec") == ["echo"]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "http://", "nowhere.invalid:1", "http://127.0.0.1:99999"])
def test_names_say_nothing_without_a_server(cli, host):
    done = cli("completion", "names", env={"UNIMODEL_HOST": host})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_do_not_wait_for_a_server_that_hangs(cli, taken_port):
    done = cli("completion", "names", env={"UNIMODEL_HOST": f"127.0.0.1:{taken_port}"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_and_aliases(cli, stand_in):
    server = stand_in(lambda request, body: None, aliases=["prod"])
    assert cli.ok("completion", "names", env={"UNIMODEL_HOST": server.url}) == "m\nprod\n"


@pytest.mark.parametrize("shell", FILES)
def test_show_prints_the_script(cli, shell):
    assert cli.ok("completion", "show", shell) == script(shell)
    assert cli.json("completion", "show", env={"SHELL": f"/bin/{shell}"}) == {"shell": shell, "script": script(shell)}


@pytest.mark.parametrize("shell", FILES)
def test_install_writes_for_this_user_and_twice_is_once(cli, tmp_path, shell):
    home = tmp_path / "user"
    home.mkdir()
    env = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": "", "ZDOTDIR": ""}
    first = cli.json("completion", "install", shell, env=env)
    assert Path(first["path"]).read_text() == script(shell)
    assert Path(first["path"]).is_relative_to(home)
    files = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    cli.ok("completion", "install", shell, env=env)
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == files


def test_an_unknown_shell(cli):
    code, error = cli.error("completion", "show", env={"SHELL": "/bin/tcsh"})
    assert code == 2
    assert "bash, zsh, fish" in error["message"]
