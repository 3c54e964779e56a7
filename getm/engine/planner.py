"""What to fetch next for one reader: a state machine without I/O, clock or lock.

The planner is told of every read and of what was measured, and says at any time what is wanted: the demands first, then
what is worth fetching ahead. The engine compares that with what is there and under way, has the difference fetched, and
cancels what is under way and wanted no more. So nothing has to be undone here when a run fails or a worker dies.

Four patterns are told apart by where a read begins, seen from where the one before it stopped:

    sequential   there, or a short skip behind it: the window ahead grows while the reader has to wait
    strided      always the same distance behind (or before) it: after three such gaps the next places are fetched too
    near miss    less than a block away: twice as much is fetched as at the miss before, in the direction of the jump
    jump         anywhere else: just the pieces that hold what is asked for; or as much as was read at each of the last
                 three places, if that is more

And what the caller has announced is fetched in any case, in the order of its offsets, as far as there is room.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from getm.config import FETCH_LEAST, MIB, RUN_LATENCIES, RUN_MOST, available_cpus
from getm.engine.caller import Caller
from getm.ranges import PIECES, Range, ceil, coalesce, cut, floor, total

SPLIT_LEAST = MIB // 2
"""A demand is cut into as few parts as are no longer than this, if there are connections for so many."""
RAMP = 16
"""The window is at most this many times what was read in sequence so far, once that is a block; before, as much as that."""
ANNOUNCED_MOST = 256
"""So many of the ranges that were announced are looked at at once."""
EQUAL_GAPS = 3
SEGMENTS = 3
"""What is read at one place is foretold from so many before it."""
RUN_UNMEASURED = 8 * MIB
RATE_UNMEASURED = 50 * MIB
NEAR = 0.015
"""Longest first-byte time, in seconds, of a server that is near: one connection to it is as quick as several."""
QUICK = 128 * MIB
"""Least rate, in bytes a second, of a connection that this machine holds back, not the server. Stores of objects give 60 to
100 MB/s to each: 1 GiB from one 8 ms away at 90 MB/s took 1.50 s over 8 connections, and 2.88 over 4."""
CROWD = available_cpus()
"""Connections to a server that is near: more of them only take turns. With two processors 1 GiB took 0.468 s over 2, 0.482
over 4, and 0.550 over one; with TLS 0.852, 0.909, and 0.880."""
WINDOW_NEAR = 32 * MIB
"""Widest window before a server that is near: so much is there within a first-byte time of a distant one. Wider ones only
take memory: 1 GiB over 4 connections took 96 MiB of it and 0.454 s, and without this bound 162 MiB and 0.447 s."""
SKIP_UNMEASURED = 128 * 1024
LATE = 0.5
"""A request is late that takes so many seconds longer than twice what another would for its rest. For less it is not worth
a new connection, and what is on its way by then comes twice. 256 MiB where every eighth of 16 connections gives 2 MiB/s took
0.82 s; 1.5 with 2.0 here, and rates known after 1 s in place of 0.3; axel 0.95, aria2c 1.06."""
SETTLED = 10
"""First-byte times that a new connection takes to come to its rate, or nearly."""


@dataclass(frozen=True)
class Want:
    """Bytes worth having.

    Attributes:
        start: first byte, at a piece's start.
        stop: the byte after the last, at a piece's stop or the object's.
        is_demand: whether a caller waits for them.
        run: longest run that is to fetch them, in bytes: whole pieces.
        is_open: whether more is likely to be wanted behind *stop* soon, so that a run may reach beyond it.
    """

    start: int
    stop: int
    is_demand: bool
    run: int
    is_open: bool = False


class Planner:
    """The pattern of one reader's reads, and what follows from it.

    Args:
        size: bytes of the object.
        block_size: bytes of a block.
        concurrency: range requests at once, at most; 1 fetches sequential reading by one run to the object's end.
        forward: whether the reader has promised to read on to the end, as streams do.
    """

    def __init__(self, size: int, block_size: int, concurrency: int, *, forward: bool = False) -> None:
        self._size = size
        self._block = block_size
        self._piece = block_size // PIECES
        self._concurrency = concurrency
        self._forward = forward
        self._room = 0  # bytes that may be held ahead; the engine's word
        self._first_byte = 0.0  # seconds, smoothed; 0 before the first measurement
        self._distance = math.inf  # seconds to the first byte where nothing kept it waiting: the least of them
        self._rate = 0.0  # bytes per second of one connection, smoothed; 0 likewise
        self._byte_seconds = 0.0  # that a byte took by requests that have ended, smoothed; 0 likewise
        self._position = 0  # where the last read stopped
        self._segment = 0  # where the reads that follow one another began
        self._streak = 0  # bytes that make a sequence of these reads
        self._has_jumped = False
        self._window = 0  # bytes to hold ahead of the position
        self._gap: int | None = None  # from the stop of the segment before to the start of this one
        self._gaps_equal = 0
        self._stride: tuple[int, int] | None = None  # length and distance of the segments to come
        self._fetch = FETCH_LEAST  # bytes fetched at a jump
        self._lengths: tuple[int, ...] = ()  # of the last segments
        self._is_backward = False  # whether the last jump went down a little
        self._caller = Caller()
        self._announced: list[Range] = []  # what the caller has said that he will read, and has neither come nor been read
        self._come: list[Range] = []  # what of that has come, and was not read yet
        self._come_room = 0  # bytes of the room that it takes

    def read(self, start: int, stop: int) -> None:
        """Note that a caller reads `[start, stop)`."""
        self._take(start, stop)
        gap = start - self._position
        if gap == 0 or (0 < gap <= self.skip and self._streak >= FETCH_LEAST):
            # One long read behind a jump is no sequence yet; at the object's beginning it is.
            self._streak = (start if self._has_jumped else stop) - self._segment
        else:
            self._jump(start, gap)
        self._position = stop

    def follow(self, position: int) -> None:
        """Note that the caller has read on to *position* within what was there, without asking the engine."""
        self._take(self._position, position)
        self._position = position
        self._streak = max(self._streak, position - self._segment)

    def announce(self, ranges: Iterable[Range]) -> None:
        """Note what the caller is going to read, besides what he has said before."""
        new = [(start, min(stop, self._size)) for start, stop in ranges if start < min(stop, self._size)]
        for start, stop in new:
            self._take(start, stop)
        self._announced = coalesce([*self._announced, *new])

    def came(self, start: int, stop: int) -> None:
        """Note that all of a range is there: what was announced of it need not be fetched any more."""
        for part in cut(self._announced, start, stop):
            bisect.insort(self._come, part)
            self._come_room += self._blocks(*part)

    def waited(self) -> None:
        """Note that the last read found something missing: the window may grow."""
        if self._forward:
            self._window = self._target
        elif self.is_sequential:
            ramp = RAMP if self._streak >= self._block else 1
            self._window = max(self._window, min(ramp * self._streak, self._target))

    def observe(self, first_byte: float | None, rate: float | None) -> None:
        """Note what a request took: seconds to its first byte, and then bytes per second."""
        if first_byte is not None:
            self._first_byte = _smooth(self._first_byte, first_byte)
            self._distance = min(self._distance, first_byte)
        if rate is not None:
            if not self._rate:
                self._caller.begin(rate)
            self._rate = _smooth(self._rate, rate)

    def ended(self, rate: float) -> None:
        """Note how many bytes a second a request has brought, all in all."""
        # Rather than the rate: where a fast one is followed by slow ones, these soon are what is usual.
        self._byte_seconds = _smooth(self._byte_seconds, 1 / rate)

    def is_late(self, left: int, count: int, seconds: float) -> bool:
        """Say whether another connection had better bring the rest of a request.

        It is held against requests that went on at the same time and have ended: where all are slow, none is late.

        Args:
            left: bytes that it has still to bring.
            count: that it has brought.
            seconds: in which it has.
        """
        if not self._byte_seconds or seconds < SETTLED * self._first_byte:
            return False
        return left * seconds / count > LATE + 2 * (4 * self._first_byte + left * self._byte_seconds)

    def away(self, until: float) -> None:
        """Note that the caller was elsewhere until then."""
        self._heed(self._caller.away(until))

    def here(self, until: float, fetched: int) -> None:
        """Note that he was reading until then, and how many bytes have come so far."""
        self._heed(self._caller.here(until, fetched))

    def share(self) -> None:
        """Note that several threads read at once."""
        self._caller.is_idle = False

    def reach(self, position: int, seconds: float) -> int:
        """Return how far a reader at *position* gets in so many seconds by one connection, within what is worth having."""
        upto = int(position + seconds * self._rate) if self._rate else self._size
        return min(floor(upto, self._block) if upto < self._size else upto, ceil(self._position + self._ahead, self._block))

    @property
    def is_near(self) -> bool:
        """Whether the server is."""
        return self._distance <= NEAR

    @property
    def is_at_hand(self) -> bool:
        """Whether the caller's own thread is the quickest to fetch what it reads."""
        is_quick = self._caller.is_idle and self._is_quick and not self._announced
        return is_quick and self.is_sequential and self.connections <= 2

    @property
    def connections(self) -> int:
        """How many requests at once help: as many as may be, but for reading on from a server that is near."""
        is_few = self.is_sequential and self._is_quick
        return min(self._concurrency, CROWD) if is_few else self._concurrency

    def is_short(self, seconds: float) -> bool:
        """Whether he gets to the end."""
        return self._position + seconds * (self._rate or RATE_UNMEASURED) >= self._size

    def allow(self, room: int) -> None:
        """Say how many bytes may be held ahead."""
        self._room = room

    @property
    def position(self) -> int:
        """Where the last read stopped."""
        return self._position

    @property
    def streak(self) -> int:
        """Bytes that make a sequence of the last reads; 0 if they are none."""
        return self._streak

    @property
    def is_sequential(self) -> bool:
        """Whether the reader reads on and on."""
        return self._forward or self._streak >= 2 * FETCH_LEAST

    @property
    def is_strided(self) -> bool:
        """Whether the reader leaps on by equal gaps."""
        return self._stride is not None

    @property
    def is_nearly_strided(self) -> bool:
        """Whether one more gap like the last is all that it takes to be strided."""
        return self._gaps_equal == EQUAL_GAPS - 1

    @property
    def skip(self) -> int:
        """Bytes that come in one first-byte time: a gap up to this is cheaper read through than asked for anew."""
        if not self._rate:
            return SKIP_UNMEASURED
        return int(min(self._first_byte * self._rate, RUN_MOST))

    @property
    def run(self) -> int:
        """Longest run for sequential reading, in bytes: whole blocks."""
        if self._concurrency == 1:
            return self._size
        share = self._ahead // self.connections
        return max(self._block, floor(min(share, self._measured_run), self._block))

    def wants(self, demands: Iterable[tuple[int, int, int]]) -> list[Want]:
        """Return what is worth having, most urgent first.

        Args:
            demands: what callers wait for, the oldest first: (start, position, stop) as in `demand`.
        """
        wants = [self.demand(*demand) for demand in demands]
        count = len(wants)
        if self.is_sequential:
            start, stop = self._position, self._position + self._ahead
            if self._ahead and start < self._size:
                wants.append(self._want(start, stop, self.run, is_open=stop < self._size))
        elif self._stride is not None:
            length, distance = self._stride
            room = self._room
            for number in range(self.connections + 1):
                start = self._segment + number * distance
                room -= length
                if room < 0 or start + length <= 0 or start >= self._size:
                    break
                wants.append(self._want(max(0, start), start + length, RUN_MOST))
        wants.extend(self.announced(sum(want.stop - want.start for want in wants[count:])))
        return wants

    def announced(self, taken: int = 0) -> Iterator[Want]:
        """Yield what is worth having of what was announced: as much as there is room for, and requests at once.

        Neighbours are one; and a long one is cut, so that all connections have their part.

        Args:
            taken: bytes of the room that are for others.
        """
        if not self._announced:
            return
        room = self._room - self._come_room - taken
        ahead = itertools.islice(self._announced, ANNOUNCED_MOST)
        near = coalesce(ahead, FETCH_LEAST)[: self.connections + 1]
        share = ceil(-(-min(room, total(near)) // self.connections), self._piece)
        run = max(min(share, RUN_MOST), ceil(SPLIT_LEAST, self._piece))
        for start, stop in near:
            last = min(stop, floor(start, self._block) + floor(max(room, 0), self._block))
            if last <= start:
                break
            yield self._want(start, last, run)
            room -= self._blocks(start, last)

    def demand(self, start: int, position: int, stop: int) -> Want:
        """Return what is fetched for a caller who asked for `[start, stop)` and has got what is before *position*."""
        most = max(floor(self._room, self._piece), self._block)
        near = min(stop, position + most)
        if self.is_sequential:
            return self._want(position, near, self.run, is_demand=True, is_open=True)
        first, base = position, floor(start, self._piece)
        run, length = ceil(min(SPLIT_LEAST, self._block), self._piece), ceil(stop, self._piece) - base
        if stop - start > most:
            run = max(run, floor(most, self._piece * self.connections) // self.connections)
        elif length > run:  # parts that end together
            parts = min(self.connections, -(-length // run))
            run = ceil(-(-length // parts), self._piece)
        if near < stop:  # whole runs, otherwise each step of the position would ask for a few bytes more
            near = base + floor(position - base + most, run)
        if self._stride is None:
            if self._is_backward:
                first = max(0, min(position, ceil(stop, self._piece) - self._fetch))
                run = max(run, ceil(near - first, self._piece))  # the bytes asked for are its last
            else:
                near = max(near, base + self._fetch, self._segment + self._usual if self._segment <= start else 0)
        return self._want(first, near, run, is_demand=True)

    def is_worth(self, start: int, stop: int, wants: Iterable[Want]) -> bool:
        """Say whether a run is worth going on with, of which `[start, stop)` is still to come.

        It is if something wanted lies at its beginning, or ends in the block before it and is likely to go on, or if its
        rest is so short that it costs less than a new connection.
        """
        reach = max(self.skip, self._block)
        return stop - start <= self._piece or any(
            want.start - reach <= start < (ceil(want.stop, self._block) + 1 if want.is_open else want.stop)
            and want.start < stop
            for want in wants
        )

    @property
    def _is_quick(self) -> bool:
        """Whether the server is near, and does not hold its connections back."""
        return self.is_near and not 0 < self._rate < QUICK

    @property
    def _measured_run(self) -> int:
        if not (self._rate and self._first_byte):
            return RUN_UNMEASURED
        return int(min(max(RUN_LATENCIES * self._first_byte * self._rate, 2 * self._block), RUN_MOST))

    @property
    def _target(self) -> int:
        """The widest window that helps: a run for each connection, and one behind them to be asked for early."""
        widest = (self.connections + 1) * self._measured_run
        return min(widest, WINDOW_NEAR) if self._is_quick else widest

    @property
    def _ahead(self) -> int:
        return min(self._window, self._room)

    @property
    def _usual(self) -> int:
        """How much is going to be read behind a jump: what was at all of the last places, a block at most."""
        return min(self._block, *self._lengths) if len(self._lengths) == SEGMENTS else 0

    def _heed(self, rate: float | None) -> None:
        """Take in at which rate bytes come to a caller who turned out not to be idle, if he did: so far he gets."""
        if rate is not None:
            self._rate = rate if self._caller.is_starved else max(QUICK, rate)

    def _take(self, start: int, stop: int) -> None:
        """Take a range that is read, or announced anew, out of what was announced."""
        cut(self._announced, start, stop)
        if cut(self._come, start, stop):
            self._come_room = sum(self._blocks(*part) for part in self._come)

    def _blocks(self, start: int, stop: int) -> int:
        """Return the bytes of the blocks that a range lies in."""
        return ceil(stop, self._block) - floor(start, self._block)

    def _jump(self, start: int, gap: int) -> None:
        length = self._position - self._segment
        self._lengths = (*self._lengths[1 - SEGMENTS :], length)
        if gap == self._gap:
            self._gaps_equal += 1
        else:
            self._gap, self._gaps_equal = gap, 1
        distance = length + gap
        has_stride = self._gaps_equal >= EQUAL_GAPS and length > 0 and distance != 0
        self._stride = (length, distance) if has_stride else None
        is_near = abs(start - self._segment) <= self._block or abs(gap) <= self._block
        self._fetch = min(2 * self._fetch, max(self._block, FETCH_LEAST)) if is_near else FETCH_LEAST
        self._is_backward = is_near and start < self._segment
        self._segment = start
        self._has_jumped = True
        self._streak = 0
        self._window = 0

    def _want(self, start: int, stop: int, run: int, *, is_demand: bool = False, is_open: bool = False) -> Want:
        stop = min(self._size, ceil(stop, self._piece))
        # A run that stopped within a piece would leave it to nobody: only whole pieces are there.
        return Want(floor(start, self._piece), stop, is_demand, ceil(run, self._piece), is_open)


def _smooth(known: float, measured: float) -> float:
    """Return what is known after one more measurement; the first one is all that is."""
    return (3 * known + measured) / 4 if known else measured
