"""The shared memory of one (model, worker) pair.

An anonymous ``memfd`` is cut into equal slots. Each batch under way owns one slot: the server writes the inputs at its
start, the worker writes the outputs behind them::

    slot 0                         slot 1
    ┌────────────┬─────────────┬───┬────────────┬─────────────┬───┐
    │ inputs     │ outputs     │   │ inputs     │ outputs     │   │
    └────────────┴─────────────┴───┴────────────┴─────────────┴───┘
    0            input_end         slot_bytes                     2 × slot_bytes

The file has no name that could clash or leak; it lives as long as a process maps it. It is sparse: a slot is address
space until it is touched, and `trim` gives touched pages back.
"""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np

from engine.transport.messages import INLINE_BYTES, Block

ALIGN = 64
"""Blocks start on cache lines, which is also what the runtimes' vector code wants."""

_MADV_REMOVE = 9  # linux/mman.h; the mmap module does not name it on every build
_KEEP = 1 << 20
"""Bytes of a slot that `trim` leaves in memory."""


def aligned(offset: int) -> int:
    """`offset` rounded up to the next block boundary."""
    return (offset + ALIGN - 1) // ALIGN * ALIGN


class Slots:
    """The mapped slots. The server creates them (`create`), a worker attaches to the descriptor it got (`attach`)."""

    def __init__(self, fd: int, count: int, slot_bytes: int) -> None:
        self.fd = fd
        self.count = count
        self.slot_bytes = slot_bytes
        self._map = mmap.mmap(fd, count * slot_bytes)
        self._view = memoryview(self._map)
        self._high = [0] * count

    @classmethod
    def create(cls, count: int, slot_bytes: int) -> Slots:
        """New, empty, untouched slots."""
        slot_bytes = aligned(slot_bytes) + (-aligned(slot_bytes)) % mmap.PAGESIZE
        fd = os.memfd_create("unimodel-batch-queue", os.MFD_CLOEXEC)
        os.ftruncate(fd, count * slot_bytes)
        return cls(fd, count, slot_bytes)

    @classmethod
    def attach(cls, fd: int, count: int, slot_bytes: int) -> Slots:
        """The slots behind a descriptor that another process created. Closes `fd`: the mapping keeps the memory."""
        slots = cls(fd, count, slot_bytes)
        os.close(fd)
        slots.fd = -1
        return slots

    def arena(self, slot: int) -> memoryview:
        """The bytes of one slot."""
        return self._view[slot * self.slot_bytes : (slot + 1) * self.slot_bytes]

    def touched(self, slot: int, end: int) -> None:
        """Remembers how far a slot was written, for `trim`."""
        self._high[slot] = max(self._high[slot], end)

    def trim(self, slot: int) -> None:
        """Gives the memory of an unused slot back to the system, but for its first MiB."""
        if self._high[slot] > _KEEP:
            self._map.madvise(_MADV_REMOVE, slot * self.slot_bytes + _KEEP, self.slot_bytes - _KEEP)
            self._high[slot] = _KEEP

    def close(self) -> None:
        """Unmaps. Arrays that still look into a slot keep the mapping until they are gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            self._view.release()
            self._map.close()
        except BufferError:
            pass  # a view outlives us; the mapping goes with the last of them


class Layout:
    """Lays blocks out one after the other, before any memory is chosen. Offsets count from the arena's start."""

    def __init__(self) -> None:
        self.size = 0

    def place(self, nbytes: int) -> int:
        """Reserves `nbytes` and returns their offset."""
        offset = aligned(self.size)
        self.size = offset + nbytes
        return offset

    @property
    def inline(self) -> bool:
        """Whether the arena is small enough to ride in the message."""
        return self.size <= INLINE_BYTES


def view(arena: Any, block: Block) -> np.ndarray[Any, Any]:
    """The array of a block, without a copy."""
    dtype = np.dtype(block.dtype)
    count = math.prod(block.shape)
    return np.frombuffer(arena, dtype, count, block.offset).reshape(block.shape)


def write(arena: Any, block: Block, arrays: list[np.ndarray[Any, Any]]) -> None:
    """Writes `arrays`, one below the other along axis 0, into the block: one copy for each of them."""
    target = view(arena, block)
    if len(arrays) == 1:
        target[...] = arrays[0]
        return
    row = 0
    for array in arrays:
        target[row : row + len(array)] = array
        row += len(array)
