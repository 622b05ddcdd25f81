"""Choosing the next token of one sequence from its logits.

The order is llama.cpp's: logit bias, penalties, top-k, typical, top-p, min-p, temperature, and a draw. Bias and
penalties concern few tokens, so NumPy does them in place on the logits; the rest is llama.cpp's own, on the candidates
that can get past it. Greedy choice is one `argmax`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import BackendError, InvalidInput
from backends.gguf.model import Model
from backends.sampling import COLD, DeadEnd, SamplingDefaults, bias_of, penalise, window_of

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama.cpp's ``llama_token_data``."""
_SPREAD = 10.0
"""Tokens whose logit is further below the best one are not looked at first. Some 200 are left, as a rule."""
_FEW = 16
"""Tokens whose bias is added one by one. After a decode call nothing is in the processor's caches any more, and NumPy's
way to index many is long: it took 80 µs for three."""


class Candidates:
    """An array that llama.cpp's samplers work on, made once for a vocabulary."""

    def __init__(self, api: Any, vocab_size: int) -> None:
        self._api = api
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._data = np.empty(vocab_size, _CANDIDATE)
        self._pointer = ctypes.cast(self._data.ctypes.data, api.llama_token_data_p)
        self._array = api.llama_token_data_array()
        self._reference = ctypes.byref(self._array)

    def fill(self, logits: Logits, ids: Tokens | None = None) -> None:
        """Takes the tokens `ids`, or all, with their `logits`."""
        ids = self._ids if ids is None else ids
        size = len(ids)
        data = self._data[:size]
        data["id"] = ids
        data["logit"] = logits
        data["p"] = 0.0
        self._array.data = self._pointer
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False

    def apply(self, sampler: Any) -> None:
        """Lets one of llama.cpp's samplers work on them."""
        self._api.llama_sampler_apply(sampler, self._reference)

    @property
    def selected(self) -> int:
        """The token that the last sampler chose."""
        at = self._array.selected
        return int(self._array.data[at].id) if at >= 0 else -1

    def possible(self) -> tuple[Tokens, Logits]:
        """The tokens that are not ruled out, and their logits."""
        data = self._data[: self._array.size]
        data = data[data["logit"] != -math.inf]
        return data["id"], data["logit"]


class Sampler:
    """Chooses the tokens of one sequence. Owns llama.cpp's samplers for it; `close` frees them.

    Raises `InvalidInput` for a grammar that llama.cpp does not understand.
    """

    def __init__(
        self,
        model: Model,
        candidates: Candidates,
        settings: SamplingDefaults,
        *,
        seed: int,
        logit_bias: dict[int, float],
        banned: Tokens | None = None,
        grammar: str | None = None,
    ) -> None:
        self._api = api = model.api
        self._candidates = candidates
        self._settings = settings
        self._chain: Any = None
        self._grammar: Any = None
        tokens, values = bias_of(logit_bias, banned)
        few = len(tokens) <= _FEW
        self._few_biases = list(zip(tokens.tolist(), values.tolist(), strict=True)) if few else []
        self._many_biases = None if few else (tokens, values)
        self._window = window_of(settings)
        self._greedy = settings.temperature < COLD
        if grammar is not None:
            self._grammar = _grammar(model, grammar)
        if not self._greedy:
            self._chain = _chain(api, settings, seed)

    def choose(self, logits: Logits, tokens: Tokens) -> int:
        """The next token after `tokens`, all so far, from its `logits`, which it may change. Raises `DeadEnd`."""
        for token, bias in self._few_biases:
            logits[token] += bias
        if self._many_biases is not None:
            logits[self._many_biases[0]] += self._many_biases[1]
        if self._window:
            penalise(logits, tokens[-self._window :], self._settings)
        best = int(logits.argmax())  # of numbers that are none, it is the first
        highest = logits.item(best)
        if not highest > -math.inf:
            if math.isnan(highest):
                raise BackendError("The model computes what is not a number; its file may be damaged.")
            raise DeadEnd
        token = best if self._greedy else self._draw(logits, highest)
        if self._grammar is None:
            return token
        if not self._allows(token):
            token = self._choose_allowed(logits)
        self._api.llama_sampler_accept(self._grammar, token)
        return token

    def close(self) -> None:
        """Frees what llama.cpp holds."""
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                self._api.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _draw(self, logits: Logits, highest: float) -> int:
        near = _near(logits, highest)
        if 0 < self._settings.top_k <= len(near):  # then the best k are among these, and no others matter
            self._candidates.fill(logits[near], near)
        else:
            self._candidates.fill(logits)
        self._candidates.apply(self._chain)
        return self._candidates.selected

    def _allows(self, token: int) -> bool:
        self._candidates.fill(np.ones(1, np.float32), np.array([token], np.int32))
        self._candidates.apply(self._grammar)
        return len(self._candidates.possible()[0]) == 1

    def _choose_allowed(self, logits: Logits) -> int:
        """The choice among those tokens that the grammar allows. Looks at the likely ones first: it takes its time."""
        near = _near(logits, float(logits.max()))
        allowed, values = self._allowed(logits, near)
        if not len(allowed) or not self._suffice(len(allowed), float(values.max()), float(logits.max())):
            allowed, values = self._allowed(logits, None)
        if not len(allowed):
            raise DeadEnd
        if self._greedy:
            return int(allowed[values.argmax()])
        self._candidates.fill(values, allowed)
        self._candidates.apply(self._chain)
        return self._candidates.selected

    def _allowed(self, logits: Logits, ids: Tokens | None) -> tuple[Tokens, Logits]:
        self._candidates.fill(logits if ids is None else logits[ids], ids)
        self._candidates.apply(self._grammar)
        return self._candidates.possible()

    def _suffice(self, count: int, best: float, highest: float) -> bool:
        """Whether no token outside of `_SPREAD` could be chosen, when so many within are allowed."""
        if self._greedy or 0 < self._settings.top_k <= count:
            return True
        least = self._settings.min_p
        return least > 0 and best + math.log(least) > highest - _SPREAD


def _near(logits: Logits, highest: float) -> Tokens:
    """The tokens that have a chance at all."""
    near: Tokens = (logits > np.float32(highest - _SPREAD)).nonzero()[0].astype(np.int32)
    return near


def _chain(api: Any, settings: SamplingDefaults, seed: int) -> Any:
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    for sampler in _samplers(api, settings, seed):
        api.llama_sampler_chain_add(chain, sampler)
    return chain


def _samplers(api: Any, settings: SamplingDefaults, seed: int) -> Sequence[Any]:
    samplers = []
    if settings.top_k:
        samplers.append(api.llama_sampler_init_top_k(settings.top_k))
    if settings.typical_p < 1:
        samplers.append(api.llama_sampler_init_typical(settings.typical_p, 1))
    if settings.top_p < 1:
        samplers.append(api.llama_sampler_init_top_p(settings.top_p, 1))
    if settings.min_p > 0:
        samplers.append(api.llama_sampler_init_min_p(settings.min_p, 1))
    return (*samplers, api.llama_sampler_init_temp(settings.temperature), api.llama_sampler_init_dist(seed))


def _grammar(model: Model, source: str) -> Any:
    model.library.forget_errors()
    grammar = model.api.llama_sampler_init_grammar(model.vocab, source.encode(), b"root")
    if not grammar:
        reason = model.library.last_error or "It may lack a rule named root, or refer to a rule that is not there."
        raise InvalidInput(f"The grammar is not valid GBNF. {reason}", field="grammar")
    return grammar
