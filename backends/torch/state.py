"""What a program remembers from one call to the next: put back before each, so that no request sees another's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast


class State:
    """The state of a module that was just loaded. `reset` brings it back. `graph` is TorchScript code that is called.

    A TorchScript module with a method `reset_states` resets itself. Of others, the attributes that the code sets are
    known, and kept; so are the buffers, as long as it is not known that nothing writes to them.
    """

    def __init__(self, module: Any, graph: Any = None) -> None:
        self._reset = _own_reset(module)
        self._attributes: list[tuple[Any, str, Any]] = []
        self._buffers: list[tuple[Any, Any, int]] = []
        if self._reset is None:
            self._attributes = [
                (owner, name, copy.deepcopy(getattr(owner, name))) for owner, name in _set(module, graph)
            ]
            self._buffers = [(buffer, buffer.clone(), buffer._version) for buffer in module.buffers()]

    @property
    def kept(self) -> bool:
        """Whether there is any."""
        return self._reset is not None or bool(self._attributes or self._buffers)

    def settle(self) -> None:
        """After the first runs: forgets the buffers that nothing wrote to."""
        self._buffers = [each for each in self._buffers if each[0]._version != each[2]]

    def reset(self) -> None:
        """The state is as it was when the model was loaded."""
        if self._reset is not None:
            self._reset()
        for owner, name, value in self._attributes:
            setattr(owner, name, copy.deepcopy(value))
        for buffer, value, version in self._buffers:
            if buffer._version != version:
                buffer.copy_(value)


def _own_reset(module: Any) -> Callable[[], Any] | None:
    """The module's method that forgets everything, if it has one that needs no arguments."""
    method = getattr(module, "reset_states", None)
    schema = getattr(method, "schema", None)
    if schema is None or not all(each.has_default_value() for each in schema.arguments[1:]):
        return None
    return cast("Callable[[], Any]", method)


def _set(module: Any, graph: Any) -> Iterator[tuple[Any, str]]:
    """The attributes that TorchScript code sets, each with the module that it belongs to."""
    if graph is None:
        return
    found = set()
    for node in graph.findAllNodes("prim::SetAttr", recurse=True):
        owner_value, name = node.inputsAt(0), node.s("name")
        owner = owner_of(owner_value, module)
        if owner is not None and (id(owner), name) not in found:
            found.add((id(owner), name))
            yield owner, name


def owner_of(value: Any, module: Any) -> Any:
    """The object that a value of a TorchScript graph stands for: the module itself, or an attribute of an attribute.

    `None` when it is computed.
    """
    node = value.node()
    if node.kind() == "prim::GetAttr":
        owner = owner_of(node.inputsAt(0), module)
        return None if owner is None else getattr(owner, node.s("name"), None)
    is_self = node.kind() == "prim::Param" and value.type().kind() == "ClassType"
    return module if is_self else None
