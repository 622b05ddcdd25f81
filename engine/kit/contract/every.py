"""Checks of every model: what loading found, options, closing."""

from __future__ import annotations

import msgspec

from backends.base import Backend, BackendError, InvalidOption, ModelInfo, TensorBackend
from engine import model_options
from engine.errors import UniModelError
from engine.kit.contract.model import Broken, Check, Model, told


def what_loading_found_is_consistent(model: Model) -> None:
    """Signature, batching and runtime."""
    backend, info = model.loaded
    if not info.runtime:
        raise Broken("ModelInfo.runtime is empty; name the runtime and its version.")
    if info.batchable != (info.unbatched_reason is None):
        raise Broken("ModelInfo.unbatched_reason must be a sentence when batchable is false, and None when it is true.")
    for specs in (info.inputs, info.outputs):
        if len({spec.name for spec in specs}) != len(specs):
            raise Broken(f"Two tensors have the same name: {', '.join(spec.name for spec in specs)}.")
    if isinstance(backend, TensorBackend):
        if not info.inputs or not info.outputs:
            raise Broken("ModelInfo.inputs and outputs must name the tensors of a TensorBackend.")
        for spec in (*info.inputs, *info.outputs):
            if spec.batch_axis is not None and spec.batch_axis >= len(spec.shape):
                raise Broken(f"The batch axis of {spec.name} lies outside its shape {list(spec.shape)}.")
            if info.batchable and spec.batch_axis is not None and not isinstance(spec.shape[spec.batch_axis], str):
                raise Broken(f"The batch axis of {spec.name} must have a name, since a batch may have any length.")
    if msgspec.json.decode(msgspec.json.encode(info), type=ModelInfo) != info:
        raise Broken(
            "ModelInfo does not survive JSON, in which it is kept; give its fields the types that it declares."
        )


def memory_is_a_number_of_bytes(model: Model) -> None:
    """What `memory` tells."""
    size = model.loaded[0].memory()
    if not isinstance(size, int) or size < 0:
        raise Broken(f"memory() must return a number of bytes, 0 when it does not know; got {size!r}.")


def an_unknown_option_is_an_error(model: Model) -> str | None:
    """An option that is mistyped must not be ignored."""
    if model.kind.Options is not dict:
        try:
            model_options.split({"no_such_option": 1}, model.kind.Options)
        except UniModelError as e:
            if e.code == InvalidOption.code and "no_such_option" in e.message:
                return None
            raise Broken(f"An unknown option must be an InvalidOption that names it; got {told(e)}.") from e
        raise Broken("An unknown option is ignored; declare Options with forbid_unknown_fields=True.")
    try:
        backend, info = model.load(no_such_option=1)
    except InvalidOption as e:
        if "no_such_option" in e.message:
            return None
        raise Broken(f"An unknown option must be an error that names it; got {told(e)}.") from e
    except BackendError as e:
        raise Broken(f"An unknown option must be an InvalidOption that names it; got {told(e)}.") from e
    backend.close()
    return next((note for note in info.notes if "no_such_option" in note), "Any option is accepted, unchecked.")


def it_loads_twice_and_closes_twice(model: Model) -> None:
    """Two instances live side by side, as two versions do, and one outlives the other."""
    backends = []
    for ordinal in ("first", "second"):
        try:
            backends.append(model.load()[0])
        except BackendError as e:
            raise Broken(
                f"The {ordinal} further load failed: {told(e)}. A worker loads a new version beside the old."
            ) from e
    first, second = backends
    for ordinal in ("first", "second"):
        try:
            first.close()
        except Exception as e:
            raise Broken(
                f"The {ordinal} call of close() raised {told(e)}; it must do nothing when all is closed."
            ) from e
    try:
        model.ask(second)
    except Exception as e:
        raise Broken(
            f"After one instance was closed, another could not answer: {told(e)}. Keep state in the object (self), "
            "not in the module or the process."
        ) from e
    finally:
        second.close()


CHECKS = (
    Check("what loading found is consistent", Backend, what_loading_found_is_consistent),
    Check("memory is a number of bytes", Backend, memory_is_a_number_of_bytes),
    Check("an unknown option is an error", Backend, an_unknown_option_is_an_error),
)
LAST = (Check("it loads twice, and closes twice", Backend, it_loads_twice_and_closes_twice),)
