"""The options of a GGUF model that generates text."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from backends.base import InvalidOption
from backends.sampling import SamplingDefaults, check_sampling

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class GgufOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a GGUF model that generates text."""

    gpu_layers: int = -1
    """Layers that are computed on the GPU; -1 is all. Without effect on the CPU."""
    max_context_length: int | None = None
    """Tokens of one sequence, prompt and answer together; as many as the model was trained for, up to 8192, when not
    given."""
    sequences: int = 16
    """Answers that are generated at once; more wait."""
    long_sequences: int | None = None
    """How many of them may be longer than 1024 tokens at once; when not given, as many as have 16384 together, and at
    least one."""
    batch_tokens: int = 512
    """Tokens of one decode call."""
    kv_type: KvType = "f16"
    """How keys and values are stored. Quantized types save memory, and need flash attention."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    threads: int | None = None
    """CPU threads; the worker's share of the cores when not given."""
    mmap: bool = True
    """Whether the file's pages are used where they are, instead of being copied."""
    mlock: bool = False
    """Whether the weights are locked in memory."""
    main_gpu: int | None = None
    """The GPU for what is not split; the worker's own when not given."""
    tensor_split: tuple[float, ...] = ()
    """Share of each GPU, when the model is split over several."""
    split_mode: Literal["none", "layer", "row"] = "none"
    """How a model is split over several GPUs."""
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    speculation: Literal["auto", "off", "ngram", "draft"] = "auto"
    """Whether the next tokens are guessed and checked together, from repetitions or by `draft_model`; answers are the
    same. ``auto`` uses the draft model if there is one, and guesses only where it measures faster."""
    draft_model: str | None = None
    """A GGUF file of a small model with the same vocabulary, which guesses for this one."""
    lora: dict[str, str] = {}
    """LoRA adapters by name: GGUF files. All are applied in full, unless a request chooses among them."""
    mmproj: str | None = None
    """The GGUF file of a projector, with which the model sees images; ``off`` for none. When not given, the file
    named mmproj that lies beside the model, if there is one and it fits."""
    prefix_cache: bool = True
    """Whether prompts are spared the part that they have in common with earlier ones."""
    prefix_cache_mb: int | None = None
    """Memory for that; as much as two sequences of full length take when not given."""
    chat_template: str | None = None
    """In Jinja, or the path of a file; the model's own when not given."""
    sampling: SamplingDefaults = SamplingDefaults()

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        for name, low, high in (
            ("gpu_layers", -1, 100_000),
            ("max_context_length", 16, 2**24),
            ("sequences", 1, 128),
            ("long_sequences", 1, 128),
            ("batch_tokens", 32, 65536),
            ("threads", 1, 1024),
            ("main_gpu", 0, 255),
            ("rope_freq_base", 0, math.inf),
            ("rope_freq_scale", 0, math.inf),
            ("prefix_cache_mb", 1, 2**24),
        ):
            _range(name, getattr(self, name), low, high)
        if any(share < 0 or not math.isfinite(share) for share in self.tensor_split):
            raise InvalidOption("Option tensor_split has a negative share.", field="config.tensor_split")
        if self.tensor_split and self.split_mode == "none":
            raise InvalidOption("Option tensor_split needs split_mode=layer or row.", field="config.tensor_split")
        if self.speculation == "draft" and self.draft_model is None:
            raise InvalidOption("Option speculation=draft needs draft_model.", field="config.speculation")
        if self.draft_model is not None and self.speculation in ("off", "ngram"):
            raise InvalidOption(
                f"Option draft_model has no effect with speculation={self.speculation}.", field="config.draft_model"
            )
        if self.kv_type not in ("f32", "f16", "bf16") and self.flash_attention == "off":
            raise InvalidOption(
                f"Option kv_type={self.kv_type} needs flash attention, which flash_attention=off forbids.",
                field="config.kv_type",
            )
        check_sampling(self.sampling, "config.sampling.", InvalidOption)


def _range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise InvalidOption(f"Option {name} must be {bounds}; got {value}.", field=f"config.{name}")
