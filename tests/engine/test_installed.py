"""Tests of what is installed: backends of ours and of others, with and without their runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.base import install_command

SOURCE = """
from backends.base import NO_MATCH, Backend

class Hungry(Backend):
    name = 'hungry'
    summary = 'files that need a runtime'
    package = 'no_such_runtime'
    extra = 'torch'
    devices = ('cpu', 'cuda')

    @classmethod
    def sniff(cls, path):
        return NO_MATCH

    def load(self, path, device, options):
        raise NotImplementedError

class Stranger(Hungry):
    name = 'stranger'
    extra = None
"""
ENTRY_POINTS = """[unimodel.backends]
hungry = hungry_backends:Hungry
stranger = hungry_backends:Stranger
gone = hungry_nowhere:Gone
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a backend whose runtime an extra installs, one that installs its own, and a broken one."""
    site = tmp_path_factory.mktemp("site")
    meta = site / "hungry-1.5.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: hungry\nVersion: 1.5\n")
    (meta / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "hungry_backends.py").write_text("print('imported')\n" + SOURCE)
    return site


def run(site: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def found(site: Path) -> dict[str, dict[str, Any]]:
    answer = json.loads(run(site, "-P", "-m", "engine.kit", "backends"))
    return {view["name"]: view for view in answer["backends"]}


def test_versions_without_importing_a_runtime(site: Path) -> None:
    code = (
        "import sys; from engine import installed\n"
        "versions = {b.name: b.version for b in installed.backends().backends}\n"
        "print({name: versions[name] for name in ('onnx', 'python', 'sklearn')})\n"
        "print(sorted({'onnxruntime', 'sklearn', 'joblib', 'pandas', 'scipy', 'onnx'} & set(sys.modules)))"
    )
    *_, versions, imported = run(site, "-c", code).splitlines()
    import onnxruntime
    import sklearn

    assert versions == str({"onnx": onnxruntime.__version__, "python": None, "sklearn": sklearn.__version__})
    assert imported == "[]"


def test_what_prints_when_it_is_imported_does_not_spoil_the_answer(found: dict[str, dict[str, Any]]) -> None:
    assert found["python"]["available"]
    assert found["onnx"]["supported_devices"] == ["cpu", "cuda"]
    assert found["onnx"]["package"].startswith("unimodel ")


def test_a_missing_runtime_comes_with_the_command_that_installs_it(found: dict[str, dict[str, Any]]) -> None:
    hungry = found["hungry"]
    assert (hungry["available"], hungry["version"], hungry["problem"]) == (False, None, None)
    assert (hungry["devices"], hungry["supported_devices"]) == ([], ["cpu", "cuda"])
    assert (hungry["runtime"], hungry["package"]) == ("no_such_runtime", "hungry 1.5")
    assert hungry["install"] == "pip install 'unimodel[torch]'"
    assert found["stranger"]["install"] is None


def test_the_command_names_the_index_that_has_the_runtime() -> None:
    assert install_command("x") == "pip install 'unimodel[x]'"
    assert (
        install_command("x", "https://a.example/") == "pip install --extra-index-url https://a.example/ 'unimodel[x]'"
    )


def test_a_broken_one_says_why(found: dict[str, dict[str, Any]]) -> None:
    gone = found["gone"]
    assert not gone["available"]
    assert gone["problem"] == (
        "hungry_nowhere:Gone of hungry cannot be imported: ModuleNotFoundError: No module named 'hungry_nowhere'."
    )
