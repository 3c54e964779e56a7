"""One core under one lock, and those who wait outside of it.

Whatever is decided about readers is decided in a `turn`, which waits for nothing. Waiting and receiving go on outside the
lock. Of several threads that wait one polls the workers for all, the others wait until it has something; whoever gets the
news in the next turn hands bytes to every caller who waits for them.

An interrupt may come between any two lines. So the lock is only ever taken by `with`; what is left while it is held takes
the core with it; and what a thread has begun outside of it is undone by `quit`, which may run twice.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from getm.config import Budget
from getm.engine.core import Core
from getm.engine.feed import Demand, Feed, Inline, Saving, Stats
from getm.engine.pool import Clone

CLOSED = "I/O operation on closed file"
Then: TypeAlias = Callable[["Core"], "Outside | None"]
"""What has to be done under the lock about what was done outside; it may return more of that."""
Outside: TypeAlias = Callable[[], Then | None]
"""What a thread does outside the lock."""
T = TypeVar("T")


class Hub:
    """One core, built when it is wanted, under one lock.

    Args:
        budget: what the core may use.

    Attributes:
        feeds: all open readers, whether registered with the core or not; changed under the lock.
        past: what the readers have cost that were given up; likewise.
        core: None before it is wanted, and again once it was given up; likewise.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.feeds: list[Feed] = []
        self.past = Stats()
        self.core: Core | None = None
        self.epoch = 0  # raised with every core that is built
        self._leaving: deque[Feed] = deque()  # readers to be given up; appended to by anyone, finalizers too
        self._renew_locks()
        _hubs.add(self)
        _register_hooks()

    def _renew_locks(self) -> None:
        self.lock = threading.RLock()  # only to know its owner: nobody takes it twice
        self._gate = _closed_gate()  # opened for all who wait outside the lock; then there is another; under the lock
        self.leader: Demand | Saving | None = None  # whose thread polls the workers for all; under the lock

    def close(self) -> None:
        """Give up the core; the next turn begins anew."""
        with self.lock:
            self.drop()

    def detach(self, feed: Feed) -> None:
        """Give up a reader: cancel what only it wants, and forget blocks that nobody else may have. Twice is harmless."""
        self._leaving.append(feed)
        self.let_go()

    def turn(self, feed: Feed | None, act: Callable[[Core], T]) -> T:
        """Call *act* under the lock. Whatever leaves it may leave the core half done, so the core goes with it."""
        try:
            with self.lock:
                try:
                    return act(self.enter(feed))
                except BaseException:
                    self.drop()
                    raise
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Give up the readers that are leaving, unless the lock is held: then its holder does so as soon as it is free.

        The garbage collector may close a reader anywhere, also in a thread that holds the lock.
        """
        lock = self.lock
        if _is_owned(lock):
            return
        try:
            while self._leaving and lock.acquire(blocking=False):
                while self._leaving:
                    self._give_up(self._leaving.popleft())
                lock.release()
        except BaseException:
            if _is_owned(lock):
                self.drop()
            raise
        finally:
            if _is_owned(lock):
                lock.release()

    def quit(self, feed: Feed, waiter: Demand | Saving) -> None:
        """Undo what a thread has begun that is leaving before its end; twice is harmless."""
        with self.lock:
            if waiter in feed.demands:
                feed.demands.remove(waiter)
            for inline in [inline for inline in feed.inlines if inline.owner is waiter]:
                feed.inlines.remove(inline)
                if self.core is not None and feed.epoch == self.epoch and inline.target is not None:
                    self.core.targets.leave(feed, inline.position, inline.target)
                inline.close()
            if feed.renewer is waiter:
                feed.renewer = None
            if self.leader is waiter:
                self.leader = None
            self.open_gate()
        if self.core is None or feed.epoch != self.epoch or feed.is_closed or feed.saving is not None:
            self.let_go()
        else:
            self.turn(feed, lambda core: core.dispatch(feed))  # what only it has wanted is cancelled

    def wait(self, core: Core, waiter: Demand | Saving, seconds: float) -> Outside:
        """Return how to wait for news: of the workers, for all; or, if another thread does that, of this one."""
        if self.leader is not None or core.pool is None:
            return functools.partial(_pass, self._gate, seconds)
        self.leader, pool = waiter, core.pool

        def outside() -> Then:
            pool.wait(seconds)
            return self._led

        return outside

    def _led(self, _core: Core) -> None:
        self.leader = None
        self.open_gate()

    def open_gate(self) -> None:
        """Let all who wait outside the lock look again."""
        gate, self._gate = self._gate, _closed_gate()
        gate.release()
        if self.leader is not None and self.core is not None and self.core.pool is not None:
            self.core.pool.wake()

    def enter(self, feed: Feed | None) -> Core:
        """Return the core, built if there is none, with *feed* registered in it."""
        if self.core is None:
            self.core = Core(self._budget)
            self.epoch += 1
        if feed is not None and feed.epoch != self.epoch and not feed.is_closed:
            feed.epoch = self.epoch
            self.core.register(feed)
        return self.core

    def drop(self) -> None:
        """Give up the core, if there is one. Readers register with the next when they are used again."""
        core, self.core = self.core, None
        try:
            if core is not None:
                core.close()
        except BaseException:  # an interrupt
            if core is not None:
                core.close()
            raise
        finally:
            self.open_gate()

    def _give_up(self, feed: Feed) -> None:
        if feed not in self.feeds:
            return
        self.feeds.remove(feed)
        self.past.add(feed.stats)
        feed.is_closed = True
        feed.source.close()
        for inline in feed.inlines:
            inline.give_up()
        feed.inlines.clear()
        for waiter in (*feed.demands, *(() if feed.saving is None else (feed.saving,))):
            if not waiter.is_done:
                waiter.error = ValueError(CLOSED)
        self.open_gate()
        core = self.core
        if core is not None and feed.epoch == self.epoch:
            core.collect()
            core.unregister(feed)
            if not self.feeds:
                core.memory.shrink()

    def before_fork(self) -> None:
        """Let nothing be half done while the process is forked."""
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on, and leave the child what is leased."""
        try:
            if self.core is not None:
                self.core.memory.keep_leases()
        finally:
            if _is_owned(self.lock):
                self.lock.release()

    def after_fork_in_child(self) -> None:
        """Leave everything to the parent; what this process reads, it fetches by an engine state of its own."""
        self._renew_locks()
        core, self.core = self.core, None
        if core is not None:
            core.abandon()
        for feed in self.feeds:
            for inline in feed.inlines:
                if inline.owner is not None:  # closing it would wait for a thread that is not in this process
                    _abandoned.append(inline)
                else:
                    inline.close()
            feed.inlines.clear()
            feed.demands.clear()
            feed.renewer = None
            feed.turn = threading.Lock()


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


_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()
_forking: list[Hub] = []  # those whose locks a thread that forks has
_abandoned: list[Inline] = []  # in a forked child: what its parent was receiving at the fork; kept for ever


def _close_all() -> None:
    for hub in list(_hubs):
        hub.close()


def _before_fork() -> None:
    if Clone.is_beginning:
        return
    for hub in sorted(_hubs, key=id):  # in one order, should two threads fork
        _forking.append(hub)
        hub.before_fork()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    if Clone.is_beginning:
        return
    _forking.clear()
    for hub in list(_hubs):  # also one that another thread has made meanwhile
        hub.after_fork_in_child()


@functools.cache
def _register_hooks() -> None:
    """Have forks and the end of the process told to hubs; the first does this, so that importing does not."""
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(_close_all)
