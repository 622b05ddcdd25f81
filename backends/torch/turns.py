"""Operators that turn a tensor around: what its dimensions were before, given those after."""

from __future__ import annotations

from collections.abc import Callable

FREE = -1
"""A dimension of which nothing is known."""

Dims = tuple[int | str, ...]
"""Sizes, `FREE`, or the names of dimensions."""

TurnBack = Callable[[Dims], Dims]
"""From the dimensions after an operator to those before it."""

_Arguments = list[list[int | None] | None]


def _unsqueeze(arguments: _Arguments) -> TurnBack | None:
    axis = _one(arguments, 0)
    if axis is None:
        return None
    return lambda dims: tuple(d for i, d in enumerate(dims) if i != axis % max(1, len(dims)))


def _squeeze(arguments: _Arguments) -> TurnBack | None:
    axis = _one(arguments, 0)
    if axis is None:
        return None

    def turn(dims: Dims) -> Dims:
        at = axis % (len(dims) + 1)
        return (*dims[:at], 1, *dims[at:])

    return turn


def _transpose(arguments: _Arguments) -> TurnBack | None:
    first, second = _one(arguments, 0), _one(arguments, 1)
    if first is None or second is None:
        return None

    def turn(dims: Dims) -> Dims:
        turned = list(dims)
        if max(first, second) < len(dims):
            turned[first], turned[second] = turned[second], turned[first]
        return tuple(turned)

    return turn


def _permute(arguments: _Arguments) -> TurnBack | None:
    order = arguments[0] if arguments else None
    if order is None or None in order:
        return None

    def turn(dims: Dims) -> Dims:
        places = {axis % len(dims): dim for axis, dim in zip(order, dims, strict=False) if axis is not None}
        return tuple(places.get(i, FREE) for i in range(len(dims)))

    return turn


def _one(arguments: _Arguments, place: int) -> int | None:
    given = arguments[place] if place < len(arguments) else None
    return given[0] if given else None


TURNS: dict[str, Callable[[_Arguments], TurnBack | None]] = {
    "aten::unsqueeze": _unsqueeze,
    "aten::squeeze": _squeeze,
    "aten::transpose": _transpose,
    "aten::permute": _permute,
}
"""By the operator: from its arguments behind the tensor, as far as they are known, to the way back."""
