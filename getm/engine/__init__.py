"""The engine: blocks of objects in shared memory, filled by background range requests, shared by all open readers.

     caller            calling process (no thread of ours)                     worker 1..n
     read(n) ──► Reader ──► Engine ──► Planner.wants(demands)
                               │       BlockTable: what is there; a slot for what is not
                               │       Pool ── Fetch, Grant, Cancel ──────────► Transport.send, Body.readinto
                               ▼                                                      │ writes
                  copy or lease ◄───────── Arena: slot 0 | 1 | ... | n  ◄─────────────┘
                               ▲       Pool ◄── Started, Filled, Ended, or the worker is gone

Everything is decided under one lock (`core.py`, `runs.py`, `targets.py`) from what is there at that moment: what readers
want (their planners say), what is present and what is under way. The difference is asked for, what nobody wants any more is
cancelled. A run that fails or loses its worker leaves a gap, and that is asked for again; nothing else has to be repaired.

Waiting and receiving go on outside the lock (`hub.py`, `fetching.py`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from getm import buffers
from getm.config import BLOCK_SIZE, LOCAL_MEMORY, MEMORY, PROCESSES, Budget, Settings
from getm.engine.core import Core
from getm.engine.feed import Demand, Feed, Inline, Object, Saving, Stats
from getm.engine.fetching import Fetching
from getm.engine.hub import Hub
from getm.engine.inline import first, first_bytes
from getm.engine.memory import Window
from getm.engine.planner import Planner
from getm.errors import UsageError
from getm.ranges import Range
from getm.sources.base import Body, Source

__all__ = ["Engine", "Feed", "Saving", "Stats", "Window", "chosen", "close_default", "default", "first", "first_bytes"]


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
        self._hub = Hub(self._budget)
        self._fetching = Fetching(self._hub)

    def __repr__(self) -> str:
        """Show what it holds."""
        core = self._hub.core
        workers = list(core.pool.workers.values()) if core is not None and core.pool is not None else []
        busy = sum(worker.run is not None for worker in workers)
        return f"<getm.Engine {len(self._hub.feeds)} readers, {len(workers)} workers ({busy} busy), {self.memory >> 20} MiB>"

    @property
    def memory(self) -> int:
        """Bytes taken from the system for blocks."""
        core = self._hub.core
        return core.memory.arena.backed * core.memory.arena.slot_size if core is not None else 0

    @property
    def stats(self) -> Stats:
        """What all readers have cost so far, together."""
        total = replace(self._hub.past)
        for feed in list(self._hub.feeds):
            total.add(feed.stats)
        return total

    def clear(self) -> None:
        """Forget all blocks that are not in use; what is read again is fetched again."""
        self._hub.turn(None, lambda core: core.memory.clear())

    def close(self) -> None:
        """End all workers and give the memory back, once the leases on it are gone; the next read begins anew."""
        self._hub.close()

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
            self._hub.feeds.append(feed)
            if body.answer.start < body.answer.stop:
                feed.inlines.append(Inline(body.answer.start, body.answer.stop, body))

        try:
            self._hub.turn(feed, admit)
            return feed  # noqa: TRY300  # an interrupt may come here, too
        except BaseException:
            body.close()
            self.detach(feed)
            raise

    def detach(self, feed: Feed) -> None:
        """Give up a reader: cancel what only it wants, and forget blocks that nobody else may have. Twice is harmless."""
        self._hub.detach(feed)

    def readinto(self, feed: Feed, start: int, view: memoryview) -> None:
        """Fill *view* with the bytes from *start* on, all of which the object has.

        Raises:
            GetmError: they cannot be had; what *view* holds is undefined.
        """
        self._fetching.satisfy(feed, Demand(start, start + len(view), view))

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
            self._fetching.satisfy(feed, demand)
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
                self._fetching.hit(core, feed, began)
            return view

        view = self._hub.turn(feed, at_once)
        if view is None:
            private = buffers.buffer(length)
            self._fetching.satisfy(feed, Demand(start, stop, private))
            view = private.toreadonly()
            feed.stats.private += length
        return view

    def window(self, feed: Feed, offset: int) -> Window | None:
        """Return what is there around *offset* in its block, for reading without the engine; None if that byte is not."""
        return self._hub.turn(feed, lambda core: core.memory.window(feed, offset))

    def follow(self, feed: Feed, start: int, stop: int) -> None:
        """Note that the caller has read a range in a window."""

        def note(core: Core) -> None:
            feed.planner.follow(stop)
            core.memory.mark_read(feed, start, stop)

        self._hub.turn(feed, note)

    def announce(self, feed: Feed, ranges: Iterable[Range]) -> None:
        """Have ranges that a caller is going to read fetched, without waiting for them."""

        def note(core: Core) -> None:
            if not feed.is_closed:
                feed.planner.announce(ranges)
                core.collect()
                core.dispatch(feed)

        self._hub.turn(feed, note)

    def save(self, feed: Feed) -> Iterator[int]:
        """Fill the file that *feed* was attached with, and yield how many bytes are still missing whenever that changes.

        Raises:
            GetmError: the bytes cannot be had.
            OSError: the file cannot be written.
        """
        return self._fetching.save(feed)


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
