"""Programs of lists of tensors, such as torchvision's detectors: a list has the rows of a batch, which may differ in
size, and so may what the program makes of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from backends.base import InvalidInput, ModelFileError, TensorSpec

KIND = "List[Tensor]"
"""TorchScript's name of the type."""
ITEMS = "items"
"""The name of a dimension that has what was found in a row, which may be anything from nothing to a lot."""
_FILL = -1
"""What follows in a row in which less was found than in another of its batch: no score, and no class."""

Place = tuple[str, ...]
"""Where a value is in a program's result: keys and indices, from the outermost inwards."""


def images(tensor: Any, mask: Any | None) -> list[Any]:
    """The rows of a tensor [rows, channels, height, width] as a list, each without the space that was added to it: the
    mask [rows, height, width] is 1 where a picture is."""
    if mask is None:
        return list(tensor.unbind(0))
    if mask.shape != (len(tensor), *tensor.shape[-2:]):
        raise InvalidInput(
            f"pixel_mask must be {[len(tensor), *tensor.shape[-2:]]}, as the images are; got {list(mask.shape)}.",
            field="pixel_mask",
        )
    heights, widths = mask.any(dim=2).sum(dim=1).tolist(), mask.any(dim=1).sum(dim=1).tolist()
    return [row[..., :height, :width] for row, height, width in zip(tensor, heights, widths, strict=True)]


class RowLists:
    """Finds the lists in a program's results that have an entry for each row: they are as long as there were rows in
    each of the first calls, which have different counts of them."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._places: set[Place] | None = None
        self._settled = False

    def settle(self) -> None:
        """After the first calls: what was found holds from now on."""
        self._settled = True

    def stacked(self, result: Any, rows: int) -> Any:
        """The result with one value, which has a row for each entry, in place of each such list."""
        found = {place for place, value in _lists(result, ()) if len(value) == rows}
        if not self._settled:
            self._places = found if self._places is None else self._places & found
        return self._replaced(result, (), self._places or set(), found)

    def _replaced(self, value: Any, place: Place, wanted: set[Place], found: set[Place]) -> Any:
        if place in wanted:
            if place not in found:
                raise ModelFileError("The model does not return a result for each row of its input.")
            return self._stack(value)
        if isinstance(value, dict):
            return {key: self._replaced(part, (*place, str(key)), wanted, found) for key, part in value.items()}
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return tuple(self._replaced(part, (*place, str(i)), wanted, found) for i, part in enumerate(value))
        return value

    def _stack(self, entries: Sequence[Any]) -> Any:
        """One value of the values of all rows."""
        first = entries[0]
        if isinstance(first, dict) and all(isinstance(e, dict) and e.keys() == first.keys() for e in entries):
            return {key: self._stack([entry[key] for entry in entries]) for key in first}
        if isinstance(first, list | tuple) and all(len(entry) == len(first) for entry in entries):
            return tuple(map(self._stack, zip(*entries, strict=True)))
        if isinstance(first, bool | int | float):
            return self._torch.tensor(list(entries))
        if not all(isinstance(e, self._torch.Tensor) and e.dim() == first.dim() for e in entries):
            raise ModelFileError("The model returns values of different kinds for the rows of its input.")
        return self._padded(entries)

    def _padded(self, tensors: Sequence[Any]) -> Any:
        torch = self._torch
        if len({tensor.shape for tensor in tensors}) == 1:
            return torch.stack(list(tensors))
        size = [max(lengths) for lengths in zip(*(tensor.shape for tensor in tensors), strict=True)]
        fill = _FILL if tensors[0].is_floating_point() or tensors[0].is_signed() else 0
        padded = tensors[0].new_full((len(tensors), *size), fill)
        for row, tensor in zip(padded, tensors, strict=True):
            row[tuple(slice(0, length) for length in tensor.shape)] = tensor
        return padded


def told(outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The outputs of rows whose results differ in size: where all have as many entries, that is the count of what was
    found in the row, whatever it was in the first calls."""
    counts = {ITEMS if s.shape[1] == f"{s.name}_1" else s.shape[1] for s in outputs if len(s.shape) > 1}
    several = len(outputs) > 1 and len(counts) == 1 and all(len(s.shape) > 1 and s.batch_axis == 0 for s in outputs)
    specs = []
    for spec in outputs:
        shape = (spec.shape[0], ITEMS, *spec.shape[2:]) if several else spec.shape
        free = spec.batch_axis == 0 and any(isinstance(dim, str) for dim in shape[1:])
        fill = None if not free else 0 if spec.dtype.startswith(("uint", "bool")) else _FILL
        specs.append(msgspec.structs.replace(spec, shape=shape, fill=fill))
    return tuple(specs)


def _lists(value: Any, place: Place) -> Iterator[tuple[Place, list[Any]]]:
    """All lists, the outer ones alone where lists are in lists."""
    if isinstance(value, list):
        yield place, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _lists(part, (*place, str(key)))
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from _lists(part, (*place, str(i)))
