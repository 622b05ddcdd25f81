"""Grammars as answers of Hugging Face folders are held to them, over the tokens of a real model."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from backends.transformers.grammar import Grammars
from backends.transformers.vocabulary import Vocabulary
from tests import models_transformers


@cache
def vocabulary() -> Vocabulary:
    """SmolLM2's: bytes that tokens were made of by merging."""
    import transformers

    class Tokens:
        inner: Any = transformers.AutoTokenizer.from_pretrained(models_transformers.smollm2())

    return Vocabulary(Tokens(), len(Tokens.inner), None, None)  # type: ignore[arg-type]


@cache
def _grammars() -> Grammars:
    return Grammars(vocabulary())


class GuidedGrammar:
    """One grammar. Raises `InvalidInput` when it cannot be followed."""

    def __init__(self, source: str) -> None:
        self._start = _grammars().follower(source, keep_special=False)

    def matches(self, text: str) -> bool:
        """Whether a model could write exactly this text and then end."""
        follower = self._start.copied()
        for token in vocabulary().tokenize(text):
            if not follower.allows(token):
                return False
            follower.accept(token)
        logits = np.zeros(vocabulary().vocab_size, np.float32)
        follower.restrict(logits)
        return bool(logits[vocabulary().eos] == 0)
