"""Hugging Face folders that embed: a text in, a vector out. What sentence-transformers wrote is served as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from backends.base import (
    TRUNCATE,
    BackendError,
    Device,
    InvalidOption,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
    TensorSpec,
)
from backends.probing import pooling_finding
from backends.transformers import folder as folders
from backends.transformers import pooling, weights
from backends.transformers.folder import Folder
from backends.transformers.folder_backend import FolderBackend
from backends.transformers.library import Network, check_trust
from backends.transformers.options import TextOptions
from backends.transformers.pooling import Head, Mode, Pooling
from backends.transformers.tokens import Encoded, Reader, Tokenizer, length_of

_GUESSED = (
    "The folder does not say how the tokens of a text become one vector; their mean is taken, at length 1. "
    "Another way is chosen with --set pooling=cls or --set pooling=lasttoken."
)


class TransformersEmbeddingOptions(TextOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a Hugging Face folder that embeds."""

    pooling: Mode | None = None
    """How the tokens of a text become one vector; as the folder says when not given, else their mean."""
    normalize: bool | None = None
    """Whether vectors are scaled to length 1; as the folder says when not given."""
    prompt: str | None = None
    """What is put before each text: the name of one of the folder's prompts, or the text itself."""


class TransformersEmbeddingBackend(FolderBackend, TensorBackend):
    """Input ``text`` [batch]; outputs ``embedding`` f32 [batch, size] and ``tokens`` i32 [batch], the length of each
    text in tokens."""

    name = "transformers-embedding"
    summary = "embedding models in Hugging Face folders, those of sentence-transformers among them"
    Options: ClassVar[type[msgspec.Struct]] = TransformersEmbeddingOptions

    _head: Head | None = None

    def load(self, path: Path, device: Device, options: TransformersEmbeddingOptions) -> ModelInfo:
        """Loads the model. See `Backend.load` for the errors."""
        options.check()
        whole = folders.read(path)
        folders.check_task(whole, "embedding")
        plan = _plan(whole, options)
        inner = whole if not plan.model_folder else folders.read(whole.inside(plan.model_folder))
        found = weights.find(inner)
        check_trust(whole, self.trusted)
        half = inner.config.get("is_encoder_decoder") or inner.architecture.endswith("EncoderModel")
        loader = "AutoModelForTextEncoding" if half else "AutoModel"  # of T5 and its kin, the first half
        self._network = network = Network(inner, found, loader, device, options, trusted=self.trusted)
        network.config.use_cache = False  # there is no next token
        settings = _sentence_settings(inner)
        tokenizer = Tokenizer(network.library, inner, trusted=self.trusted)
        usual = settings.get("max_seq_length")
        length = length_of(network, tokenizer, options.max_context_length, usual if isinstance(usual, int) else None)
        self._reader = Reader(tokenizer, network, length, options.truncate)
        self._lower = settings.get("do_lower_case") is True
        self._prompt = _prompt(whole, options)
        self._skipped = 0 if plan.prompt_counts or not self._prompt else _prompt_tokens(tokenizer, self._prompt)
        self._head = Head(network.library, plan.modes, plan.normalize)
        self._head.load(whole, plan, next(network.model.parameters()), trusted=self.trusted)
        self.threads = network.threads if device.kind == "cpu" else 0
        width = self._try(whole)
        network.pack(lambda: self.predict(self.example()))
        self._reader.settle(self.predict, self.example(), join=True)
        self.parallel = network.parallel
        guessed = plan.guessed and options.pooling is None
        return ModelInfo(
            task="embedding",
            inputs=(TensorSpec("text", "string", ("batch",)),),
            outputs=(TensorSpec("embedding", "float32", ("batch", width)), TensorSpec("tokens", "int32", ("batch",))),
            optional=(TRUNCATE,),
            runtime=network.library.version,
            device=str(device),
            metadata={
                "architecture": inner.architecture or inner.model_type,
                "parameters": str(found.parameters),
                "dtype": network.dtype,
                "context_length": str(length),
                "pooling": "+".join(plan.modes),
                **({"prompt": self._prompt} if self._prompt else {}),
            },
            findings=() if guessed else (pooling_finding("+".join(plan.modes), options.pooling is not None),),
            notes=(_GUESSED,) if guessed else (),
        )

    def example(self) -> Tensors:
        """A short sentence."""
        return {"text": np.array(["The quick brown fox."], dtype=object)}

    def predict(self, batch: Tensors) -> Tensors:
        """Embeds a batch. Raises `InvalidInput` for a text that is empty or too long."""
        return self._predict(batch)

    def predict_on_one_thread(self, batch: Tensors) -> Tensors:
        """As `predict`, on the thread that calls."""
        return self._predict(batch, threads=1)

    def memory(self) -> int:
        """Bytes of the weights."""
        return (self._network.nbytes if self._network else 0) + (self._head.nbytes if self._head else 0)

    def close(self) -> None:
        """Lets go of the weights."""
        if self._network is not None:
            self._network.close()
        self._network = self._head = None
        vars(self).pop("_reader", None)

    def _predict(self, batch: Tensors, threads: int | None = None) -> Tensors:
        assert self._network is not None
        self._network.use_threads(threads)
        texts = batch["text"].tolist()
        wishes = batch[TRUNCATE.name].tolist() if TRUNCATE.name in batch else [None] * len(texts)
        rows = [
            self._encode(text, f"Text {i}" if len(texts) > 1 else "The text", wish)
            for i, (text, wish) in enumerate(zip(texts, wishes, strict=True))
        ]
        parts: dict[int, Any] = {}
        for group, mask, (states,) in self._reader.compute(rows, "last_hidden_state"):
            parts.update(zip(group, self._vectors(states, mask), strict=True))
        vectors = np.stack([parts[i] for i in range(len(rows))])
        return {"embedding": vectors, "tokens": np.array([len(row) for row in rows], np.int32)}

    def _encode(self, text: str, name: str, truncate: bool | None) -> Encoded:
        text = text.strip()  # as sentence-transformers does
        if self._prompt:
            text = self._prompt + text
        return self._reader.encode(text.lower() if self._lower else text, name, truncate)

    def _vectors(self, states: Any, mask: Any) -> pooling.Vectors:
        assert self._head is not None
        if self._skipped:
            mask = mask.clone()
            mask[:, : self._skipped] = 0
        return self._head.compute(states, mask)

    def _try(self, folder: Folder) -> int:
        """The size of the vectors. Raises `ModelFileError` where the parts of the folder do not fit each other."""
        try:
            return int(self.predict(self.example())["embedding"].shape[1])
        except (BackendError, RuntimeError, AttributeError) as e:
            raise ModelFileError(f"{folder.name} does not embed a plain sentence: {e}") from e


def _plan(folder: Folder, options: TransformersEmbeddingOptions) -> Pooling:
    """How tokens become a vector: as the options say, else as the folder does."""
    plan = pooling.find(folder)
    normalize = plan.normalize or plan.guessed if options.normalize is None else options.normalize
    modes = plan.modes if options.pooling is None else (options.pooling,)
    if plan.layers and len(modes) != len(plan.modes):
        raise InvalidOption(
            f"Option pooling makes vectors of another size than the layers behind it take in {folder.name}.",
            field="config.pooling",
        )
    return Pooling(modes, plan.layers, normalize, plan.prompt_counts, plan.guessed, plan.model_folder)


def _sentence_settings(folder: Folder) -> dict[str, Any]:
    """How sentence-transformers was told to read texts; the name of the file varies with the model."""
    found = sorted(folder.path.glob("sentence_*_config.json"))
    return folder.read(found[0].name) if found else {}


def _prompt(folder: Folder, options: TransformersEmbeddingOptions) -> str:
    settings = folder.read("config_sentence_transformers.json")
    prompts = settings.get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    wanted = settings.get("default_prompt_name") if options.prompt is None else options.prompt
    if wanted is None:
        return ""
    return str(prompts.get(wanted, wanted if options.prompt is not None else ""))


def _prompt_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """How many tokens a prompt takes at the beginning of each text."""
    ids = tokenizer.encode(prompt).ids
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.inner.all_special_ids)
