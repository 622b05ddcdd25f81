"""What is installed in this environment: the backends, their runtimes, and what those can compute on here. Imports no
runtime."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from backends import discovery
from backends.base import Backend, Build, install_command
from engine.schema import BackendList, BackendView
from engine.telemetry import gpu


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a machine decides where a runtime can compute."""

    gpu: bool
    cuda: str
    """The newest version of CUDA that the driver has; empty without a GPU."""


def backends(machine: Machine | None = None) -> BackendList:
    """Every backend that has an entry point, also one that cannot be used.

    Looks through the whole environment, which takes a fraction of a second: call it in a thread.
    """
    machine = machine or this_machine()
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
            views.append(_backend(cls, package, providers.get(cls.package or "", []), problem, machine))
        else:
            views.append(BackendView(name=name, summary="", available=False, package=package, problem=problem))
    return BackendList(backends=views)


def this_machine() -> Machine:
    """The machine that this process runs on."""
    return Machine(bool(gpu.find_gpus()), gpu.cuda_version())


def package_of(entry: EntryPoint) -> str:
    """The package that an entry point comes from, and its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""


def kinds(cls: type[Backend]) -> tuple[str, ...]:
    """The kinds of device that are worth a try: those that the installed runtime was built for, as far as it tells."""
    if not _there(cls):  # loading says so; and the model may have an environment of its own
        return cls.devices
    build = _build(cls)
    return tuple(kind for kind in cls.devices if kind in (*build.devices, *build.unknown)) or cls.devices


def _there(cls: type[Backend]) -> bool:
    return cls.package is None or importlib.util.find_spec(cls.package) is not None


def _build(cls: type[Backend]) -> Build:
    """What its runtime was built for; nothing is known of one whose files are not as they usually are."""
    try:
        return cls.build()
    except Exception:
        return Build((), unknown=cls.devices)


def _backend(
    cls: type[Backend], package: str, providers: list[str], problem: str | None, machine: Machine
) -> BackendView:
    there = _there(cls)
    view = BackendView(
        name=cls.name,
        summary=cls.summary,
        available=there,
        runtime=cls.package,
        version=importlib.metadata.version(providers[0]) if there and providers else None,
        supported_devices=list(cls.devices),
        extra=cls.extra,
        package=package,
        install=None if there or cls.extra is None else install_command(cls.extra, cls.index),
        problem=problem,
    )
    if there:
        _tell_devices(view, _build(cls), machine)
    return view


def _tell_devices(view: BackendView, build: Build, machine: Machine) -> None:
    here = [kind for kind in view.supported_devices if kind == "cpu" or machine.gpu]
    old_driver = _major(build.cuda) > _major(machine.cuda)
    view.devices = [k for k in here if k in build.devices and not (k == "cuda" and old_driver)]
    view.unknown_devices = [k for k in here if k in build.unknown]
    if "cuda" not in here or "cuda" in (*view.devices, *view.unknown_devices):
        return
    if "cuda" in build.devices:
        view.gpu_problem = f"it was built for CUDA {build.cuda}, the driver has {machine.cuda}: update the driver"
    else:
        view.gpu_problem = "the installed build has no CUDA"
        view.gpu_install = build.remedy or None


def _major(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 0
