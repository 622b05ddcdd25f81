"""The GPUs of this machine, through NVML. Without a driver there are none, and that is no error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_bytes: int


def find_gpus() -> list[Gpu]:
    """Every GPU that the driver shows, by index."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            gpus.append(Gpu(index, name.decode() if isinstance(name, bytes) else str(name), total))
        return gpus
    finally:
        pynvml.nvmlShutdown()


def cuda_version() -> str:
    """The newest version of CUDA that the driver has, such as ``12.8``; empty without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        number = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()
    return f"{number // 1000}.{number % 1000 // 10}"


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
