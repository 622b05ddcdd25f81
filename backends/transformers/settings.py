"""What a Hugging Face folder and a user's options say of generating: how long texts may be, how tokens are chosen."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Device, GenerationInfo, InvalidOption, ModelInfo
from backends.sampling import SamplingDefaults, check_sampling
from backends.transformers.folder import Folder
from backends.transformers.vocabulary import Vocabulary
from backends.transformers.weights import Weights

_DEFAULT_CONTEXT = 8192
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class SamplingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tokens are chosen where a request does not say; as ``generation_config.json`` says when not given."""

    temperature: float | None = None
    """0 is greedy: always the likeliest token."""
    top_k: int | None = None
    """0 keeps all."""
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    """Tokens that the penalties look back on; -1 is the whole context."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


def context_length(folder: Folder, wanted: int | None) -> tuple[int, tuple[str, ...]]:
    """Tokens of one sequence, and what of it is a guess."""
    trained = next(
        (
            value
            for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
            if isinstance(value := text_config(folder).get(key), int) and value > 0
        ),
        None,
    )
    if trained is None:
        note = "The folder does not say how long texts may be; max_context_length sets it."
        return wanted or 2048, () if wanted else (note,)
    if wanted is not None and wanted > trained:
        raise InvalidOption(
            f"Option max_context_length must be at most {trained}, for which the model was trained; got {wanted}.",
            field="config.max_context_length",
        )
    return wanted or min(trained, _DEFAULT_CONTEXT), ()


def text_config(folder: Folder) -> dict[str, Any]:
    """What ``config.json`` says of the part that reads and writes text."""
    inner = folder.config.get("text_config")
    return {**folder.config, **inner} if isinstance(inner, dict) else folder.config


def cell_bytes(folder: Folder, dtype: str | None) -> int:
    """Bytes of the keys and values of one token, by ``config.json``; 0 where it does not say."""
    config = text_config(folder)

    def number(*keys: str) -> int:
        return next((v for key in keys if isinstance(v := config.get(key), int) and v > 0), 0)

    heads = number("num_attention_heads", "n_head")
    width = number("head_dim") or number("hidden_size", "n_embd") // max(1, heads)
    layers = number("num_hidden_layers", "n_layer")
    return 2 * layers * (number("num_key_value_heads") or heads) * width * _BYTES.get(dtype or "float32", 4)


def text_model(
    folder: Folder,
    found: Weights,
    vocabulary: Vocabulary,
    template: str | None,
    *,
    length: int,
    sequences: int,
    quantization: str,
    runtime: str,
    device: Device,
    notes: tuple[str, ...],
    metadata: dict[str, str] | None = None,
) -> ModelInfo:
    """What is told of a folder that was loaded to generate text, whichever runtime computes it."""
    if template is None:
        note = "The folder has no chat template, so it is served for completion. Give one with chat_template."
        notes = (*notes, note)
    return ModelInfo(
        task="completion" if template is None else "chat",
        batchable=False,
        unbatched_reason="Answers are generated token by token, all sequences together (continuous batching).",
        streams=True,
        generation=GenerationInfo(
            context_length=length,
            sequences=sequences,
            chat_template=template,
            bos=vocabulary.text(vocabulary.bos),
            eos=vocabulary.text(vocabulary.eos),
            parameters=found.parameters,
            quantization=quantization,
            architecture=folder.model_type,
        ),
        runtime=runtime,
        device=str(device),
        metadata={
            "architecture": folder.architecture or folder.model_type,
            "parameters": str(found.parameters),
            **(metadata or {}),
            "context_length": str(length),
        },
        notes=notes,
    )


def template_of(inner: Any) -> str | None:
    """The chat template of a tokenizer, which may have several by name."""
    template = getattr(inner, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), None)
    return str(template) if template else None


def defaults_of(folder: Folder, given: SamplingOptions) -> SamplingDefaults:
    """How tokens are chosen where a request does not say: by the options, else by the folder."""
    said = folder.read("generation_config.json")
    names = {
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repetition_penalty",
    }
    found: dict[str, Any] = {
        ours: value
        for ours, theirs in names.items()
        if isinstance(value := said.get(theirs), int | float) and not isinstance(value, bool)
    }
    if said.get("do_sample") is False:
        found["temperature"] = 0.0
    if "repeat_penalty" in found:
        found["repeat_last_n"] = -1  # the library's looks back on everything
    wanted = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
    defaults = SamplingDefaults(**{**found, **wanted})
    check_sampling(defaults, "config.sampling.", InvalidOption)
    return defaults
