"""AOTInductor packages: programs that were compiled to machine code, of which only the calling form is declared.

The compiled code trusts its inputs: a wrong shape would read memory that is not its own. It has checks that are off
unless an environment variable asks for them, so it does. The shapes stand in the C++ source that lies in the package.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.base import InvalidOption, ModelFileError
from backends.probing import Input
from backends.torch import archive, candidates
from backends.torch.programs import Program, only_model, only_script
from backends.torch.values import DTYPES

_CPU_FLAGS = {"AVX512": "avx512f"}
"""Instruction sets under other names than Linux gives them."""


class CompiledProgram(Program):
    """A program that AOTInductor compiled."""

    kind = "AOTInductor package"

    def _load(self) -> None:
        source = self.source
        only_script(source.options)
        for option, given in (("dtype", source.options.dtype != "float32"), ("compile", source.options.compile)):
            if given:
                raise InvalidOption(
                    f"{option} is not for AOTInductor packages, which are compiled already; compile the model anew.",
                    field=f"config.{option}",
                )
        name = only_model(source.archive.models(), source.path)
        folder = f"data/aotinductor/{name}/"
        metadata = archive.read(source.path, source.archive, folder, "_metadata.json")
        _check_machine(json.loads(metadata or "{}"), source.path, source.device.kind)
        os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")
        self._source = archive.read(source.path, source.archive, folder, ".wrapper.cpp") or ""
        from torch.export.pt2_archive._package import AOTICompiledModel

        index = source.device.index if source.device.kind == "cuda" else -1
        # what `load_pt2` does, which also asks for a compiler to tell this machine's processor, and unpickles the rest
        loader = self.torch._C._aoti.AOTIModelPackageLoader(str(source.path), name, False, 1, index)
        self._model = AOTICompiledModel(loader)
        import torch.utils._pytree as pytree

        self._spec = pytree.treespec_loads(self._model.loader.get_call_spec()[0])
        self._names = _input_names(pytree, self._spec)

    def inputs(self) -> Iterator[list[Input]]:
        """What the source in the package says, else the user."""
        given = self.source.options.inputs
        candidates.check_names(given, self._names)
        keys: dict[str, str] = {}
        tensors = []
        for place, name in enumerate(self._names):
            found = _declared(self._source, place)
            option = given.get(name)
            dtype = option.dtype if option is not None and option.dtype else found[0] if found else None
            dims = option.shape if option is not None and option.shape else found[1] if found else None
            if dtype is None or dims is None:
                raise ModelFileError(
                    f"{self.source.path.name} does not say what its inputs are; say it with --set "
                    f"inputs.{name}.dtype=float32 and --set 'inputs.{name}.shape=[batch, 4]', and so for "
                    f"{', '.join(map(repr, self._names))}."
                )
            tensors.append(Input(name, dtype, [_key(keys, name, axis, dim) for axis, dim in enumerate(dims)]))
        self.row_axes = {t.name: t.dims.index("batch") for t in tensors if "batch" in t.dims}
        for t in tensors:
            if t.dims[:1] == ["batch"]:
                self.rows.least, self.rows.most = _limits(self._source, self._names.index(t.name))
        yield tensors

    def call(self, tensors: dict[str, Any]) -> Any:
        """Calls it with the arguments that it was compiled for."""
        import torch.utils._pytree as pytree

        positional, named = pytree.tree_unflatten([tensors[name] for name in self._names], self._spec)
        return self._model(*positional, **named)


def _input_names(pytree: Any, spec: Any) -> list[str]:
    """A name for each input: the keyword, where it has one, else ``input`` and its number."""
    places = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    named = {place: key for key, place in places[1].items() if isinstance(place, int)}
    unnamed = spec.num_leaves - len(named)
    return [named.get(i, "input" if unnamed == 1 else f"input_{i}") for i in range(spec.num_leaves)]


def _key(keys: dict[str, str], name: str, axis: int, dim: int | str) -> int | str:
    """The name of a dimension that the source calls by a symbol: ``batch`` for the first one that leads an input."""
    if isinstance(dim, str) and dim not in keys:
        leads = axis == 0 and "batch" not in keys.values()
        keys[dim] = "batch" if leads else f"{name}_{axis}" if axis else f"{name}_rows"
    return keys[dim] if isinstance(dim, str) else dim


# --- what the source in the package says ----------------------------------------------------------------------------


def _declared(source: str, place: int) -> tuple[str, tuple[int | str, ...]] | None:
    """Type and dimensions of an input: sizes, and symbols for those that are free."""
    name = re.search(rf'inputs_info_\[{place}\]\.name = "(\w+)"', source)
    if name is None:
        return None
    dtype = re.search(rf"{name[1]}_expected_dtype = aoti_torch_dtype_(\w+)\(\)", source)
    sizes = re.search(rf"assert_size_stride\({name[1]}, \{{([^}}]*)\}}", source)
    if dtype is None or sizes is None or dtype[1] not in DTYPES:
        return None
    parts = [part.strip() for part in sizes[1].split(",") if part.strip()]
    return dtype[1], tuple(int(part[:-1]) if re.fullmatch(r"\d+L", part) else part for part in parts)


def _limits(source: str, place: int) -> tuple[int, int | None]:
    """The least and the greatest count of rows that the code's own checks allow."""
    where = rf"input_handles\[{place}\]: dim value is too"
    least = re.search(rf'{where} small at 0, "\s*<< "expected it to be >= (\d+)', source)
    most = re.search(rf'{where} large at 0, "\s*<< "expected to be <= (\d+)', source)
    upper = int(most[1]) if most is not None else None
    return int(least[1]) if least is not None else 1, upper if upper is not None and upper < 1 << 31 else None


def _check_machine(metadata: dict[str, str], path: Path, kind: str) -> None:
    """Raises `ModelFileError` for code of another machine: it would end the process."""
    compiled_for = metadata.get("AOTI_DEVICE_KEY", kind).partition(":")[0]
    if compiled_for != kind:
        raise ModelFileError(
            f"{path.name} was compiled for the device {compiled_for} and cannot run on {kind}; set "
            f"device={compiled_for}, or compile it anew."
        )
    machine = metadata.get("AOTI_MACHINE", platform.machine())
    flags = _cpu_flags()
    needed = metadata.get("AOTI_CPU_ISA", "").split() if flags else []
    missing = [each for each in needed if _CPU_FLAGS.get(each, each.lower()) not in flags]
    if machine != platform.machine() or missing:
        needs = " and ".join(missing) or machine
        raise ModelFileError(
            f"{path.name} was compiled for another processor: it needs {needs}, which this one lacks. Compile it here."
        )


def _cpu_flags() -> frozenset[str]:
    """The instruction sets of this machine's processor, as Linux names them; empty where it names none."""
    if platform.machine() != "x86_64":
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))
