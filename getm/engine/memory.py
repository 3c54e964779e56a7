"""The blocks that are there: memory in slots, which block is in which, leases, and copies out of them.

Not safe against threads: the engine calls it under its lock.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Hashable
from dataclasses import dataclass

from getm.config import MIB, Budget
from getm.engine.arena import Arena
from getm.engine.blocks import BlockTable
from getm.engine.feed import Demand, Feed
from getm.ranges import (
    ALL_PIECES,
    Range,
    block_parts,
    ceil,
    floor,
    missing_parts,
    pieces_touched,
    pieces_whole,
    present_around,
    present_until,
)

KEEP = 16 * MIB
"""Bytes of blocks that nobody reads any more: older ones make room for other objects, and memory beyond that is given back
with the last reader, if there is more than twice as much. Taking memory costs a small object as much as its request."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """Bytes that are there, for reading without the engine.

    Attributes:
        memory: the arena.
        start: first byte of the object that is there.
        stop: the byte after the last.
        shift: what to add to an offset in the object to get one in the memory.
        slot: the slot they are in.
        generation: that of the slot, as long as they are there.
        generations: where to look it up.
    """

    memory: mmap.mmap
    start: int
    stop: int
    shift: int
    slot: int
    generation: int
    generations: list[int]

    def copy(self, start: int, stop: int, *, until: bytes | None = None) -> bytes | None:
        """Return the bytes `[start, stop)` of the object, all within the window; None if they are gone.

        Args:
            start: first byte.
            stop: the byte after the last.
            until: where to stop before: behind the first such byte.
        """
        shift = self.shift
        try:
            last = stop + shift
            if until is not None:
                last = self.memory.find(until, start + shift, last) + 1 or last
            data = self.memory[start + shift : last]
        except ValueError:  # closed
            return None
        # Asked after copying: a slot gets another generation before anything else is written to it.
        return data if self.generations[self.slot] == self.generation else None


class Memory:
    """One arena with its table and its leases.

    Args:
        budget: what it may use.
    """

    def __init__(self, budget: Budget) -> None:
        slots = budget.slots  # found out anew each time
        self.arena = Arena(slots, budget.block_size, shared=budget.processes > 0)
        self.table = BlockTable(slots)
        self._slots = slots  # for which the system has memory, as far as is known
        self._leases: dict[int, int] = {}  # how many by slot
        self._kept: set[int] = set()  # slots for a forked child, for good
        self._left: dict[Hashable, None] = {}  # objects that nobody reads, the last one left last

    def ahead(self, readers: int) -> int:
        """Return how many blocks so many readers may have ahead of them, all together.

        The others are for what is read now, one by each reader and perhaps leased, or again; more leased slots are for
        neither. If there were more ahead than there are slots for, what is about to be read would be lost to what is to be
        read after it; if one lease made it less, a run that has just got so far would be cancelled.
        """
        slots = self._slots - max(0, len(self._leases.keys() | self._kept) - readers)
        return max(0, min(slots * 3 // 4, slots - readers))

    # What is there.

    def missing(self, feed: Feed, start: int, stop: int) -> list[Range]:
        """Return what of `[start, stop)` is not there, in whole pieces."""
        size, piece = feed.block_size, feed.piece
        slots, present = self.table.slots(feed.object.key), self.table.present
        gaps: list[Range] = []
        for block in range(start // size, -(-stop // size)):
            slot = slots.get(block)
            there = 0 if slot is None else present[slot]
            if there == ALL_PIECES:
                continue
            base = block * size
            first, last = max(0, start - base), min(size, stop - base)
            parts = missing_parts(there, first, last, piece) if there else [(floor(first, piece), ceil(last, piece))]
            for low, high in parts:
                gap = (base + low, min(base + high, feed.size))
                if gaps and gaps[-1][1] == gap[0]:
                    gap = (gaps.pop()[0], gap[1])
                gaps.append(gap)
        return gaps

    def serve(self, feed: Feed, demand: Demand) -> None:
        """Hand over what is there, in order, to a caller who waits."""
        if demand.is_done or demand.is_direct:
            return
        if demand.view is None and self.may_lease():
            demand.position = self._present_until(feed, demand.start, demand.stop)
            if demand.position == demand.stop:
                demand.lease = self.lease(feed, demand.start, demand.stop)
            return
        view = demand.go_private()
        size, memory = feed.block_size, self.arena.view
        for block, first, last in block_parts(demand.position, demand.stop, size):
            slot = self.table.find(feed.object.key, block)
            if slot is None:
                return
            until = min(last, present_until(self.table.present[slot], first, feed.piece))
            if until > first:
                start = block * size + first - demand.start
                place = slot * self.arena.slot_size
                view[start : start + until - first] = memory[place + first : place + until]
                demand.position = block * size + until
                self._mark(feed, slot, first, until)
            if until < last:
                return

    def window(self, feed: Feed, offset: int) -> Window | None:
        """Return what is there around *offset* in its block; None if that byte is not."""
        block, first = divmod(offset, feed.block_size)
        slot = self.table.find(feed.object.key, block)
        if slot is None:
            return None
        low, high = present_around(self.table.present[slot], first, feed.piece)
        if low == high:
            return None
        base = block * feed.block_size
        shift = slot * self.arena.slot_size - base
        stop = min(base + high, feed.size)
        generations = self.table.generation
        return Window(self.arena.memory, base + low, stop, shift, slot, generations[slot], generations)

    def mark_read(self, feed: Feed, start: int, stop: int) -> None:
        """Note that the caller has read a range in a window."""
        for block, first, last in block_parts(start, stop, feed.block_size):
            slot = self.table.find(feed.object.key, block)
            if slot is not None:
                self._mark(feed, slot, first, last)

    # Leases.

    def lease(self, feed: Feed, start: int, stop: int) -> memoryview | None:
        """Return a lease on bytes that are there, in one slot or in slots that adjoin; None if they are not.

        Nor is there one if more than half of all slots would be leased.
        """
        size = feed.block_size
        slots: list[int] = []
        for block, first, last in block_parts(start, stop, size):
            slot = self.table.find(feed.object.key, block)
            if slot is None or (slots and (slot != slots[-1] + 1 or size != self.arena.slot_size)):
                return None
            if pieces_touched(first, last, feed.piece) & ~self.table.present[slot]:
                return None
            slots.append(slot)
        if len(self._leases.keys() | set(slots)) > self.arena.slots // 2:
            return None
        for slot, (_, first, last) in zip(slots, block_parts(start, stop, size), strict=True):
            self.table.hold(slot)
            self._leases[slot] = self._leases.get(slot, 0) + 1
            self._mark(feed, slot, first, last)
        return self.arena.lease(slots[0], start % size, stop - start)

    def may_lease(self) -> bool:
        """Whether fewer than half of all slots are leased."""
        self.take_back_leases()
        return len(self._leases) < self.arena.slots // 2

    def take_back_leases(self) -> None:
        """Release the slots of leases that are gone."""
        for slot in self.arena.ended():
            self._leases[slot] -= 1
            if not self._leases[slot]:
                del self._leases[slot]
            self.table.release(slot)

    def keep_leases(self) -> None:
        """Never reuse the slots that are leased now: a forked child may be looking at them."""
        for slot in self._leases:
            self.table.hold(slot)
        self._kept |= self._leases.keys()

    # Places for what is to come.

    def place(self, feed: Feed, offset: int, *, is_ahead: bool = False) -> int | None:
        """Return the slot, held, for the block that a byte is in; None if none is to be had.

        Args:
            feed: whose block it is.
            offset: of the byte.
            is_ahead: whether nobody waits for it.
        """
        key, block = feed.object.key, offset // feed.block_size
        slot = self.table.find(key, block)
        if slot is not None:
            self.table.hold(slot)
            return slot
        slot = self.table.take(key, block, self.ahead(1), is_ahead=is_ahead)
        if slot is None or self.arena.back(slot):
            return slot
        _log.info("the system refuses more than %d MiB for blocks", self.arena.backed * self.arena.slot_size // MIB)
        self.table.release(slot)
        self._slots = self.arena.backed
        self.table.confine(self._slots)
        return self.table.take(key, block, self.ahead(1), is_ahead=is_ahead)

    def fill(self, feed: Feed, start: int, stop: int) -> None:
        """Note that the whole pieces within a range are in their slots."""
        for block, first, last in block_parts(start, stop, feed.block_size):
            slot = self.table.find(feed.object.key, block)
            if slot is not None:
                length = min(feed.block_size, feed.size - block * feed.block_size)
                new = self.table.fill(slot, pieces_whole(first, last, feed.piece, length))
                feed.stats.unread += (new & pieces_touched(first, last, feed.piece)).bit_count() * feed.piece

    def came(self, feed: Feed, start: int, stop: int) -> None:
        """Note that bytes came, whole pieces of blocks that have a slot, and hand them to who waits for them."""
        self.fill(feed, start, stop)
        for other in feed.object.feeds:
            for demand in other.demands:
                if demand.position < stop:
                    if demand.start < stop and start < demand.stop:
                        demand.silence.note(stop - start)
                    self.serve(other, demand)

    # Less of it.

    def forget(self, key: Hashable) -> None:
        """Give up all blocks of an object."""
        self.table.forget(key)

    def leave(self, key: Hashable) -> None:
        """Keep the blocks of an object that nobody reads any more, as far as those of others leave room for them."""
        self._left = {other: None for other in self._left if self.table.slots(other)}
        self._left[key] = None
        count = sum(len(self.table.slots(other)) for other in self._left)
        while count * self.arena.slot_size > KEEP and len(self._left) > 1:
            oldest = next(iter(self._left))
            del self._left[oldest]
            count -= len(self.table.slots(oldest))
            self.forget(oldest)

    def come_back(self, key: Hashable) -> None:
        """Note that an object is read, perhaps again."""
        self._left.pop(key, None)

    def shrink(self) -> None:
        """Give memory beyond `KEEP` back, as far as nobody holds it; but not a little of it after each small object."""
        self.take_back_leases()
        if self.arena.backed * self.arena.slot_size <= 2 * KEEP:
            return
        self.arena.shrink(self.table.vacate(KEEP // self.arena.slot_size))

    def clear(self) -> None:
        """Forget all blocks that nobody holds."""
        self.take_back_leases()
        self.table.vacate(0)

    def close(self) -> None:
        """Let go of the memory; it stays for the leases on it."""
        self.table.invalidate()
        self.arena.close()

    def _mark(self, feed: Feed, slot: int, first: int, last: int) -> None:
        """Note that bytes of a slot were read."""
        is_passed = feed.object.is_large and last == feed.block_size
        new = self.table.read(slot, pieces_touched(first, last, feed.piece), is_passed=is_passed) * feed.piece
        feed.stats.unread = max(0, feed.stats.unread - new)  # another reader may have fetched them

    def _present_until(self, feed: Feed, start: int, stop: int) -> int:
        """Return the first byte of a range within one block that is not there, or its stop."""
        block, first = divmod(start, feed.block_size)
        slot = self.table.find(feed.object.key, block)
        if slot is None:
            return start
        return min(stop, start - first + present_until(self.table.present[slot], first, feed.piece))
