"""The contexts of a model: one for many short sequences, and one for the few long ones, made when one comes.

Room for the longest sequence in every slot would take many times the memory of the weights. Most sequences are short,
so there are many short slots. A sequence that outgrows its slot moves, with all that was computed for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.gguf.context import Context, Settings
from backends.gguf.model import Model


class Pools:
    """Owns the contexts, by ascending length of their sequences. The first one is made at once."""

    def __init__(self, model: Model, settings: Sequence[Settings]) -> None:
        self._model = model
        self._settings = list(settings)
        self._contexts: dict[int, Context] = {0: Context(model, settings[0])}

    @property
    def open(self) -> list[Context]:
        """Those that there are."""
        return list(self._contexts.values())

    @property
    def batch_tokens(self) -> int:
        """Most tokens of one decode call."""
        return min(settings.batch_tokens for settings in self._settings)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that there is room for."""
        return self._settings[-1].length

    def fitting(self, tokens: int) -> Context:
        """The one with the shortest slots of so many tokens. Raises `OutOfMemory` if it is to be made, and cannot."""
        at = next(i for i, settings in enumerate(self._settings) if settings.length >= tokens)
        if at not in self._contexts:
            self._contexts[at] = Context(self._model, self._settings[at])
        return self._contexts[at]

    def close(self) -> None:
        """Frees all."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
