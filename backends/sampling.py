"""What all backends that generate text do alike when they choose tokens: defaults, bias, penalties, probabilities.

All of it is NumPy on the logits of one token.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.base import BackendError, InvalidInput
from backends.generation import Generation, Sampling, TokenLogprob

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]
ReadToken = Callable[[int, bool], bytes]
"""The text of a token; the second argument says whether special ones have any."""

COLD = 1e-4
"""A lower temperature is none: logits divided by it are no numbers any more."""
_SEEDS = 2**32 - 1
"""llama.cpp takes the last one for a wish to be random."""


class DeadEnd(Exception):
    """No token may come next: the grammar has no way to go on."""


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tokens are chosen where a request does not say."""

    temperature: float = 0.8
    """0 is greedy: always the likeliest token."""
    top_k: int = 40
    """0 keeps all."""
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """Tokens that the penalties look back on; -1 is the whole context."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


def check_sampling(sampling: SamplingDefaults | Sampling, prefix: str, error: type[BackendError]) -> None:
    """Raises `error` for a value that is out of range; `prefix` and the value's name make its `field`."""
    for name, low, high in (
        ("temperature", 0, 100),
        ("top_k", 0, 2**31 - 1),
        ("top_p", 0, 1),
        ("min_p", 0, 1),
        ("typical_p", 0, 1),
        ("repeat_penalty", 0.01, 100),
        ("repeat_last_n", -1, 2**24),
        ("presence_penalty", -100, 100),
        ("frequency_penalty", -100, 100),
    ):
        value = getattr(sampling, name)
        if value is not None and not low <= value <= high:
            raise error(f"{name} must be from {low} to {high}; got {value}.", field=prefix + name)


def check_request(request: Generation, vocab_size: int) -> None:
    """Raises `InvalidInput` for what no model can do."""
    if request.choices < 1:
        raise InvalidInput(f"n must be at least 1; got {request.choices}.", field="n")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidInput(f"max_tokens must be at least 1; got {request.max_tokens}.", field="max_tokens")
    if any(not stop for stop in request.stop):
        raise InvalidInput("A stop text must not be empty.", field="stop")
    if request.logprobs is not None and not 0 <= request.logprobs <= vocab_size:
        raise InvalidInput(
            f"The number of alternatives must be from 0 to {vocab_size}; got {request.logprobs}.",
            field="logprobs",
        )
    for name, tokens in (("logit_bias", request.sampling.logit_bias), ("stop_tokens", request.stop_tokens)):
        wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise InvalidInput(f"{name} has the token {wrong}; this model's are 0 to {vocab_size - 1}.", field=name)
    if not all(bias < np.inf for bias in request.sampling.logit_bias.values()):
        raise InvalidInput("logit_bias has a value that is not a finite number.", field="logit_bias")


def resolve(sampling: Sampling, defaults: SamplingDefaults) -> SamplingDefaults:
    """What a request wants, and the defaults where it does not say."""
    return SamplingDefaults(
        **{
            name: getattr(defaults, name) if getattr(sampling, name) is None else getattr(sampling, name)
            for name in SamplingDefaults.__struct_fields__
        }
    )


def seed_of(sampling: Sampling, choice: int) -> int:
    """The seed of one choice: the request's own, counted on, or a random one."""
    return (secrets.randbits(32) if sampling.seed is None else sampling.seed + choice) % _SEEDS


def logprobs_of(token_bytes: ReadToken, logits: Logits, token: int, alternatives: int) -> TokenLogprob:
    """How likely `token` and the likeliest tokens were, by the untouched `logits`."""
    highest = logits.max()
    total = float(highest) + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
    top: tuple[TokenLogprob, ...] = ()
    if alternatives:
        best = np.argpartition(logits, -alternatives)[-alternatives:] if alternatives < len(logits) else ...
        ids = np.arange(len(logits))[best]
        ids = ids[np.lexsort((ids, -logits[ids]))]
        top = tuple(_logprob(token_bytes, int(i), float(logits[i]) - total) for i in ids)
    return TokenLogprob(token, token_bytes(token, True), float(logits[token]) - total, top)


def _logprob(token_bytes: ReadToken, token: int, value: float) -> TokenLogprob:
    return TokenLogprob(token, token_bytes(token, True), value)


def penalise(logits: Logits, window: Tokens, settings: SamplingDefaults) -> None:
    """Makes tokens that were there lately less likely."""
    ids, counts = np.unique(window[window >= 0], return_counts=True)  # others stand for an image
    values = logits[ids]
    repeat = np.float32(settings.repeat_penalty)
    values = np.where(values <= 0, values * repeat, values / repeat)
    values -= counts.astype(np.float32) * np.float32(settings.frequency_penalty)
    logits[ids] = values - np.float32(settings.presence_penalty)


def window_of(settings: SamplingDefaults) -> int:
    """How many tokens the penalties look back on; 0 when there are none."""
    idle = settings.repeat_penalty == 1 and not settings.frequency_penalty and not settings.presence_penalty
    return 0 if idle else 2**31 if settings.repeat_last_n < 0 else settings.repeat_last_n


def bias_of(logit_bias: dict[int, float], banned: Tokens | None) -> tuple[Tokens, Logits]:
    """Tokens, and what is added to their logits; `banned` ones are never chosen."""
    ids = [np.fromiter(logit_bias, np.int32, len(logit_bias))]
    values = [np.fromiter(logit_bias.values(), np.float32, len(logit_bias))]
    if banned is not None:
        keep = ~np.isin(ids[0], banned)
        ids, values = [ids[0][keep], banned], [values[0][keep], np.full(len(banned), -math.inf, np.float32)]
    return np.concatenate(ids), np.concatenate(values)
