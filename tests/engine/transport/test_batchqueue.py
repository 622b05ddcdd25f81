"""Shared memory between real processes: what one writes the other reads, and all of it goes back in the end."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.transport.batchqueue import ALIGN, Layout, Slots, aligned, view, write
from engine.transport.messages import INLINE_BYTES, Block

MIB = 1 << 20
ROOT = Path(__file__).parents[3]


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.create(2, 4 * MIB)
    yield made
    made.close()


def in_memory(slots: Slots) -> int:
    """Bytes of the slots that take real memory."""
    return os.fstat(slots.fd).st_blocks * 512


def fill(slots: Slots, slot: int, size: int) -> None:
    slots.arena(slot)[:size] = b"\1" * size
    slots.touched(slot, size)


def mapped() -> int:
    """Mappings of batch queues in this process."""
    return Path("/proc/self/maps").read_text().count("unimodel-batch-queue")


def opened() -> int:
    """Descriptors of batch queues in this process."""
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return sum("unimodel-batch-queue" in link for link in links)


# -- slots ------------------------------------------------------------------------------------------------------------


def test_slots_are_whole_pages_and_take_no_memory_at_first() -> None:
    slots = Slots.create(3, 1000)
    assert slots.slot_bytes % mmap.PAGESIZE == 0
    assert slots.slot_bytes >= 1000
    assert all(len(slots.arena(i)) == slots.slot_bytes for i in range(3))
    assert in_memory(slots) == 0
    slots.close()


def test_slots_do_not_overlap(slots: Slots) -> None:
    fill(slots, 0, slots.slot_bytes)
    assert not any(slots.arena(1))
    slots.arena(1)[:4] = b"next"
    assert slots.arena(0)[-1] == 1


CHILD = """
import sys
from engine.transport.batchqueue import Slots, view, write
from engine.transport.messages import Block
import numpy as np

fd, count, slot_bytes = map(int, sys.argv[1:])
slots = Slots.attach(fd, count, slot_bytes)
assert slots.fd == -1
numbers = view(slots.arena(1), Block("x", "<f4", (3, 4), 64))
answer = Block("y", "<f8", (3,), 4096)
write(slots.arena(1), answer, [numbers.sum(axis=1, dtype="f8")])
try:
    view(slots.arena(1), Block("x", "u1", (slot_bytes + 1,), 0))
except ValueError:
    print("bounded")
"""


def test_another_process_reads_and_writes_the_same_memory(slots: Slots) -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    write(slots.arena(1), Block("x", "<f4", (3, 4), 64), [numbers])
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(slots.fd), str(slots.count), str(slots.slot_bytes)],
        pass_fds=[slots.fd],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (child.returncode, child.stdout) == (0, "bounded\n"), child.stderr
    assert view(slots.arena(1), Block("y", "<f8", (3,), 4096)).tolist() == numbers.sum(axis=1).tolist()
    assert not any(slots.arena(0))


def test_an_attached_queue_needs_its_descriptor_no_more(slots: Slots) -> None:
    attached = Slots.attach(os.dup(slots.fd), slots.count, slots.slot_bytes)
    slots.arena(0)[:2] = b"hi"
    assert bytes(attached.arena(0)[:2]) == b"hi"
    attached.close()
    assert bytes(slots.arena(0)[:2]) == b"hi"


# -- memory goes back -------------------------------------------------------------------------------------------------


def test_trimming_gives_memory_back_but_for_the_first_piece(slots: Slots) -> None:
    for slot in range(2):
        fill(slots, slot, 4 * MIB)
    assert in_memory(slots) == 8 * MIB
    slots.trim(0)
    assert in_memory(slots) == 5 * MIB
    assert os.pread(slots.fd, 4 * MIB, 0) == b"\1" * MIB + bytes(3 * MIB)
    assert all(slots.arena(1)), "the other slot is untouched"
    slots.trim(0)
    fill(slots, 0, 2 * MIB)
    assert in_memory(slots) == 6 * MIB
    slots.trim(0)
    assert in_memory(slots) == 5 * MIB


def test_little_is_kept_for_the_next_batch(slots: Slots) -> None:
    fill(slots, 0, MIB)
    slots.trim(0)
    assert in_memory(slots) == MIB


def test_closing_unmaps_and_closes() -> None:
    gc.collect()  # what other tests left
    before, descriptors = mapped(), opened()
    slots = Slots.create(2, MIB)
    assert mapped() == before + 1
    slots.close()
    slots.close()
    assert mapped() == before
    assert opened() == descriptors


def test_a_view_that_outlives_the_slots_stays_valid_and_its_memory_goes_with_it() -> None:
    gc.collect()  # what other tests left
    before, descriptors = mapped(), opened()
    slots = Slots.create(2, MIB)
    array = view(slots.arena(1), Block("x", "<i4", (5,), 0))
    array[:] = 7
    slots.close()
    del slots
    gc.collect()
    assert array.tolist() == [7] * 5
    assert mapped() == before + 1
    del array
    gc.collect()
    assert mapped() == before
    assert opened() == descriptors


# -- layout -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10_000), max_size=20))
def test_blocks_are_aligned_and_apart(sizes: list[int]) -> None:
    layout = Layout()
    end = 0
    for size in sizes:
        offset = layout.place(size)
        assert offset % ALIGN == 0
        assert end <= offset < end + ALIGN
        end = offset + size
    assert layout.size == end
    assert layout.inline == (end <= INLINE_BYTES)


@given(st.integers(0, 10**9))
def test_alignment_goes_up_to_the_next_line(offset: int) -> None:
    assert aligned(offset) % ALIGN == 0
    assert offset <= aligned(offset) < offset + ALIGN


def test_rows_are_written_one_below_the_other() -> None:
    arena = bytearray(1000)
    parts = [np.arange(n * 3, dtype=np.int16).reshape(n, 3) for n in (1, 0, 2)]
    block = Block("x", "<i2", (3, 3), 128)
    write(arena, block, parts)
    np.testing.assert_array_equal(view(arena, block), np.concatenate(parts))
    assert not any(arena[:128])


def test_an_array_that_is_not_contiguous_is_written_in_order() -> None:
    arena = bytearray(1000)
    array = np.arange(12).reshape(3, 4).T
    block = Block("x", array.dtype.str, array.shape, 0)
    write(arena, block, [array])
    np.testing.assert_array_equal(view(arena, block), array)
