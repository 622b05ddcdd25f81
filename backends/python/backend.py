"""Serves a plugin: a class written in Python by the user."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from backends import base
from backends.base import BackendError, Device, InvalidOption, Match, ModelFileError, ModelInfo, OutOfMemory
from backends.python import target
from backends.python.loader import Import, describe
from unimodel.plugins import BasePlugin, InvalidInput, ModelConfig


class PythonBackend(base.ValueBackend):
    """A model that is a Python class. `target.find` says which paths it takes."""

    name = "python"
    summary = "Python plugins: file.py:Class, a package folder, package.module:Class, or an installed plugin's name"
    devices = ("cpu", "cuda")
    Options: ClassVar[type[dict[str, Any]]] = dict
    """Free: a plugin's options are its own, and it may declare them (`BasePlugin.options`)."""

    _plugin: BasePlugin | None = None
    _import: Import
    _label: str

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return target.sniff(path)

    @classmethod
    def source(cls, target_path: str) -> Path:
        """The file or folder of a plugin; an installed one has no file of the user's."""
        found = target.find(target_path)
        return Path(found.where if found and found.kind in ("file", "package") else target_path)

    def load(self, path: Path, device: Device, options: Mapping[str, Any]) -> ModelInfo:
        found = target.find(path)
        if found is None:
            raise ModelFileError(
                f"{path} is not a plugin: there is no such Python file, package folder, module or name."
            )
        self._import = Import(found)
        try:
            with self._import.siblings():
                plugin_class = self._import.load_class()
                self._label = plugin_class.__name__
                config = ModelConfig(
                    path=self._import.path,
                    device=str(device),
                    threads=device.threads,
                    options=_with_defaults(plugin_class, options),
                )
                self._plugin = self._start(plugin_class, config)
        except BaseException:
            self._import.forget()
            raise
        return msgspec.structs.replace(_info(plugin_class, device, options), sources=self._import.others())

    def _start(self, plugin_class: type[BasePlugin], config: ModelConfig) -> BasePlugin:
        try:
            plugin = plugin_class()
            plugin.load_model(config)
        except MemoryError as e:
            raise OutOfMemory(f"{self._label} does not fit the memory: {describe(e, config.path)}") from e
        except InvalidInput as e:
            field = f"config.{e.field}" if e.field else "config"
            raise InvalidOption(f"{self._label}: {e.message}", field=field) from e
        except BaseException as e:
            raise ModelFileError(f"{self._label}.load_model failed: {describe(e, config.path)}") from e
        return plugin

    def example(self) -> dict[str, Any] | None:
        example = self._loaded.example
        try:
            value = example() if callable(example) else example
        except Exception as e:
            raise ModelFileError(f"{self._label}.example failed: {describe(e, self._import.path)}") from e
        if value is None:
            return None
        plain: dict[str, Any] = msgspec.to_builtins(self._as_json(value, "example"), enc_hook=_to_builtin)
        return plain

    def predict_values(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        plugin = self._loaded
        if overrides(type(plugin), "predict_batch"):
            try:
                # Copies, since a plugin may take keys out of its input before it raises.
                results = plugin.predict_batch([dict(body) for body in inputs])
            except BaseException as e:
                if len(inputs) == 1:
                    return [self._fault(e)]
            else:
                return self._of_batch(results, len(inputs))
        return [self._capture(plugin.predict, body) for body in inputs]

    def _of_batch(self, results: Any, count: int) -> list[dict[str, Any] | Exception]:
        if not isinstance(results, list | tuple) or len(results) != count:
            got = f"{len(results)} results" if isinstance(results, list | tuple) else f"a {type(results).__name__}"
            problem = f"{self._label}.predict_batch must return a list of {count} dicts, one a request; got {got}."
            return [BackendError(problem)] * count
        return [self._capture(lambda result: result, result, "predict_batch") for result in results]

    def _capture(
        self, compute: Callable[[Any], Any], argument: Any, method: str = "predict"
    ) -> dict[str, Any] | Exception:
        """The checked result of one request, or what it raised."""
        try:
            return self._as_json(compute(argument), method)
        except BaseException as e:  # such as asyncio's CancelledError, which is no Exception, and would end the worker
            return self._fault(e)

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            chunks = iter(self._loaded.stream(body))
            try:
                for chunk in chunks:
                    yield self._as_json(chunk, "stream")
            finally:  # the author's own clean-up runs as soon as the caller goes away
                getattr(chunks, "close", lambda: None)()
        except GeneratorExit:  # the caller went away
            raise
        except BaseException as e:
            raise self._fault(e) from e

    def close(self) -> None:
        if self._plugin is None:
            return
        plugin, self._plugin = self._plugin, None
        try:
            plugin.close()
        finally:
            self._import.forget()

    @property
    def _loaded(self) -> BasePlugin:
        if self._plugin is None:
            raise BackendError("the plugin is not loaded")
        return self._plugin

    def _as_json(self, value: Any, method: str) -> dict[str, Any]:
        """`value`, with other things than arrays of numbers as JSON has them. Raises `BackendError` when it is not a
        dict that JSON can hold."""
        if not isinstance(value, dict):
            raise BackendError(f"{self._label}.{method} must give a dict; got {_kind(value)}.")
        try:
            plain: dict[str, Any] = _plain(value)
        except RecursionError:
            raise BackendError(
                f"{self._label}.{method} gave a dict that contains itself, or nests too deeply."
            ) from None
        except (TypeError, ValueError) as e:
            raise BackendError(f"{self._label}.{method} gave a value that JSON cannot hold: {e}.") from None
        return plain

    def _fault(self, error: BaseException) -> Exception:
        """The plugin's exception as the engine is to see it."""
        if isinstance(error, InvalidInput):
            return base.InvalidInput(error.message, field=error.field)
        if isinstance(error, ModuleNotFoundError) and (self._import.path.parent / f"{error.name}.py").exists():
            return BackendError(
                f"{self._label} imports {error.name!r} while it predicts; import it at the top of its file, since the "
                "plugin's folder is importable only while it is loaded."
            )
        if isinstance(error, Exception):
            return error
        if isinstance(error, SystemExit):
            return BackendError(f"{self._label} called sys.exit() while it predicted.")
        return BackendError(f"{self._label} raised {describe(error, self._import.path)}")


def _info(plugin_class: type[BasePlugin], device: Device, options: Mapping[str, Any]) -> ModelInfo:
    batchable = overrides(plugin_class, "predict_batch")
    notes: tuple[str, ...] = ()
    if options and plugin_class.options is None:
        names = ", ".join(sorted(options))
        notes = (
            f"The options {names} were passed to the plugin unchecked; declare {plugin_class.__name__}.options to have "
            "them checked.",
        )
    return ModelInfo(
        task="custom",
        batchable=batchable,
        unbatched_reason=None if batchable else f"{plugin_class.__name__} does not define predict_batch.",
        streams=overrides(plugin_class, "stream"),
        runtime=f"python {platform.python_version()}",
        device=str(device),
        metadata={"class": plugin_class.__name__},
        notes=notes,
    )


def overrides(plugin_class: type[BasePlugin], method: str) -> bool:
    """Whether a plugin has a method of its own in place of the one that every plugin has."""
    return getattr(plugin_class, method) is not getattr(BasePlugin, method)


def _with_defaults(plugin_class: type[BasePlugin], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options over the declared defaults. Raises `InvalidOption` for one that the plugin does not declare."""
    declared = plugin_class.options
    if declared is None:
        return dict(given)
    defaults = dict(declared) if isinstance(declared, Mapping) else {}
    for name, value in given.items():
        if name not in declared:
            close = difflib.get_close_matches(name, list(declared), n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]!r}?" if close else f"It has: {', '.join(sorted(declared)) or 'none'}."
            raise InvalidOption(f"{plugin_class.__name__} has no option {name!r}. {hint}", field=f"config.{name}")
        default = defaults.get(name)
        if default is not None and _json_kind(value) != _json_kind(default):
            raise InvalidOption(
                f"Option {name} of {plugin_class.__name__} must be {_json_kind(default)}, such as {default!r}; "
                f"got {value!r}.",
                field=f"config.{name}",
            )
    return {**defaults, **given}


def _json_kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", tuple: "a list"}
    return kinds.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _plain(value: Any) -> Any:
    """`value` in JSON's types, but for NumPy's arrays of numbers in objects and lists of such."""
    if isinstance(value, dict):
        names = msgspec.to_builtins(dict.fromkeys(value), str_keys=True)
        return {name: _plain(each) for name, each in zip(names, value.values(), strict=True)}
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict | list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf":
        return value
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_to_builtin)


def _to_builtin(value: Any) -> Any:
    """Arrays, tensors and their scalars, of whatever library, as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {_kind(value)}")
