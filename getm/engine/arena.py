"""Nameless memory in equal slots, shared with workers, and leases on it.

The memory is a `memfd`: no name, no limit of `/dev/shm`, gone with its last user however that one ends. It is mapped once
to its bound and taken from the system in steps, by `posix_fallocate`, so that a refusal is an error and not a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import mmap
import os
import weakref
from collections import deque

MADV_POPULATE_WRITE = 23
"""As in `madvise` of Linux; Python's `mmap` does not name it."""
_log = logging.getLogger(__name__)

STEP = 2 << 20
"""Bytes by which the memory grows, once it has reached this; before, it doubles. Whoever reads here and there waits for
each step: 8 MiB take 3.5 ms on a slow machine."""


class Arena:
    """Memory of *slots* slots of *slot_size* bytes.

    Not safe against threads: the engine calls it under its lock. Leases are given back by finalizers, which run anywhere
    and only append to a deque.

    Args:
        slots: how many at most.
        slot_size: bytes of one.
        shared: whether workers are to see it; otherwise it is private memory of this process.
    """

    def __init__(self, slots: int, slot_size: int, *, shared: bool) -> None:
        self.slots = slots
        self.slot_size = slot_size
        self._file = _nameless_file(slots * slot_size) if shared else None
        self.descriptor = -1 if self._file is None else self._file.fileno()
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self.memory = mmap.mmap(self.descriptor, slots * slot_size, flags)
        except BaseException:
            if self._file is not None:
                self._file.close()
            raise
        self.view = memoryview(self.memory)
        self.backed = 0 if shared else slots  # slots that the system has promised memory for; the engine's
        self._ended: deque[int] = deque()  # slots of leases that are gone; appended to by finalizers

    def back(self, slot: int) -> bool:
        """Make sure that the system has memory for *slot*; say whether it has."""
        while slot >= self.backed:
            step = max(1, min(self.backed, STEP // self.slot_size))
            more = min(step, self.slots - self.backed)
            while not self._allocate(more):
                more //= 2
                if not more:
                    return False
            self.backed += more
        return True

    def shrink(self, slots: int) -> None:
        """Give the memory of all slots from number *slots* on back; nothing may be in them, and no lease on them."""
        if self.descriptor >= 0 and self.backed > slots:
            start, stop = slots * self.slot_size, self.backed * self.slot_size
            self.memory.madvise(mmap.MADV_REMOVE, start, stop - start)
            self.backed = slots

    def lease(self, slot: int, first: int, length: int) -> memoryview:
        """Return a read-only view of *length* bytes from byte *first* of *slot*; it may run on into the slots after it.

        The slots come out of `ended()` once the last view, slice or array made from it is gone.
        """
        start = slot * self.slot_size + first
        anchor = (ctypes.c_ubyte * length).from_buffer(self.memory, start)
        last = (start + length - 1) // self.slot_size
        weakref.finalize(anchor, self._ended.extend, range(slot, last + 1)).atexit = False
        return memoryview(anchor).cast("B").toreadonly()

    def ended(self) -> list[int]:
        """Return the slots of the leases that ended since the last call, a slot once for each lease."""
        slots = []
        while self._ended:
            slots.append(self._ended.popleft())
        return slots

    def close(self) -> None:
        """Let go of the memory; it goes back to the system with the last lease on it."""
        try:
            self.view.release()
            self.memory.close()
        except BufferError:
            _log.debug("memory is kept for what still looks at it")
        if self._file is not None:
            self._file.close()
        self.descriptor = -1

    def _allocate(self, slots: int) -> bool:
        """Take the memory of so many more slots from the system; say whether it gave it."""
        try:
            os.posix_fallocate(self.descriptor, self.backed * self.slot_size, slots * self.slot_size)
        except OSError:
            return False
        return True


def map_arena(descriptor: int) -> mmap.mmap:
    """Return the arena behind an inherited descriptor, in a worker."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)


def populate(memory: mmap.mmap, start: int, length: int) -> None:
    """Have the pages of a range mapped before they are written to: that costs a fraction of a fault for each.

    Where the system cannot (Linux before 5.14), they are mapped as they are written to.
    """
    skipped = start % mmap.PAGESIZE
    with contextlib.suppress(OSError):
        memory.madvise(MADV_POPULATE_WRITE, start - skipped, length + skipped)


def _nameless_file(size: int) -> io.FileIO:
    """Return a file without a name: a memfd, or where there is none a temporary file."""
    if hasattr(os, "memfd_create"):
        file = io.FileIO(os.memfd_create("getm", os.MFD_CLOEXEC), "r+")
    else:
        import tempfile  # noqa: PLC0415

        file = tempfile.TemporaryFile(prefix="getm-", buffering=0)  # noqa: SIM115  # the caller closes it
    try:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)
    except BaseException:
        file.close()
        raise
    return file
