"""Serves engines, checkpoints and Hugging Face folders through TensorRT-LLM's LLM API, which batches in flight."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from backends.base import (
    BackendError,
    Device,
    GenerationInfo,
    InvalidInput,
    InvalidOption,
    Match,
    MissingRuntime,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
    UntrustedFile,
)
from backends.engines import trt_folder
from backends.engines.backend import Engine, EngineBackend, Wanted, engine_defaults, logprobs_of, vocabulary_of
from backends.engines.streams import Output, Streams
from backends.engines.trt_folder import TrtFolder
from backends.prompts import chat_template_of
from backends.resources import environment
from backends.transformers import folder as folders
from backends.transformers import weights
from backends.transformers.folder import CONFIG, Folder
from backends.transformers.library import check_trust, is_memory, library, reason
from backends.transformers.options import Dtype, at_least
from backends.transformers.settings import SamplingOptions, context_length, template_of, text_config

_INDEX = "https://pypi.nvidia.com/"


class TensorRtLlmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a model that TensorRT-LLM serves."""

    tokenizer: str | None = None
    """A folder with the tokenizer; the model's own when not given."""
    dtype: Dtype = "auto"
    """The type that a Hugging Face folder computes in; engines and checkpoints have theirs."""
    max_context_length: int | None = None
    """Tokens of one sequence, prompt and answer together; as an engine was built for, else as many as the model was
    trained for, up to 8192, when not given."""
    sequences: int | None = None
    """Answers that are generated at once; as many as an engine was built for, else 64, when not given."""
    cache_fraction: float = 0.9
    """Share of what is left of the GPU's memory that keys and values take."""
    prefix_cache: bool = True
    """Whether prompts are spared the part that they have in common with earlier ones."""
    chat_template: str | None = None
    """In Jinja, or the path of a file; the tokenizer's own when not given."""
    sampling: SamplingOptions = SamplingOptions()

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        at_least("max_context_length", self.max_context_length, 16)
        at_least("sequences", self.sequences, 1)
        if not 0 < self.cache_fraction <= 1:
            raise InvalidOption(
                f"Option cache_fraction must be above 0 and at most 1; got {self.cache_fraction}.",
                field="config.cache_fraction",
            )


class Limits(msgspec.Struct, frozen=True):
    """What a model is loaded for."""

    length: int
    """Tokens of one sequence."""
    prompt: int
    """Tokens of the longest prompt."""
    sequences: int


class TensorRtLlmBackend(EngineBackend):
    """Owns an `LLM` of TensorRT-LLM."""

    name = "tensorrt_llm"
    summary = "language models as TensorRT-LLM engines or checkpoints"
    package = "tensorrt_llm"
    extra = "tensorrt-llm"
    index = _INDEX
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    Options: ClassVar[type[msgspec.Struct]] = TensorRtLlmOptions

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By its files and ``config.json``."""
        return trt_folder.sniff(path)

    def load(self, path: Path, device: Device, options: TensorRtLlmOptions) -> ModelInfo:
        """Starts the engine. See `Backend.load` for the errors."""
        options.check()
        found = trt_folder.read(path)
        found.check(self.trusted)
        template = chat_template_of(options.chat_template)
        limits, notes = limits_of(found, options)
        if found.kind == "huggingface":
            check_trust(found.folder, self.trusted)
            weights.find(found.folder)
        texts = tokenizer_folder(found, options.tokenizer)
        if folders.has_code(texts) and not self.trusted:
            raise UntrustedFile(
                f"The tokenizer in {texts.name} brings Python code of its own (auto_map). If you trust its author, "
                "register the model with --trust."
            )
        if device.kind != "cuda":
            raise InvalidOption("TensorRT-LLM computes on GPUs only, and this worker has none.", field="config.device")
        os.environ["HF_HUB_OFFLINE"] = "1"
        runtime = _import()
        network = text_config(found.folder) if found.kind == "huggingface" else found.network
        vocabulary, tokenizer = vocabulary_of(
            library(), texts, found.number(network, "vocab_size"), trusted=self.trusted
        )
        defaults = engine_defaults(texts, options.sampling)
        arguments = llm_arguments(found, options, limits, texts, trusted=self.trusted)
        streams = Streams()
        try:
            # the engine's process takes the first GPU that it sees, so it sees the worker's alone
            with environment("CUDA_VISIBLE_DEVICES", str(device.index)):
                llm = streams.run(_start(found, arguments))
        except Exception as e:
            streams.close()
            raise _of_load(e, found) from e
        engine = TensorRtLlmEngine(llm, vocabulary.eos, vocabulary.vocab_size, found)
        self._serve(engine, streams, vocabulary, defaults, length=limits.length, longest_prompt=limits.prompt)
        template = template or template_of(tokenizer)
        return ModelInfo(
            task="completion" if template is None else "chat",
            batchable=False,
            unbatched_reason="Answers are generated token by token, all sequences together (in-flight batching).",
            streams=True,
            generation=GenerationInfo(
                context_length=limits.length,
                sequences=limits.sequences,
                chat_template=template,
                bos=vocabulary.text(vocabulary.bos),
                eos=vocabulary.text(vocabulary.eos),
                quantization=str(network.get("dtype") or network.get("torch_dtype") or ""),
                architecture=str(network.get("architecture") or found.folder.model_type),
            ),
            runtime=f"tensorrt_llm {runtime.__version__}",
            device=str(device),
            metadata={"kind": found.kind, "context_length": str(limits.length)},
            notes=notes,
        )


class TensorRtLlmEngine(Engine):
    """TensorRT-LLM's `LLM`."""

    name = "TensorRT-LLM"

    def __init__(self, llm: Any, eos: int, vocab_size: int, found: TrtFolder) -> None:
        self._llm = llm
        self._eos = eos
        self._vocab_size = vocab_size
        self._tells_logprobs = found.kind != "engine" or bool(found.build.get("gather_generation_logits"))

    def params(self, wanted: Wanted) -> Any:
        from tensorrt_llm import SamplingParams
        from tensorrt_llm.llmapi import GuidedDecodingParams

        if wanted.logprobs is not None and not self._tells_logprobs:
            raise InvalidInput(
                "This engine tells no probabilities: it was built without gather_generation_logits.", field="logprobs"
            )
        arguments = sampling_arguments(wanted, self._eos)
        if wanted.grammar is not None:
            arguments["guided_decoding"] = GuidedDecodingParams(grammar=wanted.grammar)
        if wanted.logit_bias:
            arguments["embedding_bias"] = self._bias(wanted.logit_bias)
        try:
            return SamplingParams(**arguments)
        except ValueError as e:
            raise InvalidInput(f"TensorRT-LLM refuses the request: {reason(e)}") from e

    def _bias(self, logit_bias: dict[int, float]) -> Any:
        import torch

        bias = torch.zeros(self._vocab_size, dtype=torch.float32)
        bias[list(logit_bias)] = torch.tensor(list(logit_bias.values()), dtype=torch.float32)
        return bias

    async def generate(self, name: str, prompt: list[int], params: Any) -> AsyncGenerator[Output, None]:  # noqa: ARG002
        result = self._llm.generate_async(prompt, params, streaming=True)  # gives each request a number of its own
        told = 0
        try:
            async for output in result:
                (choice,) = output.outputs
                tokens = choice.token_ids[told:]
                told += len(tokens)
                yield Output(tokens, _logprobs(choice, len(tokens)), output.finished)
        finally:
            if not result.finished:
                result.abort()

    def error(self, error: Exception) -> BackendError:
        if is_memory(error):
            return OutOfMemory(f"TensorRT-LLM ran out of memory: {reason(error)}")
        if isinstance(error, ValueError):
            return InvalidInput(f"TensorRT-LLM refuses the request: {reason(error)}")
        return BackendError(f"TensorRT-LLM failed: {reason(error)}")

    async def close(self) -> None:
        self._llm.shutdown()


def _logprobs(choice: Any, count: int) -> list[dict[int, float]] | None:
    """Of the last tokens of a choice; `None` where none were asked for."""
    if not choice.logprobs or not count:
        return None
    return logprobs_of(choice.logprobs[-count:])


def sampling_arguments(wanted: Wanted, eos: int) -> dict[str, Any]:
    """The arguments of TensorRT-LLM's `SamplingParams`, but for grammar and bias. It makes no text: stop texts are
    found here."""
    chosen = wanted.sampling
    ends = [token for token in wanted.ends if token != eos]
    ends_with_eos = eos in wanted.ends
    return {
        "end_id": eos if eos >= 0 else None,
        "pad_id": eos if eos >= 0 else None,
        "ignore_eos": not ends_with_eos,
        "stop_token_ids": ends or None,
        "bad_token_ids": list(wanted.banned) or None,
        "max_tokens": wanted.most,
        "temperature": None if wanted.greedy else chosen.temperature,
        "top_k": 1 if wanted.greedy else chosen.top_k,  # 0 keeps all
        "top_p": None if wanted.greedy else chosen.top_p,
        "min_p": None if wanted.greedy else chosen.min_p,
        "repetition_penalty": chosen.repeat_penalty,
        "presence_penalty": chosen.presence_penalty,
        "frequency_penalty": chosen.frequency_penalty,
        "seed": wanted.seed if wanted.seed is not None else secrets.randbits(32),  # its own default is always the same
        "logprobs": max(1, wanted.logprobs) if wanted.logprobs is not None else None,  # 0 is none at all
        "detokenize": False,
    }


def limits_of(found: TrtFolder, options: TensorRtLlmOptions) -> tuple[Limits, tuple[str, ...]]:
    """What a model is loaded for, and what of it is a guess. Raises `InvalidOption` for more than an engine can do."""
    if found.kind != "engine":
        length, notes = context_length(found.folder, options.max_context_length)
        return Limits(length, length, options.sequences or 64), notes
    built = Limits(*(found.number(found.build, n) for n in ("max_seq_len", "max_input_len", "max_batch_size")))
    for name, wanted, most in (
        ("max_context_length", options.max_context_length, built.length),
        ("sequences", options.sequences, built.sequences),
    ):
        if wanted is not None and wanted > most:
            raise InvalidOption(
                f"Option {name} must be at most {most}, for which the engine was built; got {wanted}.",
                field=f"config.{name}",
            )
    length = options.max_context_length or built.length
    return Limits(length, min(built.prompt, length), options.sequences or built.sequences), ()


def tokenizer_folder(found: TrtFolder, wanted: str | None) -> Folder:
    """The folder that has the tokenizer. Raises `InvalidOption` or `ModelFileError`."""
    path = found.folder.path if wanted is None else Path(wanted).expanduser()
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        if wanted is None:
            raise ModelFileError(
                f"{found.name} has no tokenizer. Give the folder of the model that it was made of: "
                "--set tokenizer=FOLDER."
            )
        raise InvalidOption(f"Option tokenizer: there is no tokenizer in {path}.", field="config.tokenizer")
    if wanted is None:  # config.json there is TensorRT-LLM's
        return found.folder
    return folders.read(path) if (path / CONFIG).is_file() else Folder(path, {}, None)


def llm_arguments(
    found: TrtFolder, options: TensorRtLlmOptions, limits: Limits, texts: Folder, *, trusted: bool
) -> dict[str, Any]:
    """The arguments of `LLM`, with those of `KvCacheConfig` and `BuildConfig` in their places."""
    arguments: dict[str, Any] = {
        "model": str(found.folder.path.resolve()),
        "tokenizer": str(texts.path.resolve()),
        "trust_remote_code": trusted,
        "guided_decoding_backend": "xgrammar",
        "kv_cache_config": {
            "free_gpu_memory_fraction": options.cache_fraction,
            "enable_block_reuse": options.prefix_cache,
        },
    }
    sizes = {"max_seq_len": limits.length, "max_batch_size": limits.sequences}
    if found.kind == "checkpoint":
        arguments["build_config"] = {**sizes, "gather_generation_logits": True}
    elif found.kind == "huggingface":
        arguments |= {**sizes, "dtype": options.dtype}
    return arguments


async def _start(found: TrtFolder, arguments: dict[str, Any]) -> Any:
    """On the loop that it is to answer on. What is not built for PyTorch has a class of its own."""
    from tensorrt_llm.llmapi import BuildConfig, KvCacheConfig

    arguments = {**arguments, "kv_cache_config": KvCacheConfig(**arguments["kv_cache_config"])}
    if "build_config" in arguments:
        arguments["build_config"] = BuildConfig(**arguments["build_config"])
    if found.kind == "huggingface":
        from tensorrt_llm import LLM
    else:
        from tensorrt_llm._tensorrt_engine import LLM
    return LLM(**arguments)


def _import() -> Any:
    try:
        import tensorrt_llm
    except ImportError:
        raise MissingRuntime("tensorrt_llm", "tensorrt-llm", _INDEX) from None
    return tensorrt_llm


def _of_load(error: Exception, found: TrtFolder) -> BackendError:
    if isinstance(error, BackendError):
        return error
    if is_memory(error):
        return OutOfMemory(f"{found.name} does not fit the memory of the GPU: {reason(error)}")
    return ModelFileError(f"TensorRT-LLM cannot load {found.name}: {reason(error)}")
