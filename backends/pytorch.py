"""What the backends on PyTorch do alike: they keep to their threads, and to their share of a GPU."""

from __future__ import annotations

from typing import Any

from backends import builds
from backends.base import Build, Device, InvalidOption

_REMEDY = "pip install --force-reinstall torch"
"""PyPI's own build for Linux has CUDA."""


def build() -> Build:
    """What the installed PyTorch was built for."""
    version = builds.folder("torch") / "version.py"
    cuda = builds.constant(version, "cuda")
    if cuda is None:  # a build that says nothing
        return Build(("cpu",), ("cuda",))
    if cuda != "None":
        return Build(("cpu", "cuda"), cuda=cuda)
    if builds.constant(version, "hip") not in (None, "None"):  # it calls AMD's GPUs ``cuda``
        return Build(("cpu",), ("cuda",))
    return Build(("cpu",), remedy=_REMEDY)


def check_device(torch: Any, device: Device) -> None:
    """Raises `InvalidOption` for a GPU that PyTorch cannot use."""
    if device.kind != "cuda" or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        raise builds.no_gpu("PyTorch", _REMEDY)
    raise InvalidOption(
        f"PyTorch finds no GPU that it can use with its CUDA {torch.version.cuda}: update the driver, install a build "
        "of PyTorch for the driver's CUDA, or register the model with --set device=cpu.",
        field="config.device",
    )


def limit_threads(torch: Any, count: int) -> None:
    """Lets the calling thread compute with so many threads.

    Each thread has a count of its own. A thread takes over that of another when it first asks for it, hence the
    question before the answer is set.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


def bound_memory(torch: Any, device: Device) -> None:
    """Keeps PyTorch to the worker's share of its GPU."""
    if device.kind == "cuda" and device.memory_bytes is not None:
        total = torch.cuda.get_device_properties(device.index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, device.memory_bytes / total), device.index)
