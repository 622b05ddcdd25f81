"""The share of the machine that a model takes, for the backends whose runtimes do not tell or bound it themselves."""

from __future__ import annotations

from backends.base import Device, InvalidOption


def cpu_threads(device: Device, wanted: int | None) -> int:
    """Threads for one call: as many as are wanted, and never more than the worker's. Raises `InvalidOption`."""
    if wanted is not None and wanted < 1:
        raise InvalidOption(f"threads must be at least 1; got {wanted}.", field="config.threads")
    return min(wanted or device.threads, device.threads)


def resident_bytes() -> int:
    """Bytes of memory that this process has now. Its growth while a model is loaded is about what the model takes."""
    import psutil

    return int(psutil.Process().memory_info().rss)
