"""Tests of recognising what TensorRT-LLM serves, and of what it is refused for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import Device, InvalidOption, MissingRuntime, ModelFileError, UntrustedFile
from backends.discovery import choose
from backends.engines import trt_folder
from backends.engines.tensorrt_llm import TensorRtLlmBackend, TensorRtLlmOptions, limits_of, llm_arguments
from backends.engines.tensorrt_llm import tokenizer_folder as texts_of
from tests import models_transformers

CUDA = Device("cuda", 1)
NETWORK = {
    "architecture": "LlamaForCausalLM",
    "dtype": "float16",
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
    "quantization": {"quant_algo": None},
}
BUILD = {"max_seq_len": 1024, "max_input_len": 512, "max_batch_size": 32, "gather_generation_logits": False}


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def engine(folder: Path, **build: Any) -> Path:
    folder.mkdir()
    config = {"version": "1.2.1", "pretrained_config": NETWORK, "build_config": {**BUILD, **build}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "rank0.engine").write_bytes(b"ftrt" + bytes(100))
    return folder


def checkpoint(folder: Path, **network: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**NETWORK, **network}))
    (folder / "rank0.safetensors").write_bytes(safetensors())
    return folder


def load(folder: Path, device: Device = CUDA, *, trusted: bool = False, **options: Any) -> None:
    backend = TensorRtLlmBackend()
    backend.trusted = trusted
    backend.load(folder, device, TensorRtLlmOptions(**options))


def test_engines_and_checkpoints_are_recognised(tmp_path: Path) -> None:
    found, match = choose(engine(tmp_path / "e"))
    assert found is TensorRtLlmBackend
    assert match.runs_code is not None
    assert "compiled code" in match.runs_code
    found, match = choose(checkpoint(tmp_path / "c"))
    assert found is TensorRtLlmBackend
    assert match.runs_code is None


def test_hugging_face_folders_stay_with_transformers() -> None:
    folder = models_transformers.smollm2()
    assert choose(folder)[0].name == "transformers"
    assert choose(folder, "tensorrt_llm")[0] is TensorRtLlmBackend
    assert choose(folder, "vllm")[0].name == "vllm"


@pytest.mark.parametrize("missing", ["rank0.engine", "config.json"])
def test_half_an_engine_is_none(missing: str, tmp_path: Path) -> None:
    folder = engine(tmp_path / "e")
    (folder / missing).unlink()
    assert trt_folder.sniff(folder).confidence == 0
    with pytest.raises(ModelFileError):
        load(folder, trusted=True)


def test_an_engine_needs_trust(tmp_path: Path) -> None:
    with pytest.raises(UntrustedFile, match=r"compiled code.*--trust\.$"):
        load(engine(tmp_path / "e"))


def test_a_model_of_several_gpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="split over 2 GPUs"):
        load(checkpoint(tmp_path / "c", mapping={"world_size": 2, "tp_size": 2}))


@pytest.mark.parametrize("length", [0, 7, 20, -1])
def test_a_truncated_checkpoint_is_refused(length: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "rank0.safetensors").write_bytes(safetensors()[:length])
    with pytest.raises(ModelFileError):
        load(folder)


def test_limits_of_an_engine_are_those_it_was_built_for(tmp_path: Path) -> None:
    found = trt_folder.read(engine(tmp_path / "e"))
    limits, _ = limits_of(found, TensorRtLlmOptions())
    assert (limits.length, limits.prompt, limits.sequences) == (1024, 512, 32)
    limits, _ = limits_of(found, TensorRtLlmOptions(max_context_length=256, sequences=4))
    assert (limits.length, limits.prompt, limits.sequences) == (256, 256, 4)
    with pytest.raises(InvalidOption, match="at most 1024"):
        limits_of(found, TensorRtLlmOptions(max_context_length=2048))
    with pytest.raises(ModelFileError, match="max_seq_len"):
        limits_of(trt_folder.read(engine(tmp_path / "f", max_seq_len="long")), TensorRtLlmOptions())


def test_the_tokenizer_may_lie_elsewhere(tmp_path: Path) -> None:
    found = trt_folder.read(checkpoint(tmp_path / "c"))
    with pytest.raises(ModelFileError, match="--set tokenizer=FOLDER"):
        texts_of(found, None)
    with pytest.raises(InvalidOption, match="no tokenizer in"):
        texts_of(found, str(tmp_path))
    assert texts_of(found, str(models_transformers.smollm2())).model_type == "llama"


def test_what_the_llm_is_started_with(tmp_path: Path) -> None:
    options = TensorRtLlmOptions(cache_fraction=0.5, prefix_cache=False)
    texts = trt_folder.read(models_transformers.smollm2())
    for make, kind, sizes in (
        (engine, "engine", {}),
        (
            checkpoint,
            "checkpoint",
            {"build_config": {"max_seq_len": 2048, "max_batch_size": 64, "gather_generation_logits": True}},
        ),
    ):
        found = trt_folder.read(make(tmp_path / kind))
        arguments = llm_arguments(found, options, limits_of(found, options)[0], texts.folder, trusted=False)
        assert found.kind == kind
        assert arguments == {
            "model": str(tmp_path / kind),
            "tokenizer": str(texts.folder.path.resolve()),
            "trust_remote_code": False,
            "guided_decoding_backend": "xgrammar",
            "kv_cache_config": {"free_gpu_memory_fraction": 0.5, "enable_block_reuse": False},
            **sizes,
        }
    arguments = llm_arguments(texts, options, limits_of(texts, options)[0], texts.folder, trusted=False)
    assert (arguments["max_seq_len"], arguments["max_batch_size"], arguments["dtype"]) == (8192, 64, "auto")


def test_it_needs_a_gpu_and_its_runtime(tmp_path: Path) -> None:
    texts = str(models_transformers.smollm2())
    with pytest.raises(InvalidOption, match="GPUs only"):
        load(checkpoint(tmp_path / "c"), Device("cpu"), tokenizer=texts)
    try:
        import tensorrt_llm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingRuntime, match=r"pip install --extra-index-url \S+ 'unimodel\[tensorrt-llm\]'"):
            load(tmp_path / "c", tokenizer=texts)
