"""The engine's decisions against any order of reads, answers, failures and deaths.

Everything that waits, sends or receives is played here: callers go through the loop of `Fetching.satisfy` step by step, and
workers do what a test lets them do, in its order. The memory is real, so is the loop over a body. All lengths are those of
a real engine divided by 256, so that a few KiB show what otherwise takes many MiB.
"""

import contextlib
import sys
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from getm.config import Budget, Settings
from getm.engine import core, inline, memory, planner, runs, targets, troubles
from getm.engine.core import Core
from getm.engine.feed import Demand, Feed, Inline, Object, Saving, Target
from getm.engine.messages import Bye, Cancel, Ended, Fetch, Filled, Grant, Report, Segment, Started
from getm.engine.planner import Planner
from getm.engine.pool import Pool, Worker
from getm.ranges import PIECES, overlap, pieces_touched
from getm.retry import Failure, RequestFailed, Trouble
from getm.sources.base import Answer, Request, Version
from tests.content import ramp

KIB = 1024
BLOCK = 4 * KIB
PIECE = BLOCK // PIECES
MOST = 50 * BLOCK
CONTENT = [ramp(0, MOST, seed) for seed in range(8)]
POISON = 0xAA
SCALED = {
    core: {"SHARE_LEAST": 8 * KIB},
    runs: {"GRANT_LEAST": 16 * KIB, "RATE_LEAST": KIB, "KNOWN_SECONDS": 0.1},
    targets: {"DIRECT_LEAST": 256, "DIRECT_MOST": 128 * KIB, "FETCH_LEAST": 256},
    planner: {"SPLIT_LEAST": 2 * KIB, "RUN_UNMEASURED": 32 * KIB, "SKIP_UNMEASURED": 512, "FETCH_LEAST": 256}
    | {"RUN_MOST": 128 * KIB, "NEAR": 1e9, "LATE": 0.1},
    memory: {"KEEP": 6 * BLOCK},
    inline: {"RATE_LEAST": KIB},
}
TRANSIENT = Failure(Trouble.TIMEOUT, "nothing came")
FAILURES = st.sampled_from([TRANSIENT, TRANSIENT, Failure(Trouble.RANGE, "no ranges")])


class RefusedError(Exception):
    """What a caller's auth object raises."""


class Body:
    """What a calling thread receives: up to *limit* bytes of an answer, then a failure."""

    def __init__(self, source, request, stop):
        self.answer = Answer(source.name, request.start, min(stop, request.stop), request.version)
        self.limit = MOST
        self.failure = None
        self.is_closed = False
        self._position = request.start
        self._content = CONTENT[source.seed]

    def readinto(self, buffer):
        assert not self.is_closed
        count = min(len(buffer), self.limit, self.answer.stop - self._position)
        if not count:
            raise RequestFailed(self.failure or Failure(Trouble.CUT, "the body has ended"))
        buffer[:count] = self._content[self._position : self._position + count]
        self._position += count
        self.limit -= count
        return count

    def close(self):
        self.is_closed = True

    abort = close


@dataclass(eq=False)
class Source:
    """An object of *size* bytes of `CONTENT[seed]`; readers with the same *shared* share its blocks."""

    size: int
    seed: int
    shared: object = None
    # (stop, bytes, failure) of what the calling process is to be answered; as asked, if there is none
    answers: deque = field(default_factory=deque)
    generation: int = 0
    is_renewable: bool = False
    is_refusing: bool = False  # whether the caller's own code raises where a request is made

    @property
    def name(self):
        return f"object {self.seed}"

    def key(self):
        return self.shared

    def explain(self, failure):
        return failure

    def request(self, start, stop):
        if self.is_refusing:
            raise RefusedError
        return Request(self.name, {}, start, stop, Version(self.size), 10.0, 30.0)

    def send(self, request):
        stop, limit, failure = self.answers.popleft() if self.answers else (request.stop, MOST, None)
        if stop <= request.start:
            raise RequestFailed(failure or TRANSIENT)
        body = Body(self, request, stop)
        body.limit, body.failure = limit, failure
        return body


@dataclass(eq=False)
class Process:
    """A worker as it is: what it was told, what it has done."""

    worker: Worker
    fetch: Fetch | None = None
    places: list[Segment] = field(default_factory=list)  # all that the run was granted
    position: int = 0
    stop: int = 0  # where the answer's bytes end
    is_started: bool = False
    is_cancelled: bool = False
    is_gone: bool = False

    @property
    def granted(self):
        return self.places[-1].stop if self.places else self.fetch.start


class Processes(Pool):
    """A pool of workers that do nothing by themselves."""

    def __init__(self, most, world):
        self.most = most
        self.workers = {}
        self.processes = []
        self.outbox = deque()
        self.sent = []  # since the last dispatch began
        self._world = world
        self._number = 0

    def warm(self):
        return self.most > 0

    def coming(self):
        return 0.0 if any(worker.pid for worker in self.workers.values()) else self._world.coming

    def start(self):
        if len(self.workers) >= self.most:
            return None
        self._number += 1
        worker = self.workers[self._number] = Worker(None, 0.0)
        self.processes.append(Process(worker))
        return worker

    def send(self, worker, message, descriptor=None):
        (process,) = [process for process in self.processes if process.worker is worker]
        self._world.check_message(process, message, descriptor)
        self.sent.append(message)
        if process.is_gone:
            return False
        if isinstance(message, Fetch):
            process.fetch, process.places = message, list(message.segments)
            process.position, process.stop = message.request.start, message.request.stop
            process.is_started = process.is_cancelled = False
        elif process.fetch is not None and message.run == process.fetch.run:
            if isinstance(message, Grant):
                process.places.extend(message.segments)
            elif isinstance(message, Cancel):
                process.is_cancelled = True
        return True

    def wait(self, seconds):
        raise AssertionError("waited under the lock")

    def collect(self):
        while self.outbox:
            worker, message = self.outbox.popleft()
            if message is None or isinstance(message, Bye):
                self.workers = {number: other for number, other in self.workers.items() if other is not worker}
                self.processes = [process for process in self.processes if process.worker is not worker]
            yield worker, message

    def close(self):
        self.workers.clear()


@dataclass(eq=False)
class Caller:
    """A thread in `Fetching.satisfy` or `Fetching.save`."""

    feed: Feed
    demand: Demand | None  # None if it saves
    outside: tuple[Inline, Target] | None = None  # what it receives, and where to, while the lock is free
    is_first: bool = True  # whether it may go on with what it receives, if that is short
    is_waiting: bool = False
    is_finished: bool = False


class World:
    """An engine with its callers and workers, where every step is somebody's decision."""

    def __init__(self, slots=8, processes=4, slot_size=BLOCK, coming=0.0):
        self.patch = pytest.MonkeyPatch()
        for module, values in SCALED.items():
            for name, value in values.items():
                self.patch.setattr(module, name, value)
        self.now = 1000.0
        self.coming = coming  # seconds that workers are thought to take to come up
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.patch.setattr(core, "time", clock)
        self.patch.setattr(inline, "time", clock)
        self.patch.setattr(runs, "time", clock)
        self.patch.setattr(troubles, "time", clock)
        self.patch.setattr(core, "Pool", lambda _, most, **__: Processes(most, self))
        self.patch.setattr(Budget, "slots", property(lambda budget: budget.memory // budget.block_size))
        self.core = Core(Budget(memory=slots * slot_size, processes=processes, block_size=slot_size))
        self.pool = self.core.pool or Processes(0, self)
        self.feeds = []
        self.callers = []
        self.leases = []  # (view, seed, start)
        self.windows = []  # (window, seed)
        self.files = {}
        self.kept = []  # slots that a forked child may be looking at

    def close(self):
        self.leases.clear()
        self.core.close()
        self.patch.undo()

    # What callers do.

    def open(self, source, concurrency=2, *, forward=False, block_size=BLOCK, saves=False, first=0):
        settings = Settings(concurrency=concurrency, block_size=block_size, retries=2)
        plan = Planner(source.size, block_size, concurrency or 1, forward=forward)
        nowhere = Object(None, is_large=False, is_shared=False)
        feed = Feed(source, settings, Version(source.size), plan, nowhere, 1, "http://host")
        if saves:
            feed.saving = Saving(7, [(0, source.size)] if source.size else [])
            self.files[feed] = bytearray(source.size)
            self.callers.append(Caller(feed, None))
        self.core.register(feed)
        if min(first, source.size) and not saves:
            request = source.request(0, min(first, block_size, source.size))
            feed.inlines.append(Inline(0, request.stop, Body(source, request, request.stop)))
        self.feeds.append(feed)
        return feed

    def leave(self, feed):
        """Do as `Hub._give_up`."""
        self.feeds.remove(feed)
        feed.is_closed = True
        for demand in feed.demands:
            if not demand.is_done:
                demand.error = ValueError("closed")
        for request in feed.inlines:
            request.give_up()
        feed.inlines.clear()
        self.core.collect()
        self.core.unregister(feed)
        if not self.feeds:
            self.core.memory.shrink()
            arena = self.core.memory.arena
            most = max(2 * memory.KEEP // arena.slot_size, 1 + max(self.held(), default=-1))
            assert self.core.pool is None or arena.backed <= most

    def ask(self, feed, start, stop, *, lease=False):
        """Begin a read, as `Fetching.satisfy` does, or `Engine.lease`."""
        caller = Caller(feed, Demand(start, stop, None if lease else memoryview(bytearray([POISON]) * (stop - start))))
        feed.planner.read(start, stop)
        self.core.collect()
        self.core.memory.serve(feed, caller.demand)
        self.callers.append(caller)
        feed.demands.append(caller.demand)
        if caller.demand.is_done:
            self.finish(caller)
        else:
            feed.planner.waited()
        return caller

    def lease(self, feed, start, stop):
        """Lease what is there, as `Engine.lease` does first."""
        self.core.collect()
        view = self.core.memory.lease(feed, start, stop) if self.core.memory.may_lease() else None
        if view is not None:
            feed.planner.read(start, stop)
            self.keep(view, feed, start, stop)
            self.dispatch(feed)

    def fork(self):
        self.kept += self.core.memory._leases
        self.core.memory.keep_leases()

    def look(self, feed, offset):
        window = self.core.memory.window(feed, offset)
        if window is not None:
            assert window.start <= offset < window.stop <= feed.size
            self.windows.append((window, feed.source.seed))
        return window

    def step(self, caller):
        """Do as `Fetching._look`; or receive what was begun there."""
        assert not caller.is_finished
        if caller.outside is not None:
            self.receive(caller)
        elif caller.demand is None:
            self.step_saving(caller)
        else:
            feed, demand = caller.feed, caller.demand
            self.core.collect()
            self.core.memory.serve(feed, demand)
            if demand.is_done:
                self.finish(caller)
            else:
                self.dispatch(feed)
                caller.is_waiting = not self.fetch_here(caller)

    def fetch_here(self, caller):
        """Do the first half of `Fetching._fetch_here`; say whether the caller has something to do."""
        feed, demand = caller.feed, caller.demand
        for request in feed.inlines:
            if request.position <= demand.position < request.stop:
                if request.owner is not None:
                    return False
                break
        else:
            if self.core.is_full(feed):
                self.core.give_up_inline(feed)
            if self.core.is_coming(feed, demand.position) or self.core.troubles.paused(feed, demand.position):
                return False
            request = self.core.inline(feed, demand)
            assert request.position <= demand.position < request.stop, "fetches what is not waited for"
        self.begin(caller, request)
        caller.is_first = True
        return True

    def begin(self, caller, request):
        """Do the first half of `Fetching._receive`."""
        feed, demand = caller.feed, caller.demand
        assert 0 <= request.position < request.stop <= feed.size
        target = self.core.targets.find(feed, request, demand, is_alone=self.core.is_alone(feed))
        assert 0 < len(target.memory) <= request.stop - request.position
        if target.slot is not None:
            address = target.slot * self.core.memory.arena.slot_size + request.position % feed.block_size
            self.check_place(feed, Segment(request.position, request.position + len(target.memory), address), None)
        target.memory[:] = bytes([POISON]) * len(target.memory)
        request.owner = demand
        demand.is_direct = target.is_direct
        caller.outside = (request, target)

    def receive(self, caller):
        """Receive, and do the rest of `Fetching._receive`, or of `Fetching._save_here`."""
        (request, target), caller.outside = caller.outside, None
        feed, waiter, start = caller.feed, caller.demand or caller.feed.saving, request.position
        if request.is_given_up:
            self.core.targets.leave(feed, start, target)
            return
        count, failure, error = 0, None, None
        try:
            count, failure = inline.receive(feed, request, target.memory)
        except RefusedError as refused:
            error = refused
        request.owner = None
        if caller.demand is not None:
            waiter.is_direct = False
            self.core.targets.received(feed, request, waiter, target, count)
            self.core.targets.leave(feed, start, target)
        elif error is None:
            self.save(feed, request.position, request.position + count, target.memory[:count])
            waiter.saved(request.position, request.position + count)
            request.position += count
            request.is_at_end = request.position >= request.stop
        waiter.error = waiter.error or error
        if failure is not None or error is not None or request.is_at_end:
            feed.inlines.remove(request)
            request.close()
            if failure is not None:
                self.core.troubles.failed(feed, request, failure)
        elif caller.demand is not None and caller.is_first and request.stop - request.position <= targets.FETCH_LEAST:
            self.begin(caller, request)
            caller.is_first = False

    def step_saving(self, caller):
        """Do as `Fetching._look_saving`."""
        feed, saving = caller.feed, caller.feed.saving
        self.core.collect()
        if saving.error is None and saving.missing:
            self.core.dispatch_saving(feed, saving)
        if saving.error is not None or not saving.missing:
            for request in feed.inlines:
                request.give_up()
            caller.is_finished = True
            self.callers.remove(caller)
            if saving.error is None:
                assert CONTENT[feed.source.seed][: feed.size] == self.files[feed]
            return
        gaps = self.core.unsaved(feed, saving)
        caller.is_waiting = not feed.inlines and bool(feed.runs or not gaps or self.core.troubles.paused(feed, gaps[0][0]))
        if caller.is_waiting:
            return
        if not feed.inlines:
            feed.inlines.append(Inline(*gaps[0]))
        request = feed.inlines[0]
        request.owner = saving
        caller.outside = (request, Target(memoryview(bytearray(min(5000, request.stop - request.position)))))

    def finish(self, caller):
        feed, demand = caller.feed, caller.demand
        caller.is_finished = True
        self.callers.remove(caller)
        feed.demands.remove(demand)
        if not feed.is_closed:
            self.dispatch(feed)
        if demand.error is not None:
            return
        if demand.lease is not None:
            self.keep(demand.lease, feed, demand.start, demand.stop)
        else:
            assert demand.view is not None
            assert demand.position >= demand.stop
            assert CONTENT[feed.source.seed][demand.start : demand.stop] == demand.view

    def keep(self, view, feed, start, stop):
        assert view.readonly
        assert stop - start == len(view)
        assert CONTENT[feed.source.seed][start:stop] == view
        self.leases.append((view, feed.source.seed, start))

    def drop(self, number):
        view, _, _ = self.leases.pop(number)
        view.release()

    def dispatch(self, feed):
        """Dispatch, and check what was sent, and what was not."""
        self.pool.sent.clear()
        waiting = [demand for demand in feed.demands if not (demand.is_done or demand.is_direct)]
        # Finding places for the first of a demand may cost it others that were there.
        asked = [demand for demand in waiting if not self.core.troubles.paused(feed, demand.position)]
        gaps = [gap for demand in asked for gap in self.core.missing(feed, demand.position, demand.stop)]
        self.core.dispatch(feed)
        assert len(waiting) == sum(want.is_demand for want in feed.wants)
        wants = [(want.start, want.stop) for want in feed.wants]
        is_ahead = False
        for fetch in self.pool.sent:
            if isinstance(fetch, Fetch):
                span = (fetch.request.start, fetch.request.stop)
                is_for = [overlap(span, want) for want in wants]
                assert any(is_for)
                is_demanded = any(overlap(span, gap) for gap in gaps)
                assert not (is_ahead and is_demanded), "read-ahead was sent before a demand"
                is_ahead = not any(is_for[: len(waiting)])
        for run in feed.object.runs:
            readers = feed.object.feeds
            assert run.is_cancelled or any(one.planner.is_worth(run.position, run.stop, one.wants) for one in readers)
        is_giving_way = any(run.is_cancelled for run in feed.runs) or any(inline.owner is None for inline in feed.inlines)
        if self.core.is_full(feed) and not is_giving_way:  # a body that nobody reads is given up by who waits
            # Then nothing that only might be wanted stands in the way of a demand.
            ahead = [run for run in feed.runs if not run.is_demanded]
            for demand, want in zip(waiting, wants, strict=False):
                gaps = self.core.missing(feed, demand.position, demand.position + 1)
                is_late = any(self.core.troubles.paused(feed, start) for start, _ in self.core.missing(feed, *want))
                assert not (ahead and gaps and not demand.is_done and not is_late)

    # What workers do.

    def hello(self, process):
        process.worker.pid = 4711

    def answer(self, process, stop=None, seconds=0.01):
        """Send a head that promises less than was asked for, maybe."""
        self.hello(process)
        process.is_started = True
        process.stop = process.stop if stop is None else stop
        self.tell(process, Started(process.fetch.run, process.stop, seconds))

    def fill(self, process, length, *, tells=True):
        """Receive bytes, as far as there are places for them."""
        stop = min(process.position + length, process.stop)
        if not process.fetch.to_file:
            stop = min(stop, process.granted)
        seed, run = self.seed(process), self.core.runs.under_way[process.fetch.run]
        if process.fetch.to_file and process.position < stop:
            self.save(run.feed, process.position, stop, CONTENT[seed][process.position : stop])
        for place in process.places:
            low, high = max(place.start, process.position), min(place.stop, stop)
            if low < high and place.address is not None:
                address = place.address + low - place.start
                self.check_place(run.feed, Segment(low, high, address), run.number)
                self.core.memory.arena.view[address : address + high - low] = CONTENT[seed][low:high]
        process.position = max(process.position, stop)
        if tells:
            self.tell(process, Filled(process.fetch.run, process.position, 0.01))

    def end(self, process, failure=None):
        fetch, process.fetch = process.fetch, None
        self.tell(process, Ended(fetch.run, process.position, 0.01, failure))

    def die(self, process, message=None):
        process.is_gone = True
        process.fetch = None
        self.pool.outbox.append((process.worker, message))

    def tell(self, process, message):
        self.pool.outbox.append((process.worker, message))

    def work(self, process):
        """Do all that can be done."""
        self.hello(process)
        if process.fetch is None:
            return
        if not process.is_started:
            self.answer(process)
        if not process.is_cancelled:
            self.fill(process, MOST)
        if process.is_cancelled or process.position >= process.stop:
            self.end(process)

    def alive(self):
        return [process for process in self.pool.processes if not process.is_gone]

    def seed(self, process):
        return int(process.fetch.request.url.split()[-1])

    def save(self, feed, start, stop, content):
        assert not any(overlap((start, stop), span) for span in self.saved(feed)), "what was saved is written again"
        self.files[feed][start:stop] = content

    def saved(self, feed):
        position = 0
        for start, stop in [*feed.saving.missing, (feed.size, feed.size)]:
            if position < start:
                yield position, start
            position = stop

    # What is true at any time.

    def check_message(self, process, message, descriptor):
        run = self.core.runs.under_way[message.run]
        assert run.worker is process.worker
        if isinstance(message, Cancel):
            return
        if isinstance(message, Report):
            assert run.is_awaited
            assert not run.is_cancelled
            assert any(
                run.position <= demand.position < run.stop for feed in run.feed.object.feeds for demand in feed.demands
            )
            return
        if isinstance(message, Fetch):
            assert process.fetch is None or process.is_gone
            assert 0 <= message.request.start < message.request.stop <= run.feed.size
            assert (run.start, run.stop) == (message.request.start, message.request.stop)
            assert message.to_file == (descriptor is not None) == (run.feed.saving is not None)
            assert not self.core.troubles.paused(run.feed, run.start)
            position = run.start
        else:
            assert not run.is_cancelled
            if process.is_gone or process.fetch is None:
                return
            position = process.granted
        assert message.segments or message.to_file
        for segment in message.segments:
            assert position == segment.start < segment.stop <= run.stop
            position = segment.stop
            if segment.address is not None:
                self.check_place(run.feed, segment, run.number)
                length = segment.stop - segment.start
                self.core.memory.arena.view[segment.address : segment.address + length] = bytes([POISON]) * length

    def check_place(self, feed, segment, writer):
        """Check that nothing is there where bytes are to be written, and that nobody else is to write there."""
        block, first = divmod(segment.start, feed.block_size)
        slot, place = divmod(segment.address, self.core.memory.arena.slot_size)
        last = first + segment.stop - segment.start
        table = self.core.memory.table
        assert slot == table.find(feed.object.key, block)
        assert place == first
        assert last <= feed.block_size
        assert slot < self.core.memory.arena.backed
        assert table._holds[slot]
        assert not table.present[slot] & pieces_touched(first, last, feed.piece), "what is there is written again"
        here = (segment.address, segment.address + segment.stop - segment.start)
        for other, there in self.writers():
            assert writer == other or not overlap(here, there), "two write to one place"

    def writers(self):
        """Yield who may write where in the arena: (number of the run or None, range)."""
        for process in self.pool.processes:
            run = None if process.fetch is None else self.core.runs.under_way.get(process.fetch.run)
            for place in process.places if run is not None else []:
                start = max(place.start, run.position)
                if place.address is not None and start < place.stop:
                    yield run.number, (place.address + start - place.start, place.address + place.stop - place.start)
        for caller in self.callers:
            if caller.outside is not None and caller.outside[1].slot is not None:
                request, target = caller.outside
                address = target.slot * self.core.memory.arena.slot_size + request.position % caller.feed.block_size
                yield None, (address, address + len(target.memory))

    def held(self):
        """Return who holds slots, a slot once for each."""
        held = [slot for run in self.core.runs.under_way.values() for _, slot in run.slots]
        held += [slot for slot, leases in self.core.memory._leases.items() for _ in range(leases)]
        held += self.kept
        held += [caller.outside[1].slot for caller in self.callers if caller.outside is not None]
        return [slot for slot in held if slot is not None]

    def check(self):
        table, arena = self.core.memory.table, self.core.memory.arena
        for view, seed, start in self.leases:
            assert CONTENT[seed][start : start + len(view)] == view, "leased bytes have changed"
        for window, seed in self.windows:
            assert window.copy(window.start, window.stop) in (None, CONTENT[seed][window.start : window.stop])
        held = self.held()
        assert [held.count(slot) for slot in range(arena.slots)] == table._holds
        assert arena.backed <= arena.slots
        assert len(self.core.memory._leases) <= arena.slots // 2
        self.check_present()
        for feed in self.feeds:
            assert len(feed.runs) <= (feed.settings.concurrency or 0)
            assert all(run.feed is feed and run.number in self.core.runs.under_way for run in feed.runs)
            assert feed.stats.unread >= 0
            for demand in feed.demands:
                if demand.view is not None and not demand.is_direct:
                    got = demand.view[: max(0, demand.position - demand.start)]
                    assert CONTENT[feed.source.seed][demand.start : demand.start + len(got)] == got
            for start, stop in self.saved(feed) if feed.saving is not None else []:
                assert CONTENT[feed.source.seed][start:stop] == self.files[feed][start:stop]
        workers = [worker.run for worker in self.pool.workers.values() if worker.run is not None]
        assert sorted(self.core.runs.under_way) == sorted(workers)
        assert len(self.pool.workers) <= self.pool.most

    def check_present(self):
        """Check that what is said to be there is there, and right."""
        table, arena = self.core.memory.table, self.core.memory.arena
        known = {feed.object.key: feed for feed in self.feeds}
        for key, blocks in table._slots.items():
            feed = known.get(key)
            for block, slot in blocks.items() if feed is not None else ():
                start, present = block * feed.block_size, table.present[slot]
                length = min(feed.block_size, feed.size - start)
                right = CONTENT[feed.source.seed][start : start + length]
                place = slot * arena.slot_size
                here = arena.view[place : place + length]
                if present == (1 << PIECES) - 1:
                    assert right == here
                    continue
                for piece in range(PIECES) if present else ():
                    if present >> piece & 1:
                        low, high = piece * feed.piece, (piece + 1) * feed.piece
                        assert right[low:high] == here[low:high]

    # The end.

    def drive(self):
        """Let everybody do all they can, without failures, until all callers have what they want."""
        for feed in self.feeds:
            feed.source.answers.clear()
            feed.source.is_refusing = False
            for request in feed.inlines:
                if request.body is not None:
                    request.body.limit, request.body.failure = MOST, None
        for _ in range(300):
            for process in self.alive():
                self.work(process)
            for caller in list(self.callers):
                if not caller.is_finished:
                    self.step(caller)
            self.check()
            if not self.callers:
                return
            self.now += 1.0
        raise AssertionError(f"still waiting: {[caller.demand for caller in self.callers]}")

    def wind_up(self):
        """Have all readers closed, and check that nothing of them stays."""
        self.drive()
        for number in reversed(range(len(self.leases))):
            self.drop(number)
        for feed in list(self.feeds):
            self.leave(feed)
        for _ in range(3):
            for process in self.alive():
                self.work(process)
            self.core.collect()
        self.check()
        assert not self.core.runs.under_way
        assert not self.core._objects
        assert set(self.kept) == self.core.memory.table.states()["held"]
        assert all(isinstance(key, str) for key in self.core.memory.table._slots)  # only what others may ask for


class CoreMachine(RuleBasedStateMachine):
    """Any order of everything."""

    world = None

    @initialize(
        slots=st.sampled_from([4, 5, 8, 16]),
        processes=st.sampled_from([0, 1, 2, 4, 4]),
        slot_size=st.sampled_from([BLOCK, BLOCK, 2 * BLOCK, 3 * BLOCK]),
        coming=st.sampled_from([0.0, 0.1, 10.0]),
    )
    def build(self, slots, processes, slot_size, coming):
        self.world = World(slots, processes, slot_size, coming)

    def teardown(self):
        if self.world is not None:
            try:
                if sys.exc_info()[1] is None:
                    self.world.wind_up()
            finally:
                self.world.close()

    # Callers.

    @precondition(lambda self: len(self.world.feeds) < 3)
    @rule(
        data=st.data(),
        blocks=st.integers(0, 40),
        more=st.sampled_from([-1, 0, 1, 100, PIECE, 3 * PIECE]),
        shared=st.sampled_from([None, None, "a", "a", "b"]),
        concurrency=st.sampled_from([None, 1, 2, 2, 4]),
        forward=st.sampled_from([False, False, True]),
        saves=st.sampled_from([False] * 7 + [True]),
        first=st.sampled_from([0, 0, MOST, MOST, 100, 300]),
    )
    def open(self, data, blocks, more, shared, concurrency, forward, saves, first):
        size = max(0, blocks * BLOCK + more)
        slots = self.world.core.memory.arena.slot_size // BLOCK
        if shared is None:
            taken = [feed.source.seed for feed in self.world.feeds]
            source = Source(size, next(seed for seed in range(2, 8) if seed not in taken))
            block_size = data.draw(st.integers(1, slots)) * BLOCK
        else:
            source = Source(*{"a": (30 * BLOCK + 5, 0), "b": (7 * BLOCK, 1)}[shared], shared)
            block_size = BLOCK
        self.world.open(source, concurrency, forward=forward, block_size=block_size, saves=saves, first=first)

    @precondition(lambda self: self.readers() and len(self.world.callers) < 4)
    @rule(
        data=st.data(),
        where=st.sampled_from(["onward", "onward", "stride", "near", "anywhere"]),
        length=st.sampled_from([1, 100, PIECE, KIB, BLOCK, 3 * BLOCK, 20 * BLOCK]),
        lease=st.booleans(),
        is_smooth=st.booleans(),
    )
    def ask(self, data, where, length, lease, is_smooth):
        feed = self.one(data, self.readers())
        if feed.planner._forward and feed.demands:  # of a stream nobody asks before the one before has his bytes
            return
        start = feed.planner._position
        if where == "stride":
            start += 2 * BLOCK
        elif where == "near":
            start += data.draw(st.integers(-2 * BLOCK, 2 * BLOCK))
        elif where == "anywhere":
            start = data.draw(st.integers(0, feed.size - 1))
        start = min(max(0, start), feed.size - 1)
        stop = min(feed.size, start + length)
        if lease:
            stop = min(stop, start - start % feed.block_size + feed.block_size)
        caller = self.world.ask(feed, start, stop, lease=lease)
        for _ in range(30 if is_smooth else 0):
            if caller.is_finished:
                break
            self.world.step(caller)
            self.work_all()

    @precondition(lambda self: self.readers())
    @rule(data=st.data(), back=st.integers(0, 5), length=st.sampled_from([1, PIECE, BLOCK, 3 * BLOCK]))
    def lease_what_is_there(self, data, back, length):
        feed = self.one(data, self.readers())
        start = min(max(0, feed.planner._position - back * BLOCK), feed.size - 1)
        self.world.lease(feed, start, min(feed.size, start + length))

    @precondition(lambda self: self.readers())
    @rule(data=st.data(), count=st.integers(1, 6), length=st.sampled_from([1, PIECE, BLOCK, 3 * BLOCK]))
    def announce(self, data, count, length):
        feed = self.one(data, self.readers())
        starts = [data.draw(st.integers(0, feed.size - 1)) for _ in range(count)]
        feed.planner.announce([(start, start + length) for start in starts])
        self.world.core.collect()
        self.world.dispatch(feed)

    @precondition(lambda self: self.world.leases)
    @rule(data=st.data())
    def drop_lease(self, data):
        self.world.drop(data.draw(st.integers(0, len(self.world.leases) - 1)))

    @precondition(lambda self: self.readers())
    @rule(data=st.data(), back=st.integers(0, 5 * BLOCK))
    def look_at_what_is_there(self, data, back):
        feed = self.one(data, self.readers())
        window = self.world.look(feed, min(max(0, feed.planner._position - back), feed.size - 1))
        if window is not None:
            feed.planner.follow(window.stop)
            self.world.core.memory.mark_read(feed, window.start, window.stop)

    @precondition(lambda self: self.world.callers)
    @rule(data=st.data())
    def step(self, data):
        self.world.step(self.one(data, self.world.callers))

    @precondition(lambda self: self.world.callers)
    @rule()
    def step_all(self):
        for caller in list(self.world.callers):
            if not caller.is_finished:
                self.world.step(caller)

    @precondition(lambda self: any(caller.outside for caller in self.world.callers))
    @rule(data=st.data(), limit=st.sampled_from([0, 1, 100, 300, KIB]), failure=FAILURES)
    def receive_badly(self, data, limit, failure):
        caller = self.one(data, [caller for caller in self.world.callers if caller.outside])
        request, _ = caller.outside
        if request.body is None:
            stop = request.position + data.draw(st.sampled_from([0, 1, PIECE, KIB, MOST]))
            caller.feed.source.answers.append((stop, limit, failure))
        else:
            request.body.limit, request.body.failure = limit, failure
        self.world.receive(caller)

    # Workers.

    @precondition(lambda self: self.world.alive())
    @rule()
    def work_all(self):
        for process in self.world.alive():
            self.world.work(process)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), length=st.sampled_from([1, PIECE, PIECE + 1, KIB, BLOCK, 3 * BLOCK]), tells=st.booleans())
    def work_a_little(self, data, length, tells):
        process = self.one(data, self.busy())
        if not process.is_started:
            short = st.integers(process.fetch.request.start + 1, process.fetch.request.stop)
            self.world.answer(process, data.draw(st.one_of(st.none(), short)))
        self.world.fill(process, length, tells=tells)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), failure=FAILURES)
    def end(self, data, failure):
        process = self.one(data, self.busy())
        is_whole = process.is_cancelled or (process.is_started and process.position >= process.stop)
        self.world.end(process, None if is_whole else failure)

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), length=st.sampled_from([0, PIECE, KIB]))
    def fall_silent(self, data, length):
        """Bring next to nothing for long, while those who wait look for it."""
        process = self.one(data, self.busy())
        if not process.is_started:
            self.world.answer(process)
        if not process.is_cancelled:
            self.world.fill(process, length)
        self.world.core.collect()
        self.world.now += 30.0
        self.step_all()

    # Whatever else happens, now and then.

    @precondition(lambda self: self.world.feeds)
    @rule(data=st.data(), what=st.sampled_from(["close", "die", "bye", "refuse", "fork", "clear", "tick", "tick"]))
    def befall(self, data, what):
        world = self.world
        if what == "tick":
            world.now += data.draw(st.sampled_from([0.01, 1.0, 30.0]))
        elif what == "clear":
            world.core.memory.clear()
        elif what == "fork" and not world.kept:
            world.fork()
        elif what == "refuse" and world.feeds:
            source = self.one(data, world.feeds).source
            source.is_refusing = not source.is_refusing
        elif what == "close" and (feeds := [feed for feed in world.feeds if feed.saving is None]):
            world.leave(self.one(data, feeds))
        elif what == "die" and world.alive():
            world.die(self.one(data, world.alive()))
        elif what == "bye" and (idle := [process for process in world.alive() if process.fetch is None]):
            world.die(self.one(data, idle), Bye())

    @precondition(lambda self: self.readers())
    @rule(data=st.data())
    def dispatch(self, data):
        self.world.core.collect()
        self.world.dispatch(self.one(data, self.readers()))

    @precondition(lambda self: self.world is not None)
    @invariant()
    def all_is_as_it_should_be(self):
        self.world.check()

    def one(self, data, things):
        return things[data.draw(st.integers(0, len(things) - 1))]

    def readers(self):
        return [feed for feed in self.world.feeds if feed.saving is None and feed.size]

    def busy(self):
        return [process for process in self.world.alive() if process.fetch is not None]


TestCore = CoreMachine.TestCase
TestCore.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestFound:
    """What some order of things once broke."""

    @pytest.fixture
    def world(self):
        world = World(slots=4, processes=1)
        yield world
        world.close()

    def test_two_who_read_downwards_over_one_connection_do_not_cancel_each_others_runs(self, world):
        feed = world.open(Source(7 * BLOCK, 1), concurrency=1)
        for start in (5 * BLOCK, 7 * BLOCK - 1, 6 * BLOCK):
            world.ask(feed, start, start + 1)
            world.drive()
        world.core.memory.clear()
        for start in (6 * BLOCK + 2000, 7 * BLOCK - 1, 7 * BLOCK - 2):
            world.ask(feed, start, start + 1)
        world.wind_up()

    def test_who_reads_downwards_fetches_himself_what_he_waits_for(self, world):
        feed = world.open(Source(7 * BLOCK, 1), concurrency=1)
        for step in range(12, 7, -1):
            world.ask(feed, step * BLOCK // 2, step * BLOCK // 2 + 1)
            world.drive()
        demand = world.ask(feed, 3 * BLOCK + 10, 3 * BLOCK + 20).demand
        request = world.core.inline(feed, demand)
        assert request.position <= demand.position < request.stop

    @pytest.mark.parametrize("concurrency", [1, 2])
    def test_who_reads_on_by_himself_does_not_wait_for_what_is_fetched_ahead(self, concurrency):
        with contextlib.closing(World(slots=4, processes=2, coming=0.1)) as world:
            feed = world.open(Source(7 * BLOCK, 1), concurrency=concurrency)
            feed.planner.announce([(4 * BLOCK, 4 * BLOCK + 1), (5 * BLOCK, 5 * BLOCK + 1)])
            world.dispatch(feed)
            assert concurrency == len(feed.runs)
            world.step(world.ask(feed, 0, KIB))
            assert 1 == sum(run.is_cancelled for run in feed.runs)
            world.wind_up()

    def test_who_turns_out_to_be_quicker_alone_waits_for_no_worker_that_gets_no_places(self, world):
        feed = world.open(Source(30 * BLOCK, 0), concurrency=1)
        caller = world.ask(feed, 0, KIB)
        world.step(caller)
        assert not world.core.is_alone(feed)
        (process,) = world.alive()
        world.end(process, TRANSIENT)
        world.step(caller)
        assert [KIB] == [run.start for run in feed.runs]  # ahead, while what is waited for must not be asked for
        world.answer(process)
        world.now += 30.0
        world.step(caller)
        assert world.core.is_alone(feed)
        world.wind_up()

    @pytest.mark.parametrize("gives_way", [True, False])
    def test_the_rest_of_what_is_waited_for_does_not_keep_its_beginning(self, world, monkeypatch, gives_way):
        if not gives_way:
            monkeypatch.setattr(world.core, "_give_up_run", lambda *_, **__: None)
        feed = world.open(Source(16 * BLOCK, 0), concurrency=1)
        feed.planner.announce([(8 * PIECE, 9 * PIECE)])
        world.dispatch(feed)
        caller = world.ask(feed, 0, 16 * BLOCK)
        feed.planner.announce([(3 * PIECE, 4 * PIECE)])  # otherwise he goes on alone
        (process,) = world.alive()
        world.work(process)
        world.step(caller)
        world.end(process, TRANSIENT)
        world.step(caller)
        assert [9 * PIECE] == [run.start for run in feed.runs]  # while its beginning must not be asked for
        world.wind_up()

    @pytest.mark.parametrize("saves", [True, False])
    def test_what_is_late_is_left_to_a_connection_that_has_nothing_else_to_do(self, saves):
        with contextlib.closing(World(slots=16, processes=4)) as world:
            feed = world.open(Source(12 * BLOCK, 0), concurrency=2, saves=saves)
            caller = world.callers[0] if saves else world.ask(feed, 0, 12 * BLOCK)
            world.step(caller)
            (quick, late), (_, slow) = world.alive(), feed.runs
            world.work(quick)
            world.answer(late)
            world.fill(late, KIB)
            world.core.collect()
            world.now += 30.0
            world.step(caller)
            assert [slow] == feed.runs
            assert slow.is_cancelled
            world.end(late)
            world.step(caller)
            assert slow.start + KIB in {run.start for run in feed.runs}
            if saves:
                world.drive()
            else:
                world.wind_up()

    def test_a_body_that_is_given_up_is_not_all_where_two_requests_are_too_many(self):
        with contextlib.closing(World(slots=4, processes=2)) as world:
            feed = world.open(Source(30 * BLOCK, 0), concurrency=4, first=100)
            world.ask(feed, 2 * BLOCK, 2 * BLOCK + 1)
            world.drive()
            feed.planner.announce([(64, 65), (322, 323)])
            world.dispatch(feed)
            assert (2, 1) == (len(feed.runs), len(feed.inlines))  # the body that the reader was opened with is one, too
            callers = [world.ask(feed, 2 * BLOCK + 1, 2 * BLOCK + KIB + 1), world.ask(feed, 2 * BLOCK + KIB + 1, 3 * BLOCK)]
            assert 2 == feed.planner.connections
            world.step(callers[0])
            assert not feed.inlines
            assert 1 == sum(run.is_cancelled for run in feed.runs)
            world.wind_up()
