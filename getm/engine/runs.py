"""Runs: range requests in workers, from their first places to their end, and which of them is late.

Part of the core: called under the engine's lock, and waits for nothing.
"""

from __future__ import annotations

import time

from getm.config import MIB, RATE_LEAST
from getm.engine.feed import Feed, Run
from getm.engine.memory import Memory
from getm.engine.messages import (
    Bye,
    Cancel,
    Fetch,
    Filled,
    FromWorker,
    Grant,
    Hello,
    Report,
    Segment,
    Started,
    ToWorker,
)
from getm.engine.pool import Pool, Worker
from getm.engine.troubles import Troubles
from getm.ranges import floor, missing_parts
from getm.retry import Failure, Trouble
from getm.sources.base import Request

GRANT_LEAST = 4 * MIB
"""Places that nobody waits for are given so many bytes at a time: each word to a worker costs it and us a wake-up."""
STUCK_SECONDS = 1.0
"""A worker that has been waiting for its server so long does not count among those that may be at work at once; and nobody
waits longer for one to come up."""
KNOWN_SECONDS = 0.3
"""At which rate a run goes is known after so long."""


class Runs:
    """All runs of one core.

    Args:
        memory: where their bytes go.
        pool: the workers; None if there are none, and no run.
        troubles: where failures are noted.
    """

    def __init__(self, memory: Memory, pool: Pool | None, troubles: Troubles) -> None:
        self._memory, self._pool, self._troubles = memory, pool, troubles
        self.under_way: dict[int, Run] = {}  # by number
        self._number = 0  # of the last one

    def send(self, worker: Worker, feed: Feed, request: Request, upto: int) -> bool:
        """Send a run to a worker, with places up to *upto*, or a file's descriptor; say whether there was a place for it."""
        self._number += 1
        start, now, saving = request.start, time.monotonic(), feed.saving
        run = Run(self._number, feed, worker, start, request.stop, start, start, start, now, now, feed.source.generation)
        segments = self._places(run, upto) if saving is None else ()
        if not segments and saving is None:
            return False
        awaited = feed.object.awaited(start, run.stop)
        run.is_awaited = awaited > 0
        worker.run, worker.host = run.number, feed.host
        self.under_way[run.number] = run
        feed.runs.append(run)
        feed.object.runs.append(run)
        feed.stats.requests += 1
        if saving is None:
            self._tell(run, Fetch(run.number, request, segments, awaited))
        else:
            self._tell(run, Fetch(run.number, request, to_file=True, pace=saving.pace), saving.descriptor)
        return True

    def cancel(self, run: Run) -> None:
        """Have a worker bring no more of a run: what is missing by its end is a gap again."""
        run.is_cancelled = True
        self._tell(run, Cancel(run.number))

    def grant(self, run: Run) -> None:
        """Give a run places as far as somebody wants its bytes."""
        if run.is_cancelled or run.granted >= run.stop:
            return
        wants = [want for feed in run.feed.object.feeds for want in feed.wants if want.start < run.stop]
        upto = min(run.stop, max((want.stop for want in wants), default=0))
        is_urgent = any(want.is_demand and run.granted < want.stop for want in wants)
        if is_urgent or upto == run.stop or upto - run.granted >= GRANT_LEAST:
            had_place = run.has_place
            segments = self._places(run, upto)
            if segments:
                run.heard = run.heard if had_place else time.monotonic()
                self._tell(run, Grant(run.number, segments))

    def hasten(self, run: Run) -> None:
        """Have a worker report how far it is, once somebody waits for that."""
        awaited = 0 if run.is_awaited or run.is_cancelled else run.feed.object.awaited(run.position, run.stop)
        if awaited:
            run.is_awaited = True
            self._tell(run, Report(run.number, awaited))

    def hear(self, worker: Worker, message: FromWorker | None) -> Run | None:
        """Take in what a worker has said, or, if that is None, that it is gone; return the run that has ended by that."""
        if message is None or isinstance(message, Bye):
            run = self.under_way.get(worker.run) if worker.run is not None else None
            if run is not None:
                self._end(run, None if message is not None else self._troubles.death(worker))
            return run
        if isinstance(message, Hello):
            return None
        run = self.under_way.get(message.run)
        if run is None:
            return None
        run.heard = time.monotonic()
        planner = run.feed.planner
        if isinstance(message, Started):
            run.is_answered = True
            planner.observe(message.seconds, None)
            return None
        done = message.position - run.start
        rate = done / message.seconds if done >= RATE_LEAST and message.seconds > 0 else None
        planner.observe(None, rate)
        position = max(message.position, run.counted)  # two threads of a worker speak, not always in order
        run.feed.stats.fetched += position - run.counted
        run.counted, run.spent = position, message.seconds
        self._advance(run, message.position)
        if isinstance(message, Filled):
            return None
        if rate is not None:
            planner.ended(rate)
        failure = message.failure
        if failure is None and run.position == run.start and not run.is_cancelled:
            failure = Failure(Trouble.CUT, "the server sent next to nothing")
        self._end(run, failure)
        return run

    def is_late(self, run: Run) -> bool:
        """Whether the rest of a run would be there much sooner by another connection.

        Not before the server has begun to answer: it may be late with all, and that wait has an end of its own.
        """
        count, silence = run.position - run.start, time.monotonic() - run.heard
        seconds = run.spent
        if silence > STUCK_SECONDS:  # less says nothing: words come less often than bytes
            seconds += silence
        if not run.is_answered or seconds < KNOWN_SECONDS:
            return False
        return run.feed.planner.is_late(run.stop - run.position, max(count, 1), seconds)

    def is_stuck(self, run: Run) -> bool:
        """Whether nothing comes for a run that has a place for it: then another worker may work in its stead."""
        return run.has_place and time.monotonic() - run.heard > STUCK_SECONDS

    def is_orphan(self, run: Run) -> bool:
        """Whether the worker that a run was sent to is not up, and has not been for long."""
        return run.worker.pid is None and time.monotonic() - run.asked > STUCK_SECONDS

    def _places(self, run: Run, upto: int) -> tuple[Segment, ...]:
        """Find slots for the blocks of a run from where it has some to *upto*, as far as there are any."""
        size = run.feed.block_size
        segments: list[Segment] = []
        while run.granted < min(upto, run.stop):
            block = run.granted // size
            stop = min((block + 1) * size, run.stop)
            if run.feed.object.is_receiving((run.granted, stop)):
                break  # until the thread that writes there is done
            slot = self._memory.place(run.feed, run.granted, is_ahead=not run.feed.object.is_waited_for((run.granted, stop)))
            if slot is None:
                break
            run.slots.append((stop, slot))
            shift = slot * self._memory.arena.slot_size - block * size
            for low, high in missing_parts(
                self._memory.table.present[slot], run.granted - block * size, stop - block * size, run.feed.piece
            ):
                start, last = block * size + low, min(block * size + high, stop)
                if start > run.granted:
                    segments.append(Segment(run.granted, start, None))
                segments.append(Segment(start, last, start + shift))
                run.granted = last
            if run.granted < stop:
                segments.append(Segment(run.granted, stop, None))
                run.granted = stop
        return tuple(segments)

    def _advance(self, run: Run, position: int) -> None:
        """Take in that the bytes of a run are there up to a position."""
        saving = run.feed.saving
        if saving is None and position < run.feed.size:
            position = floor(position, run.feed.piece)
        if position <= run.position:
            return
        start, run.position = run.position, position
        run.feed.attempts.pop(start, None)
        if saving is not None:
            saving.silence.note(position - start)
            saving.saved(start, position)
            return
        self._memory.came(run.feed, start, position)
        while run.slots and run.slots[0][0] <= position:
            self._memory.table.release(run.slots.popleft()[1])

    def _end(self, run: Run, failure: Failure | None) -> None:
        """Take leave of a run; what it did not bring is a gap again."""
        for _, slot in run.slots:
            self._memory.table.release(slot)
        run.slots.clear()
        run.worker.run = None
        del self.under_way[run.number]
        run.feed.runs.remove(run)
        run.feed.object.runs.remove(run)
        if failure is not None and not run.is_cancelled:
            self._troubles.failed(run.feed, run, failure)

    def _tell(self, run: Run, message: ToWorker, descriptor: int | None = None) -> None:
        assert self._pool is not None
        self._pool.send(run.worker, message, descriptor)
