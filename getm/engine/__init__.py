"""The engine: blocks of objects in shared memory, filled by background range requests, shared by all open readers.

     caller            calling process (no thread of ours)                     worker 1..n
     read(n) ──► Reader ──► Engine ──► Planner.wants(demands)
                               │       BlockTable: what is there; a slot for what is not
                               │       Pool ── Fetch, Grant, Cancel ──────────► Transport.send, Body.readinto
                               ▼                                                      │ writes
                  copy or lease ◄───────── Arena: slot 0 | 1 | ... | n  ◄─────────────┘
                               ▲       Pool ◄── Started, Filled, Ended, or the worker is gone

Everything is decided under one lock (`core.py`) from what is there at that moment: what readers want (their planners say),
what is present and what is under way. The difference is asked for, what nobody wants any more is cancelled. A run that
fails or loses its worker leaves a gap, and the gap is asked for again; nothing else has to be repaired.

Waiting and receiving go on outside the lock (here). Of several threads that wait one polls the workers for all, the others
wait until it has something; whoever gets the news under the lock hands bytes to every caller who waits for them. Where no
worker or no slot is to be had, the calling thread fetches its bytes itself, so no read can starve.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from getm.config import BLOCK_SIZE, FETCH_LEAST, LOCAL_MEMORY, MEMORY, MIB, PROCESSES, Budget, Settings
from getm.engine.core import Core
from getm.engine.feed import Demand, Feed, Inline, Object, Saving, Stats
from getm.engine.inline import first, first_bytes, receive
from getm.engine.memory import Window
from getm.engine.planner import Planner
from getm.errors import TransferTimeout, UsageError
from getm.retry import Failure, Trouble
from getm.sources.base import Source

__all__ = ["Engine", "Feed", "Stats", "Window", "chosen", "close_default", "default", "first", "first_bytes"]

_CLOSED = "I/O operation on closed file"
WAIT_MOST = 1.0
"""Longest single wait in seconds; then everything is looked at again."""
WAIT_RENEWING = 0.05
"""Likewise, while another thread finds out where to ask: workers, which may be what is waited for, do not hear of it."""
SAVE_BUFFER = MIB
"""Bytes that the calling thread receives and writes at once, where it copies to a file itself."""


class Engine:
    """Blocks, workers and readers of one process.

    One is made on first use and serves all readers that name no other. Nothing is started or allocated before it is
    wanted; `close` gives all of it back, and the next read begins anew.

    Args:
        memory: bytes of blocks for all open objects together; at most a quarter of the control group's limit is used.
        processes: background processes at most; 0 does everything in the calling process, over private memory.
        block_size: bytes of a slot, the longest block that a reader may ask for.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(self, memory: int = MEMORY, processes: int = PROCESSES, *, block_size: int = BLOCK_SIZE) -> None:
        self._budget = Budget(memory=memory, processes=processes, block_size=block_size)
        self._feeds: list[Feed] = []  # all open readers, whether registered with the core or not; under the lock
        self._leaving: deque[Feed] = deque()  # readers to be given up; appended to by anyone, finalizers too
        self._past = Stats()  # of the readers that were given up; under the lock
        self._epoch = 0  # raised with every core that is built
        self._renew_locks()
        self._core: Core | None = None  # under the lock
        _engines.add(self)
        _register_hooks()

    def __repr__(self) -> str:
        """Show what it holds."""
        core = self._core
        workers = list(core.pool.workers.values()) if core is not None and core.pool is not None else []
        busy = sum(worker.run is not None for worker in workers)
        return f"<getm.Engine {len(self._feeds)} readers, {len(workers)} workers ({busy} busy), {self.memory >> 20} MiB>"

    @property
    def memory(self) -> int:
        """Bytes taken from the system for blocks."""
        core = self._core
        return core.memory.arena.backed * core.memory.arena.slot_size if core is not None else 0

    @property
    def stats(self) -> Stats:
        """What all readers have cost so far, together."""
        total = replace(self._past)
        for feed in list(self._feeds):
            total.add(feed.stats)
        return total

    def clear(self) -> None:
        """Forget all blocks that are not in use; what is read again is fetched again."""
        with self._turn() as core:
            core.memory.clear()

    def close(self) -> None:
        """End all workers and give the memory back, once the leases on it are gone; the next read begins anew."""
        with self._lock:
            self._drop()

    def attach(self, source: Source, settings: Settings, *, forward: bool = False, descriptor: int | None = None) -> Feed:
        """Send the first request of an object, and return the record of a new reader of it.

        Args:
            source: of the object; nothing was sent by it yet.
            settings: how it is read.
            forward: whether the reader will read on to the end.
            descriptor: of a file that `save` is to fill; such a reader is used for nothing else.

        Raises:
            GetmError: the object cannot be had.
            UsageError: its blocks are longer than this engine's slots.
        """
        if settings.block_size > self._budget.block_size:
            raise UsageError(
                f"block_size {settings.block_size} is above this engine's {self._budget.block_size}: "
                "give getm.Engine(block_size=...) one"
            )
        if source.is_local and settings.concurrency is not None:
            warnings.warn("the session or auth wants to see answers: reading is done in this process", stacklevel=4)
        body, seconds = first(source, settings, 0, settings.block_size)
        if source.is_local:
            settings = replace(settings, concurrency=None)
        version = body.answer.version
        connections = settings.concurrency if self._budget.processes and settings.concurrency else 1
        feed = Feed(
            source=source,
            settings=settings,
            version=version,
            planner=Planner(version.size, settings.block_size, connections, forward=forward),
            object=Object(None, is_large=False, is_shared=False),
            epoch=-1,
            host="{0.scheme}://{0.netloc}".format(urlsplit(body.answer.url)),
        )
        if descriptor is not None:
            feed.saving = Saving(descriptor, [(0, version.size)] if version.size else [])
        feed.planner.observe(seconds, None)
        feed.stats.requests = 1
        try:
            with self._turn():
                self._feeds.append(feed)
                self._enter(feed)
                if version.size:
                    feed.inlines.append(Inline(0, body.answer.stop, body))
        except BaseException:
            body.close()
            raise
        return feed

    def detach(self, feed: Feed) -> None:
        """Give up a reader: cancel what only it wants, and forget blocks that nobody else may have. Twice is harmless."""
        self._leaving.append(feed)
        self._let_go()

    def readinto(self, feed: Feed, start: int, view: memoryview) -> None:
        """Fill *view* with the bytes from *start* on, all of which the object has.

        Raises:
            GetmError: they cannot be had; what *view* holds is undefined.
        """
        self._satisfy(feed, Demand(start, start + len(view), view), is_new=True)

    def lease(self, feed: Feed, start: int, length: int) -> memoryview:
        """Return a read-only view of *length* bytes from *start* on, all of which the object has.

        It is a view on shared memory if the bytes lie in one slot, or in slots that happen to adjoin, and less than half of
        all slots are leased; otherwise on private memory. It stays right as long as any view of it is held.

        Raises:
            GetmError: they cannot be had.
        """
        stop = start + length
        with self._turn(feed) as core:
            core.collect()
            view = core.memory.lease(feed, start, stop) if core.memory.may_lease() else None
            if view is not None:
                feed.planner.read(start, stop)
                feed.stats.hits += 1
                core.dispatch(feed)
                return view
            may_lease = core.memory.may_lease()
        size = feed.block_size
        if may_lease and start // size == (stop - 1) // size:
            demand = Demand(start, stop, None)
            self._satisfy(feed, demand, is_new=True)
            if demand.lease is not None:
                if demand.view is not None:
                    feed.stats.private += length
                return demand.lease
        feed.stats.private += length
        private = bytearray(length)
        self._satisfy(feed, Demand(start, stop, memoryview(private)), is_new=not may_lease)
        return memoryview(private).toreadonly()

    def window(self, feed: Feed, offset: int) -> Window | None:
        """Return what is there around *offset* in its block, for reading without the engine; None if that byte is not."""
        with self._turn(feed) as core:
            return core.memory.window(feed, offset)

    def follow(self, feed: Feed, start: int, stop: int) -> None:
        """Note that the caller has read a range in a window."""
        with self._turn(feed) as core:
            feed.planner.follow(stop)
            core.memory.mark_read(feed, start, stop)

    def save(self, feed: Feed) -> Iterator[int]:
        """Fill the file that *feed* was attached with, and yield how many bytes are still missing whenever that changes.

        Raises:
            GetmError: the bytes cannot be had.
            OSError: the file cannot be written.
        """
        saving = feed.saving
        if saving is None:
            raise ValueError("attached without a descriptor")
        feed.progress = time.monotonic()
        missing = -1
        while missing:
            with self._turn(feed) as core:
                core.collect()
                if saving.missing and self._is_to_renew(feed):
                    wait = self._renew(feed, saving, saving.missing[0][0])
                else:
                    core.dispatch_saving(feed, saving)
                    wait = self._save_here(core, feed, saving) if saving.error is None else 0.0
                if wait:
                    self._wait(saving, core, wait)
                    self._enter(feed).collect()
            silence = time.monotonic() - feed.progress
            if silence > feed.settings.deadline:
                raise TransferTimeout(f"{feed.source.name}: nothing came for {silence:.0f} s", url=feed.source.name)
            if saving.error is not None:
                raise saving.error
            missing = sum(stop - start for start, stop in saving.missing)
            yield missing

    # The life of the core.

    def _renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_led = False  # whether a thread polls the workers for all

    @contextmanager
    def _turn(self, feed: Feed | None = None) -> Iterator[Core]:
        """Hold the lock. Whatever leaves while it is held may leave the core half done, so the core goes with it."""
        try:
            with self._lock:
                try:
                    yield self._enter(feed)
                except BaseException:
                    self._drop()
                    raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Give up the readers that are leaving, unless the lock is held: then its holder does so as soon as it is free.

        The garbage collector may close a reader anywhere, also in a thread that holds the lock.
        """
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                while self._leaving:
                    self._give_up(self._leaving.popleft())
            except BaseException:
                self._drop()
                raise
            finally:
                self._lock.release()

    def _give_up(self, feed: Feed) -> None:
        if feed not in self._feeds:
            return
        self._feeds.remove(feed)
        self._past.add(feed.stats)
        feed.is_closed = True
        feed.source.close()
        for inline in feed.inlines:
            inline.give_up()
        feed.inlines.clear()
        for demand in feed.demands:
            if not demand.is_done:
                demand.error = ValueError(_CLOSED)
        self._changed.notify_all()
        core = self._core
        if core is not None and feed.epoch == self._epoch:
            core.collect()
            core.unregister(feed)
            if not self._feeds:
                core.memory.shrink()

    def _enter(self, feed: Feed | None) -> Core:
        """Return the core, built if there is none, with *feed* registered in it."""
        if self._core is None:
            self._core = Core(self._budget)
            self._epoch += 1
        if feed is not None and feed.epoch != self._epoch and not feed.is_closed:
            feed.epoch = self._epoch
            self._core.register(feed)
        return self._core

    def _drop(self) -> None:
        """Give up the core, if there is one. Readers register with the next when they are used again."""
        core, self._core = self._core, None
        if core is not None:
            core.close()
        self._changed.notify_all()

    def before_fork(self) -> None:
        """Let nothing be half done while the process is forked."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on, and leave the child what is leased."""
        try:
            if self._core is not None:
                self._core.memory.keep_leases()
        finally:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave everything to the parent; what this process reads, it fetches by an engine state of its own."""
        self._renew_locks()
        core, self._core = self._core, None
        if core is not None:
            core.abandon()
        for feed in self._feeds:
            for inline in feed.inlines:
                if inline.is_busy:  # closing it would wait for a thread that is not in this process
                    _abandoned.append(inline)
                else:
                    inline.close()
            feed.inlines.clear()
            feed.demands.clear()
            feed.turn = threading.Lock()

    # A read, from its demand to its bytes.

    def _satisfy(self, feed: Feed, demand: Demand, *, is_new: bool) -> None:
        """Wait until a demand is met, doing what has to be done for it; tell the planner if it *is_new*."""
        with self._turn(feed) as core:
            if feed.is_closed:
                demand.error = ValueError(_CLOSED)
            if is_new:
                feed.planner.read(demand.start, demand.stop)
            core.collect()
            core.memory.serve(feed, demand)
            if demand.is_done:
                feed.stats.hits += 1
            else:
                feed.stats.misses += 1
                feed.planner.waited()
                self._await(feed, demand)
            if not feed.is_closed:
                self._enter(feed).dispatch(feed)
        error, demand.error = demand.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # otherwise its traceback would hold it, and the caller's memory, until the collector comes

    def _await(self, feed: Feed, demand: Demand) -> None:
        """Make progress with a demand, or wait for it, until it is done; the lock is held, and let go meanwhile."""
        began = time.monotonic()
        feed.demands.append(demand)
        try:
            while True:
                core = self._enter(feed)
                core.collect()
                core.memory.serve(feed, demand)
                if demand.is_done:
                    return
                if self._is_to_renew(feed):
                    wait = self._renew(feed, demand, demand.position)
                else:
                    core.dispatch(feed)
                    wait = self._fetch_here(core, feed, demand)
                if wait:
                    self._wait(demand, core, wait)
                silence = time.monotonic() - max(began, feed.progress)
                if demand.error is None and silence > feed.settings.deadline:
                    text = f"{feed.source.name}, bytes {demand.position}-{demand.stop - 1}: nothing came for {silence:.0f} s"
                    demand.error = TransferTimeout(text, url=feed.source.name, start=demand.position, stop=demand.stop)
        finally:
            feed.demands.remove(demand)
            feed.stats.waited += time.monotonic() - began

    def _wait(self, waiter: Demand | Saving, core: Core, seconds: float) -> None:
        """Wait for news, outside the lock; an interrupt becomes the waiter's error, for nothing is half done here."""
        if self._is_led or core.pool is None:
            try:
                self._changed.wait(seconds)
            except BaseException as error:  # noqa: BLE001  # it leaves once the lock is free
                waiter.error = error
            return
        self._is_led = True
        self._lock.release()
        try:
            core.pool.wait(seconds)
        except BaseException as error:  # noqa: BLE001  # it leaves once the lock is free
            if self._core is core:  # otherwise it was closed meanwhile
                waiter.error = error
        finally:
            self._lock.acquire()
            self._is_led = False
            self._changed.notify_all()

    def _is_to_renew(self, feed: Feed) -> bool:
        """Say whether where to ask is to be found out anew, because a server refused or the URL is about to expire."""
        if feed.refused is None and time.time() >= feed.source.due and feed.source.is_renewable:
            feed.refused = Failure(Trouble.EXPIRED, "the URL is about to expire")
        return feed.refused is not None

    def _renew(self, feed: Feed, waiter: Demand | Saving, position: int) -> float:
        """Find out anew where to ask, outside the lock; return how long to wait while another thread does, else 0."""
        if feed.is_renewing:
            return WAIT_RENEWING
        feed.is_renewing = True
        self._lock.release()
        error: BaseException | None = None
        try:
            body, _ = first(feed.source, feed.settings, position, position + 1, feed.refused)
            body.close()
        except BaseException as caught:  # noqa: BLE001  # it leaves once the lock is free
            error = caught
        finally:
            self._lock.acquire()
            feed.is_renewing, feed.refused = False, None
            feed.stats.requests += 1
            self._changed.notify_all()
        waiters = [waiter]
        if isinstance(error, Exception):
            waiters += [demand for demand in feed.demands if demand is not waiter and not demand.is_done]
        for each in waiters:
            each.error = each.error or error
        return 0.0

    def _fetch_here(self, core: Core, feed: Feed, demand: Demand) -> float:
        """Fetch bytes of a demand in the calling thread if no worker will; return how long to wait if one will, else 0."""
        for inline in feed.inlines:
            if inline.position <= demand.position < inline.stop:
                if inline.is_busy:
                    return WAIT_MOST
                break
        else:
            if core.is_full(feed):
                core.give_up_inline(feed)
            if core.is_coming(feed, demand.position):
                return WAIT_MOST
            paused = core.paused(feed, demand.position)
            if paused:
                return min(paused, WAIT_MOST)
            inline = core.inline(feed, demand)
        self._fetch_inline(core, feed, inline, demand)
        if self._core is core and inline in feed.inlines and inline.stop - inline.position <= FETCH_LEAST:
            self._fetch_inline(core, feed, inline, demand)  # a short rest, in the next block: it keeps the connection
        self._changed.notify_all()
        return 0.0

    def _fetch_inline(self, core: Core, feed: Feed, inline: Inline, demand: Demand) -> None:
        """Receive what of an inline goes to one place, and account for it."""
        start = inline.position
        target = core.target(feed, inline, demand)
        demand.is_direct = target.is_direct
        count, failure, error = self._outside(feed, inline, target.memory, None)
        demand.is_direct = False
        if self._core is core and inline in feed.inlines:
            core.received(feed, inline, demand, target, count)
            self._settle(core, feed, inline, failure, error)
        else:  # given up meanwhile
            inline.close()
        if self._core is core:
            core.leave(feed, start, target)
        demand.error = demand.error or error

    def _save_here(self, core: Core, feed: Feed, saving: Saving) -> float:
        """Save some bytes in the calling thread if no worker will; return how long to wait if one will, else 0."""
        if not feed.inlines:
            if not saving.missing:
                return 0.0
            gaps = core.unsaved(feed, saving)
            if feed.runs or not gaps:
                return WAIT_MOST
            paused = core.paused(feed, gaps[0][0])
            if paused:
                return min(paused, WAIT_MOST)
            feed.inlines.append(Inline(*gaps[0]))
        inline = feed.inlines[0]
        buffer = memoryview(bytearray(min(SAVE_BUFFER, inline.stop - inline.position)))
        count, failure, error = self._outside(feed, inline, buffer, saving.descriptor)
        if error is None:
            saving.saved(inline.position, inline.position + count)
            inline.position += count
            inline.is_at_end = inline.position >= inline.stop
            feed.progress = time.monotonic()
            feed.stats.fetched += count
        if self._core is core and inline in feed.inlines:
            self._settle(core, feed, inline, failure, error)
        else:
            inline.close()
        saving.error = saving.error or error
        return 0.0

    def _outside(
        self, feed: Feed, inline: Inline, memory: memoryview, descriptor: int | None
    ) -> tuple[int, Failure | None, BaseException | None]:
        """Receive into *memory*, and write it to a file if there is a descriptor, without the lock.

        Returns:
            How many bytes came, why not all did, and what else happened: an interrupt, say, is to leave only once the lock
            is free again, because nothing is half done here.
        """
        count, failure = 0, None
        inline.is_busy = True
        self._lock.release()
        try:
            count, failure = receive(feed, inline, memory)
            written = 0
            while descriptor is not None and written < count:
                written += os.pwrite(descriptor, memory[written:count], inline.position + written)
        except BaseException as error:  # noqa: BLE001  # it leaves once the lock is free
            return count, failure, error
        finally:
            self._lock.acquire()
            inline.is_busy = False
        return count, failure, None

    def _settle(self, core: Core, feed: Feed, inline: Inline, failure: Failure | None, error: BaseException | None) -> None:
        """Take leave of an inline that is at its end, one way or another."""
        if failure is None and error is None and not inline.is_at_end:
            return
        feed.inlines.remove(inline)
        inline.close()
        if failure is not None:
            core.failed(feed, inline.position, inline.stop, failure, inline.generation)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_forking: list[Engine] = []  # those whose locks a thread that forks has
_abandoned: list[Inline] = []  # in a forked child: what its parent was receiving at the fork; kept for ever
_defaults: dict[bool, Engine] = {}  # by whether it has background processes


def chosen(engine: Engine | None, concurrency: int | None) -> Engine:
    """Return the engine that a caller named, or the one that readers share which name none.

    Raises:
        UsageError: it is no engine.
    """
    if engine is not None and not isinstance(engine, Engine):
        raise UsageError(f"engine must be a getm.Engine, not {type(engine).__name__}")
    return default(concurrency) if engine is None else engine


def default(concurrency: int | None) -> Engine:
    """Return the engine that readers share which name no other: one with workers, and one for reading in this process."""
    has_workers = concurrency is not None
    engine = _defaults.get(has_workers)
    if engine is None:  # no lock, for a fork could leave it locked; an engine too many costs nothing
        engine = _defaults.setdefault(has_workers, Engine() if has_workers else Engine(LOCAL_MEMORY, 0))
    return engine


def close_default() -> None:
    """Close the engines that readers share; the next read begins anew."""
    for engine in list(_defaults.values()):
        engine.close()


def _close_all() -> None:
    for engine in list(_engines):
        engine.close()


def _before_fork() -> None:
    for engine in sorted(_engines, key=id):  # in one order, should two threads fork
        engine.before_fork()
        _forking.append(engine)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    _forking.clear()
    for engine in list(_engines):  # also one that another thread has made meanwhile
        engine.after_fork_in_child()


@functools.cache
def _register_hooks() -> None:
    """Have forks and the end of the process told to engines; the first engine does this, so that importing does not."""
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(_close_all)
