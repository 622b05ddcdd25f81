"""The contract between the engine and a model that generates text: what is asked of it, and what comes back.

The engine adds requests, calls `GenerationBackend.step` as long as any is under way, and may cancel them in between.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.base import StepBackend, StepPiece

Pixels = NDArray[np.uint8]
"""A decoded image: [height, width, 3], red, green and blue, upright."""


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the tokens of an answer are chosen. `None` is the model's own default, which its options may set."""

    temperature: float | None = None
    """0 is greedy: always the likeliest token."""
    top_k: int | None = None
    """0 keeps all."""
    top_p: float | None = None
    """1 keeps all."""
    min_p: float | None = None
    """Least probability, as a share of the likeliest token's; 0 keeps all."""
    typical_p: float | None = None
    """1 keeps all."""
    repeat_penalty: float | None = None
    """Divides the logits of tokens that were there lately; 1 does nothing."""
    repeat_last_n: int | None = None
    """Tokens that the penalties look back on; -1 is the whole context."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = {}
    """Added to the logits, by token."""
    seed: int | None = None
    """The same seed gives the same answer; without one, each is different."""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One request for generated text, as a `GenerationBackend` takes it. Templates have been applied."""

    prompt: str | tuple[int, ...]
    """Text, in which special tokens are read as such, or tokens."""
    add_bos: bool = True
    """Whether a text gets the token that begins a prompt, where the model wants one; a chat template writes its own."""
    suffix: str | None = None
    """The text after the gap that is to be filled; only when `GenerationInfo.infill`."""
    images: tuple[Pixels, ...] = ()
    """One for each `IMAGE` in the prompt; only when `GenerationInfo.images`."""
    sampling: Sampling = Sampling()
    choices: int = 1
    """Answers wanted; each is a sequence of its own."""
    max_tokens: int | None = None
    """Up to the end of the context when not given."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, and are not part of it."""
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    """Whether the model's own end of answer is never chosen."""
    keep_special: bool = False
    """Whether control tokens that the model generates appear in the text, as formats of tool calls may need."""
    logprobs: int | None = None
    """Alternatives reported with each token; 0 reports the token alone, `None` nothing."""
    grammar: str | None = None
    """In GBNF; the answer follows its rule ``root``."""
    truncate: bool = False
    """Whether a prompt that is too long loses its beginning, instead of being an error."""
    adapters: dict[str, float] = {}
    """Strength of LoRA adapters, by name."""


IMAGE = "<__image__>"
"""Marks the place of an image in a prompt."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token and the logarithm of its probability, before temperature and the like."""

    token: int
    text: bytes
    """Its bytes, which alone may not be valid UTF-8."""
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest alternatives, best first; they have none of their own."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one choice cost."""

    prompt_tokens: int
    cached_tokens: int = 0
    """Of the prompt, those that were computed for an earlier request."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the answer, those of what the model thought. The engine counts them, as it tells thoughts from the rest."""
    draft_tokens: int = 0
    """Guessed by speculation."""
    accepted_tokens: int = 0
    """Of the guessed, those that were right."""
    prompt_seconds: float = 0.0
    """From admission to the first token."""
    generation_seconds: float = 0.0
    """From the first token to the last."""


class Piece(StepPiece, kw_only=True):
    """What one step added to one choice. Its text is whole characters, and never part of a stop text. An error ends all
    choices of the request."""

    choice: int = 0
    text: str = ""
    tokens: int = 0
    """How many were generated."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens whose text is complete with this piece."""
    finish: Literal["stop", "length"] | None = None
    """Why this was the last piece of the choice."""
    stop_text: str | None = None
    """The entry of `Generation.stop` that ended it; `None` when the model ended by itself."""
    usage: Usage | None = None
    """With `finish`."""


class GenerationBackend(StepBackend[Generation, Piece]):
    """A model that generates text, for many requests at once. A choice takes a sequence; a step takes tens of
    milliseconds.

    `load` returns a `ModelInfo` with `generation`.
    """

    def example(self) -> Generation:
        """Two tokens, chosen greedily."""
        return Generation(prompt="Hello", sampling=Sampling(temperature=0), max_tokens=2, ignore_eos=True)

    @abstractmethod
    def count(self, request: Generation) -> int:
        """How many tokens the prompt of a request has, as `add` would take it. Raises `InvalidInput`."""

    @abstractmethod
    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        """The tokens of a text, as `add` would take it."""
