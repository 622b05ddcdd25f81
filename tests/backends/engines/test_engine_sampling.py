"""Tests of what the engines are asked for one choice: in their words, and by their types where they are installed."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from backends.base import Device
from backends.engines import tensorrt_llm, vllm
from backends.engines.backend import Wanted
from backends.engines.vllm import VllmOptions
from backends.sampling import SamplingDefaults
from backends.transformers import folder as folders
from backends.transformers import weights
from tests import models_transformers

WARM = SamplingDefaults(temperature=0.7, top_k=30, top_p=0.9, min_p=0.02, repeat_penalty=1.2, repeat_last_n=-1)
GREEDY = SamplingDefaults(temperature=0)
WANTED = [
    Wanted(sampling=WARM, most=9, ends=(2, 5), seed=4, logprobs=3, logit_bias={7: 1.5}),
    Wanted(sampling=GREEDY, most=1, banned=(2,)),
    Wanted(sampling=SamplingDefaults(top_p=0), most=1, ends=(2,), logprobs=0, grammar='root ::= "a"'),
]


def test_vllms_words() -> None:
    warm = vllm.sampling_arguments(WANTED[0])
    expected: dict[str, Any] = {
        "temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2, "seed": 4,
        "max_tokens": 9, "stop_token_ids": [2, 5], "logprobs": 3, "logit_bias": {7: 1.5}, "detokenize": False,
    }  # fmt: skip
    assert warm | expected == warm
    greedy = vllm.sampling_arguments(WANTED[1])
    assert (greedy["temperature"], greedy["seed"], greedy["logprobs"]) == (0.0, None, None)
    assert greedy["logit_bias"] == {2: -math.inf}
    assert vllm.sampling_arguments(WANTED[2])["temperature"] == 0.0


def test_tensorrt_llms_words() -> None:
    warm = tensorrt_llm.sampling_arguments(WANTED[0], eos=2)
    expected: dict[str, Any] = {
        "temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2, "seed": 4,
        "max_tokens": 9, "end_id": 2, "stop_token_ids": [5], "ignore_eos": False, "logprobs": 3, "detokenize": False,
    }  # fmt: skip
    assert warm | expected == warm
    greedy = tensorrt_llm.sampling_arguments(WANTED[1], eos=2)
    assert (greedy["temperature"], greedy["top_k"], greedy["top_p"]) == (None, 1, None)
    assert (greedy["ignore_eos"], greedy["bad_token_ids"], greedy["stop_token_ids"]) == (True, [2], None)
    assert tensorrt_llm.sampling_arguments(WANTED[2], eos=2)["logprobs"] == 1  # 0 would be none
    seeds = {tensorrt_llm.sampling_arguments(WANTED[1], eos=2)["seed"] for _ in range(3)}
    assert len(seeds) > 1


def test_vllm_takes_no_code_and_no_pickles_untrusted() -> None:
    folder = folders.read(models_transformers.smollm2())
    found = weights.find(folder)
    arguments = vllm.engine_arguments(folder, found, Device("cpu"), VllmOptions(), 2048, trusted=False)
    assert (arguments["trust_remote_code"], arguments["load_format"]) == (False, "safetensors")
    assert (arguments["enforce_eager"], arguments["kv_cache_memory_bytes"]) == (True, 1 << 30)
    pickles = vllm.engine_arguments(folder, weights.Weights({}), Device("cpu"), VllmOptions(), 2048, trusted=True)
    assert (pickles["trust_remote_code"], pickles["load_format"]) == (True, "pt")
    gpu = vllm.engine_arguments(folder, found, Device("cuda", 1), VllmOptions(), 2048, trusted=False)
    assert (gpu["device_ids"], gpu["gpu_memory_utilization"], gpu["enforce_eager"]) == ([1], 0.9, False)
    assert gpu["kv_cache_memory_bytes"] is None


@pytest.mark.filterwarnings("ignore")  # of the library and what it imports
def test_tensorrt_llms_types_take_them() -> None:
    """Only where it is installed, which needs a GPU."""
    library = pytest.importorskip("tensorrt_llm", reason="TensorRT-LLM is not installed")
    for wanted in WANTED:
        given = tensorrt_llm.sampling_arguments(wanted, eos=2)
        params = library.SamplingParams(**given)
        assert {name: getattr(params, name) for name in given} == given
    from tensorrt_llm.llmapi import BuildConfig, GuidedDecodingParams, KvCacheConfig

    assert GuidedDecodingParams(grammar='root ::= "a"').grammar
    KvCacheConfig(free_gpu_memory_fraction=0.5, enable_block_reuse=True)
    BuildConfig(max_seq_len=64, max_batch_size=2, gather_generation_logits=True)
    assert {"inputs", "sampling_params", "streaming"} <= set(inspect.signature(library.LLM.generate_async).parameters)
