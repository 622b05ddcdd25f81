"""``options`` of a request, and ``parameters`` of a new model: Ollama's names for how tokens are chosen."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backends.generation import Sampling
from engine.errors import InvalidInput
from engine.settings import nearest
from engine.transport.generation import GenerateRequest

_LARGEST = 2**31 - 1

Share = Annotated[float, Meta(ge=0, le=1)]


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Those that a request may have. What is not given is the model's default."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=_LARGEST)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    repeat_penalty: Annotated[float, Meta(gt=0)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=_LARGEST)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    """-1 is a new one each time."""
    stop: str | list[str] | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=_LARGEST)] | None = None
    """-1 and -2: up to the end of the context."""
    num_ctx: Annotated[int, Meta(ge=1)] | None = None
    """Tokens of context that are needed; the model must have as many."""
    mirostat: Annotated[int, Meta(ge=0, le=0)] | None = None
    """0 alone: there is no Mirostat."""


SAMPLING = tuple(f.name for f in msgspec.structs.fields(Options) if f.name in Sampling.__struct_fields__)
"""The options that are also fields of `Sampling`."""

LOADING = {
    "num_gpu": "gpu_layers",
    "num_thread": "threads",
    "num_batch": "batch_tokens",
    "main_gpu": "main_gpu",
    "use_mmap": "mmap",
    "use_mlock": "mlock",
}
"""Options of Ollama that are options of a registered model here."""

_UNKNOWN = (
    "f16_kv",
    "low_vram",
    "numa",
    "logits_all",
    "vocab_only",
    "embedding_only",
    "num_keep",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
    "tfs_z",
    "draft_num_predict",
)
"""Options of Ollama that have no equal."""


def read(given: dict[str, Any] | None, field: str = "options") -> Options:
    """The options, checked. Raises `InvalidInput` that names the one at fault."""
    options = {name: value for name, value in (given or {}).items() if value is not None}
    for name in options:
        if name in LOADING:
            raise InvalidInput(
                f"{name} is set when a model is registered: unimodel register --set {LOADING[name]}=…",
                field=f"{field}.{name}",
            )
        if name in _UNKNOWN:
            raise InvalidInput(f"{name} is not supported; leave it out.", field=f"{field}.{name}")
        if name not in Options.__struct_fields__:
            raise InvalidInput(
                f"There is no option {name[:60]!r}.{nearest(name, Options.__struct_fields__)}", field=f"{field}.{name}"
            )
    try:
        return msgspec.convert(options, Options)
    except msgspec.ValidationError as e:
        problem, _, where = str(e).partition(" - at `$.")
        name = where.rstrip("`")
        raise InvalidInput(f"{name}: {problem[0].lower()}{problem[1:]}.", field=f"{field}.{name}") from None


def apply(options: Options, request: GenerateRequest, context_length: int) -> None:
    """Puts the options into a request. Raises `InvalidInput` for more context than the model has."""
    if options.num_ctx is not None and options.num_ctx > context_length:
        raise InvalidInput(
            f"num_ctx is {options.num_ctx}, and the model's context has {context_length} tokens. "
            "Register it with a longer one: unimodel register --set max_context_length=…",
            field="options.num_ctx",
        )
    if options.num_predict == 0:
        raise InvalidInput("num_predict must be at least 1, or -1 for no limit.", field="options.num_predict")
    if options.num_predict is not None and options.num_predict > 0:
        request.max_tokens = options.num_predict
    seed = None if options.seed == -1 else options.seed
    request.sampling = Sampling(**{name: getattr(options, name) for name in SAMPLING if name != "seed"}, seed=seed)
    request.stop = stops(options)


def stops(options: Options) -> list[str]:
    """The texts that end an answer."""
    texts = [options.stop] if isinstance(options.stop, str) else options.stop or []
    if "" in texts:
        raise InvalidInput("A stop text must not be empty.", field="options.stop")
    return texts
