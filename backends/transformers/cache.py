"""Keys and values of several sequences side by side, so that one call computes the next token of all of them.

All sequences end at the same column; shorter ones begin later ::

    row 0     ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
    row 1            ▓▓▓▓▓▓▓▓▓
    row 2       ▓▓▓▓▓▓▓▓▓▓▓▓▓▓
              ↑ begin         ↑ end

So distances between tokens are those of the sequences, which is all that models need that look back only so far or
weigh by distance, and new keys are one column for all rows. Columns grow to the right; when there are no more, what is
used moves to the left. A sequence that leaves is replaced by the last row.

What a prompt was computed with stays in a cache of its own until it joins. Prompts that share a call are side by side
in it in the same way. Models that remember anything but keys and values of all tokens (recurrent ones) never join:
their sequences are computed one by one.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from backends.transformers.library import Library

_GROW = 64
"""Columns that are free after everything has moved."""


class State:
    """Keys and values [1, heads, tokens, size] of one sequence, by layer. They never change."""

    def __init__(self, layers: list[tuple[Any, Any]]) -> None:
        self.layers = layers

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)


class Columns:
    """Which columns of the layers are in use. Shared by all layers of a batch."""

    def __init__(self) -> None:
        self.rows = 0
        self.begin = self.end = 0

    @property
    def count(self) -> int:
        """How many are in use."""
        return self.end - self.begin


class Batch:
    """Owns the keys and values of the sequences that generate. To be used in inference mode."""

    def __init__(self, library: Library, layers: int) -> None:
        self._torch = library.torch
        self._columns = Columns()
        layer = _layer_class()
        self.cache = library.transformers.cache_utils.Cache(layers=[layer(self._columns) for _ in range(layers)])
        """What the model takes."""
        self.lengths: list[int] = []
        """Tokens of each row."""
        self._room = (0, 0)
        """Rows and columns that there is memory for."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        tensors = [t for layer in self.cache.layers for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token of one row."""
        rows, columns = self._room
        return self.nbytes // (rows * columns) if rows else 0

    def join(self, cache: Any, length: int) -> None:
        """Adds a row: what is in another cache, of one sequence with `length` tokens."""
        columns = self._columns
        longest = max(length, columns.count)
        if columns.rows == self._room[0] or columns.end < length or columns.end == self._room[1]:
            self._move(columns.rows + 1, longest)
        row = columns.rows
        for own, other in zip(self.cache.layers, cache.layers, strict=True):
            own.prepare(other.keys, other.values, self._room)
            own.keys[row, :, columns.end - length : columns.end] = other.keys[0]
            own.values[row, :, columns.end - length : columns.end] = other.values[0]
        columns.rows += 1
        self.lengths.append(length)
        columns.begin = columns.end - longest

    def state(self, row: int) -> State:
        """A copy of what is in a row."""
        end = self._columns.end
        used = slice(end - self.lengths[row], end)
        return State([(layer.keys[row, None, :, used].clone(), layer.values[row, None, :, used].clone())
                      for layer in self.cache.layers])  # fmt: skip

    def leave(self, row: int) -> int:
        """Drops a row. The last one takes its place; returns which that was."""
        last = self._columns.rows - 1
        used = slice(self._columns.begin, self._columns.end)
        if row != last:
            for layer in self.cache.layers:
                layer.keys[row, :, used] = layer.keys[last, :, used]
                layer.values[row, :, used] = layer.values[last, :, used]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._columns.rows -= 1
        self._columns.begin = self._columns.end - max(self.lengths, default=0)
        if not self.lengths:
            self._free()
        return last

    def begin_step(self, device: Any) -> tuple[Any, Any]:
        """Makes room for a column; `places` of the tokens that come."""
        if self._columns.end == self._room[1]:
            self._move(self._columns.rows, self._columns.count)
        return places(self._torch, [length + 1 for length in self.lengths], 1, device)

    def end_step(self) -> None:
        """The column is computed."""
        self._columns.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _move(self, rows: int, longest: int) -> None:
        """Makes memory for so many rows, and free columns behind the used ones, of which there may be `longest`."""
        columns = self._columns
        used = slice(columns.begin, columns.end)
        end = longest
        room = (rows, longest + max(_GROW, longest // 4))
        for layer in self.cache.layers:
            layer.move(columns.rows, used, end, room)
        columns.begin, columns.end = end - columns.count, end
        self._room = room

    def _free(self) -> None:
        """Gives the memory back."""
        for layer in self.cache.layers:
            layer.keys = layer.values = None
            layer.is_initialized = False
        self._columns.begin = self._columns.end = 0
        self._room = (0, 0)


@functools.cache
def _layer_class() -> Any:
    """The class of the layers. Its base is only there once the library is."""
    from transformers.cache_utils import DynamicLayer

    class AlignedLayer(DynamicLayer):  # type: ignore[misc]
        """Keys and values [rows, heads, columns, size] of one layer."""

        is_croppable = False

        def __init__(self, columns: Columns) -> None:
            super().__init__()
            self.keys: Any = None
            self.values: Any = None
            self._columns = columns

        def prepare(self, keys: Any, values: Any, room: tuple[int, int]) -> None:
            """Takes memory, for tensors that are like these."""
            if self.keys is None:
                self.keys = keys.new_zeros(room[0], keys.shape[1], room[1], keys.shape[3])
                self.values = values.new_zeros(room[0], values.shape[1], room[1], values.shape[3])
                self.device = keys.device
                self.is_initialized = True

        def move(self, rows: int, used: slice, end: int, room: tuple[int, int]) -> None:
            """Takes other memory, in which the used columns end at `end`."""
            for name in ("keys", "values"):
                old = getattr(self, name)
                if old is not None:
                    new = old.new_zeros(room[0], old.shape[1], room[1], old.shape[3])
                    new[:rows, :, end - (used.stop - used.start) : end] = old[:rows, :, used]
                    setattr(self, name, new)

        def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            """Adds a column to all rows; all that are in use."""
            columns = self._columns
            rows, after = columns.rows, columns.end + keys.shape[-2]
            self.keys[:rows, :, columns.end : after] = keys
            self.values[:rows, :, columns.end : after] = values
            return self.keys[:rows, :, columns.begin : after], self.values[:rows, :, columns.begin : after]

        def get_seq_length(self) -> int:
            """Columns in use."""
            return self._columns.count

    return AlignedLayer


def shape_of(library: Library, config: Any) -> tuple[bool, int]:
    """Whether the sequences of a model can be computed side by side, and how many layers they have."""
    utils = library.transformers.cache_utils
    layers = utils.DynamicCache(config=config).layers
    plain = all(type(layer) in (utils.DynamicLayer, utils.DynamicSlidingWindowLayer) for layer in layers)
    return plain, len(layers)


def of_prompt(library: Library, config: Any, *, joins: bool) -> Any:
    """An empty cache for one sequence. One that joins others later keeps the keys and values of all its tokens."""
    utils = library.transformers.cache_utils
    if not joins:
        return utils.DynamicCache(config=config)
    layers = len(utils.DynamicCache(config=config).layers)
    return utils.Cache(layers=[utils.DynamicLayer() for _ in range(layers)])


def state_of(cache: Any) -> State:
    """What is in a cache of one sequence. The cache makes new tensors when it grows."""
    return State([(layer.keys, layer.values) for layer in cache.layers])


def of_state(library: Library, config: Any, state: State, length: int) -> Any:
    """A cache for one sequence, which begins with the first `length` tokens of a state."""
    cache = of_prompt(library, config, joins=True)
    for layer, (keys, values) in zip(cache.layers, state.layers, strict=True):
        layer.update(keys[:, :, :length], values[:, :, :length])
    return cache


def places(torch: Any, lengths: list[int], count: int, device: Any) -> tuple[Any, Any]:
    """Positions [rows, count] of the last tokens of sequences that end at the same column, and a mask [rows, columns]
    of what there is of each. Columns before a sequence have the position of its first token."""
    ends = torch.tensor(lengths, device=device)[:, None]
    columns = torch.arange(-max(lengths), 0, device=device)
    return (ends + columns[-count:]).clamp(min=0), (ends + columns >= 0).long()


def side_by_side(library: Library, config: Any, caches: list[Any], lengths: list[int]) -> Any:
    """A cache for a call of several sequences: the first so many tokens of each, which end at the same column.
    Where that is none of a sequence, it needs no cache."""
    joint = of_prompt(library, config, joins=True)
    begun = [(row, cache, length) for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)) if length]
    if not begun:
        return joint
    longest = max(lengths)
    for i, layer in enumerate(joint.layers):
        some = begun[0][1].layers[i]
        keys, values = (t.new_zeros(len(caches), t.shape[1], longest, t.shape[3]) for t in (some.keys, some.values))
        for row, cache, length in begun:
            keys[row, :, longest - length :] = cache.layers[i].keys[0, :, :length]
            values[row, :, longest - length :] = cache.layers[i].values[0, :, :length]
        layer.update(keys, values)
    return joint


def of_row(library: Library, config: Any, joint: Any, row: int, length: int) -> Any:
    """A cache for one sequence: the last `length` columns of a row."""
    cut = [(layer.keys[row, None, :, -length:], layer.values[row, None, :, -length:]) for layer in joint.layers]
    return of_state(library, config, State(cut), length)


def copied(cache: Any) -> Any:
    """The same for another sequence."""
    return copy.deepcopy(cache)
