"""What the engine decides under its lock: what is there, what is under way, what to ask for, whom to hand bytes to.

A core is one arena with its table, its workers and the readers registered in it. Its methods wait for nothing. If one of
them is left by an exception, the core may be half done with something and is to be closed, as a whole; another one is
built, and the readers register there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import replace

from getm import sources
from getm.config import LOCAL_MEMORY, SHARE_LEAST, Budget
from getm.engine.feed import Demand, Feed, Inline, Object, Run, Saving
from getm.engine.memory import Memory
from getm.engine.planner import Want
from getm.engine.pool import Pool, Worker
from getm.engine.runs import Runs
from getm.engine.targets import Targets
from getm.engine.troubles import Troubles
from getm.ranges import Range, ceil, floor, subtract, total

_log = logging.getLogger(__name__)


class Core:
    """One memory, its workers, and the readers registered here.

    Args:
        budget: what it may use.
    """

    def __init__(self, budget: Budget) -> None:
        self.memory, self.pool = _equip(budget)
        self._objects: dict[object, Object] = {}  # by key
        self._left: list[Range] = []  # while a reader's runs are sent: what its callers are left to ask for themselves
        self.troubles = Troubles(self._objects)
        self.targets = Targets(self.memory)
        self.runs = Runs(self.memory, self.pool, self.troubles)

    def register(self, feed: Feed) -> None:
        """Take a reader in; nothing of what it did elsewhere counts here."""
        feed.runs.clear()
        feed.inlines.clear()
        feed.attempts.clear()
        key = feed.source.key() if feed.saving is None else None
        shared = None if key is None else self._objects.get(key)
        if shared is None:
            is_large = feed.size > self.memory.arena.slots * feed.block_size // 2
            shared = Object(feed if key is None else key, is_large=is_large, is_shared=key is not None)
            self._objects[shared.key] = shared
            self.memory.come_back(shared.key)
        feed.object = shared
        shared.feeds.append(feed)

    def unregister(self, feed: Feed) -> None:
        """Let a reader go: cancel what only it wants, forget blocks that nobody else may have."""
        feed.wants = []
        feed.object.feeds.remove(feed)
        self._cancel_unwanted(feed)
        self._forget(feed.object)

    def close(self) -> None:
        """End the workers and let go of the memory; it stays for the leases on it."""
        if self.pool is not None:
            self.pool.close()
        self.memory.close()

    def abandon(self) -> None:
        """Let go of everything without a word to anyone, in a forked child: it is all the parent's."""
        if self.pool is not None:
            self.pool.abandon()
        self.memory.close()

    # What is missing, and having it fetched.

    def missing(self, feed: Feed, start: int, stop: int) -> list[Range]:
        """Return what of `[start, stop)` is neither there nor under way, in whole pieces."""
        taken = [(run.position, run.stop) for run in feed.object.runs] + self._left
        for inline in feed.inlines:  # a server may end its answer within a piece, which is missing then
            last = inline.upto if inline.upto == feed.size else floor(inline.upto, feed.piece)
            taken.append((inline.position, last))
        return [gap for rest in subtract((start, stop), taken) for gap in self.memory.missing(feed, *rest)]

    def dispatch(self, feed: Feed) -> None:
        """Have fetched what a reader wants, demands first; cancel what nobody wants any more."""
        readers = [other for object_ in self._objects.values() for other in object_.feeds]
        active = sum(bool(other.wants) or other.planner.is_sequential for other in readers)
        feed.planner.allow(self.memory.ahead(active) // max(1, active) * feed.block_size)
        for want in list(feed.planner.announced()):
            if not self.memory.missing(feed, want.start, want.stop):
                feed.planner.came(want.start, want.stop)
        waiting = [demand for demand in feed.demands if not (demand.is_direct or demand.is_done)]
        feed.wants = feed.planner.wants((demand.start, demand.position, demand.stop) for demand in waiting)
        self._cancel_unwanted(feed)
        if self.is_alone(feed):
            for run in feed.runs:  # of before, which gets no places any more
                if not (run.is_cancelled or feed.object.is_waited_for((run.position, run.granted))):
                    self.runs.cancel(run)
            return
        self._end_open(feed)
        if feed.planner.is_nearly_strided and self.pool is not None and not self.pool.workers:
            self.pool.start()  # they are wanted soon, and take their time
        for want in feed.wants if feed.refused is None and not self.troubles.held(feed) else ():
            if (self.is_full(feed) and not want.is_demand) or not self._dispatch_want(feed, want):
                break
        self._left.clear()
        for run in feed.object.runs:
            self.runs.grant(run)
            self.runs.hasten(run)
        self._relieve(feed)

    def dispatch_saving(self, feed: Feed, saving: Saving) -> None:
        """Have workers fetch what a copy misses, in runs that grow shorter towards its end."""
        if self.is_alone(feed) or feed.refused is not None or self.troubles.held(feed):
            return
        left = total(saving.missing)
        length = left if feed.settings.concurrency == 1 else saving.run(self._share(feed, left))
        for start, stop in self.unsaved(feed, saving):
            for position in range(start, stop, length):
                want = Want(position, min(stop, position + length), is_demand=True, run=length)
                attempt = feed.attempts.get(position)
                if attempt is not None and attempt.not_before > time.monotonic():
                    continue  # others need not wait for it
                worker = self._free_worker(feed, want)
                if worker is None:
                    return
                self._send_run(worker, feed, (want.start, want.stop), 0)
        self._relieve(feed)

    def _relieve(self, feed: Feed) -> None:
        """Break off what is waited for and late, where a connection has nothing else to do: its rest is a gap again."""
        if self.is_full(feed):
            return
        for run in feed.object.runs:
            if not run.is_cancelled and run.has_place and self.runs.is_late(run) and run.is_demanded:
                self.runs.cancel(run)

    def unsaved(self, feed: Feed, saving: Saving) -> list[Range]:
        """Return what of a copy is neither in the file nor under way."""
        taken = [(run.position, run.stop) for run in feed.runs]
        taken += [(inline.position, inline.stop) for inline in feed.inlines]
        return [rest for gap in saving.missing for rest in subtract(gap, taken)]

    def collect(self) -> None:
        """Take in what workers have said and which leases have ended."""
        self.memory.take_back_leases()
        if self.pool is None:
            return
        for worker, message in self.pool.collect():
            ended = self.runs.hear(worker, message)
            if ended is not None:
                self._forget(ended.feed.object)

    def is_coming(self, feed: Feed, offset: int) -> bool:
        """Whether a byte need not be fetched by the thread that waits for it.

        A worker has a place for it or is being stopped before it; or the reader has as many requests under way as it may,
        and one of them will end. A run without a place for its rest does not count: there may never be one. Nor does one
        whose worker takes long to come up, as where Python's files are far away.
        """
        near = [run for run in feed.object.runs if run.position <= offset < run.stop]
        if near:
            return any(offset < run.granted or run.is_cancelled for run in near if not self.runs.is_orphan(run))
        runs = [run for run in feed.runs if not self.runs.is_orphan(run)]
        is_ending = bool(feed.inlines) or any(run.has_place or run.position >= run.stop for run in runs)
        return (self.is_full(feed) and is_ending) or any(run.is_cancelled for run in runs)

    def is_alone(self, feed: Feed) -> bool:
        """Whether no worker fetches anything for a reader, as it wants none, there are none, or its thread is as quick."""
        if feed.settings.concurrency is None or self.pool is None or not (self.pool.most or self.pool.workers):
            return True
        return feed.planner.is_at_hand and feed.object.is_large and feed.saving is None

    def is_full(self, feed: Feed) -> bool:
        """Whether a reader has as many requests under way as it may."""
        under_way = len(feed.runs) + len(feed.inlines) + len(self._left)
        return feed.settings.concurrency is not None and under_way >= feed.planner.connections

    def give_up_inline(self, feed: Feed) -> bool:
        """Close a body of this process that nobody waits for; say whether there was one."""
        for inline in feed.inlines:
            waiting = (demand.position for demand in feed.demands)
            if inline.owner is None and not any(inline.position <= position < inline.upto for position in waiting):
                feed.inlines.remove(inline)
                inline.close()
                return True
        return False

    def inline(self, feed: Feed, demand: Demand) -> Inline:
        """Return a new request of the calling thread's own for a demand that no worker sees to."""
        want = feed.planner.demand(demand.start, demand.position, demand.stop)
        lead = min(self._lead(feed), feed.size)
        missing = self.missing(feed, want.start, max(want.stop, lead))
        gaps = [gap for gap in missing if gap[0] <= demand.position < gap[1]]
        # Without a gap a run is to bring it that finds no slot.
        start, stop = gaps[0] if gaps else (floor(demand.position, feed.piece), want.stop)
        reach = None
        if self.is_alone(feed):
            self.give_up_inline(feed)
            if want.is_open:
                stop, reach = self._next_run(feed, start), max(feed.planner.skip, feed.block_size)
        elif stop - start > feed.block_size:  # the rest of its block, or what comes before workers are up
            block = floor(demand.position, feed.block_size)
            start, stop = max(start, block), min(stop, max(block + feed.block_size, lead))
        inline = Inline(start, stop, reach=reach)
        feed.inlines.append(inline)
        return inline

    def _next_run(self, feed: Feed, start: int) -> int:
        """Return where the first run begins behind a place; the object's size if none does."""
        return min([feed.size, *(run.position for run in feed.object.runs if run.position > start)])

    def _end_open(self, feed: Feed) -> None:
        """Have the request of a thread that fetched alone end soon: when workers are up, if it is what is read on."""
        place = feed.demands[0].position if feed.demands else feed.planner.position
        for inline in feed.inlines:
            if inline.reach is not None and inline.owner is None:
                lead = self._lead(feed) if inline.position <= place < inline.upto else 0
                last = max(ceil(inline.position + 1, feed.block_size), lead)
                inline.stop, inline.reach = min(inline.stop, last, self._next_run(feed, inline.position)), None

    def _dispatch_want(self, feed: Feed, want: Want) -> bool:
        """Start runs for what is missing of a want; say whether there may be workers and slots left for others."""
        is_single = feed.settings.concurrency == 1 and want.is_open
        reach = want.stop + (want.run if want.is_open and not is_single else 0)
        gaps = self.missing(feed, want.start, min(feed.size, reach))
        lead = self._lead(feed) if gaps else 0
        for gap_start, gap_stop in gaps:
            start, stop, length = max(gap_start, min(lead, gap_stop)), gap_stop, want.run
            if start > gap_start:  # its beginning is the caller's
                if not (feed.inlines or self._left) and self._has_room(feed, want):
                    self._left.append((gap_start, start))
                if is_single:
                    return False
            if is_single:
                stop = self._next_run(feed, start)
            elif feed.planner.is_sequential:
                under_way = sum(run.stop - run.position for run in feed.runs)
                length = min(length, self._share(feed, feed.size - start + under_way))
            for position in range(start, min(stop, want.stop), length):
                if not self._start_run(feed, (position, min(stop, position + length)), want):
                    return False
        return True

    def _lead(self, feed: Feed) -> int:
        """Return how far the thread that reads on is to get by itself before workers are up; 0 if they are to begin.

        One connection to a distant server is soon behind several, so there only what is short is for that thread.
        """
        if self.pool is None or self.is_alone(feed) or len(feed.demands) > 1 or not feed.planner.is_sequential:
            return 0
        seconds = self.pool.coming()
        is_short = feed.planner.is_short(seconds)
        if not seconds or not (is_short or feed.planner.is_near):
            return 0
        if not (is_short or self.pool.workers):
            self.pool.start()
        position = feed.demands[0].position if feed.demands else feed.planner.position
        return feed.planner.reach(position, seconds)

    def _share(self, feed: Feed, left: int) -> int:
        """Return the length of a run, if all connections are to end together with what is left: whole blocks."""
        share = ceil(-(-left // feed.planner.connections), feed.block_size)
        return max(share, ceil(SHARE_LEAST, feed.block_size))

    def _start_run(self, feed: Feed, span: Range, want: Want) -> bool:
        """Have a worker fetch a range; say whether more can be asked for."""
        attempt = feed.attempts.get(span[0])
        if attempt is not None and (not want.is_demand or attempt.not_before > time.monotonic()):
            return True
        is_short = want.is_demand and not want.is_open and span[1] - span[0] <= feed.block_size
        worker = None
        if not (is_short and self._is_callers(feed, span)):
            worker = self._free_worker(feed, want)
            if worker is None:
                return False
        if worker is None or (is_short and worker.pid is None):  # the caller can have it before the worker is up
            self._left.append(span)
            return True
        if worker.pid is None and feed.planner.is_strided and not want.is_demand:
            return True  # likewise, when it is asked for
        return self._send_run(worker, feed, span, want.stop)

    def _is_callers(self, feed: Feed, span: Range) -> bool:
        """Whether the thread that waits for a short range had better fetch it itself: by a worker it has it 1 ms later.

        Not if something is to be fetched ahead at the same time, which would be asked for before it; and not if others wait,
        among whom workers keep the order.
        """
        (demand, *others), ahead = feed.demands, [want for want in feed.wants if not want.is_demand]
        return span[0] <= demand.position < span[1] and not (others or ahead or self.is_full(feed))

    def _send_run(self, worker: Worker, feed: Feed, span: Range, upto: int) -> bool:
        """Send a run to a worker, with places up to *upto*, or a file's descriptor; say whether there was a place for it."""
        try:
            request = feed.source.request(*span)
        except Exception as error:  # noqa: BLE001  # what a caller's session or auth object raises is the caller's
            self._refuse(feed, error)
            return False
        return self.runs.send(worker, feed, request, upto)

    def _refuse(self, feed: Feed, error: Exception) -> None:
        """Let everyone who waits for bytes of a reader know that there is no asking for them."""
        for demand in feed.demands:
            if not demand.is_done:
                demand.error = error
        if feed.saving is not None and feed.saving.error is None:
            feed.saving.error = error

    def _has_room(self, feed: Feed, want: Want) -> bool:
        """Whether a reader may have one more request under way; have read-ahead stopped for a demand if not."""
        if want.is_demand and feed.saving is None:
            while self.is_full(feed) and self.give_up_inline(feed):
                pass
            if self.is_full(feed):
                self._give_up_run(feed.runs, are_own=True)
        return not self.is_full(feed)

    def _free_worker(self, feed: Feed, want: Want) -> Worker | None:
        """Return a worker for a run of *feed*; have read-ahead stopped for a demand if there is none."""
        assert self.pool is not None
        if not self._has_room(feed, want):
            return None
        limit = max(other.settings.concurrency or 0 for object_ in self._objects.values() for other in object_.feeds)
        busy = sum(not self.runs.is_stuck(run) for run in self.runs.under_way.values())
        others = any(object_ is not feed.object and object_.feeds for object_ in self._objects.values())
        if busy >= limit - (1 if others and not want.is_demand and limit > 1 else 0):
            if want.is_demand:
                self._give_up_run(self.runs.under_way.values())
            return None
        return self.pool.idle(feed.host) or self.pool.start()

    def _give_up_run(self, runs: Collection[Run], *, are_own: bool = False) -> None:
        """Cancel the read-ahead furthest from its reader, unless something is being cancelled already.

        Args:
            runs: that may be cancelled.
            are_own: whether they are all of the reader that needs it: then, without read-ahead, one that has no place gives
                way. There may never be one for it before the beginning of what is waited for has come.
        """
        if any(run.is_cancelled for run in runs):
            return
        ahead = [run for run in runs if not run.is_demanded]
        if are_own and not ahead:
            ahead = [run for run in runs if not run.has_place]
        if ahead:
            self.runs.cancel(max(ahead, key=lambda run: run.start))

    def _cancel_unwanted(self, feed: Feed) -> None:
        """Cancel the runs that lie in nobody's interest any more, and drop such bodies of this process."""
        for run in feed.object.runs:
            if not run.is_cancelled and not any(
                other.planner.is_worth(run.position, run.stop, other.wants) for other in feed.object.feeds
            ):
                self.runs.cancel(run)
        for inline in list(feed.inlines):
            is_long = inline.stop - inline.position > feed.block_size
            if is_long and inline.owner is None and not feed.planner.is_worth(inline.position, inline.stop, feed.wants):
                feed.inlines.remove(inline)
                if inline.body is not None:
                    inline.body.close()

    def _forget(self, object_: Object) -> None:
        """Forget an object without readers and runs; blocks that other readers may ask for stay for a while."""
        if object_.feeds or object_.runs or object_.key not in self._objects:
            return
        del self._objects[object_.key]
        if object_.is_shared:
            self.memory.leave(object_.key)
        else:
            self.memory.forget(object_.key)


def _equip(budget: Budget) -> tuple[Memory, Pool | None]:
    """Return memory and a pool of workers; less memory and no pool where the system refuses what they take.

    Raises:
        OSError: it refuses even that.
    """
    if not budget.processes:
        return Memory(budget), None
    try:
        memory = Memory(budget)
        try:
            return memory, Pool(memory.arena.descriptor, budget.processes, forks=budget.forks, known=sources.known)
        except BaseException:
            memory.close()
            raise
    except OSError as error:
        # The text, not the error: who keeps the record would keep all that its traceback holds.
        _log.warning("no background processes (no memory to share: %s): reading goes on in this one", str(error))
    least = max(4 * budget.block_size, min(budget.memory, LOCAL_MEMORY))
    return Memory(replace(budget, processes=0, memory=least)), None
