"""Serves a Hugging Face folder that generates text."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from backends.base import (
    Device,
    InvalidInput,
    InvalidOption,
    ModelFileError,
    ModelInfo,
)
from backends.generation import Generation, GenerationBackend, Piece
from backends.prefix_cache import PrefixCache
from backends.prompts import bounded, chat_template_of, check_features, fitted
from backends.sampling import check_request, check_sampling, resolve, seed_of
from backends.transformers import folder as folders
from backends.transformers import weights
from backends.transformers.decoder import Decoder
from backends.transformers.folder import Folder
from backends.transformers.folder_backend import FolderBackend
from backends.transformers.grammar import Grammars
from backends.transformers.library import Network
from backends.transformers.options import TransformersOptions, at_least
from backends.transformers.prefixes import Prefixes
from backends.transformers.sampling import Sampler
from backends.transformers.scheduler import Scheduler
from backends.transformers.sequences import Request
from backends.transformers.settings import (
    SamplingOptions,
    cell_bytes,
    context_length,
    defaults_of,
    template_of,
    text_model,
)
from backends.transformers.tokens import Tokenizer
from backends.transformers.vocabulary import Vocabulary
from backends.transformers.weights import Weights

_DEFAULT_CELLS = 16384
_ONE_BY_ONE = (
    "Answers are computed one after the other in each step: the model remembers more than keys and values of tokens."
)


class TransformersGenerationOptions(TransformersOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a Hugging Face folder that generates text."""

    max_context_length: int | None = None
    """Tokens of one sequence, prompt and answer together; as many as the model was trained for, up to 8192, when not
    given."""
    sequences: int = 16
    """Answers that are generated at once; more wait."""
    cache_tokens: int | None = None
    """Tokens that are remembered of all sequences together, each counted as long as the longest; 16384 when not given,
    and at least one sequence's. Sequences that find no room wait."""
    prefix_cache: bool = True
    """Whether prompts are spared the part that they have in common with earlier ones."""
    prefix_cache_mb: int | None = None
    """Memory for that; as much as two sequences of full length take when not given."""
    chat_template: str | None = None
    """In Jinja, or the path of a file; the model's own when not given."""
    sampling: SamplingOptions = SamplingOptions()

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        super().check()
        at_least("max_context_length", self.max_context_length, 16)
        at_least("sequences", self.sequences, 1)
        at_least("cache_tokens", self.cache_tokens, 16)
        at_least("prefix_cache_mb", self.prefix_cache_mb, 1)
        if self.sequences > 128:
            raise InvalidOption(
                f"Option sequences must be at most 128; got {self.sequences}.", field="config.sequences"
            )


class TransformersBackend(FolderBackend, GenerationBackend):
    """Owns a model, and the scheduler of what it computes."""

    name = "transformers"
    summary = "language models in Hugging Face folders (config.json, safetensors)"
    Options: ClassVar[type[msgspec.Struct]] = TransformersGenerationOptions

    _vocabulary: Vocabulary
    _grammars: Grammars
    _decoder: Decoder | None = None
    _scheduler: Scheduler | None = None
    _cache: PrefixCache | None = None
    _length: int
    """Tokens of one sequence."""

    def load(self, path: Path, device: Device, options: TransformersGenerationOptions) -> ModelInfo:
        """Loads the model. See `Backend.load` for the errors."""
        options.check()
        folder = folders.read(path)
        folders.check_task(folder, "generation")
        template = chat_template_of(options.chat_template)
        found = weights.find(folder)
        self._length, notes = context_length(folder, options.max_context_length)
        cells = max(options.cache_tokens or _DEFAULT_CELLS, self._length)
        dtype = options.dtype if options.dtype != "auto" else "float32" if device.kind == "cpu" else found.dtype
        cell = cell_bytes(folder, dtype)
        prefixes = _prefix_bytes(cell, self._length, options)
        more = cell * cells + prefixes
        self._network = network = Network(
            folder, found, "AutoModelForCausalLM", device, options, trusted=self.trusted, more_bytes=more
        )
        if not network.model.can_generate():
            raise ModelFileError(f"{folder.name} cannot generate text: {type(network.model).__name__} does not.")
        tokenizer = Tokenizer(network.library, folder, trusted=self.trusted)
        size = int(network.config.get_text_config().vocab_size)
        self._vocabulary = vocabulary = Vocabulary(tokenizer, size, network.config, network.model.generation_config)
        self._grammars = Grammars(vocabulary)
        self._defaults = defaults_of(folder, options.sampling)
        self._decoder = decoder = Decoder(network, vocabulary.vocab_size)
        network.pack(decoder.answer)
        self._cache = PrefixCache(prefixes if decoder.batches else 0)  # recurrent models begin anew with each part
        shared = Prefixes(self._cache, decoder) if self._cache.capacity else None
        self._scheduler = Scheduler(decoder, vocabulary, options.sequences, cells, shared)
        self.threads = network.threads if device.kind == "cpu" else 0
        if not decoder.batches:
            notes = (*notes, _ONE_BY_ONE)
        return self._info(folder, found, device, options, template or template_of(tokenizer.inner), notes)

    def _info(
        self,
        folder: Folder,
        found: Weights,
        device: Device,
        options: TransformersGenerationOptions,
        template: str | None,
        notes: tuple[str, ...],
    ) -> ModelInfo:
        network = self._loaded
        return text_model(
            folder,
            found,
            self._vocabulary,
            template,
            length=self._length,
            sequences=options.sequences,
            quantization=network.dtype,
            runtime=network.library.version,
            device=device,
            metadata={"dtype": network.dtype},
            notes=notes,
        )

    def memory(self) -> int:
        """Of the weights, of the keys and values, and of cached prefixes."""
        owners = (self._network, self._decoder)
        held: list[int] = [owner.nbytes for owner in owners if owner is not None]
        return sum(held) + (self._cache.size if self._cache is not None else 0)

    def add(self, request_id: int, request: Generation) -> None:
        vocabulary = self._vocabulary
        check_request(request, vocabulary.vocab_size)
        check_features(request, self.name)
        request = bounded(request, self._length, lambda: vocabulary.longest_token)
        prompt = fitted(vocabulary.prompt_of(request), request, self._length, vocabulary.bos)
        limit = self._length
        if request.max_tokens is not None:
            limit = min(limit, len(prompt) + request.max_tokens)
        chosen = resolve(request.sampling, self._defaults)
        check_sampling(chosen, "", InvalidInput)
        banned = vocabulary.end_tokens if request.ignore_eos else None
        grammar = None
        if request.grammar is not None:
            grammar = self._grammars.follower(request.grammar, request.keep_special)

        def make_sampler(choice: int) -> Sampler:
            seed = seed_of(request.sampling, choice)
            own = None if grammar is None else grammar.copied()
            return Sampler(chosen, seed=seed, logit_bias=request.sampling.logit_bias, banned=banned, grammar=own)

        self._schedule.add(Request(request_id, request, prompt, limit, make_sampler))

    def step(self) -> list[Piece]:
        with self._loaded.torch.inference_mode():
            return self._schedule.step()

    def cancel(self, request_id: int) -> None:
        with self._loaded.torch.inference_mode():
            self._schedule.cancel(request_id)

    @property
    def busy(self) -> bool:
        return self._schedule.busy

    def count(self, request: Generation) -> int:
        check_features(request, self.name)
        return len(self._vocabulary.prompt_of(request))

    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        return self._vocabulary.begun(self._vocabulary.tokenize(text), add_bos and self._vocabulary.wants_bos)

    def close(self) -> None:
        """Lets go of the weights and of everything that was computed."""
        self._scheduler = self._decoder = self._cache = None
        if self._network is not None:
            self._network.close()
        self._network = None

    @property
    def _loaded(self) -> Network:
        assert self._network is not None, "load comes first"
        return self._network

    @property
    def _schedule(self) -> Scheduler:
        assert self._scheduler is not None, "load comes first"
        return self._scheduler


def _prefix_bytes(cell: int, length: int, options: TransformersGenerationOptions) -> int:
    if not options.prefix_cache:
        return 0
    return 2 * length * cell if options.prefix_cache_mb is None else options.prefix_cache_mb * 1_000_000
