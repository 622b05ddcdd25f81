"""The GPUs of this machine, through NVML. Without a driver there are none, and that is no error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_bytes: int


def find_gpus() -> list[Gpu]:
    """Every GPU that the driver shows, by index."""
    gpus = []
    with _driver() as nvml:
        for index in range(nvml.nvmlDeviceGetCount() if nvml else 0):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            gpus.append(Gpu(index, name.decode() if isinstance(name, bytes) else str(name), total))
    return gpus


def cuda_version() -> str:
    """The newest version of CUDA that the driver has, such as ``12.8``; empty without a driver."""
    with _driver() as nvml:
        if nvml is None:
            return ""
        try:
            number = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        except nvml.NVMLError:
            return ""
    return f"{number // 1000}.{number % 1000 // 10}"


@contextmanager
def _driver() -> Iterator[Any]:
    """NVML, for as long as it is asked; `None` without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def select(gpus: Sequence[Gpu], wanted: Sequence[int] | None) -> list[Gpu]:
    """The GPUs of ``gpu.device_ids``: all when unset. Raises `InvalidOption` for one that is not there."""
    if wanted is None:
        return list(gpus)
    by_index = {g.index: g for g in gpus}
    for index in wanted:
        if index not in by_index:
            have = ", ".join(str(i) for i in by_index) or "none"
            raise InvalidOption(
                f"gpu.device_ids names GPU {index}, but this machine has {have}.", field="gpu.device_ids"
            )
    return [by_index[i] for i in wanted]
