"""Serves a GGUF model that generates text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from backends.base import (
    BackendError,
    Build,
    Device,
    GenerationInfo,
    InvalidInput,
    Match,
    ModelFileError,
    ModelInfo,
    OutOfMemory,
)
from backends.generation import Generation, GenerationBackend, Piece
from backends.gguf import file, memory
from backends.gguf.context import Settings
from backends.gguf.draft import DraftGuesser, DraftModel
from backends.gguf.images import Image
from backends.gguf.library import build, check_device, library
from backends.gguf.model import Model
from backends.gguf.options import GgufOptions
from backends.gguf.pools import Pools
from backends.gguf.prefixes import Prefixes
from backends.gguf.projector import Projector
from backends.gguf.projector_file import Eyes, eyes_of
from backends.gguf.prompts import prompt_of, untruncated
from backends.gguf.recognition import sniff
from backends.gguf.rehearsal import rehearse
from backends.gguf.sampling import Candidates, Sampler
from backends.gguf.scheduler import TILE, Scheduler
from backends.gguf.sequences import Group, Request
from backends.gguf.speculation import MOST, Guesser, Guessing
from backends.prefix_cache import PrefixCache
from backends.prompts import chat_template_of
from backends.sampling import check_request, check_sampling, resolve, seed_of

_DEFAULT_CONTEXT = 8192
_SHORT = 1024
"""Tokens of a slot for a short sequence."""
_LONG_TOTAL = 16384
"""Tokens of all slots for long sequences together."""


class GgufBackend(GenerationBackend):
    """Owns a model, its context, and the scheduler of what runs in it."""

    name = "gguf"
    summary = "large language models in GGUF files (.gguf)"
    package = "llama_cpp"
    extra = "gguf"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    Options = GgufOptions

    _model: Model | None = None
    _pools: Pools | None = None
    _scheduler: Scheduler | None = None
    _cache: PrefixCache | None = None
    _draft: DraftModel | None = None
    _projector: Projector | None = None
    _candidates: Candidates
    _options: GgufOptions
    _length: int
    """Tokens of one sequence."""

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the header: models that embed or rank are another backend's."""
        return sniff(path, "generation")

    @classmethod
    def build(cls) -> Build:
        """By the libraries of llama.cpp."""
        return build()

    @classmethod
    def parts(cls, source: Path) -> tuple[Path, ...]:
        """By the names of the files."""
        return file.parts(source)

    def load(self, path: Path, device: Device, options: GgufOptions) -> ModelInfo:
        """Loads the weights and makes room for the sequences. See `Backend.load` for the errors."""
        options.check()
        header = _header(path)
        llama = library()
        check_device(llama.api, device)
        length = _context_length(options, int(header.own("context_length") or 0))
        settings = _settings(length, device, options)
        prefixes = _prefix_bytes(header, length, options)
        needed = memory.need(header, settings, header.length("tokenizer.ggml.tokens") or 0, prefixes)
        if options.draft_model is not None:
            draft = _header(Path(options.draft_model).expanduser())
            needed += memory.need(draft, settings[:1], draft.length("tokenizer.ggml.tokens") or 0, 0)
        eyes = eyes_of(path, options.mmproj)
        try:
            memory.check(dataclasses.replace(needed, images=eyes.bytes), device, path.name)
        except OutOfMemory as e:
            if not eyes.found:
                raise
            memory.check(needed, device, path.name)
            eyes = eyes.unused(e)
        try:
            self._open(path, device, options, settings, prefixes)
            eyes = self._open_projector(path, device, settings[0].threads, eyes)
        except BaseException:
            self.close()
            raise
        self.threads = settings[0].threads if device.kind == "cpu" else 0
        if self._projector is not None:
            needed = dataclasses.replace(needed, images=eyes.bytes)
        return self._info(device, options, needed, eyes.note)

    def _open(self, path: Path, device: Device, options: GgufOptions, settings: list[Settings], prefixes: int) -> None:
        llama = library()
        self._model = model = Model(llama, path, device, options)
        if model.reads_only:
            raise ModelFileError(
                f"{path.name} is of the architecture {model.metadata('general.architecture')}, which is not supported: "
                "only models that go on with a text are."
            )
        for name, adapter in options.lora.items():
            source = Path(adapter).expanduser()
            file.read_header(source)
            model.load_adapter(name, source)
        self._pools = pools = Pools(model, settings)
        self._options = options
        self._length = pools.longest
        self._cache = PrefixCache(prefixes, whole=not model.cuttable)
        shared = Prefixes(self._cache, cuttable=model.cuttable) if options.prefix_cache else None
        self._scheduler = Scheduler(model, pools, shared, self._guessers(device, options, settings))
        self._candidates = Candidates(model.api, model.vocab_size)

    def _open_projector(self, path: Path, device: Device, threads: int, eyes: Eyes) -> Eyes:
        """Loads the projector, if there is one. One that was only found is left out when it does not fit."""
        if eyes.path is None:
            return eyes
        model = self._loaded
        try:
            rehearse(eyes.path, path, threads)
            self._projector = Projector(
                model.library, eyes.path, model.handle, threads=threads, gpu=device.kind == "cuda"
            )
        except BackendError as e:
            if not eyes.found:
                raise
            return eyes.unused(e)
        return eyes

    def _guessers(
        self, device: Device, options: GgufOptions, settings: list[Settings]
    ) -> Callable[[], Guessing] | None:
        """What makes a guesser for a sequence; `None` when nothing is to be guessed."""
        model = self._loaded
        if options.speculation == "off" or not model.cuttable:
            return None
        if options.draft_model is None:
            return Guesser
        path = Path(options.draft_model).expanduser()
        self._draft = draft = DraftModel(model.library, path, device, model, settings[0])
        return lambda: DraftGuesser(draft)

    def _info(self, device: Device, options: GgufOptions, needed: memory.Need, note: str) -> ModelInfo:
        model = self._loaded
        template = chat_template_of(options.chat_template) or model.chat_template
        notes = [f"Memory: {needed}.", *([note] if note else [])]
        if template is None:
            notes.append("The file has no chat template, so it is served for completion. Give one with chat_template.")
        generation = GenerationInfo(
            context_length=self._length,
            sequences=options.sequences,
            chat_template=template,
            bos=model.text(model.bos),
            eos=model.text(model.eos),
            images=self._projector is not None,
            infill=model.infill is not None,
            adapters=model.adapters,
            parameters=model.parameters,
            quantization=model.quantization,
            architecture=model.metadata("general.architecture") or "",
        )
        return ModelInfo(
            task="completion" if template is None else "chat",
            batchable=False,
            unbatched_reason="Answers are generated token by token, all sequences together (continuous batching).",
            streams=True,
            generation=generation,
            runtime=f"llama.cpp ({model.library.version})",
            device=str(device),
            metadata=_metadata(model),
            notes=tuple(notes),
        )

    def memory(self) -> int:
        """Of the weights, of all contexts, of the projector, and of cached prefixes."""
        contexts = self._pools.open if self._pools else ()
        owners = (self._model, *contexts, self._draft, self._projector)
        held: list[int] = [owner.held for owner in owners if owner is not None]
        return sum(held) + (self._cache.size if self._cache else 0)

    def add(self, request_id: int, request: Generation) -> None:
        model = self._loaded
        check_request(request, model.vocab_size)
        prompt, images = prompt_of(request, model, self._projector, self._length)
        self._check_images(images)
        limit = self._length
        if request.max_tokens is not None:
            limit = min(limit, len(prompt) + request.max_tokens)
        chosen = resolve(request.sampling, self._options.sampling)
        check_sampling(chosen, "", InvalidInput)
        banned = model.end_tokens if request.ignore_eos else None

        def make_sampler(choice: int) -> Sampler:
            return Sampler(
                model,
                self._candidates,
                chosen,
                seed=seed_of(request.sampling, choice),
                logit_bias=request.sampling.logit_bias,
                banned=banned,
                grammar=request.grammar,
            )

        group = _group(request, model)
        self._schedule.add(Request(request_id, request, prompt, group, limit, make_sampler, images))

    def step(self) -> list[Piece]:
        return self._schedule.step()

    def cancel(self, request_id: int) -> None:
        self._schedule.cancel(request_id)

    @property
    def busy(self) -> bool:
        return self._schedule.busy

    def count(self, request: Generation) -> int:
        return len(untruncated(request, self._loaded, self._projector)[0])

    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        model = self._loaded
        tokens = model.tokenize(text)
        begins = [model.bos] if add_bos and model.wants_bos and model.bos >= 0 else []
        return tokens if tokens[:1] == begins else begins + tokens

    def close(self) -> None:
        """Frees the samplers, the contexts, the projector and the model, in this order: each needs the next."""
        for part in (self._scheduler, self._draft, self._pools, self._projector, self._model):
            if part is not None:
                part.close()
        self._scheduler = self._draft = self._pools = self._projector = self._model = self._cache = None

    @property
    def _loaded(self) -> Model:
        assert self._model is not None, "load comes first"
        return self._model

    @property
    def _schedule(self) -> Scheduler:
        assert self._scheduler is not None, "load comes first"
        return self._scheduler

    def _check_images(self, images: tuple[Image, ...]) -> None:
        """Raises `InvalidInput` for an image that must be computed in one call, and is too large for that."""
        most = self._pools.batch_tokens if self._pools else 0
        largest = max((image.count for image in images if image.whole), default=0)
        if largest > most:
            raise InvalidInput(
                f"This model takes the {largest} tokens of an image at once, and may take {most}. Register it with a "
                "larger batch_tokens.",
                field="images",
            )


def _header(path: Path) -> file.Header:
    """The header of a model. Raises `ModelFileError`, also for files that only go with a model."""
    header = file.read_header(path)
    hints = {
        "adapter": "is a LoRA adapter; register the model that it is for, and name it there with the option lora.",
        "mmproj": "turns images into a model's input; register the model itself.",
        "imatrix": "tells how to quantize a model; register the model itself.",
    }
    hint = hints.get(str(header.metadata.get("general.type")))
    if hint is not None:
        raise ModelFileError(f"{path.name} {hint}")
    return header


def _group(request: Generation, model: Model) -> Group:
    """The adapters that a request wants, without those that have no strength."""
    wanted = request.adapters or dict.fromkeys(model.adapters, 1.0)
    unknown = sorted(set(wanted) - set(model.adapters))
    if unknown:
        known = f"It has {', '.join(model.adapters)}." if model.adapters else "It has none."
        raise InvalidInput(f"This model has no adapter {unknown[0]!r}. {known}", field="adapters")
    if not all(np.isfinite(strength) for strength in wanted.values()):
        raise InvalidInput("The strength of an adapter must be a number.", field="adapters")
    return tuple(sorted((name, strength) for name, strength in wanted.items() if strength))


def _context_length(options: GgufOptions, trained: int) -> int:
    return options.max_context_length or min(trained or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)


def _settings(length: int, device: Device, options: GgufOptions) -> list[Settings]:
    """The contexts for short sequences and for long ones, or the one for all."""
    batch = max(options.batch_tokens, 2 * TILE, options.sequences + MOST)
    short = Settings(
        sequences=options.sequences,
        length=min(length, _SHORT),
        batch_tokens=batch,
        outputs=options.sequences + MOST,
        threads=options.threads or max(1, device.threads),
        kv_type=options.kv_type,
        flash_attention=options.flash_attention,
        rope_freq_base=options.rope_freq_base or 0.0,
        rope_freq_scale=options.rope_freq_scale or 0.0,
    )
    count = min(options.long_sequences or max(1, _LONG_TOTAL // length), options.sequences)
    if length <= _SHORT:
        return [short]
    if count == options.sequences:
        return [dataclasses.replace(short, length=length)]
    return [short, dataclasses.replace(short, length=length, sequences=count, outputs=count + MOST)]


def _prefix_bytes(header: file.Header, length: int, options: GgufOptions) -> int:
    if not options.prefix_cache:
        return 0
    if options.prefix_cache_mb is not None:
        return options.prefix_cache_mb * 1_000_000
    return 2 * length * memory.bytes_per_token(header, options.kv_type)


def _metadata(model: Model) -> dict[str, str]:
    keys = {
        "name": "general.name",
        "size": "general.size_label",
        "license": "general.license",
        "finetune": "general.finetune",
    }
    found = {name: model.metadata(key) for name, key in keys.items()}
    return {"description": model.description} | {name: value for name, value in found.items() if value}
