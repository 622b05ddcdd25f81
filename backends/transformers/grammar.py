"""Holding answers to grammars: which tokens may come next, by llguidance."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.base import InvalidInput, MissingRuntime
from backends.sampling import Logits
from backends.transformers.gbnf import to_lark
from backends.transformers.vocabulary import Vocabulary

_LIMITS: dict[str, Any] = {
    "max_grammar_size": 1_000_000,
    "initial_lexer_fuel": 10_000_000,
    "step_lexer_fuel": 3_000_000,
    "step_max_items": 1_000_000,
    "max_items_in_row": 4_000,
    "max_lexer_states": 50_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""Tenths of a second for a token, a second for a grammar and 100 MB, as a rule. The library's own limits of a step
suit grammars with long lexemes and vocabularies of 50,000 tokens."""


class Grammars:
    """Makes followers of grammars for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def follower(self, source: str, keep_special: bool) -> Follower:
        """For a grammar in GBNF. With `keep_special`, the texts of control tokens count. Raises `InvalidInput`."""
        library = _library()
        tokens = self._with_control if keep_special else self._plain
        grammar = library.LLMatcher.grammar_from_lark(_lark(source))
        matcher = library.LLMatcher(tokens, grammar, log_level=0, limits=library.LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise InvalidInput(f"The grammar cannot be followed: {_reason(matcher)}.", field="grammar")
        return Follower(matcher, self._vocabulary.vocab_size)

    @functools.cached_property
    def _plain(self) -> Any:
        return self._tokenizer(False)

    @functools.cached_property
    def _with_control(self) -> Any:
        return self._tokenizer(True)

    def _tokenizer(self, control: bool) -> Any:
        """The vocabulary as llguidance wants it. A token behind all others ends answers where none of its own does."""
        library, vocabulary = _library(), self._vocabulary
        ends = vocabulary.end_tokens.tolist() or [vocabulary.vocab_size]
        silent = sorted({*ends, *(vocabulary.framing_tokens if control else vocabulary.special_tokens)})
        tokens = [vocabulary.token_bytes(token, control) for token in range(vocabulary.vocab_size)]
        for token in silent:
            tokens[token : token + 1] = [b"<end>"]  # the text of a special token matches nothing
        wrapped = library.TokenizerWrapper(_Tokens(tokens, ends[0], silent, vocabulary))
        return library.LLTokenizer(wrapped, n_vocab=len(tokens), eos_token=ends)


class Follower:
    """Where one answer is in a grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def copied(self) -> Follower:
        """Another one at the same place."""
        return Follower(self._matcher.deep_copy(), self._vocab_size)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. Once nothing but an end may, only `restrict` knows."""
        return bool(self._matcher.validate_tokens([token]))

    def restrict(self, logits: Logits) -> None:
        """Rules out all tokens that may not come next. Raises `InvalidInput` when it takes too long to find them."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        logits[~allowed] = -np.inf

    def accept(self, token: int) -> None:
        """Goes on behind `token`, which is allowed."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidInput(
                f"The grammar cannot be followed any further: {_reason(self._matcher)}. Write it so that fewer of its "
                "rules fit the same text.",
                field="grammar",
            )


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], end: int, special: Sequence[int], vocabulary: Vocabulary) -> None:
        self.tokens = tokens
        self.eos_token_id = end
        self.special_token_ids = special
        self._vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text)


@functools.lru_cache(maxsize=64)
def _lark(source: str) -> str:
    """Clients send the same grammars again and again."""
    return to_lark(source)


def _reason(matcher: Any) -> str:
    """What llguidance says of an error, which is several lines for those that know it."""
    text: str = matcher.get_error().strip()
    if not text or text.startswith("panic"):
        return "it is too large"
    return text.splitlines()[0].removeprefix("parser error: ").split("; ")[0].split(", try")[0].rstrip(".")[:200]


def _library() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError:
        raise MissingRuntime("llguidance", "transformers") from None
    return llguidance
