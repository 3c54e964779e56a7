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

An interrupt may come between any two lines. So the lock is only ever taken by `with`; what is left while it is held takes
the core with it; and what a thread has begun outside of it is undone by `_quit`, which may run twice.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

from getm import buffers
from getm.config import BLOCK_SIZE, FETCH_LEAST, LOCAL_MEMORY, MEMORY, MIB, PROCESSES, Budget, Settings, paced_length
from getm.engine.core import Core
from getm.engine.feed import Demand, Feed, Inline, Object, Saving, Silence, Stats
from getm.engine.inline import first, first_bytes, receive
from getm.engine.memory import Window
from getm.engine.planner import Planner
from getm.engine.pool import Clone
from getm.errors import TransferTimeout, UsageError
from getm.ranges import Range, total
from getm.retry import Failure, Trouble
from getm.sources.base import Body, Source

__all__ = ["Engine", "Feed", "Saving", "Stats", "Window", "chosen", "close_default", "default", "first", "first_bytes"]

_CLOSED = "I/O operation on closed file"
WAIT_MOST = 1.0
"""Longest single wait in seconds; then everything is looked at again."""
WAIT_RENEWING = 0.05
"""Likewise, while another thread finds out where to ask: workers, which may be what is waited for, do not hear of it."""
Then: TypeAlias = Callable[["Core"], "Outside | None"]
"""What has to be done under the lock about what was done outside; it may return more of that."""
Outside: TypeAlias = Callable[[], Then | None]
"""What a thread does outside the lock."""
T = TypeVar("T")
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
        forks: whether background processes may be forked from this one, as long as it has a single thread. That saves
            60 ms, and is for programs that know all their modules; others are not to be copied.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self, memory: int = MEMORY, processes: int = PROCESSES, *, block_size: int = BLOCK_SIZE, forks: bool = False
    ) -> None:
        self._budget = Budget(memory=memory, processes=processes, block_size=block_size, forks=forks)
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
        self._turn(None, lambda core: core.memory.clear())

    def close(self) -> None:
        """End all workers and give the memory back, once the leases on it are gone; the next read begins anew."""
        with self._lock:
            self._drop()

    def attach(
        self,
        source: Source,
        settings: Settings,
        *,
        forward: bool = False,
        saving: Saving | None = None,
        begun: tuple[Body, float] | None = None,
    ) -> Feed:
        """Send the first request of an object, and return the record of a new reader of it.

        Args:
            source: of the object; nothing was sent by it yet, or the first request.
            settings: how it is read.
            forward: whether the reader will read on to the end.
            saving: which file `save` is to fill; such a reader is used for nothing else.
            begun: what `first` has returned, if it was sent.

        Raises:
            GetmError: the object cannot be had.
            UsageError: its blocks are longer than this engine's slots.
        """
        if settings.block_size > self._budget.block_size:
            if begun is not None:
                begun[0].close()
            raise UsageError(
                f"block_size {settings.block_size} is above this engine's {self._budget.block_size}: "
                "give getm.Engine(block_size=...) one"
            )
        if begun is None and source.is_local and settings.concurrency is not None:
            warnings.warn("the session or auth wants to see answers: reading is done in this process", stacklevel=4)
        start, stop = 0, settings.block_size
        if saving is not None:  # of a file that is whole a byte tells whether it is still that of the object
            start, stop = saving.missing[0] if saving.missing else (0, 1)
            stop = min(stop, start + settings.block_size)
        body, seconds = first(source, settings, start, stop) if begun is None else begun
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
        if saving is not None:
            saving.missing = [(start, min(stop, version.size)) for start, stop in saving.missing if start < version.size]
            feed.saving = saving
        feed.planner.observe(seconds, None)
        feed.stats.requests = 1

        def admit(_core: Core) -> None:
            self._feeds.append(feed)
            if body.answer.start < body.answer.stop:
                feed.inlines.append(Inline(body.answer.start, body.answer.stop, body))

        try:
            self._turn(feed, admit)
            return feed  # noqa: TRY300  # an interrupt may come here, too
        except BaseException:
            body.close()
            self.detach(feed)
            raise

    def detach(self, feed: Feed) -> None:
        """Give up a reader: cancel what only it wants, and forget blocks that nobody else may have. Twice is harmless."""
        self._leaving.append(feed)
        self._let_go()

    def readinto(self, feed: Feed, start: int, view: memoryview) -> None:
        """Fill *view* with the bytes from *start* on, all of which the object has.

        Raises:
            GetmError: they cannot be had; what *view* holds is undefined.
        """
        self._satisfy(feed, Demand(start, start + len(view), view))

    def lease(self, feed: Feed, start: int, length: int) -> memoryview:
        """Return a read-only view of *length* bytes from *start* on, all of which the object has.

        It is a view on shared memory if the bytes lie in one slot, or in slots that happen to adjoin, and less than half of
        all slots are leased; otherwise on private memory. It stays right as long as any view of it is held.

        Raises:
            GetmError: they cannot be had.
        """
        stop = start + length
        if start // feed.block_size == (stop - 1) // feed.block_size:
            demand = Demand(start, stop, None)
            self._satisfy(feed, demand)
            assert demand.lease is not None
            if demand.view is not None:
                feed.stats.private += length
            return demand.lease
        began = time.monotonic()

        def at_once(core: Core) -> memoryview | None:
            core.collect()
            view = core.memory.lease(feed, start, stop)
            if view is not None:
                feed.planner.read(start, stop)
                self._hit(core, feed, began)
            return view

        view = self._turn(feed, at_once)
        if view is None:
            private = buffers.buffer(length)
            self._satisfy(feed, Demand(start, stop, private))
            view = private.toreadonly()
            feed.stats.private += length
        return view

    def window(self, feed: Feed, offset: int) -> Window | None:
        """Return what is there around *offset* in its block, for reading without the engine; None if that byte is not."""
        return self._turn(feed, lambda core: core.memory.window(feed, offset))

    def follow(self, feed: Feed, start: int, stop: int) -> None:
        """Note that the caller has read a range in a window."""

        def note(core: Core) -> None:
            feed.planner.follow(stop)
            core.memory.mark_read(feed, start, stop)

        self._turn(feed, note)

    def announce(self, feed: Feed, ranges: Iterable[Range]) -> None:
        """Have ranges that a caller is going to read fetched, without waiting for them."""

        def note(core: Core) -> None:
            feed.planner.announce(ranges)
            core.collect()
            core.dispatch(feed)

        self._turn(feed, note)

    def save(self, feed: Feed) -> Iterator[int]:
        """Fill the file that *feed* was attached with, and yield how many bytes are still missing whenever that changes.

        Raises:
            GetmError: the bytes cannot be had.
            OSError: the file cannot be written.
        """
        saving = feed.saving
        if saving is None:
            raise ValueError("attached without a descriptor")
        saving.silence = Silence()
        missing = -1
        then: Then | None = None
        try:
            while missing and saving.error is None:
                outside = self._turn(feed, functools.partial(self._look_saving, feed, saving, then))
                missing = total(saving.missing)
                yield missing
                then = None if outside is None else outside()
            if then is not None:  # another thread has set the error while this one was outside
                self._turn(feed, then)
        except BaseException:
            self._quit(feed, saving)
            raise
        if saving.error is not None:
            raise saving.error

    # The life of the core.

    def _renew_locks(self) -> None:
        self._lock = threading.RLock()  # only to know its owner: nobody takes it twice
        self._gate = _closed_gate()  # opened for all who wait outside the lock; then there is another; under the lock
        self._leader: Demand | Saving | None = None  # whose thread polls the workers for all; under the lock

    def _turn(self, feed: Feed | None, act: Callable[[Core], T]) -> T:
        """Call *act* under the lock. Whatever leaves it may leave the core half done, so the core goes with it."""
        try:
            with self._lock:
                try:
                    return act(self._enter(feed))
                except BaseException:
                    self._drop()
                    raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Give up the readers that are leaving, unless the lock is held: then its holder does so as soon as it is free.

        The garbage collector may close a reader anywhere, also in a thread that holds the lock.
        """
        lock = self._lock
        if _is_owned(lock):
            return
        try:
            while self._leaving and lock.acquire(blocking=False):
                while self._leaving:
                    self._give_up(self._leaving.popleft())
                lock.release()
        except BaseException:
            if _is_owned(lock):
                self._drop()
            raise
        finally:
            if _is_owned(lock):
                lock.release()

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
        for waiter in (*feed.demands, *(() if feed.saving is None else (feed.saving,))):
            if not waiter.is_done:
                waiter.error = ValueError(_CLOSED)
        self._open_gate()
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
        try:
            if core is not None:
                core.close()
        except BaseException:  # an interrupt
            if core is not None:
                core.close()
            raise
        finally:
            self._open_gate()

    def _open_gate(self) -> None:
        """Let all who wait outside the lock look again."""
        gate, self._gate = self._gate, _closed_gate()
        gate.release()
        if self._leader is not None and self._core is not None and self._core.pool is not None:
            self._core.pool.wake()

    def before_fork(self) -> None:
        """Let nothing be half done while the process is forked."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on, and leave the child what is leased."""
        try:
            if self._core is not None:
                self._core.memory.keep_leases()
        finally:
            if _is_owned(self._lock):
                self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave everything to the parent; what this process reads, it fetches by an engine state of its own."""
        self._renew_locks()
        core, self._core = self._core, None
        if core is not None:
            core.abandon()
        for feed in self._feeds:
            for inline in feed.inlines:
                if inline.owner is not None:  # closing it would wait for a thread that is not in this process
                    _abandoned.append(inline)
                else:
                    inline.close()
            feed.inlines.clear()
            feed.demands.clear()
            feed.renewer = None
            feed.turn = threading.Lock()

    # A read, from its demand to its bytes.

    def _satisfy(self, feed: Feed, demand: Demand) -> None:
        """Wait until a demand is met, doing what has to be done for it."""
        try:
            then: Then | None = None
            is_met = self._turn(feed, functools.partial(self._begin, feed, demand))
            while not is_met:
                outside = self._turn(feed, functools.partial(self._look, feed, demand, then))
                if outside is None:
                    break
                then = outside()
        except BaseException:
            self._quit(feed, demand)
            raise
        error, demand.error = demand.error, None
        if error is not None:
            demand.view = demand.lease = None  # whoever keeps the error keeps the demand
            try:
                raise error
            finally:
                del error  # otherwise its traceback would hold it, and the caller's memory, until the collector comes

    def _begin(self, feed: Feed, demand: Demand, core: Core) -> bool:
        """Enter a demand, unless it can be met at once; say whether it was."""
        if feed.is_closed:
            demand.error = ValueError(_CLOSED)
        feed.planner.read(demand.start, demand.stop)
        core.collect()
        core.memory.serve(feed, demand)
        if demand.is_done:
            self._hit(core, feed, demand.began)
            return True
        if feed.demands:
            feed.planner.share()
        feed.note_away(demand.began)
        feed.stats.misses += 1
        feed.planner.waited()
        feed.demands.append(demand)
        return False

    def _hit(self, core: Core, feed: Feed, began: float) -> None:
        """Note that a read found all its bytes there."""
        feed.stats.hits += 1
        feed.note_away(began)
        feed.note_here()
        if not feed.is_closed:
            core.dispatch(feed)

    def _look(self, feed: Feed, demand: Demand, then: Then | None, core: Core) -> Outside | None:
        """Account for what was done outside; return what is to be done there next, or None if the demand is met."""
        outside = then(core) if then is not None else None
        if outside is not None:
            return outside
        core.collect()
        core.memory.serve(feed, demand)
        feed.note_here()
        silence = demand.silence.seconds
        if not demand.is_done and silence > feed.settings.deadline:
            text = f"{feed.source.name}, bytes {demand.position}-{demand.stop - 1}: next to nothing came for {silence:.0f} s"
            demand.error = TransferTimeout(text, url=feed.source.name, start=demand.position, stop=demand.stop)
        if not demand.is_done:
            if self._is_to_renew(feed):
                return self._renew(core, feed, demand, demand.position)
            core.dispatch(feed)
        if not demand.is_done:
            return self._fetch_here(core, feed, demand)
        feed.demands.remove(demand)
        feed.stats.waited += time.monotonic() - demand.began
        if not feed.is_closed:
            core.dispatch(feed)
        return None

    def _look_saving(self, feed: Feed, saving: Saving, then: Then | None, core: Core) -> Outside | None:
        """Likewise for a copy."""
        if then is not None:
            then(core)
        core.collect()
        silence = saving.silence.seconds
        if not saving.is_done and silence > feed.settings.deadline:
            text = f"{feed.source.name}: next to nothing came for {silence:.0f} s"
            saving.error = TransferTimeout(text, url=feed.source.name)
        if saving.is_done:
            return None
        if self._is_to_renew(feed):
            return self._renew(core, feed, saving, saving.missing[0][0])
        core.dispatch_saving(feed, saving)
        return self._save_here(core, feed, saving)

    def _quit(self, feed: Feed, waiter: Demand | Saving) -> None:
        """Undo what a thread has begun that is leaving before its end; twice is harmless."""
        with self._lock:
            if waiter in feed.demands:
                feed.demands.remove(waiter)
            for inline in [inline for inline in feed.inlines if inline.owner is waiter]:
                feed.inlines.remove(inline)
                if self._core is not None and feed.epoch == self._epoch and inline.target is not None:
                    self._core.leave(feed, inline.position, inline.target)
                inline.close()
            if feed.renewer is waiter:
                feed.renewer = None
            if self._leader is waiter:
                self._leader = None
            self._open_gate()
        if self._core is None or feed.epoch != self._epoch or feed.is_closed or feed.saving is not None:
            self._let_go()
        else:
            self._turn(feed, lambda core: core.dispatch(feed))  # what only it has wanted is cancelled

    def _wait(self, core: Core, waiter: Demand | Saving, seconds: float) -> Outside:
        """Return how to wait for news: of the workers, for all; or, if another thread does that, of this one."""
        if self._leader is not None or core.pool is None:
            return functools.partial(_pass, self._gate, seconds)
        self._leader, pool = waiter, core.pool

        def outside() -> Then:
            pool.wait(seconds)
            return self._led

        return outside

    def _led(self, _core: Core) -> None:
        self._leader = None
        self._open_gate()

    def _is_to_renew(self, feed: Feed) -> bool:
        """Say whether where to ask is to be found out anew, because a server refused or the URL is about to expire."""
        if feed.refused is None and time.time() >= feed.source.due and feed.source.is_renewable:
            feed.refused = Failure(Trouble.EXPIRED, "the URL is about to expire")
        return feed.refused is not None

    def _renew(self, core: Core, feed: Feed, waiter: Demand | Saving, position: int) -> Outside:
        """Return how to find out anew where to ask; or how to wait while another thread does."""
        if feed.renewer is not None:
            return self._wait(core, waiter, WAIT_RENEWING)
        feed.renewer, refused = waiter, feed.refused

        def outside() -> Then:
            try:
                body, _ = first(feed.source, feed.settings, position, position + 1, refused)
                body.close()
            except Exception as error:  # noqa: BLE001  # it is that of all who wait
                return functools.partial(self._renewed, feed, waiter, error)
            return functools.partial(self._renewed, feed, waiter, None)

        return outside

    def _renewed(self, feed: Feed, waiter: Demand | Saving, error: Exception | None, _core: Core) -> None:
        feed.renewer, feed.refused = None, None
        feed.stats.requests += 1
        for each in (waiter, *feed.demands):
            if not each.is_done:
                each.error = error
        self._open_gate()

    def _fetch_here(self, core: Core, feed: Feed, demand: Demand) -> Outside:
        """Return how to fetch bytes of a demand in the calling thread, if no worker will; how to wait if one will."""
        for inline in feed.inlines:
            if inline.position <= demand.position < inline.upto:
                if inline.owner is not None:
                    return self._wait(core, demand, WAIT_MOST)
                break
        else:
            if core.is_full(feed):
                core.give_up_inline(feed)
            if core.is_coming(feed, demand.position):
                return self._wait(core, demand, WAIT_MOST)
            paused = core.paused(feed, demand.position)
            if paused:
                return self._wait(core, demand, min(paused, WAIT_MOST))
            inline = core.inline(feed, demand)
        return self._receive(core, feed, inline, demand, is_rest=False)

    def _receive(self, core: Core, feed: Feed, inline: Inline, demand: Demand, *, is_rest: bool) -> Outside:
        """Return how to receive what of an inline goes to one place."""
        target = core.target(feed, inline, demand)
        inline.owner, inline.target = demand, target
        demand.is_direct = target.is_direct

        def outside() -> Then:
            count, failure = receive(feed, inline, target.memory)
            return functools.partial(received, count, failure)

        def received(count: int, failure: Failure | None, now: Core) -> Outside | None:
            start, inline.owner, inline.target, demand.is_direct = inline.position, None, None, False
            self._open_gate()
            if now is not core or inline not in feed.inlines:  # given up meanwhile
                inline.close()
                if now is core:
                    core.leave(feed, start, target)
                return None
            core.received(feed, inline, demand, target, count)
            self._settle(core, feed, inline, failure)
            core.leave(feed, start, target)
            if is_rest or inline not in feed.inlines or inline.stop - inline.position > FETCH_LEAST:
                return None
            return self._receive(core, feed, inline, demand, is_rest=True)  # in the next block: that keeps the connection

        return outside

    def _save_here(self, core: Core, feed: Feed, saving: Saving) -> Outside | None:
        """Return how to save some bytes in the calling thread, if no worker will; how to wait if one will."""
        if saving.error is not None:
            return None
        if not feed.inlines:
            gaps = core.unsaved(feed, saving)
            if feed.runs or not gaps:
                return self._wait(core, saving, WAIT_MOST)
            paused = core.paused(feed, gaps[0][0])
            if paused:
                return self._wait(core, saving, min(paused, WAIT_MOST))
            feed.inlines.append(Inline(*gaps[0]))
        inline = feed.inlines[0]
        inline.owner = saving
        length = min(SAVE_BUFFER, inline.stop - inline.position, paced_length(saving.pace))
        buffer = buffers.buffer(length)

        def outside() -> Then:
            began = time.monotonic()
            count, failure = receive(feed, inline, buffer)
            written = count if inline.body is not None and inline.body.answer.is_saved else 0
            while written < count:
                written += os.pwrite(saving.descriptor, buffer[written:count], inline.position + written)
            early = began + count / saving.pace - time.monotonic()
            if early > 0:
                time.sleep(early)
            return functools.partial(saved, count, failure)

        def saved(count: int, failure: Failure | None, now: Core) -> None:
            inline.owner = None
            saving.saved(inline.position, inline.position + count)
            inline.position += count
            inline.is_at_end = inline.position >= inline.stop
            saving.silence.note(count)
            feed.stats.fetched += count
            if now is core and inline in feed.inlines:
                self._settle(core, feed, inline, failure)
            else:
                inline.close()

        return outside

    def _settle(self, core: Core, feed: Feed, inline: Inline, failure: Failure | None) -> None:
        """Take leave of an inline that is at its end, one way or another."""
        if failure is None and not inline.is_at_end:
            return
        feed.inlines.remove(inline)
        inline.close()
        if failure is not None:
            core.failed(feed, inline, failure)


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


def _pass(gate: threading.Lock, seconds: float) -> None:
    """Wait until a gate is opened, or for so many seconds."""
    if gate.acquire(timeout=seconds):
        gate.release()  # for the next


def _is_owned(lock: threading.RLock) -> bool:
    """Whether this thread holds a lock; conditions ask that way, too."""
    return lock._is_owned()  # type: ignore[no-any-return,attr-defined]  # noqa: SLF001


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
    if Clone.is_beginning:
        return
    for engine in sorted(_engines, key=id):  # in one order, should two threads fork
        _forking.append(engine)
        engine.before_fork()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    if Clone.is_beginning:
        return
    _forking.clear()
    for engine in list(_engines):  # also one that another thread has made meanwhile
        engine.after_fork_in_child()


@functools.cache
def _register_hooks() -> None:
    """Have forks and the end of the process told to engines; the first engine does this, so that importing does not."""
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(_close_all)
