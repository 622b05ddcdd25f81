"""What the backends on PyTorch do alike: they keep to their threads, and to their share of a GPU."""

from __future__ import annotations

from typing import Any

from backends.base import Device


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
