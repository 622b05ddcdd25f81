"""GGUF models that rank: a query and a text in, a score out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from backends.base import TRUNCATE, Device, InvalidInput, InvalidOption, Match, ModelInfo, Tensors, TensorSpec
from backends.gguf import file
from backends.gguf.file import POOLING_RANK
from backends.gguf.library import text_of
from backends.gguf.pooled import PooledBackend, PooledModel, PooledOptions, Tokens
from backends.gguf.recognition import sniff

_PLACE = re.compile(r"\{query\}|\{document\}")
"""Places in a template that tells how a pair is laid out."""


class RerankOptions(PooledOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a GGUF model that ranks."""


class GgufRerankBackend(PooledBackend):
    """Inputs ``query`` [batch] and ``text`` [batch]; outputs ``score`` f32 [batch], higher for a text that answers its
    query better, and ``tokens`` i32 [batch], the length of each pair in tokens."""

    name = "gguf-rerank"
    summary = "reranking models in GGUF files (.gguf)"
    Options = RerankOptions

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By the header."""
        return sniff(path, "rerank")

    def load(self, path: Path, device: Device, options: RerankOptions) -> ModelInfo:
        """Loads the model. See `Backend.load` for the errors."""
        header = file.read_header(path)
        if header.own("pooling_type") != POOLING_RANK or not any(t.name.startswith("cls.") for t in header.tensors):
            raise InvalidOption(
                f"{path.name} has nothing that scores pairs of texts; "
                f"register it with --backend {'gguf-embedding' if file.kind(header) == 'embedding' else 'gguf'}.",
                field="backend",
            )
        self._truncate = options.truncate
        self._loaded = loaded = PooledModel(path, header, device, options, "rank")
        self._template = text_of(loaded.library.api.llama_model_chat_template(loaded.model.handle, b"rerank"))
        self.threads = loaded.threads if device.kind == "cpu" else 0
        return ModelInfo(
            task="rerank",
            inputs=(TensorSpec("query", "string", ("batch",)), TensorSpec("text", "string", ("batch",))),
            outputs=(TensorSpec("score", "float32", ("batch",)), TensorSpec("tokens", "int32", ("batch",))),
            optional=(TRUNCATE,),
            runtime=self.runtime(),
            device=str(device),
            metadata=self.metadata(header),
        )

    def example(self) -> Tensors:
        """A question and its answer."""
        return {
            "query": np.array(["What is the capital of France?"], dtype=object),
            "text": np.array(["Paris is the capital of France."], dtype=object),
        }

    def predict(self, batch: Tensors) -> Tensors:
        """Scores pairs. Raises `InvalidInput` for one that is too long."""
        pairs = list(zip(batch["query"].tolist(), batch["text"].tolist(), strict=True))
        truncate = self.truncates(batch)
        tokens = [
            self._tokens(*pair, f"text {i}" if len(pairs) > 1 else "text", truncate[i]) for i, pair in enumerate(pairs)
        ]
        rows = self.loaded.compute(tokens)
        return {"score": rows[:, 0].copy(), "tokens": np.array([len(t) for t in tokens], np.int32)}

    def _tokens(self, query: str, text: str, name: str, truncate: bool) -> Tokens:
        """The tokens of a pair; `name` is what errors call its text."""
        limit = self.loaded.length
        tokens = self._join(query, text)
        if len(tokens) > limit and not truncate:
            raise InvalidInput(
                f"The query and {name} have {len(tokens)} tokens together; the model takes at most {limit}. "
                "Shorten one of them, ask for the text to be cut (truncate), or register the model with "
                "--set truncate=true.",
                field="input",
            )
        parts = self.loaded.tokenize(text, complete=False).tolist() if len(tokens) > limit else []
        while len(tokens) > limit:
            if not parts:
                raise InvalidInput(
                    f"The query alone has {len(tokens)} tokens; the model takes at most {limit}.", field="input.query"
                )
            parts = parts[: max(0, len(parts) - (len(tokens) - limit))]
            tokens = self._join(query, self.loaded.model.detokenize(parts))
        return tokens

    def _join(self, query: str, text: str) -> Tokens:
        """The pair as the model was trained on it: by its template, else with the special tokens of its vocabulary."""
        tokenize = self.loaded.tokenize
        if self._template:
            values = {"{query}": query, "{document}": text}
            prompt = _PLACE.sub(lambda place: values[place[0]], self._template)
            return tokenize(prompt, special=True, complete=False)
        api, vocab = self.loaded.library.api, self.loaded.model.vocab
        separator = api.llama_vocab_sep(vocab)
        end = api.llama_vocab_eos(vocab)
        end = separator if end < 0 else end
        begins = [api.llama_vocab_bos(vocab)] if api.llama_vocab_get_add_bos(vocab) else []
        ends = [end] if api.llama_vocab_get_add_eos(vocab) else []
        separates = [separator] if api.llama_vocab_get_add_sep(vocab) else []
        closes = ends or (separates if api.llama_vocab_type(vocab) == api.LLAMA_VOCAB_TYPE_WPM else [])
        parts = (begins, tokenize(query, complete=False), ends, separates, tokenize(text, complete=False), closes)
        return np.concatenate([np.asarray(part, np.int32) for part in parts])
