"""Texts of a batch joined to one sequence, so that nothing is padded.

Linear layers compute each token by itself and mind no borders between texts; only attention must keep to one text at a
time. Transformers takes a function of one's own for it, which here is the library's, called for each text. A model must
go along: take positions as they are told to it, and let tokens know of one another by attention alone. Whether it does
is found out by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from backends.base import TRUNCATE, Tensors
from backends.transformers.packing import alike

Array = np.ndarray[Any, Any]

_NAME = "unimodel_texts"
"""Of the function, in the library's table of them."""
_CALL_TOKENS = 2048
"""Of a call of several texts."""
_TIMES = (1, 6, 3)
"""How often the texts of an example are repeated, to have three rows of different lengths."""
_TOLERANCE = 1e-4
"""Of an answer that must stay the same."""


def attend_by_text(model: Any) -> None:
    """Has a model compute attention within each text where it is told `text_lengths`."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    def attend(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        mask: Any,
        *,
        text_lengths: Sequence[int] | None = None,
        position_bias: Any = None,
        **more: Any,
    ) -> tuple[Any, None]:
        def within(own: slice) -> Any:
            parts = (tensor[:, :, own] for tensor in (query, key, value))
            near, bias = (None if each is None else each[..., own, own] for each in (mask, position_bias))
            return sdpa_attention_forward(module, *parts, near, position_bias=bias, **more)[0]

        if text_lengths is None:
            found = sdpa_attention_forward(module, query, key, value, mask, position_bias=position_bias, **more)
            return found[0], None
        return torch.cat([within(own) for own in places(text_lengths)], dim=1), None

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def attend_as_before(model: Any) -> None:
    """Undoes `attend_by_text`."""
    model.set_attn_implementation("sdpa")


def can_try(model: Any) -> bool:
    """Whether a model computes its attention by the function that is replaced."""
    return getattr(model.config, "_attn_implementation", None) == "sdpa"


class Trial:
    """Three texts of different lengths, and the answers for each of them alone."""

    def __init__(self, predict: Callable[[Tensors], Tensors], example: Tensors) -> None:
        """Makes the texts from those of an example. Raises what `predict` does."""
        self._predict = predict
        rows = [{name: _repeated(texts, times) for name, texts in example.items()} for times in _TIMES]
        cut = {TRUNCATE.name: np.array([True])}
        self._batch = {name: np.concatenate([{**row, **cut}[name] for row in rows]) for name in {**rows[0], **cut}}
        self._alone = [predict({**row, **cut}) for row in rows]

    def passes(self) -> bool:
        """Whether the answers are the same when the texts are computed together."""
        try:
            together = self._predict(self._batch)
        except Exception:  # whatever it was, another way may do
            return False
        return all(
            alike(alone, {name: _row(together[name], i, array.shape) for name, array in alone.items()}, _TOLERANCE)
            for i, alone in enumerate(self._alone)
        )


def _repeated(texts: Array, times: int) -> Array:
    return np.array([" ".join([text] * times) for text in texts], object)


def _row(array: Array, i: int, shape: tuple[int, ...]) -> Array:
    """A row without its filling."""
    return array[i : i + 1][tuple(slice(size) for size in shape)]


def groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of the texts of each call."""
    group: list[int] = []
    tokens = 0
    for i, length in enumerate(lengths):
        if group and tokens + length > _CALL_TOKENS:
            yield group
            group, tokens = [], 0
        group.append(i)
        tokens += length
    if group:
        yield group


def places(lengths: Sequence[int]) -> list[slice]:
    """Where in the sequence each text is."""
    return [slice(begin, end) for begin, end in pairwise(accumulate(lengths, initial=0))]
