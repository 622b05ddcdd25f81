"""The inputs that a TorchScript program may have, the likeliest first; running it tells which are right."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from backends.base import BackendError, InvalidOption, ModelFileError, Tensors
from backends.probing import Input, Run
from backends.torch import lists
from backends.torch.graph import Code, Shape
from backends.torch.options import InputOptions
from backends.torch.turns import FREE
from backends.torch.values import DTYPES

MOST = 48
"""Combinations that are tried."""
_SCALARS = {"int": "int64", "float": "float64", "bool": "bool", "number": "float64", "Scalar": "float64"}
"""Types of TorchScript that are one number, and ours."""
_USUAL = (
    Shape("float32", (FREE, FREE)),
    Shape("float32", (FREE, 3, FREE, FREE)),
    Shape("int64", (FREE, FREE)),
    Shape("float32", (FREE,)),
    Shape("float32", (FREE, FREE, FREE)),
    Shape("float32", (FREE, 1, FREE, FREE)),
    Shape("int64", (FREE,)),
    Shape("float32", ()),
)
"""What to try for an input of which the code tells nothing."""


_ELEMENTS = (
    *(Shape("float32", (FREE, channels, "height", "width")) for channels in (3, 1)),
    *(shape for shape in _USUAL if 0 < len(shape.dims) < 4),
)
"""What to try for the rows of a list, which are mostly pictures."""


def arguments(method: Any, given: Mapping[str, InputOptions]) -> tuple[dict[str, str], list[str]]:
    """The arguments of a method that a request fills, with their types, and those that are left at their default.

    Raises `ModelFileError` for one that no request could fill, `InvalidOption` for an option of one that is not there.
    """
    filled: dict[str, str] = {}
    left: list[str] = []
    schema = method.schema.arguments[1:]  # the first is the module
    for argument in schema:
        kind = str(argument.type)
        if kind == lists.KIND and lists.KIND not in filled.values():
            filled[argument.name] = kind
        elif kind == "Tensor" or (kind == "Optional[Tensor]" and argument.name in given):
            filled[argument.name] = "Tensor"
        elif argument.has_default_value() or kind.startswith("Optional["):
            left.append(argument.name)
        elif kind in _SCALARS:
            filled[argument.name] = kind
        else:
            raise ModelFileError(
                f"The argument {argument.name!r} of the model's {method.name} is a {kind}, which no request can give; "
                "wrap the model in a module whose forward takes plain tensors and numbers."
            )
    check_names(given, filled)
    if not filled:
        raise ModelFileError(f"The model's {method.name} takes no input.")
    return filled, left


def check_names(given: Mapping[str, InputOptions], names: Mapping[str, Any] | Sequence[str]) -> None:
    """Raises `InvalidOption` for options of an input that the model does not have, or with a type that none has."""
    for name, option in given.items():
        if name not in names:
            known = ", ".join(names)
            raise InvalidOption(f"The model has no input {name!r}; it has: {known}.", field=f"config.inputs.{name}")
        if option.dtype is not None and option.dtype not in DTYPES:
            known = ", ".join(sorted(DTYPES))
            raise InvalidOption(
                f"inputs.{name}.dtype is {option.dtype!r}; it must be one of {known}.", field=f"config.inputs.{name}"
            )


def combinations(
    module: Any, method: Any, filled: Mapping[str, str], given: Mapping[str, InputOptions]
) -> Iterator[list[Input]]:
    """What the inputs may be, all together, the likeliest first; at most `MOST`."""
    program = Code(module, method)
    choices: dict[str, list[Shape]] = {}
    for name, kind in filled.items():
        if kind == lists.KIND:
            found = list(_ELEMENTS)
        else:
            found = [Shape(_SCALARS[kind], ())] if kind in _SCALARS else program.shapes(name)
        choices[name] = _as_given(found, given.get(name, InputOptions()))
    known = [shape for shapes in choices.values() for shape in shapes[:1] if shape.dims]
    for name, shapes in choices.items():
        if not shapes:  # it may well look like another input, as a mask does
            like = [Shape(dtype, s.dims) for s in known for dtype in (s.dtype, "float32", "int64", "bool")]
            shapes += dict.fromkeys(_as_given([*like, *_USUAL], given.get(name, InputOptions())))
    rows = [FREE, *program.row_counts()]
    picks = itertools.islice(_by_likelihood([len(shapes) for shapes in choices.values()]), MOST // len(rows) + 1)
    for pick, count in itertools.product(list(picks), rows):
        yield [
            Input(name, shape.dtype, [count if i == 0 and dim == FREE else dim for i, dim in enumerate(shape.dims)])
            for (name, shapes), place in zip(choices.items(), pick, strict=True)
            for shape in (shapes[place],)
        ]


def _as_given(shapes: Sequence[Shape], option: InputOptions) -> list[Shape]:
    """The shapes as far as the user has not said."""
    if option.shape is not None:
        dtype = option.dtype or (shapes[0].dtype if shapes else "float32")
        return [Shape(dtype, option.shape)]
    return [Shape(option.dtype or shape.dtype, shape.dims, shape.certain) for shape in shapes]


def _by_likelihood(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All ways to pick one of each list, those that pick early entries first."""
    most = sum(count - 1 for count in counts)
    for total in range(most + 1):
        yield from (p for p in itertools.product(*map(range, counts)) if sum(p) == total)


def tie(inputs: Sequence[Input], row: Tensors, run: Run) -> bool:
    """Gives one name to dimensions of several inputs that must be equal: the model runs only if both change.

    `inputs` have names for their free dimensions. Returns whether any were tied.
    """
    tied = False
    keys = {dim: (t.name, axis) for t in inputs for axis, dim in enumerate(t.dims) if isinstance(dim, str)}
    free = [key for key, (name, axis) in keys.items() if axis != next(t.batch_axis for t in inputs if t.name == name)]
    for first, second in itertools.combinations(free, 2):
        a, b = keys[first], keys[second]
        if a[0] == b[0] or row[a[0]].shape[a[1]] != row[b[0]].shape[b[1]]:
            continue
        if not _runs(run, row, a) and not _runs(run, row, b) and _runs(run, row, a, b):
            for tensor in inputs:
                tensor.dims = [first if dim == second else dim for dim in tensor.dims]
            tied = True
    return tied


def _runs(run: Run, row: Tensors, *places: tuple[str, int]) -> bool:
    """Whether the model runs on a row that is twice as long there."""
    longer = dict(row)
    for name, axis in places:
        longer[name] = np.repeat(longer[name], 2, axis=axis)
    try:
        run(longer)
    except BackendError:
        return False
    return True
