"""What the engine keeps of each open reader, and of what is under way for it: plain records."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from getm import buffers
from getm.config import MIB, STALL_LEAST, Settings
from getm.engine.planner import Planner, Want
from getm.engine.pool import Worker
from getm.ranges import PIECES, Range, overlap, subtract
from getm.retry import Failure
from getm.sources.base import Body, Source, Version

SAVE_MOST = 64 * MIB
"""Longest run of a copy, which takes no memory: at 30 ms and 50 MB/s it loses 2% to its first-byte time."""
FOLLOWED_LEAST = 4 * MIB
FOLLOWED_MOST = 16 * MIB
"""And of one that is hashed in order meanwhile, which takes as long as fetching: as far as the first run is, with all others
waiting behind it. At 30 ms and 50 MB/s such runs lose 28% and 9%; with longer ones nearly all is hashed at the end."""


@dataclass
class Stats:
    """What one reader has cost so far.

    Attributes:
        requests: range requests sent.
        fetched: bytes received.
        hits: reads that found all their bytes there.
        misses: reads that did not.
        unread: bytes received in pieces no byte of which has been read yet.
        waited: seconds spent waiting for bytes.
        private: bytes of views handed out on private memory, copied, because no lease was to be had.
    """

    requests: int = 0
    fetched: int = 0
    hits: int = 0
    misses: int = 0
    unread: int = 0
    waited: float = 0.0
    private: int = 0

    def add(self, other: Stats) -> None:
        """Add what another has counted."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(eq=False)
class Silence:
    """How long next to nothing has come for somebody who waits: what a server lets drip, byte by byte, ends no silence."""

    began: float = field(default_factory=time.monotonic)
    count: int = 0  # bytes that have come since

    @property
    def seconds(self) -> float:
        """Return how long it lasts."""
        return time.monotonic() - self.began

    def note(self, count: int) -> None:
        """Note that so many bytes have come."""
        self.count += count
        if self.count >= STALL_LEAST:
            self.began, self.count = time.monotonic(), 0


@dataclass(eq=False)
class Demand:
    """A caller that waits for `[start, stop)`: bytes before *position* were handed over.

    Without a *view* it waits until they are all there, and then gets a lease on them; they are within one block.
    """

    start: int
    stop: int
    view: memoryview | None
    position: int = field(init=False)
    began: float = field(default_factory=time.monotonic)
    silence: Silence = field(default_factory=Silence)
    lease: memoryview | None = None
    error: BaseException | None = None
    is_direct: bool = False  # whether its own thread is fetching it, straight into the view

    def __post_init__(self) -> None:
        self.position = self.start

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.error is not None or self.position >= self.stop

    def go_private(self) -> memoryview:
        """Wait for the bytes in private memory rather than for a lease, if it was for one; return where they go."""
        if self.view is None:
            self.position = self.start
            self.view = buffers.buffer(self.stop - self.start)
            self.lease = self.view.toreadonly()
        return self.view


@dataclass(eq=False)
class Saving:
    """A copy under way: *missing* are the ranges that are not in the file yet, in order."""

    descriptor: int
    missing: list[Range]
    pace: float = math.inf  # bytes a second, at most, of each of its requests
    is_followed: bool = False  # whether what is in the file without a gap is hashed meanwhile
    error: BaseException | None = None
    silence: Silence = field(default_factory=Silence)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.error is not None or not self.missing

    def run(self, share: int) -> int:
        """Return the length of a run, where that is its share of what is missing."""
        if not self.is_followed:
            return min(share, SAVE_MOST)
        return min(share, max(FOLLOWED_LEAST, min(share // 2, FOLLOWED_MOST)))

    def saved(self, start: int, stop: int) -> None:
        """Note that a range is in the file."""
        self.missing = [rest for gap in self.missing for rest in subtract(gap, [(start, stop)])]


@dataclass(eq=False)
class Run:
    """One range request in a worker: before *position* all is in place, before *granted* it has a place."""

    number: int
    feed: Feed
    worker: Worker
    start: int
    stop: int
    position: int
    granted: int
    counted: int  # bytes before it are in the statistics
    asked: float  # when it was sent
    heard: float  # when its worker last said something about it, or was given a place after it had none
    generation: int = 0  # of the source, when the request was made
    spent: float = 0.0  # seconds on its body up to then, as its worker says
    is_answered: bool = False  # whether the server has begun to answer
    is_cancelled: bool = False
    is_awaited: bool = False  # whether its worker knows that somebody waits for its next bytes
    slots: deque[tuple[int, int]] = field(default_factory=deque)  # (stop of the block, slot) held for it, in order

    @property
    def has_place(self) -> bool:
        """Whether there is a place for its next bytes."""
        return self.position < self.granted or self.feed.saving is not None

    @property
    def is_demanded(self) -> bool:
        """Whether it fetches what a caller waits for, or what is fetched along with that."""
        return self.feed.saving is not None or self.feed.object.is_waited_for((self.position, self.stop))


@dataclass(eq=False)
class Inline:
    """One range request in the calling process: sent and read by whoever wants the bytes, outside the engine's lock."""

    position: int
    stop: int
    body: Body | None = None  # None until it is sent
    generation: int = 0  # of the source, when the request was made
    owner: Demand | Saving | None = None  # whose thread is at it, outside the engine's lock
    target: Target | None = None  # where that is receiving to
    scratch: memoryview | None = None  # for callers whose memory lies where the processor copies slowly
    reach: int | None = None  # who wants bytes further behind asks for himself: it goes on to the object's end
    is_at_end: bool = False  # whether its body was read to the end
    is_given_up: bool = False  # whether nobody wants it any more; the thread that is at it closes it
    measured: int = 0  # bytes that came since its rate was last noted
    seconds: float = 0.0  # that they took
    asked: float = field(default_factory=time.monotonic)  # when somebody began to want it

    @property
    def upto(self) -> int:
        """Whoever wants bytes before this one waits for it."""
        return self.stop if self.reach is None else min(self.stop, self.position + self.reach)

    def give_up(self) -> None:
        """Close it, or have the thread that is at it do so, now."""
        self.is_given_up = True
        if self.owner is None:
            self.close()
        elif self.body is not None:
            self.body.abort()

    def close(self) -> None:
        """Give its connection back, or drop it."""
        if self.body is not None:
            self.body.close()


@dataclass(frozen=True)
class Target:
    """Where the next bytes of an inline go.

    Attributes:
        memory: to be filled, as far as the body goes.
        slot: the slot, held, that it lies in; None if it is elsewhere.
        is_direct: whether it lies in the view of the demand.
    """

    memory: memoryview
    slot: int | None = None
    is_direct: bool = False


@dataclass
class Attempt:
    """Failures at one place of an object, since the last byte of progress there."""

    count: int
    not_before: float


@dataclass(eq=False)
class Object:
    """One version of one object, and all that the engine does about it."""

    key: Hashable
    is_large: bool  # more than half the arena: what was passed is reused first
    is_shared: bool  # whether other readers may find its blocks
    feeds: list[Feed] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    receiving: list[Range] = field(default_factory=list)  # what threads of this process are writing to slots
    not_before: float = 0.0  # when its server may be asked for it again, at its own wish

    def is_waited_for(self, part: Range) -> bool:
        """Whether a caller waits for some of a part, or for what is fetched along with it."""
        spans = [(demand.position, demand.stop) for feed in self.feeds for demand in feed.demands]
        spans += [(want.start, want.stop) for feed in self.feeds for want in feed.wants if want.is_demand]
        return any(overlap(part, span) for span in spans)

    def awaited(self, start: int, stop: int) -> int:
        """Return the byte before which somebody waits for all of a part, and for nothing before it; 0 if nobody does."""
        demands = [demand for feed in self.feeds for demand in feed.demands]
        return min((demand.stop for demand in demands if start <= demand.position < stop), default=0)

    def is_receiving(self, part: Range) -> bool:
        """Whether a thread of this process is writing there."""
        return any(overlap(part, span) for span in self.receiving)


@dataclass(eq=False, repr=False)
class Feed:
    """One open reader."""

    source: Source
    settings: Settings
    version: Version
    planner: Planner
    object: Object
    epoch: int  # of the engine's state in which it is registered
    host: str
    saving: Saving | None = None  # a copy instead of a reader: its blocks go to a file and to no slot
    inlines: list[Inline] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    wants: list[Want] = field(default_factory=list)
    attempts: dict[int, Attempt] = field(default_factory=dict)  # by the offset where fetching has to go on
    refused: Failure | None = None  # why where to ask has to be found out anew, before anything more is asked for
    renewer: Demand | Saving | None = None  # whose thread is finding it out
    is_closed: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)  # for the reader's position; new in a forked child
    stats: Stats = field(default_factory=Stats)
    size: int = field(init=False)  # bytes in the object
    block_size: int = field(init=False)
    piece: int = field(init=False)  # bytes of a piece

    def __post_init__(self) -> None:
        self.size = self.version.size
        self.block_size = self.settings.block_size
        self.piece = self.block_size // PIECES
