"""The plugins and backends that installed packages offer by entry point, and what is wrong with those that fail."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import msgspec

from backends.base import ModelFileError
from backends.python import target
from backends.python.backend import overrides
from backends.python.loader import Import
from engine import installed
from engine.kit.answers import PluginList, PluginView
from engine.worker.exits import Exit

_OURS = "unimodel "
"""How the packages of the built-in backends begin."""


def found(timeout: float) -> PluginList:
    """All of them. Each plugin is imported in a process of its own, which has so many seconds."""
    entries = sorted(importlib.metadata.entry_points(group=target.ENTRY_POINTS), key=lambda entry: entry.name)
    names = list(dict.fromkeys(entry.name for entry in entries))
    backends = [b for b in installed.backends().backends if b.problem or not b.package.startswith(_OURS)]
    return PluginList(plugins=[_apart(name, timeout) for name in names], backends=backends)


def describe(name: str) -> PluginView:
    """One installed plugin. Imports it."""
    entry = target.entry_point(name)
    named = target.find(name)
    if entry is None or named is None:
        raise ModelFileError(f"There is no installed plugin {name!r}.")
    view = PluginView(name=name, package=installed.package_of(entry), target=entry.value)
    try:
        plugin = Import(named).load_class()
    except ModelFileError as e:
        view.problem = e.message
        return view
    view.summary = next(iter((plugin.__doc__ or "").strip().splitlines()), "")
    view.batches = overrides(plugin, "predict_batch")
    view.streams = overrides(plugin, "stream")
    view.options = sorted(plugin.options) if plugin.options is not None else None
    return view


def _apart(name: str, timeout: float) -> PluginView:
    """One installed plugin, imported in a process of its own: it may crash, hang, or take gigabytes."""
    command = [sys.executable, "-P", "-m", "engine.kit", "plugin", name]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout)
    except subprocess.TimeoutExpired:
        problem = f"Its import took longer than {timeout:g} s."
    else:
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=PluginView)
        problem = f"Its import ended the process ({Exit(done.returncode)})."
    entry = target.entry_point(name)
    package, value = (installed.package_of(entry), entry.value) if entry else ("", "")
    return PluginView(name=name, package=package, target=value, problem=problem)
