"""Tests of the interpreters of workers: what is one, what it must have, and what runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.base import Device
from engine.errors import InvalidOption, ModelFailed
from engine.settings import MonitoringSettings
from engine.transport.messages import Load
from engine.version import __version__
from engine.worker import guest, interpreter, supervisor
from engine.worker.instance import Instance
from engine.worker.interpreter import OWN, Interpreter
from engine.worker.supervisor import Worker
from tests import environments


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.with_what_a_worker_needs(tmp_path_factory.mktemp("environments") / "venv")


def run(python: Interpreter, folder: Path, code: str) -> dict[str, object]:
    """What `code`, as a module of ours, gives in another interpreter."""
    command = python.command("engine.version")
    (folder / "ask.py").write_text(code)
    command[command.index("engine.version")] = "ask"
    env = {**python.environment(), "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def refused(path: Path | str) -> str:
    with pytest.raises(InvalidOption) as caught:
        interpreter.find(str(path))
    assert caught.value.field == "config.python"
    assert caught.value.message.startswith("Model option python: ")
    return caught.value.message


def script(file: Path, text: str, mode: int = 0o755) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_what_is_missing_there_is_installed_there(venv: Path) -> None:
    code = "from backends.base import MissingRuntime; print(MissingRuntime('onnxruntime', 'onnx'))"
    python = interpreter.find(str(venv))
    env = {**python.environment(), "PYTHONPATH": str(guest.ROOT)}
    done = subprocess.run([python.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    wanted = f"onnxruntime is not installed. Install it with: {venv}/bin/python -m pip install 'unimodel[onnx]'"
    assert done.stdout.strip() == wanted


def test_an_environment_is_named_by_its_folder_or_its_interpreter(venv: Path) -> None:
    python = str(venv / "bin" / "python")
    assert interpreter.find(str(venv)) == interpreter.find(python) == Interpreter(python, False)
    assert interpreter.find(None) is OWN


def test_what_cannot_be_one_says_why(tmp_path: Path) -> None:
    assert "nowhere does not exist. Make a virtual environment with: python3 -m venv" in refused(tmp_path / "nowhere")
    assert "is a folder without bin/python" in refused(tmp_path)
    assert "must be an absolute path" in refused("venv")
    assert "is not a Python interpreter" in refused("/bin/true")
    assert "cannot be run: Permission denied" in refused(script(tmp_path / "data", "x", 0o644))
    assert "cannot be run: Exec format error" in refused(script(tmp_path / "text", "x"))


def test_an_environment_without_what_a_worker_needs_names_the_command(tmp_path: Path) -> None:
    python = environments.bare(tmp_path / "bare") / "bin" / "python"
    assert refused(tmp_path / "bare").endswith(
        "there is msgspec (none), numpy (none). Install them with: "
        f"{python} -m pip install 'msgspec>=0.19' 'numpy>=1.26'"
    )


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ('[[3, 9], {"msgspec": "0.19.0", "numpy": "2.0.0"}]', "is Python 3.9, and a worker needs 3.11 or newer"),
        ('[[2, 7], {"msgspec": null, "numpy": null}]', "is Python 2.7"),
        ('[[3, 11], {"msgspec": "0.18.6", "numpy": "2.0.0"}]', "there is msgspec 0.18.6, numpy 2.0.0"),
        ('[[3, 12], {"msgspec": "0.20.0", "numpy": "1.24.4"}]', "there is msgspec 0.20.0, numpy 1.24.4"),
    ],
)
def test_what_is_too_old(tmp_path: Path, says: str, problem: str) -> None:
    assert problem in refused(script(tmp_path / "python", f"#!/bin/sh\necho '{says}'\n"))


def test_it_sees_our_packages_and_its_own_and_nothing_else(venv: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.metadata, importlib.util, json, sys, engine, backends.discovery, only_there\n"
        "print(json.dumps({'prefix': sys.prefix, 'engine': engine.__path__[0], 'answer': only_there.ANSWER,\n"
        " 'version': importlib.metadata.version('unimodel'), 'backends': sorted(backends.discovery.available()),\n"
        " 'others': [n for n in ('httpx', 'starlette', 'pytest', 'unimodel_cli') if importlib.util.find_spec(n)],\n"
        " 'path': sys.path}))"
    )
    found = run(interpreter.find(str(venv)), tmp_path, code)
    assert found["prefix"] == str(venv)
    assert found["engine"] == str(Path(interpreter.__file__).parents[1])
    assert (found["answer"], found["version"], found["others"]) == (42, __version__, [])
    assert isinstance(found["backends"], list)
    assert {"python", "onnx"} <= set(found["backends"])
    assert str(Path(interpreter.__file__).parents[2]) not in str(found["path"])


def test_an_environment_with_another_unimodel_runs_the_servers(tmp_path: Path) -> None:
    venv = environments.with_what_a_worker_needs(tmp_path / "venv")
    packages = environments.site_packages(venv)
    (packages / "engine").mkdir()
    (packages / "engine" / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    metadata = packages / "unimodel-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unimodel\nVersion: 9.9\n")
    (metadata / "entry_points.txt").write_text("[unimodel.backends]\npython = nowhere:Gone\n")
    code = (
        "import json; from engine.version import __version__; from backends.discovery import discover\n"
        "found = discover(); print(json.dumps({'version': __version__, 'python': str(found.backends['python'])}))"
    )
    found = run(interpreter.find(str(venv)), tmp_path, code)
    assert found == {"version": __version__, "python": "<class 'backends.python.backend.PythonBackend'>"}


def test_what_leads_to_our_packages_stays_here(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    own, other = OWN.environment(), interpreter.find(str(venv)).environment()
    assert own["PYTHONPATH"].endswith(f"{os.pathsep}/somewhere")
    assert "PYTHONPATH" not in other
    assert other["VIRTUAL_ENV"] == str(venv)
    assert other["PATH"].split(os.pathsep)[0] == str(venv / "bin")


def test_a_folder_named_engine_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    subprocess.run(OWN.command("engine.version"), cwd=tmp_path, env=OWN.environment(), check=True)


async def test_a_process_that_never_comes_up_fails_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_START_PATIENCE", 0.5)
    broken = Interpreter(sys.executable, False)._replace(executable="/bin/false")
    worker = Worker("cpu/m", Device("cpu"), MonitoringSettings(log_level="error"), broken)
    worker.spawn()
    instance = Instance(worker, "m#1", 1 << 20)
    message = Load("m#1", "x.py", "python", None, {}, worker.device, 2, 1 << 20, 8, True, True)
    with pytest.raises(ModelFailed, match="does not start on /bin/false"):
        await worker.load(message, instance, 60)
    instance.close()
    await worker.stop()
