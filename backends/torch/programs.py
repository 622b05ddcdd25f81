"""The kinds of programs behind one interface: what inputs they may have, and a call. Here are the two that PyTorch
itself runs; `compiled` has the third."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from backends.base import (
    PIXEL_MASK,
    Device,
    Finding,
    InvalidOption,
    ModelFileError,
    Tensors,
    TensorSpec,
    UntrustedFile,
)
from backends.probing import Input
from backends.torch import archive, candidates, errors, lists, values
from backends.torch.archive import Archive
from backends.torch.lists import RowLists
from backends.torch.options import TorchOptions
from backends.torch.rows import RowLimits
from backends.torch.state import State


@dataclass(frozen=True, slots=True)
class Source:
    """What a program is made from."""

    torch: Any
    path: Path
    archive: Archive
    device: Device
    options: TorchOptions
    trusted: bool


_INPUT_OPTION = "--set inputs.NAME.dtype=… --set inputs.NAME.shape=[…]"


class Program(ABC):
    """A loaded program, which is called in inference mode."""

    kind: ClassVar[str]

    def __init__(self, source: Source) -> None:
        self.source = source
        self.torch = source.torch
        self.notes: list[str] = []
        self.sizes: dict[str, int] = {}
        """Sizes of free dimensions at which it is known to run."""
        self.rows = RowLimits()
        self.row_axes: dict[str, int] = {}
        """Where each input has its rows, if their count is limited."""
        self.state: State | None = None
        self.list_input: str | None = None
        """The input whose rows the program takes as a list."""
        self.row_lists: RowLists | None = None
        """What of its results has an entry for each of them."""
        self.refusal: ModelFileError | None = None
        """Why nothing that it computes can be served, once it has run."""
        self._half_inputs: dict[str, str] = {}
        """Inputs of a type that NumPy does not have, and which."""
        self._half = source.options.dtype != "float32"
        self._load()

    @abstractmethod
    def _load(self) -> None:
        """Reads the file."""

    input_source: tuple[Literal["certain", "likely"], str, str] = ("certain", "the program", "")
    """How sure the dtypes of inputs are, whence they are known, and the option that sets them."""

    @abstractmethod
    def inputs(self) -> Iterator[list[Input]]:
        """What the inputs may be, the likeliest first."""

    @abstractmethod
    def call(self, tensors: dict[str, Any]) -> Any:
        """Computes: PyTorch's values in and out."""

    @property
    def parallel(self) -> bool:
        """Whether several threads may call it at once, each with as many threads of PyTorch as it has set."""
        return (self.state is None or not self.state.kept) and not self.source.options.compile

    def __call__(self, batch: Tensors) -> Tensors:
        """Computes a batch, as from a fresh state. Raises what `errors.of_run` makes of PyTorch's exceptions."""
        try:
            return self.rows.apply(self._compute, batch, self.row_axes)
        except Exception as e:
            raise errors.of_run(e) from None

    def _compute(self, batch: Tensors) -> Tensors:
        if self.state is not None:
            self.state.reset()
        tensors = {name: self._tensor(name, array) for name, array in batch.items()}
        result = self.call(tensors)
        try:
            if self.row_lists is not None and self.list_input is not None:
                result = self.row_lists.stacked(result, len(batch[self.list_input]))
            return values.outputs_of(self.torch, result, widen=self._half)
        except ModelFileError as e:
            self.refusal = e
            raise

    def told(self, inputs: tuple[TensorSpec, ...]) -> Finding:
        """What is said of the inputs that were found."""
        given = bool(self.source.options.inputs)
        value = ", ".join(f"{spec.name} {spec.dtype}" for spec in inputs)
        if given:
            return Finding("inputs", value, "given", "your options", _INPUT_OPTION)
        return Finding("inputs", value, *self.input_source)

    def settle(self) -> None:
        """After the first runs, which have shown what the program does."""
        if self.row_lists is not None:
            self.row_lists.settle()
        if self.state is not None:
            self.state.settle()
            if self.state.kept:
                self.notes.append(
                    "The model remembers earlier calls; each request is answered as if it were the first."
                )

    def _tensor(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        """A copy on the device: the program may write to it, or return it."""
        tensor = self.torch.from_numpy(array.copy())
        if self.source.device.kind == "cuda":
            tensor = tensor.to(str(self.source.device))
        if tensor.dtype != self.torch.float32:
            return tensor
        dtype = self._half_inputs.get(name, self.source.options.dtype)
        return tensor if dtype == "float32" else tensor.to(getattr(self.torch, dtype))


class ScriptProgram(Program):
    """A TorchScript module."""

    kind = "TorchScript"
    input_source = ("likely", "tried: the first guess that runs", _INPUT_OPTION)

    def _load(self) -> None:
        source, torch = self.source, self.torch
        if source.options.compile:
            raise InvalidOption(
                "compile is for exported programs: torch.compile does not take TorchScript, which is optimized anyway.",
                field="config.compile",
            )
        if not source.trusted:
            _check_reach(torch, source.path)
        self._module = with_operators(torch, source.path, self._read)
        self._module.eval()
        self._method = _method(self._module, source.options.method)
        if self._half:
            self._module.to(getattr(torch, source.options.dtype))
        self._filled, left = candidates.arguments(self._method, source.options.inputs)
        if left:
            self.notes.append(f"Arguments that are left at their defaults: {', '.join(left)}.")
        self.list_input = next((name for name, kind in self._filled.items() if kind == lists.KIND), None)
        self.row_lists = RowLists(torch) if self.list_input is not None else None
        self.state = State(self._module, self._method.inlined_graph)

    def _read(self) -> Any:
        return self.torch.jit.load(str(self.source.path), map_location=str(self.source.device))

    def inputs(self) -> Iterator[list[Input]]:
        """Many: the file only says which are tensors."""
        given = self.source.options.inputs
        yield from candidates.combinations(self._module, self._method, self._filled, given)

    def call(self, tensors: dict[str, Any]) -> Any:
        """Calls the method by the names of its arguments."""
        mask = tensors.pop(PIXEL_MASK.name, None) if self.list_input is not None else None
        return self._method(**{name: self._argument(self._filled[name], t, mask) for name, t in tensors.items()})

    @staticmethod
    def _argument(kind: str, tensor: Any, mask: Any | None) -> Any:
        if kind == lists.KIND:
            return lists.images(tensor, mask)
        return tensor if kind == "Tensor" else tensor.item()


def _method(module: Any, name: str) -> Any:
    """A method of a TorchScript module. Raises `InvalidOption` when it has none of that name."""
    names = module._c._method_names()
    if name not in names:
        known = ", ".join(sorted(names)) or "none"
        raise InvalidOption(f"The model has no method {name!r}; it has: {known}.", field="config.method")
    return getattr(module, name)


def with_operators(torch: Any, path: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives, with the operators of torchvision if it needs them: importing that registers them."""
    try:
        return read()
    except Exception as e:
        if "torchvision" not in str(e):
            raise
    try:
        importlib.import_module("torchvision")
    except Exception as e:
        problem = "is not installed" if isinstance(e, ImportError) else f"cannot be imported ({errors.reason(e)})"
        raise ModelFileError(
            f"{path.name} needs the operators of torchvision, which {problem}. Install the build that belongs to "
            f"PyTorch {torch.__version__}, from where that came: pip install torchvision"
        ) from None
    return read()


def _check_reach(torch: Any, path: Path) -> None:
    """Raises `UntrustedFile` for code that reaches beyond the model. PyTorch's own reader says what the code is, so
    that no archive can show one thing here and another there."""
    reader = torch._C.PyTorchFileReader(str(path))
    for record in reader.get_all_records():
        reaches = archive.reaching(reader.get_record(record)) if record.endswith(".py") else None
        if reaches is not None:
            raise UntrustedFile(
                f"{path.name} uses {reaches!r}, which can reach files. If you trust its author, register it with "
                "--trust."
            )


class ExportedProgram(Program):
    """A program of ``torch.export``: a graph, of which the shapes and the ranges of its free dimensions are known."""

    kind = "exported program"

    def _load(self) -> None:
        source, torch = self.source, self.torch
        only_script(source.options)
        program = _read_exported(source)
        if source.device.kind == "cuda":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(source.device))
        self._specs = [s.arg for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
        self._nodes = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
        self._ranges = {str(symbol): each for symbol, each in program.range_constraints.items()}
        self._spec = program.call_spec.in_spec
        self._example = _leaves(torch, program.example_inputs)
        self._module = program.module()
        if self._half:
            self._module.to(getattr(torch, source.options.dtype))
        self.state = State(self._module)
        if source.options.compile:
            _check_compiler(source.device)
            self._module = torch.compile(self._module, dynamic=bool(self._ranges))

    def inputs(self) -> Iterator[list[Input]]:
        """What the program declares, with a name for each free dimension."""
        keys: dict[str, str] = {}
        tensors = []
        self.sizes, self.row_axes = {}, {}
        for spec, example in zip(self._specs, self._example or [None] * len(self._specs), strict=True):
            if type(spec).__name__ == "TensorArgument":
                fake = self._nodes[spec.name]
                dims = [self._dim(spec.name, axis, dim, keys) for axis, dim in enumerate(fake.shape)]
                tensors.append(Input(spec.name, values.dtype_name(self.torch, fake.dtype, spec.name), dims))
                if fake.dtype == self.torch.bfloat16:
                    self._half_inputs[spec.name] = "bfloat16"
                for axis, dim in enumerate(dims):
                    if isinstance(dim, str) and example is not None and dim != "batch":
                        self.sizes.setdefault(dim, example.shape[axis])
                    if dim == "batch":
                        self.row_axes[spec.name] = axis
            elif type(spec).__name__ == "SymIntArgument":
                tensors.append(Input(spec.name, "int64", []))
        candidates.check_names(self.source.options.inputs, [t.name for t in tensors])
        self._limit(keys)
        yield tensors

    def _dim(self, name: str, axis: int, dim: Any, keys: dict[str, str]) -> int | str:
        """The size of a dimension, or its name: ``batch`` for the first one that leads an input."""
        if isinstance(dim, int):
            return dim
        symbol = str(dim)
        if symbol not in keys:
            leads = axis == 0 and "batch" not in keys.values()
            keys[symbol] = "batch" if leads else f"{name}_{axis}" if axis else f"{name}_rows"
        return keys[symbol]

    def _limit(self, keys: dict[str, str]) -> None:
        for symbol, key in keys.items():
            least, most = (_bound(self._ranges[symbol], side) if symbol in self._ranges else None for side in _SIDES)
            if key == "batch":
                self.rows.most, self.rows.declared = most, least or 1
            elif most is not None:
                self.notes.append(f"The file limits {key} to sizes from {least or 0} to {most}.")

    def call(self, tensors: dict[str, Any]) -> Any:
        """Puts the inputs where the program's author had them: in its arguments, and in what is nested there."""
        import torch.utils._pytree as pytree

        leaves = [
            tensors[spec.name]
            if type(spec).__name__ == "TensorArgument"
            else tensors[spec.name].item()
            if type(spec).__name__ == "SymIntArgument"
            else spec.value
            for spec in self._specs
        ]
        positional, named = pytree.tree_unflatten(leaves, self._spec)
        return self._module(*positional, **named)


def _check_compiler(device: Device) -> None:
    """Raises `InvalidOption` where code for the CPU cannot be compiled."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        if device.kind == "cpu":
            get_cpp_compiler()
    except Exception:
        raise InvalidOption(
            "compile needs a compiler for C++, and there is none: install one (apt-get install g++), or leave it out.",
            field="config.compile",
        ) from None


_SIDES = ("lower", "upper")


def _bound(limits: Any, side: str) -> int | None:
    """One end of a range; `None` for infinity."""
    try:
        return int(getattr(limits, side))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def _leaves(torch: Any, example: Any) -> list[Any] | None:
    """The example inputs that a program was exported with, one after the other, if it has kept them."""
    if not example:
        return None
    from torch.utils._pytree import tree_leaves

    return [leaf if isinstance(leaf, torch.Tensor) else None for leaf in tree_leaves(example)]


def _read_exported(source: Source) -> Any:
    """The one program of a file. Raises `ModelFileError` when there are several, and none is called ``model``."""
    import torch.export
    from torch.export.pt2_archive._package import load_pt2

    names = source.archive.models()
    if not names:  # written before PyTorch 2.8
        return torch.export.load(str(source.path))
    name = only_model(names, source.path)
    with source.path.open("rb") as file:
        return load_pt2(file).exported_programs[name]


def only_script(options: TorchOptions) -> None:
    """Raises `InvalidOption` for an option that means nothing to other programs."""
    if options.method != "forward":
        raise InvalidOption("method is for TorchScript, other programs have but one.", field="config.method")


def only_model(names: list[str], path: Path) -> str:
    """The program to serve, of those in a file."""
    if "model" in names:
        return "model"
    if len(names) > 1:
        raise ModelFileError(f"{path.name} has several programs ({', '.join(names)}); save the one to serve alone.")
    return names[0]
