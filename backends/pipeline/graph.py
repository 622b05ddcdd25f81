"""A pipeline as its author writes it: a YAML file of steps, each of which calls a registered model.

The graph is not written down, it follows from what the expressions of each step are about. Everything that can be known
to be wrong without calling a model is found here.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from backends.base import ModelFileError
from backends.pipeline.expressions import Expression

MOST_BYTES = 1 << 20
"""Of a file."""
_MOST_STEPS = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

INPUT, PARAMETERS, ITEM, INDEX = "input", "parameters", "item", "index"
"""Names in the scope of expressions, besides those of the steps. The last two are there for a step with `each`."""
_OWN = {INPUT, PARAMETERS, ITEM, INDEX}


class StepText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step, as written."""

    model: str
    """``NAME`` or ``NAME@VERSION``."""
    input: Any = INPUT
    """An expression, or an object or a list in which every text is one. Numbers and the like are constants."""
    each: str | None = None
    """A list: the model is called for each of its elements, and the result is a list."""
    when: str | None = None
    """The step runs if this is true (as JMESPath sees it); else its result is null."""
    parameters: dict[str, Any] = {}
    """Constants beside the input, as in a request to the model."""


class PipelineText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    steps: dict[str, StepText]
    output: Any = None
    """As the input of a step; the last step's result when it is left out."""
    example: Any = None
    """A value for ``input``, shown to users."""


Mapped = Any
"""Where a value comes from: an `Expression`, an object or a list with such in it, or a constant."""


@dataclass(frozen=True)
class Step:
    """A call of a model."""

    name: str
    model: str
    input: Mapped
    each: Expression | None
    when: Expression | None
    parameters: dict[str, Any]
    needs: frozenset[str]
    """The steps whose results it is about."""


@dataclass(frozen=True)
class Graph:
    """A pipeline that can be run."""

    steps: tuple[Step, ...]
    """Each behind those that it needs."""
    output: Mapped
    example: Any

    @property
    def models(self) -> list[str]:
        """The models that it calls, each once, in order."""
        return list(dict.fromkeys(step.model for step in self.steps))


def read(path: Path) -> Graph:
    """The pipeline in a file. Raises `ModelFileError`, which says what is wrong and where."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelFileError(f"{path.name} is larger than {MOST_BYTES >> 20} MiB, and no pipeline.")
        text = path.read_text("utf-8")
        document = yaml.load(text, _Loader)  # noqa: S506 - a kind of SafeLoader
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as e:
        raise ModelFileError(f"{path.name} is not valid YAML: {' '.join(str(e).split())[:300]}.") from None
    try:
        return _graph(msgspec.convert(document, PipelineText))
    except msgspec.ValidationError as e:
        what, _, where = str(e).partition(" - at `$")
        place = f" (at {where.strip('.`') or 'the top'})" if where else ""
        raise ModelFileError(f"{path.name} is not a pipeline: {what[0].lower()}{what[1:]}{place}.") from None
    except ValueError as e:
        raise ModelFileError(f"{path.name}: {e}.") from None


class _Loader(yaml.SafeLoader):
    """Without aliases, of which a few lines can make a document larger than any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)


def _graph(text: PipelineText) -> Graph:
    """Raises `ValueError`."""
    if not 1 <= len(text.steps) <= _MOST_STEPS:
        raise ValueError(f"a pipeline has 1 to {_MOST_STEPS} steps; got {len(text.steps)}")
    for name in text.steps:
        if not _NAME.fullmatch(name) or name in _OWN:
            raise ValueError(f"{name!r} cannot be the name of a step: it must be a word, and not {', '.join(_OWN)}")
    steps = {name: _step(name, step, text.steps.keys()) for name, step in text.steps.items()}
    try:
        order = list(graphlib.TopologicalSorter({s.name: s.needs for s in steps.values()}).static_order())
    except graphlib.CycleError as e:
        raise ValueError(f"the steps wait for one another: {' → '.join(reversed(e.args[1]))}") from None
    last = steps.keys() - {need for step in steps.values() for need in step.needs}
    if text.output is None and len(last) != 1:
        ends = ", ".join(name for name in steps if name in last)
        raise ValueError(f"it ends in several steps ({ends}); say with output: what the answer is")
    output = _mapped("output", text.output if text.output is not None else min(last))
    _check("output", expressions(output), {INPUT, PARAMETERS, *steps})
    return Graph(tuple(steps[name] for name in order), output, text.example)


def _step(name: str, text: StepText, steps: Collection[str]) -> Step:
    where = f"steps.{name}"
    each = None if text.each is None else _expression(f"{where}.each", text.each)
    when = None if text.when is None else _expression(f"{where}.when", text.when)
    mapped = _mapped(f"{where}.input", text.input)
    known = {INPUT, PARAMETERS, *steps}
    _check(f"{where}.each", [each] if each else [], known)
    if each is not None:
        known |= {ITEM, INDEX}
    _check(f"{where}.when", [when] if when else [], known)
    _check(f"{where}.input", expressions(mapped), known)
    about = {root for e in (each, when, *expressions(mapped)) if e is not None for root in e.roots}
    return Step(name, text.model, mapped, each, when, text.parameters, frozenset(about - _OWN))


def _mapped(where: str, value: Any) -> Mapped:
    if isinstance(value, str):
        return _expression(where, value)
    if isinstance(value, Mapping):
        return {str(key): _mapped(f"{where}.{key}", each) for key, each in value.items()}
    if isinstance(value, list):
        return [_mapped(f"{where}[{i}]", each) for i, each in enumerate(value)]
    return value


def expressions(mapped: Mapped) -> list[Expression]:
    """All that a value is made of."""
    if isinstance(mapped, Expression):
        return [mapped]
    parts = mapped.values() if isinstance(mapped, dict) else mapped if isinstance(mapped, list) else ()
    return [expression for part in parts for expression in expressions(part)]


def _expression(where: str, text: str) -> Expression:
    try:
        return Expression(text)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None


def _check(where: str, expressions: list[Expression], known: set[str]) -> None:
    for expression in expressions:
        for root in sorted(expression.roots - known):
            hint = " (only a step with each: has it)" if root in (ITEM, INDEX) else ""
            raise ValueError(
                f"{where}: {root!r} is neither {INPUT}, {PARAMETERS} nor a step{hint}; a constant text "
                "is written '...', in quotes of its own"
            )
