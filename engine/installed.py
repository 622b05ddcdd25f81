"""What is installed in this environment: the backends, and whether their runtimes are there. Imports no runtime."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from importlib.metadata import EntryPoint

from backends import discovery
from backends.base import Backend, install_command
from engine.schema import BackendList, BackendView


def backends() -> BackendList:
    """Every backend that has an entry point, also one that cannot be used.

    Looks through the whole environment, which takes a fraction of a second: call it in a thread.
    """
    found, problems = discovery.discover()
    packages: dict[str, str] = {}
    for entry in importlib.metadata.entry_points(group=discovery.GROUP):
        packages.setdefault(entry.name, package_of(entry))
    providers = importlib.metadata.packages_distributions()
    views = []
    for name, package in sorted(packages.items()):
        problem = f"{problems[name]}." if name in problems else None
        if name in found:
            cls = found[name]
            views.append(_backend(cls, package, providers.get(cls.package or "", []), problem))
        else:
            views.append(BackendView(name=name, summary="", available=False, package=package, problem=problem))
    return BackendList(backends=views)


def package_of(entry: EntryPoint) -> str:
    """The package that an entry point comes from, and its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""


def _backend(cls: type[Backend], package: str, providers: list[str], problem: str | None) -> BackendView:
    there = cls.package is None or importlib.util.find_spec(cls.package) is not None
    return BackendView(
        name=cls.name,
        summary=cls.summary,
        available=there,
        runtime=cls.package,
        version=importlib.metadata.version(providers[0]) if there and providers else None,
        devices=list(cls.devices),
        extra=cls.extra,
        package=package,
        install=None if there or cls.extra is None else install_command(cls.extra, cls.index),
        problem=problem,
    )
