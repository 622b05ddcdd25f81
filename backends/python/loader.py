"""Imports the class of a plugin, in a way that leaves other plugins of the same process alone.

A file is imported under a module name of its own, so that two plugins called ``model.py`` do not clash. Its folder is
importable while it is loaded (`siblings`), and the modules that it took from there are forgotten again when the plugin
is unloaded, so that an edited plugin can be registered anew.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import itertools
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from backends.base import PIP, ModelFileError
from backends.python.target import Target, entry_point
from unimodel.plugins import BasePlugin

_LOADING = threading.RLock()
"""``sys.path`` and ``sys.modules`` belong to the whole process: one plugin is loaded at a time."""

_COUNT = itertools.count(1)
"""Makes the module names of file plugins unique in the process."""

_SIBLINGS: dict[str, ModuleType] = {}
"""The modules in ``sys.modules`` that came from a plugin's folder, by name."""


class _FreshLoader(SourceFileLoader):
    """Always compiles the source: a cached ``.pyc`` may be stale when a file is edited twice within a second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class Import:
    """The modules that one plugin brought into the process. `forget` takes them out again."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.path = Path(target.where).absolute()
        """The file or folder of the plugin; of an installed one, known after `load_class`."""
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def siblings(self) -> Iterator[None]:
        """Lets the plugin import the modules of its own folder, and no other plugin's modules of the same names."""
        if self.target.kind not in ("file", "package"):
            yield
            return
        folder = str(self.path.parent)
        with _LOADING:
            others = {name: module for name, module in _SIBLINGS.items() if sys.modules.get(name) is module}
            for name in others:
                del sys.modules[name]
            before = set(sys.modules)
            sys.path.insert(0, folder)
            try:
                yield
            finally:
                if folder in sys.path:
                    sys.path.remove(folder)
                self._modules |= {
                    name: module
                    for name, module in list(sys.modules.items())
                    if name not in before and name.partition(".")[0] not in before and _lies_in(module, folder)
                }
                _SIBLINGS.update(self._modules)
                sys.modules.update(others)
                _SIBLINGS.update(others)

    def load_class(self) -> type[BasePlugin]:
        """The plugin's class. Raises `ModelFileError` that names the line of the user's file at fault."""
        try:
            found = self._import()
        except (Exception, SystemExit) as e:
            raise ModelFileError(f"{self._label} cannot be imported: {describe(e, self.path)}") from e
        cls = _checked(_pick(found, self.target) if isinstance(found, ModuleType) else found, self._label)
        if self.target.kind in ("module", "entry point"):
            self.path = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or self.path)
        return cls

    def forget(self) -> None:
        """Removes the plugin's modules from the process; objects made from them live on."""
        with _LOADING:
            for name, module in self._modules.items():
                for table in (sys.modules, _SIBLINGS):
                    if table.get(name) is module:
                        del table[name]
            self._modules.clear()

    def others(self) -> tuple[str, ...]:
        """The files of the plugin's folder that it imported beside its own."""
        files = {str(getattr(module, "__file__", None) or "") for module in self._modules.values()}
        own = str(self.path / "__init__.py" if self.path.is_dir() else self.path)
        return tuple(sorted(files - {own, ""}))

    @property
    def _label(self) -> str:
        return self.path.name if self.target.kind in ("file", "package") else self.target.where

    def _import(self) -> object:
        if self.target.kind == "entry point":
            found = entry_point(self.target.where)
            return found.load() if found else None
        if self.target.kind == "module":
            return importlib.import_module(self.target.where)
        name = f"unimodel_plugin_{next(_COUNT)}_{self.path.stem.replace('.', '_')}"
        file = self.path if self.target.kind == "file" else self.path / "__init__.py"
        loader = _FreshLoader(name, str(file))
        search = [str(self.path)] if self.target.kind == "package" else None
        spec = importlib.util.spec_from_file_location(name, loader=loader, submodule_search_locations=search)
        module = importlib.util.module_from_spec(spec) if spec else ModuleType(name)
        sys.modules[name] = self._modules[name] = module
        loader.exec_module(module)
        return module


def _lies_in(module: ModuleType, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and "site-packages" not in file and Path(folder) in Path(file).parents


def describe(error: BaseException, path: Path) -> str:
    """`error` in a sentence, with the line of the plugin's code that caused it: ``line 3: KeyError: 'x'``."""
    if isinstance(error, SyntaxError):
        file = f"{Path(error.filename).name} " if error.filename and Path(error.filename).name != path.name else ""
        return f"{file}line {error.lineno}: {error.msg}."
    line = _line(error, path)
    where = f"line {line}: " if line else ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        place = f"for {sys.executable}" if PIP in os.environ else "beside the server"
        return f"{where}it needs the Python module {error.name!r}, which is not installed {place}."
    text = str(error).strip().rstrip(".")
    return f"{where}{type(error).__name__}{f': {text}' if text else ''}."


def _line(error: BaseException, path: Path) -> int | None:
    """The last line of the plugin's own file in the traceback of `error`."""
    file = str(path / "__init__.py" if path.is_dir() else path)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _pick(module: ModuleType, target: Target) -> object:
    """The class that `target` names in `module`, or the only plugin in it."""
    name = Path(target.where).name if target.kind in ("file", "package") else target.where
    plugins = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BasePlugin) and value is not BasePlugin
    }
    if target.class_name:
        if hasattr(module, target.class_name):
            return getattr(module, target.class_name)
        close = difflib.get_close_matches(target.class_name, plugins or vars(module), n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else f" It has {_listed(plugins)}."
        raise ModelFileError(f"{name} has no class {target.class_name!r}.{hint}")
    own = {key: value for key, value in plugins.items() if value.__module__.startswith(module.__name__)} or plugins
    if "Plugin" in own:
        return own["Plugin"]
    if len(own) == 1:
        return next(iter(own.values()))
    if not own:
        raise ModelFileError(
            f"{name} holds no plugin: write a class that subclasses unimodel.plugins.BasePlugin, with load_model and "
            "predict."
        )
    choices = " or ".join(f"{target.where}:{key}" for key in sorted(own))
    raise ModelFileError(f"{name} holds {len(own)} plugins; say which one: {choices}.")


def _listed(plugins: dict[str, type[BasePlugin]]) -> str:
    return f"the plugins {', '.join(sorted(plugins))}" if plugins else "no plugins"


def _checked(cls: object, label: str) -> type[BasePlugin]:
    """`cls`, a plugin that can be created and called. Raises `ModelFileError` when it is not one."""
    if not isinstance(cls, type) or not issubclass(cls, BasePlugin):
        name = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise ModelFileError(f"{label}: {name} is not a plugin; let it subclass unimodel.plugins.BasePlugin.")
    missing = sorted(cls.__abstractmethods__)
    if missing:
        raise ModelFileError(f"{label}: class {cls.__name__} does not define {' and '.join(missing)}.")
    for method in ("load_model", "predict", "predict_batch", "stream", "close"):
        function = getattr(cls, method)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ModelFileError(f"{label}: {cls.__name__}.{method} is async; make it a plain function.")
    return cls
