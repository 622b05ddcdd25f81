"""Keras' own files: ``.keras`` archives, and HDF5 as Keras 2 wrote it. They hold layers and weights, and no graph."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from backends.base import BackendError, ModelFileError, UntrustedFile
from backends.tensorflow import files, runtime
from backends.tensorflow.files import Kind
from backends.tensorflow.program import Array, Slot, dtype_of, is_base64

_UNKNOWN = re.compile(r"(?:Could not locate \w+|Unknown \w+):? '([^']+)'")


class KerasProgram:
    """A Keras model as one function. See `backends.tensorflow.program.Program`."""

    def __init__(self, tf: Any, path: Path, kind: Kind, base64: tuple[str, ...], *, trusted: bool) -> None:
        keras = runtime.keras()
        self.scales_pixels = files.scales_pixels(_check(path, kind, trusted))
        """Whether it is to be given pixels of 0 to 255 as they are."""
        model = _load(keras, path, trusted)
        self.written_by = f"Keras {_version(path, kind)}"
        tensors = list(getattr(model, "inputs", None) or ())
        if not tensors:
            raise ModelFileError(
                f"{path.name} does not say what its inputs are. Save it as a SavedModel: model.export(folder)."
            )
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs)
        structure = model.input

        def call(*values: Any) -> Any:
            return keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, values), training=False))

        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        self._function = tf.function(call).get_concrete_function(*specs)
        self._tf = tf
        self._specs = specs
        self._model = model  # a function does not keep its variables
        self.inputs = _slots(tf, "Input", [t.name for t in tensors], specs, base64)
        self.outputs = _slots(tf, "Output", _output_names(keras, model), self._function.outputs, base64)

    def run(self, tensors: list[Array]) -> list[Any]:
        given = [self._tf.constant(a, spec.dtype) for a, spec in zip(tensors, self._specs, strict=True)]
        return [output.numpy() for output in self._function(*given)]

    def close(self) -> None:
        """Frees the model and its variables."""
        self._model = self._function = None


def _check(path: Path, kind: Kind, trusted: bool) -> Any:
    """The configuration. Raises `UntrustedFile` if the file brings code, and `ModelFileError` if it is not whole."""
    config = files.read_config(path) if kind is Kind.KERAS else _h5_config(path)
    code = files.code_in(config)
    if code is not None and not trusted:
        raise UntrustedFile(f"{path.name} has {code}. If you trust its author, register it with --trust.")
    return config


def _load(keras: Any, path: Path, trusted: bool) -> Any:
    if path.suffix.lower() not in (files.SUFFIX, *files.H5_SUFFIXES):
        raise ModelFileError(f"Keras goes by the ending of a file's name: rename {path.name} to end in {files.SUFFIX}.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trusted)
    except (TypeError, ValueError) as e:
        unknown = _UNKNOWN.search(str(e))
        if unknown is None:
            raise
        raise ModelFileError(
            f"{path.name} uses {unknown[1]!r}, which is no part of Keras, and its code is not in the file. Save it as "
            "a SavedModel, which needs no classes: model.export(folder)."
        ) from None


def _h5_config(path: Path) -> Any:
    """The configuration in a file of Keras 2. Raises `ModelFileError`."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except (OSError, RuntimeError, KeyError, ValueError):
        raise ModelFileError(f"{path} is truncated or corrupt: it cannot be read as HDF5. Copy it again.") from None
    if text is None:
        raise ModelFileError(
            f"{path.name} has weights alone, and not the model that they are for. Save the model itself: "
            "model.save('model.keras')."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path} is corrupt: its configuration is no JSON. Copy it again.") from None


def _version(path: Path, kind: Kind) -> str:
    """Of the Keras that wrote the file."""
    import h5py

    if kind is Kind.KERAS:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json")).get("keras_version", "3"))
    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version", "2")
        return version.decode() if isinstance(version, bytes) else str(version)


def _output_names(keras: Any, model: Any) -> list[str]:
    """The keys of a model that gives a dict, else the names of its last layers."""
    if isinstance(model.output, dict):
        return [".".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(model.output)]
    return list(model.output_names)


def _slots(tf: Any, kind: str, names: list[str], tensors: Any, base64: tuple[str, ...]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, tf.TensorSpec | tf.Tensor):
            raise BackendError(f"{kind} {name!r} is a ragged or sparse tensor, which cannot be served.")
        taken = {slot.name for slot in slots}
        unique = next(n for i in range(len(names) + 1) if (n := f"{name}_{i}" if i else name) not in taken)
        dtype, own = dtype_of(kind, name, tensor.dtype)
        shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        slots.append(Slot(unique, dtype, shape, own, is_base64(name, dtype, base64)))
    return tuple(slots)
