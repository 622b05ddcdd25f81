"""Plugins on the command line: what `new` writes works as it is, `test` finds what is wrong, `list` what is there."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import environments
from tests.cli.conftest import PLUGINS

ROOT = Path(__file__).parents[2]
PLAIN = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:asyncio"]

# --- new ------------------------------------------------------------------------------------------------------------


def test_a_new_plugin_passes_its_own_test_and_serves(served, tmp_path):
    made = served.json("plugin", "new", "Word-count", cwd=tmp_path)
    folder = tmp_path / "Word-count"
    assert made["dir"] == str(folder)
    assert {f.name for f in folder.rglob("*") if f.is_file()} == {
        "word_count.py", "test_word_count.py", "pyproject.toml", "README.md"
    }  # fmt: skip
    subprocess.run([sys.executable, "-m", "pytest", "-q", *PLAIN, str(folder)], check=True, capture_output=True)
    served.ok("register", "word-count", f"{folder / 'word_count.py'}:WordCount", "--trust")
    assert json.loads(served.ok("predict", "word-count", "One fish one")) == {"one": 2, "fish": 1}
    assert served.error("predict", "word-count", "3")[1]["message"] == "input must be a text"
    served.ok("unregister", "word-count")


def test_the_next_steps_work(served, tmp_path):
    """As they are printed, typed where they were printed, also below a folder whose name needs quotes."""
    page = served.ok("plugin", "new", "fish-count", "--dir", "my models/fish", cwd=tmp_path)
    steps = page.partition("Next:\n")[2].splitlines()
    assert [shlex.split(step)[1] for step in steps] == ["plugin", "register", "predict"]
    answers = [served.ok(*shlex.split(step)[1:], cwd=tmp_path) for step in steps]
    assert "11 of 11 checks passed" in answers[0]
    assert json.loads(answers[2]) == {"one": 1, "fish": 2, "two": 1}
    served.ok("unregister", "fish-count")


def test_an_installed_one_is_listed_and_tested_by_its_name(cli, tmp_path):
    cli.ok("plugin", "new", "word-count", cwd=tmp_path)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", site, tmp_path / "word-count"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    env = {"PYTHONPATH": str(site)}
    (plugin,) = cli.json("plugin", "list", env=env)["plugins"]
    assert plugin == {
        "name": "word-count", "package": "word-count 0.1.0", "target": "word_count:WordCount",
        "summary": "Counts words. Put your own model here.", "batches": False, "streams": False,
        "options": ["lowercase"], "problem": None,
    }  # fmt: skip
    assert cli.json("plugin", "test", "word-count", env=env)["ok"]


def test_nothing_is_overwritten(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "link"):
        code, error = cli.error("plugin", "new", name, cwd=tmp_path)
        assert (code, error["code"]) == (1, "conflict")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes"]
    cli.ok("plugin", "new", "echo", cwd=tmp_path)
    assert cli.error("plugin", "new", "echo", cwd=tmp_path)[1]["code"] == "conflict"


NAMES = ["class", "a b", "1x", "../up", "x-", "unimodel", "", "json", "numpy", "tests", "a" * 65]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be_one(cli, name, tmp_path):
    assert cli.error("plugin", "new", name, cwd=tmp_path)[0] == 2
    assert not [f for f in tmp_path.iterdir() if f.name != "home"]


# --- test -----------------------------------------------------------------------------------------------------------

FAULTS = {
    "gives_a_list": (
        "def predict(self, body):\n        return [1]",
        "it loads as in a worker",
        "must give a dict; got list",
    ),
    "gives_nan": (
        "def predict(self, body):\n        return {'x': float('nan')}",
        "its example is answered",
        "x is None",
    ),
    "takes_a_reserved_key": (
        "def predict(self, body):\n        return {'version': 2}",
        "its example is answered",
        "uses the key 'version'",
    ),
    "mixes_up": (
        "def predict(self, body):\n        return {'output': body['input']}\n"
        "    def predict_batch(self, inputs):\n        return [self.predict(body) for body in reversed(inputs)]",
        "a batch is answered as one by one",
        "predict_batch must answer each request by itself, in order.",
    ),
    "forgets_one": (
        "def predict(self, body):\n        return {'output': body['input']}\n"
        "    def predict_batch(self, inputs):\n        return [self.predict(body) for body in inputs[:2]]",
        "a batch is answered as one by one",
        "must return a list of 6 dicts",
    ),
    "streams_nothing": (
        "def predict(self, body):\n        return {}\n    def stream(self, body):\n        yield from ()",
        "a stream gives objects, and can be left",
        "it must yield at least one dict",
    ),
    "keeps_state_outside": (
        "def predict(self, body):\n        return {'output': os.environ['MODEL_STATE']}\n"
        "    def load_model(self, config):\n        os.environ['MODEL_STATE'] = 'loaded'\n"
        "    def close(self):\n        os.environ.pop('MODEL_STATE', None)",
        "it loads twice, and closes twice",
        "Keep state in the object (self)",
    ),
    "crashes": (
        "def predict(self, body):\n        os.abort()",
        "it loads as in a worker",
        "ended the process (SIGABRT)",
    ),
    "hangs": ("def predict(self, body):\n        time.sleep(600)", "it loads as in a worker", "longer than 3 s"),
    "exits": (
        "def predict(self, body):\n        os._exit(0)",
        "it loads as in a worker",
        "ended the process (exit code 0)",
    ),
    "fails_to_load": (
        "def predict(self, body):\n        return {}\n    def load_model(self, config):\n        1 / 0",
        "it loads as in a worker",
        "load_model failed: line 9: ZeroDivisionError",
    ),
    "wants_the_main_thread": (
        "def predict(self, body):\n        return {}\n"
        "    def load_model(self, config):\n        signal.signal(signal.SIGUSR1, print)",
        "it loads as in a worker",
        "main thread",
    ),
    "is_not_there": (None, "its backend is found", "There is no file"),
    "has_a_syntax_error": ("def predict(self, body:", "it loads as in a worker", "line 6"),
}
SOURCE = """import os, signal, time
from unimodel.plugins import BasePlugin
class Model(BasePlugin):
    example = {{"input": "a b"}}
    def load_model(self, config): pass
    {}
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(cli, fault, tmp_path):
    source, check, sentence = FAULTS[fault]
    file = tmp_path / "model.py"
    if source is not None:
        file.write_text(SOURCE.format(source))
    done = cli("plugin", "test", file, "--timeout", "3", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["ok"]
    failed = {c["name"]: c["message"] for c in report["checks"] if c["state"] == "fail"}
    assert check in failed, report
    assert sentence in failed[check]
    assert "Traceback" not in done.stdout


def test_what_a_model_started_ends_with_the_test(cli, tmp_path):
    """It holds the outputs of the test's process, whose end is waited for."""
    file, child = tmp_path / "model.py", tmp_path / "child"
    file.write_text(
        "import subprocess, time\nfrom unimodel.plugins import BasePlugin\nclass Model(BasePlugin):\n"
        "    def load_model(self, config):\n        child = subprocess.Popen(['sleep', '600'])\n"
        f"        open({str(child)!r}, 'w').write(str(child.pid))\n        time.sleep(600)\n"
        "    def predict(self, body):\n        return {}\n"
    )
    done = cli("plugin", "test", file, "--timeout", "3")
    assert done.returncode == 1
    assert "longer than 3 s" in done.stdout
    pid = int(child.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_without_an_example_it_wants_a_body(cli, tmp_path):
    file = tmp_path / "model.py"
    file.write_text(
        SOURCE.format("def predict(self, body):\n        return {'got': body}").replace("example =", "other =")
    )
    page = cli("plugin", "test", file)
    assert page.returncode == 1
    assert "-> It declares no example" in page.stdout
    assert "Any option is accepted" in page.stdout or "unchecked" in page.stdout
    assert cli.json("plugin", "test", file, "--body", '{"x": [1, 2]}')["ok"]
    for wrong in ("[1]", "{"):
        assert cli("plugin", "test", file, "--body", wrong).returncode == 2


def test_options_are_set(cli):
    path = PLUGINS / "echo.py"
    assert cli.json("plugin", "test", f"{path}:StreamEcho", "--set", "prefix=x")["ok"]
    done = cli("plugin", "test", f"{ROOT / 'examples' / 'sentiment_plugin.py'}", "--set", "neutral=1")
    assert done.returncode == 1
    assert "-> SentimentPlugin has no option 'neutral'. Did you mean 'neutral_below'?" in done.stdout


def test_a_file_of_another_backend_is_tested_too(cli, tmp_path):
    import joblib
    from sklearn.linear_model import LogisticRegression

    from tests.cli.conftest import double_model

    report = cli.json("plugin", "test", double_model(tmp_path))
    assert "rows in a batch are answered as alone" in {c["name"] for c in report["checks"]}
    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "m.joblib")
    done = cli("plugin", "test", tmp_path / "m.joblib")
    assert done.returncode == 1
    assert "Test it with --trust" in done.stdout
    assert cli.json("plugin", "test", tmp_path / "m.joblib", "--trust")["ok"]


def test_a_pipeline_is_tried_where_its_models_are(cli, tmp_path):
    (tmp_path / "chain.yaml").write_text("steps:\n  a: {model: iris}\noutput: a\n")
    done = cli("plugin", "test", tmp_path / "chain.yaml")
    assert done.returncode == 1
    assert "-> chain.yaml is a pipeline, which computes nothing itself" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_more_memory_than_it_may_hold_is_said(cli, tmp_path):
    file = tmp_path / "model.py"
    holds = "def load_model(self, config): self.held = b'x' * (300 << 20)\n    def predict(self, body): return body"
    file.write_text(SOURCE.format(holds))
    settings = ("--set", "isolated=true", "--set")
    done = cli("plugin", "test", file, *settings, "memory_limit=200MiB")
    assert done.returncode == 1
    assert "more than its memory_limit of 200 MiB; a server would replace it." in done.stdout
    assert cli.json("plugin", "test", file, *settings, "memory_limit=2GiB")["ok"]


def test_the_folder_of_a_plugin_is_not_the_plugin(cli, tmp_path):
    cli("plugin", "new", "mine", "--dir", tmp_path / "mine")
    done = cli("plugin", "test", tmp_path / "mine")
    assert f"mine is a folder; give the path of the file in it, such as {tmp_path / 'mine' / 'mine.py'}." in done.stdout


def test_it_runs_in_the_environment_that_is_set(cli, tmp_path):
    file = tmp_path / "model.py"
    file.write_text("import only_there\n" + SOURCE.format("def predict(self, body):\n        return body"))
    assert cli("plugin", "test", file).returncode == 1
    environments.with_what_a_worker_needs(tmp_path / "venv")
    assert cli.json("plugin", "test", file, "--set", "isolated=true", "--set", "python=venv", cwd=tmp_path)["ok"]
    done = cli("plugin", "test", file, "--set", "isolated=true", "--set", "python=nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert f"-> Model option python: {tmp_path / 'nowhere'} does not exist." in done.stdout


# --- list -----------------------------------------------------------------------------------------------------------


def test_those_that_cannot_be_imported_say_why(cli, tmp_path):
    metadata = tmp_path / "mixed-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mixed\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(
        "[unimodel.plugins]\n"
        "good = mixed_plugins:Good\nabsent = mixed_nowhere:Gone\naborts = mixed_aborts:Model\nodd = mixed_plugins:ODD\n"
        "hangs = mixed_hangs:Model\n"
        "[unimodel.backends]\nbroken = mixed_nowhere:Backend\n"
    )
    (tmp_path / "mixed_plugins.py").write_text(
        "from unimodel.plugins import BasePlugin\nODD = 3\n"
        "class Good(BasePlugin):\n    '''Does good.'''\n"
        "    def load_model(self, config): pass\n    def predict(self, body): return {}\n"
        "    def stream(self, body): yield {}\n"
    )
    (tmp_path / "mixed_aborts.py").write_text("import os\nos.abort()\n")
    (tmp_path / "mixed_hangs.py").write_text("import time\ntime.sleep(600)\n")
    env = {"PYTHONPATH": str(tmp_path)}
    answer = cli.json("plugin", "list", "--timeout", "5", env=env)
    plugins = {p["name"]: p for p in answer["plugins"]}
    assert plugins["good"]["problem"] is None
    assert (plugins["good"]["streams"], plugins["good"]["options"]) == (True, None)
    assert "mixed_nowhere" in plugins["absent"]["problem"]
    assert plugins["aborts"]["problem"] == "Its import ended the process (SIGABRT)."
    assert "is not a plugin" in plugins["odd"]["problem"]
    assert plugins["hangs"]["problem"] == "Its import took longer than 5 s."
    assert [b["name"] for b in answer["backends"]] == ["broken"]
    page = cli.ok("plugin", "list", "--timeout", "5", env=env)
    assert "mixed 2.0" in page and "Does good." in page
    assert "aborts: Its import ended the process (SIGABRT)." in page


def test_none_is_installed(cli):
    done = cli("plugin", "list")
    assert done.returncode == 0
    assert "Write a plugin with: unimodel plugin new NAME" in done.stderr
