"""`unimodel plugin new`: what it writes works as it is."""

import json
import subprocess
import sys

import pytest


def test_a_new_plugin_passes_its_own_test_and_serves(served, tmp_path):
    made = served.json("plugin", "new", "Word-count", cwd=tmp_path)
    folder = tmp_path / "Word-count"
    assert made["dir"] == str(folder)
    assert {f.name for f in folder.rglob("*") if f.is_file()} == {
        "word_count.py", "test_word_count.py", "pyproject.toml", "README.md"
    }  # fmt: skip
    plain = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:asyncio"]
    subprocess.run([*plain, str(folder)], check=True, capture_output=True)
    served.ok("register", "word-count", f"{folder / 'word_count.py'}:WordCount", "--trust")
    assert json.loads(served.ok("predict", "word-count", "One fish one")) == {"one": 2, "fish": 1}
    assert served.error("predict", "word-count", "3")[1]["message"] == "input must be a text"
    served.ok("unregister", "word-count")


def test_it_says_what_to_do_next(cli, tmp_path):
    page = cli.ok("plugin", "new", "echo", "--dir", tmp_path / "models" / "echo")
    assert f"unimodel register echo {tmp_path / 'models' / 'echo' / 'echo.py'}:Echo --trust" in page


def test_nothing_is_overwritten(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    code, error = cli.error("plugin", "new", "mine", cwd=tmp_path)
    assert (code, error["code"]) == (1, "conflict")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes"]


@pytest.mark.parametrize("name", ["class", "a b", "1x", "../up", "x" + "-", "unimodel", ""])
def test_names_that_cannot_be_one(cli, name, tmp_path):
    assert cli.error("plugin", "new", name, cwd=tmp_path)[0] == 2
    assert not [f for f in tmp_path.iterdir() if f.name != "home"]
