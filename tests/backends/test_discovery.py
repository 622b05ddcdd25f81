"""Tests of finding backends: by entry point, by looking at a file, by name."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend, Device, InvalidOption, Match, ModelFileError, ModelInfo, NoOptions
from backends.discovery import AmbiguousBackend, available, choose, choose_from, discover
from backends.onnx import OnnxBackend
from backends.python import PythonBackend
from backends.sklearn import SklearnBackend
from engine import errors
from tests import models, models_sklearn

ROOT = Path(__file__).parents[2]


def sure(name: str, confidence: float, *, fails: bool = False) -> type[Backend]:
    """A backend that is this sure of every file."""

    class Sure(Backend):
        summary = "any file"

        @classmethod
        def sniff(cls, path: Path) -> Match:
            if fails:
                raise ZeroDivisionError
            return Match(confidence)

        def load(self, path: Path, device: Device, options: NoOptions) -> ModelInfo:
            raise AssertionError("nobody loads it")

    Sure.name = name
    return Sure


def refused(path: Path | str, wanted: str | None = None) -> Any:
    with pytest.raises((ModelFileError, InvalidOption, AmbiguousBackend)) as caught:
        choose(path, wanted)
    return caught.value


# --- entry points ---------------------------------------------------------------------------------------------------


def test_the_built_in_backends_come_through_the_public_door() -> None:
    assert {"onnx": OnnxBackend, "sklearn": SklearnBackend, "python": PythonBackend}.items() <= available().items()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution whose entry points are good, broken, of the wrong kind, and named like a built-in one."""
    site = tmp_path / "site"
    meta = site / "third_party-1.0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[unimodel.backends]\n"
        "good = third_party_backend:Good\n"
        "missing = third_party_nowhere:Gone\n"
        "exits = third_party_exits:Gone\n"
        "number = third_party_backend:NUMBER\n"
        "alias = third_party_backend:Good\n"
        "onnx = third_party_backend:Usurper\n"
    )
    (site / "third_party_exits.py").write_text("raise SystemExit(3)\n")
    (site / "third_party_backend.py").write_text(
        "from backends.base import NO_MATCH, Backend\n"
        "NUMBER = 3\n"
        "class Good(Backend):\n"
        "    name = 'good'\n"
        "    summary = 'nothing'\n"
        "    @classmethod\n"
        "    def sniff(cls, path): return NO_MATCH\n"
        "    def load(self, path, device, options): raise NotImplementedError\n"
        "class Usurper(Good):\n"
        "    name = 'onnx'\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return site


@pytest.mark.usefixtures("site")
def test_a_third_partys_backend_is_found_and_a_broken_one_only_reported() -> None:
    found = discover()
    assert {"good", "sklearn", "python"} <= found.backends.keys()
    assert found.problems.keys() == {"missing", "exits", "number", "alias", "onnx"}
    assert found.problems["missing"] == (
        "third_party_nowhere:Gone of third-party cannot be imported: ModuleNotFoundError: No module named "
        "'third_party_nowhere'"
    )
    assert "SystemExit" in found.problems["exits"]
    assert "is not a subclass of backends.base.Backend" in found.problems["number"]
    assert "calls itself 'good'" in found.problems["alias"]
    assert "has the name of another backend, which is used" in found.problems["onnx"]


@pytest.mark.usefixtures("site")
def test_asking_for_a_broken_backend_says_what_is_wrong() -> None:
    error = refused(models_sklearn.path("iris"), "missing")
    assert isinstance(error, InvalidOption)
    assert error.message.startswith("Backend 'missing' cannot be used: third_party_nowhere:Gone of third-party")


# --- by looking -----------------------------------------------------------------------------------------------------


def test_real_files_by_their_content_under_any_name(tmp_path: Path) -> None:
    for name, (backend, source) in {
        "a": (OnnxBackend, models.silero()),
        "b": (SklearnBackend, models_sklearn.path("iris")),
        "c": (SklearnBackend, models_sklearn.path("iris", ".skops")),
        "d": (PythonBackend, ROOT / "examples" / "sentiment_plugin.py"),
    }.items():
        for suffix in (source.suffix, ".bin", ""):
            copy = tmp_path / f"{name}{suffix}"
            shutil.copy(source, copy)
            found, match = choose(copy)
            assert found is backend, copy
            assert match.confidence >= 0.5
            assert (match.runs_code is not None) == (name in "bd")


def test_a_class_in_a_file() -> None:
    found, match = choose(f"{ROOT / 'examples' / 'sentiment_plugin.py'}:SentimentPlugin")
    assert found is PythonBackend
    assert match.task == "custom"


def test_a_wrong_extension_does_not_beat_the_content(tmp_path: Path) -> None:
    shutil.copy(models.silero(), tmp_path / "model.joblib")
    assert choose(tmp_path / "model.joblib")[0] is OnnxBackend
    shutil.copy(models_sklearn.path("iris"), tmp_path / "model.onnx")
    assert choose(tmp_path / "model.onnx")[0] is SklearnBackend


def test_the_wanted_backend_is_taken_at_its_word(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps([1]))
    found, match = choose(tmp_path / "x.bin", "sklearn")
    assert found is SklearnBackend
    assert match.runs_code
    found, match = choose(models_sklearn.path("iris"), "onnx")
    assert found is OnnxBackend
    assert match.confidence == 0


@pytest.mark.parametrize(
    ("first", "second", "ambiguous"), [(0.9, 0.9, True), (0.9, 0.7, True), (0.9, 0.69, False), (0.1, 0.0, False)]
)
def test_two_backends_that_are_about_as_sure(tmp_path: Path, first: float, second: float, ambiguous: bool) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    backends = {"alpha": sure("alpha", first), "beta": sure("beta", second)}
    if not ambiguous:
        assert choose_from(backends, tmp_path / "x.bin", None)[0] is backends["alpha"]
        return
    with pytest.raises(AmbiguousBackend) as caught:
        choose_from(backends, tmp_path / "x.bin", None)
    assert caught.value.message == (
        "x.bin could be a model of several backends; choose --backend alpha or --backend beta."
    )
    assert caught.value.field == "backend"
    assert errors.BY_CODE[caught.value.code] is errors.AmbiguousBackend
    assert choose_from(backends, tmp_path / "x.bin", "beta")[0] is backends["beta"]


def test_a_backend_that_fails_to_look_does_not_stop_the_others_nor_counts_as_safe(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    backends = {"bad": sure("bad", 1.0, fails=True), "good": sure("good", 0.5)}
    assert choose_from(backends, tmp_path / "x.bin", None)[0] is backends["good"]
    match = choose_from(backends, tmp_path / "x.bin", "bad")[1]
    assert match.runs_code == "The bad backend could not examine x.bin (ZeroDivisionError)."


@pytest.mark.parametrize(
    ("name", "hint"),
    [("skleran", "Did you mean 'sklearn'?"), ("zzz", "Choose one of catboost, gguf, gguf-embedding")],
)
def test_an_unknown_backend(name: str, hint: str) -> None:
    error = refused(models_sklearn.path("iris"), name)
    assert isinstance(error, InvalidOption)
    assert error.field == "backend"
    assert error.message.startswith(f"There is no backend {name!r}. {hint}")


# --- what is no model -----------------------------------------------------------------------------------------------


def test_a_file_that_nobody_recognises_lists_what_is_served(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    message = refused(tmp_path / "notes.txt").message
    assert message.startswith("No backend recognises notes.txt. Served are ")
    for name, backend in available().items():
        assert f"{name}: {backend.summary}" in message


@pytest.mark.parametrize("wanted", [None, "sklearn", "python", "onnx"])
def test_what_cannot_be_read_is_told_apart(tmp_path: Path, wanted: str | None) -> None:
    (tmp_path / "empty.joblib").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    (tmp_path / "dangling.onnx").symlink_to(tmp_path / "gone.onnx")
    os.mkfifo(tmp_path / "pipe.joblib")
    expected = {
        "missing.joblib": "There is no file, folder or installed model {}.",
        "missing.py:My": "There is no file, folder or installed model {}.",
        "empty.joblib": "The file {} is empty.",
        "folder": "The folder {} is empty.",
        "loop.py": "{} is a link that leads back to itself.",
        "dangling.onnx": "{} is a link to nothing.",
        "pipe.joblib": "{} is neither a file nor a folder.",
        "empty.joblib/x": "{} cannot be read: Not a directory.",
        "x" * 5000: "{} cannot be read: File name too long.",
    }
    for name, message in expected.items():
        path = tmp_path / name
        assert refused(path, wanted).message == message.format(path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("config.json", "model.bin", "vocabulary.txt"), "is a model for CTranslate2, for"),
        (("b.gguf", "a.gguf"), "is a folder; give the path of the file in it, such as {}/a.gguf."),
        (("model.onnx",), "is a folder; give the path of the file in it, such as {}/model.onnx."),
    ],
)
def test_a_folder_that_no_backend_takes(tmp_path: Path, files: tuple[str, ...], expected: str) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    assert expected.format(tmp_path) in refused(tmp_path).message


def test_a_file_that_is_a_part_of_a_folder(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_text("x")
    (tmp_path / "config.json").write_text("{}")
    assert f"give the path of that: {tmp_path}." in refused(weights).message


def test_odd_paths(tmp_path: Path) -> None:
    assert refused("a\0b").message == "'a\\x00b' is not a valid path."
    assert refused("").code == "model_file_error"
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/s")
        assert refused(f"{short}/s").message.endswith("is neither a file nor a folder.")
    assert refused("/dev/zero").message == "/dev/zero is neither a file nor a folder."
    (tmp_path / "some").write_text("x")
    assert "No backend recognises" in refused(tmp_path).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "x.joblib").write_bytes(b"x")
    (tmp_path / "x.joblib").chmod(0)
    assert refused(tmp_path / "x.joblib").message.endswith("permission denied.")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "model.pt", "model.joblib", "weights.bin"])
def test_a_pointer_of_git_is_no_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ModelFileError, match=rf"{name} is a pointer of Git LFS.*git lfs pull"):
        choose(tmp_path / name)


def test_a_folder_with_a_pointer_of_git_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (tmp_path / "model.safetensors").write_text(POINTER)
    with pytest.raises(ModelFileError, match=r"model.safetensors is a pointer of Git LFS"):
        choose(tmp_path)


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html></html>", "\n <HTML><body>Log in</body></HTML>"])
def test_a_web_page_is_no_model(page: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text(page)
    with pytest.raises(ModelFileError, match=r"model.gguf is a web page"):
        choose(tmp_path / "model.gguf")
