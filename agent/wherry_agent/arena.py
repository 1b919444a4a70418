"""An arena: shared memory in which one side writes the tensors that the other side reads.

Each arena has one writer, which alone decides what stands where; the reader is told by frames,
and bounds what it is told. Places are reserved under rising numbers and released in their order,
so one question's tensors stay while it is computed and for as long as the answer is looked at.
A new place is the lowest one that is free: what is used again and again are the same few pages.

The memory is a memfd of one size for good (sealed: neither side can make the other touch what is
not there), and it holds only the pages that were written. `trim` gives back those that nothing
needed since the last time, so it grows and shrinks with use.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import insort
from collections.abc import Sequence
from contextlib import suppress
from sys import maxsize
from typing import TypeAlias

from wherry_agent.frames import BadFrame, aligned

SIZE_BYTES = 64 << 20
INLINE_BYTES = 4 << 10  # Up to here a frame is as quick; at 128 KiB it takes 20 us more.

Buffer: TypeAlias = bytes | bytearray | memoryview

UNASKED = maxsize  # The number of a place that no question has yet: it is not released.
UNASKED_BYTES = SIZE_BYTES // 2  # What bodies wait in stays below, or they would slow questions.

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create_arena() -> int:
    """Return the descriptor of a new arena, which holds no page yet."""
    descriptor = os.memfd_create("wherry-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


class Window:
    """A reader's view of an arena."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE_BYTES, access=mmap.ACCESS_READ)
        self._view = memoryview(self._memory)

    def read(self, at: int, size_bytes: int) -> memoryview:
        """Return the bytes that the other side named; raise `BadFrame` where there are none."""
        if at < 0 or size_bytes < 0 or at + size_bytes > SIZE_BYTES:
            raise BadFrame(f"{size_bytes} bytes at {at} are not in the arena")
        return self._view[at : at + size_bytes]

    def close(self) -> None:
        """Unmap the memory; nothing that was read may be looked at any more."""
        self._view.release()
        self._memory.close()


class Arena:
    """The writer's view of an arena."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE_BYTES)
        self._view = memoryview(self._memory)
        self._taken: list[tuple[int, int, int]] = []  # Begin, end and number, by begin.
        self._written = 0  # Where the pages end that were written and not given back.
        self._needed = 0  # Where those end that were reserved since the last trim.

    def reserve(self, number: int, size_bytes: int) -> int | None:
        """Return where so many bytes are the writer's until `number` is released; None: no room."""
        at = 0
        for begin, end, _ in self._taken:
            if begin - at >= size_bytes:
                break
            at = end
        end = at + aligned(max(size_bytes, 1))
        if end > SIZE_BYTES:
            return None
        insort(self._taken, (at, end, number))
        self._needed = max(self._needed, end)
        self._written = max(self._written, end)
        return at

    def reserve_unasked(self, size_bytes: int) -> int | None:
        """Return where a body may arrive, until it is asked or forgotten; None: no room."""
        at = self.reserve(UNASKED, size_bytes)
        if at is not None and at + size_bytes > UNASKED_BYTES:
            self.forget(at)
            return None
        return at

    def ask(self, at: int, number: int) -> None:
        """Have the place at `at` released with the question `number`."""
        self._taken = [
            (begin, end, number if begin == at else other) for begin, end, other in self._taken
        ]

    def forget(self, at: int) -> None:
        """Free the place at `at`, if no question has it."""
        self._taken = [place for place in self._taken if (place[0], place[2]) != (at, UNASKED)]

    def place(self, at: int, size_bytes: int) -> memoryview:
        """Return that part of the memory, to be written; it may outlive the arena."""
        return self._view[at : at + size_bytes]

    def write(self, at: int, buffers: Sequence[Buffer]) -> None:
        """Write each of `buffers` at the next aligned place from `at` on."""
        for buffer in buffers:
            end = at + len(buffer)
            self._view[at:end] = buffer
            at = aligned(end)

    def release(self, number: int) -> None:
        """Free what was reserved under `number` and under all before it."""
        self._taken = [place for place in self._taken if place[2] > number]

    def trim(self) -> bool:
        """Give back the pages that nothing needed since the last time; say if any are left."""
        kept = -(-self._needed // mmap.PAGESIZE) * mmap.PAGESIZE
        if kept < self._written:
            self._memory.madvise(mmap.MADV_REMOVE, kept, self._written - kept)
            self._written = kept
        self._needed = max((end for _, end, _ in self._taken), default=0)
        return self._written > 0

    def close(self) -> None:
        """Unmap the memory, or leave that to the last body that stands in it."""
        self._view.release()
        with suppress(BufferError):
            self._memory.close()
