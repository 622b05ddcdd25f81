"""GGUF models that embed: a text in, a vector out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from backends.base import TRUNCATE, Device, InvalidInput, InvalidOption, Match, ModelInfo, Tensors, TensorSpec
from backends.gguf import file
from backends.gguf.file import POOLING_RANK, Header
from backends.gguf.pooled import PooledBackend, PooledModel, PooledOptions, Rows, Tokens, is_causal
from backends.gguf.recognition import sniff
from backends.probing import pooling_finding

Pooling = Literal["mean", "cls", "last"]

_OF_FILE: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}


class EmbeddingOptions(PooledOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a GGUF model that embeds."""

    pooling: Pooling | None = None
    """How the tokens of a text become one vector: their mean, the first or the last one; as the file says when not
    given, else the mean."""
    normalize: bool = True
    """Whether vectors are scaled to length 1."""


class GgufEmbeddingBackend(PooledBackend):
    """Input ``text`` [batch]; outputs ``embedding`` f32 [batch, size] and ``tokens`` i32 [batch], the length of each
    text in tokens."""

    name = "gguf-embedding"
    summary = "embedding models in GGUF files (.gguf)"
    Options = EmbeddingOptions

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the header."""
        return sniff(path, "embedding")

    def load(self, path: Path, device: Device, options: EmbeddingOptions) -> ModelInfo:
        """Loads the model. See `Backend.load` for the errors."""
        header = file.read_header(path)
        pooling, notes = _pooling(header, options)
        self._normalize, self._truncate = options.normalize, options.truncate
        self._loaded = loaded = PooledModel(path, header, device, options, pooling)
        self.threads = loaded.threads if device.kind == "cpu" else 0
        return ModelInfo(
            task="embedding",
            inputs=(TensorSpec("text", "string", ("batch",)),),
            outputs=(
                TensorSpec("embedding", "float32", ("batch", loaded.width)),
                TensorSpec("tokens", "int32", ("batch",)),
            ),
            optional=(TRUNCATE,),
            runtime=self.runtime(),
            device=str(device),
            metadata={**self.metadata(header), "pooling": pooling},
            findings=() if notes else (pooling_finding(pooling, options.pooling is not None),),
            notes=notes,
        )

    def example(self) -> Tensors:
        """A short sentence."""
        return {"text": np.array(["The quick brown fox jumps over the lazy dog."], dtype=object)}

    def predict(self, batch: Tensors) -> Tensors:
        """Embeds a batch. Raises `InvalidInput` for a text that is empty or too long."""
        texts, truncate = batch["text"].tolist(), self.truncates(batch)
        tokens = [
            self._tokens(text, f"Text {i}" if len(texts) > 1 else "The text", truncate[i])
            for i, text in enumerate(texts)
        ]
        rows = self.loaded.compute(tokens)
        lengths = np.array([len(t) for t in tokens], np.int32)
        return {"embedding": _normalized(rows) if self._normalize else rows, "tokens": lengths}

    def _tokens(self, text: str, name: str, truncate: bool) -> Tokens:
        """The tokens of a text; `name` is what errors call it."""
        tokens, limit = self.loaded.tokenize(text), self.loaded.length
        if not len(tokens):
            raise InvalidInput(f"{name} is empty.", field="input")
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise InvalidInput(
                f"{name} has {len(tokens)} tokens; the model takes at most {limit}. "
                "Shorten it, ask for it to be cut (truncate), or register the model with --set truncate=true.",
                field="input",
            )
        api, vocab = self.loaded.library.api, self.loaded.model.vocab
        closing = 1 if api.llama_vocab_is_control(vocab, int(tokens[-1])) else 0
        return np.concatenate([tokens[: limit - closing], tokens[len(tokens) - closing :]])


def _pooling(header: Header, options: EmbeddingOptions) -> tuple[Pooling, tuple[str, ...]]:
    """How tokens become a vector, and what of it is a guess."""
    found = header.own("pooling_type")
    if found == POOLING_RANK:
        raise InvalidOption(
            f"{header.path.name} ranks texts, and does not embed them; register it with --backend gguf-rerank.",
            field="backend",
        )
    if options.pooling == "cls" and is_causal(header):
        raise InvalidOption(
            "Option pooling=cls takes the first token of a text, which knows nothing of the others in this model; "
            f"choose one of {', '.join(p for p in get_args(Pooling) if p != 'cls')}.",
            field="config.pooling",
        )
    if options.pooling is not None:
        return options.pooling, ()
    if found in _OF_FILE:
        return _OF_FILE[found], ()
    return "mean", (
        "The file does not say how the tokens of a text become one vector; their mean is taken. "
        "Another way is chosen with --set pooling=last or --set pooling=cls.",
    )


def _normalized(rows: Rows) -> Rows:
    """The rows at length 1; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    scaled: Rows = rows / norms
    return scaled
