"""Where the bytes go that a thread of the calling process receives itself.

Part of the core: called under the engine's lock, and waits for nothing.
"""

from __future__ import annotations

from getm import buffers
from getm.config import FETCH_LEAST, MIB
from getm.engine.feed import Demand, Feed, Inline, Target
from getm.engine.memory import Memory
from getm.ranges import ceil, floor, missing_parts, overlap

DIRECT_LEAST = 64 * 1024
"""From this length on, a process that reads for itself receives straight into the caller's memory."""
DIRECT_MOST = 8 * MIB
"""And so much at once, after which everything is looked at again."""


class Targets:
    """The places that threads of this process receive to, in one memory.

    Args:
        memory: where the slots are.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def find(self, feed: Feed, inline: Inline, demand: Demand, *, is_alone: bool) -> Target:
        """Say where the next bytes of an inline go.

        A process that reads for itself receives long parts straight into the caller's view. Otherwise they go to the slot
        of their block; what is there, or written by somebody else, is not written again, and where there is no slot they go
        to private memory.
        """
        size, start = feed.block_size, inline.position
        if is_alone and start >= size and demand.view is not None and demand.position == start < demand.stop:
            view = demand.view[start - demand.start :]
            is_slow = buffers.is_slow(view, start)
            stop = min(inline.stop, demand.stop, start + (MIB if is_slow else DIRECT_MOST))
            stop = stop if stop == inline.stop else floor(stop, feed.piece)
            if stop - start >= DIRECT_LEAST:
                if not is_slow:
                    return Target(view[: stop - start], is_direct=True)
                if inline.scratch is None:
                    inline.scratch = buffers.buffer(MIB)
                return Target(inline.scratch[: stop - start])
        block = floor(start, size)
        least = FETCH_LEAST if inline.reach is None else max(FETCH_LEAST, min(feed.planner.streak, MIB))
        stop = min(block + size, inline.stop, ceil(max(demand.stop, start + least), feed.piece))
        slot = self._memory.place(feed, start)
        if slot is None:
            demand.go_private()
            return Target(buffers.buffer(stop - start))
        present = self._memory.table.present[slot]
        low, high = next(missing_parts(present, start - block, size, feed.piece), (size, size))
        if low > start - block:
            self._memory.table.release(slot)
            return Target(buffers.buffer(min(stop, block + low) - start))
        runs = [run.position for run in feed.object.runs if run.position > start]
        span = (start, min([stop, block + high, *runs]))  # what a worker writes is its own
        if any(overlap(span, (run.position, run.granted)) for run in feed.object.runs) or feed.object.is_receiving(span):
            self._memory.table.release(slot)
            demand.go_private()  # others may bring it never
            return Target(buffers.buffer(span[1] - start))
        feed.object.receiving.append(span)
        place = slot * self._memory.arena.slot_size - block
        return Target(self._memory.arena.view[place + start : place + span[1]], slot)

    def leave(self, feed: Feed, start: int, target: Target) -> None:
        """Take leave of a target whose first byte is that at *start*: nobody writes to it any more."""
        if target.slot is not None:
            feed.object.receiving.remove((start, start + len(target.memory)))
            self._memory.table.release(target.slot)

    def received(self, feed: Feed, inline: Inline, demand: Demand, target: Target, count: int) -> None:
        """Take in what a thread has received of an inline on behalf of a demand."""
        start, stop = inline.position, inline.position + count
        if stop < feed.size:
            stop = floor(stop, feed.piece)
        inline.position = stop
        # Its body may be further, within a piece: then nothing more is to be read of it.
        inline.is_at_end = start + count >= inline.stop or stop < start + count
        feed.stats.fetched += count
        if target.slot is not None:
            if stop > start:
                feed.attempts.pop(start, None)
                self._memory.came(feed, start, stop)
            return
        first, last = demand.position, min(demand.stop, stop)
        if demand.view is not None and start <= first < last:
            demand.silence.note(stop - start)
            if not target.is_direct:
                demand.view[first - demand.start : last - demand.start] = target.memory[first - start : last - start]
            demand.position = last
