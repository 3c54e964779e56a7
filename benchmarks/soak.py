"""Soak getm: read at random for minutes, from threads and forked processes, while the server fails and workers are killed.

    python -m benchmarks.soak --minutes 15 [--seed N] [--concurrency none 1 4 8] [--threads N]

What is measured is that nothing ever goes wrong. Every byte that any door hands out is compared with what belongs there;
every error with the faults that the server has really injected on that object; every operation has a time in which it must
end; and when all is closed, no process, descriptor, thread, shared memory or file may be left. A line a minute tells how it
goes, a table in the end what happened, and the exit code is 0 only if nothing was wrong, hung or was left behind.

All random decisions come from one seed, which is printed; what the machine makes of them differs from run to run.
"""

import argparse
import contextlib
import faulthandler
import functools
import gc
import json
import mmap
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import psutil

import getm
from getm.engine import close_default
from getm.sources.transport import close_connections
from tests import leftovers
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault, FaultServer, Request

T = TypeVar("T")
MIB = 1 << 20
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7, 200 * MIB)
OWN = 64 * MIB  # size of the objects that only one thread reads, and breaks
OTHER = 9  # seed of the content that is served with another ETag
LIMIT = 60.0  # seconds after which an operation hangs
COPY_LIMIT = 180.0  # a copy of 200 MiB waits for many faults, one after another
FAULT_SHARE = 0.2  # of all requests
OPTIONS = {"timeout": (5, 1), "deadline": 30}
KILL = "kill"
KILL_SECONDS = 4.0  # between two of them, on average: an engine gives up after more than five in a minute

FAULTS: dict[str, set[type[getm.GetmError]]] = {
    # What happens, and the errors that it excuses: of the first five and "short" only when all attempts were used up.
    "cut": {getm.ShortRead, getm.SourceError},
    "reset": {getm.ShortRead, getm.SourceError},
    "stall": {getm.TransferTimeout},
    "status": {getm.BadStatus},
    "drop": {getm.SourceError},
    KILL: {getm.WorkerError},
    "drip": set(),
    "delay": {getm.TransferTimeout},
    "short": {getm.ShortRead},  # of less than a piece, which then is asked for again
    "hang up": set(),
    "shift": {getm.SourceError},
    "changed": {getm.ObjectChanged},
    "missing": {getm.NotFound},
    "denied": {getm.AccessDenied},
}
NAMES = list(FAULTS)
RANDOM = [name for name in NAMES if name not in {KILL, "missing", "denied"}]
PERMANENT = ["cut", "stall", "status", "drop", "shift", "changed", "missing", "denied"]
AT_ONCE = {getm.ObjectChanged, getm.NotFound, getm.AccessDenied, getm.WorkerError}  # raised without another attempt
SUMMARY = ("reads", "bytes", "faults", "kills", "wrong bytes", "hangs", "unexpected")


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--concurrency", nargs="+", default=["none", "1", "4", "8"], help="'none', or numbers")
    arguments = parser.parse_args()
    concurrencies = [None if text == "none" else int(text) for text in arguments.concurrency]
    print(f"seed {arguments.seed}", flush=True)
    faulthandler.register(signal.SIGUSR1)
    os.environ.setdefault(leftovers.MARK, str(uuid.uuid4()))
    before = leftovers.everything()
    board = _Board(len(SIZES) + arguments.threads)
    with _serving(board, arguments.seed) as url, tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = _Soak(url, board, Path(folder), concurrencies)
        threads = soak.run(arguments.minutes * 60, arguments.threads, random.Random(arguments.seed))
        soak.tally.add("leftovers", len(left := os.listdir(folder)))
        if threads:  # nothing can be closed or compared
            soak.note("hangs", f"{len(threads)} threads in the end, {soak.running}")
            soak.report()
            os._exit(1)
    left += _left(before)
    soak.tally.add("leftovers", len(left) - soak.tally.counts["leftovers"])
    for name in left:
        print("left behind:", name)
    return soak.report()


class _Board:
    """What all processes see: per object how many faults of each kind it met, and which fault it always meets, if any."""

    def __init__(self, objects: int) -> None:
        columns = len(NAMES) + 1
        table = np.frombuffer(mmap.mmap(-1, objects * columns * 8), np.int64).reshape(objects, columns)
        self.met, self.broken = table[:, :-1], table[:, -1]  # broken: index of the fault and 1, or 0


class _Tally:
    """Counts of this process."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Add to one of them."""
        with self._lock:
            self.counts[name] += count


# The server, in a process of its own: it makes its content as it goes.


class _Server(FaultServer):
    """A fault server that keeps no log: in a soak it would fill the memory."""

    def _note(self, *_: object, **_facts: object) -> None:
        with self._changed:
            self._log.clear()


@contextlib.contextmanager
def _serving(board: _Board, seed: int) -> Iterator[str]:
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(far, near, board, seed))
    process.start()
    far.close()
    yield near.recv()
    near.close()
    process.join()
    process.close()


def _serve(far: Connection, near: Connection, board: _Board, seed: int) -> None:
    """Serve until the other end of the connection is closed."""
    near.close()
    chance = random.Random(seed)
    sizes = {f"/{row}": _size(row) for row in range(len(board.met))}

    def misbehave(request: Request) -> Fault | None:
        row = int(request.path[1:])
        start, stop = request.start or 0, min(request.stop or 0, sizes[request.path])
        name = NAMES[board.broken[row] - 1] if board.broken[row] else chance.choice(RANDOM)
        if not board.broken[row] and (row >= len(SIZES) or chance.random() > FAULT_SHARE):
            return None
        if stop <= start or (name == "shift" and start + 99 >= stop):
            return None
        board.met[row, NAMES.index(name)] += 1
        some = chance.randrange(min(stop - start, 1 << chance.randrange(1, 27)))  # also of a long answer often the first few
        return _fault(name, (start, stop, sizes[request.path]), 0 if board.broken[row] else some, chance)

    with _Server() as server:
        for path, size in sizes.items():
            server.put(path, size)
        server.fail(misbehave, times=None)
        far.send(server.url)
        with contextlib.suppress(EOFError):
            far.recv()


def _fault(name: str, span: tuple[int, int, int], some: int, chance: random.Random) -> Fault:
    """Return a fault for an answer of ``[start, stop)`` of a size, that strikes after *some* bytes."""
    start, stop, size = span
    length = stop - start
    if name == "changed":
        stop = min(stop, start + MIB)
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "ETag": '"other"'}
        return Fault(status=206, body=ramp(start, stop, OTHER), headers=headers)
    retry_after = chance.choice([{}, {"Retry-After": "0"}, {"Retry-After": "1"}])
    return {
        "cut": Fault(cut=some),
        "reset": Fault(reset=some),
        "stall": chance.choice([Fault(stall=some), Fault(stall=0), Fault(pace=400.0 if length > 800 else 20.0)]),
        "status": Fault(status=chance.choice([429, 500, 503]), headers=retry_after),
        "drop": Fault(drop=True),
        "drip": Fault(pace=max(length, 4096) / chance.uniform(0.1, 2)),
        "delay": Fault(delay=chance.uniform(0, 1.5)),
        "short": Fault(shorten=some + 1),
        "hang up": Fault(hang_up=True),
        "shift": Fault(shift=chance.randrange(1, 99)),
        "missing": Fault(status=404),
        "denied": Fault(status=403),
    }[name]


def _size(row: int) -> int:
    return SIZES[row] if row < len(SIZES) else OWN


# The readers.


@dataclass
class _Handle:
    """What one reader must bring: bytes of one version, though it may be the other one."""

    row: int
    since: np.ndarray  # faults that its object had met before it was opened
    retries: int
    seeds: set[int] = field(default_factory=lambda: {0, OTHER})

    @property
    def size(self) -> int:
        return _size(self.row)


class _Soak:
    """One run: what its threads share."""

    def __init__(self, url: str, board: _Board, folder: Path, concurrencies: list[int | None]) -> None:
        self.url, self.board, self.folder, self.concurrencies = url, board, folder, concurrencies
        self.tally = _Tally()
        self.engines = [None, getm.Engine(4 * MIB), getm.Engine(24 * MIB, 3), getm.Engine()]
        self.stop = threading.Event()
        self.forks = threading.Semaphore(2)
        self.notes: list[str] = []  # what a child has to say in the end; None in the first process
        self.is_child = False
        self.running: dict[int, tuple[str, float]] = {}  # by thread: what it does, and until when it must be done

    def run(self, seconds: float, threads: int, chance: random.Random) -> list[threading.Thread]:
        """Read and kill for so many seconds; return the threads that did not come to an end."""
        began = time.monotonic()
        actors = [_Actor(self, random.Random(chance.random()), len(SIZES) + number) for number in range(threads)]
        started = [threading.Thread(target=actor.run, name=f"actor {actor.own}", daemon=True) for actor in actors]
        for thread in started:
            thread.start()
        next_line, next_kill = began + 60, began + 1
        while (now := time.monotonic()) < began + seconds + COPY_LIMIT + LIMIT and any(
            map(threading.Thread.is_alive, started)
        ):
            if now > began + seconds:
                self.stop.set()
            if now > next_line:
                next_line += 60
                self.line(now - began)
            if now > next_kill and not self.stop.is_set():
                next_kill = now + chance.expovariate(1 / KILL_SECONDS)
                self.kill(chance)
            self.look_for_hangs(now)
            time.sleep(0.05)
        for engine in filter(None, self.engines):
            engine.close()
        close_default()
        close_connections()
        return [thread for thread in started if thread.is_alive()]

    def kill(self, chance: random.Random) -> None:
        """Kill one of getm's processes, ours or of a child."""
        ours = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any("getm.engine.worker" in argument for argument in process.cmdline()):
                    ours.append(process)
        if ours:
            self.board.met[:, NAMES.index(KILL)] += 1
            with contextlib.suppress(psutil.Error):
                chance.choice(ours).kill()
                self.tally.add("kills")

    @contextlib.contextmanager
    def limited(self, what: str, limit: float = LIMIT) -> Iterator[None]:
        """Note what this thread does; in a child, which nobody watches, print all stacks and end if it takes too long."""
        me = threading.get_ident()
        self.running[me] = what, time.monotonic() + limit
        if self.is_child:
            faulthandler.dump_traceback_later(limit, exit=True)
        try:
            yield
        finally:
            del self.running[me]

    def look_for_hangs(self, now: float) -> None:
        """Count and print the operations that take too long, once each."""
        for thread, (what, until) in list(self.running.items()):
            if now > until:
                self.running[thread] = what, float("inf")
                self.note("hangs", f"{what}; all stacks:")
                faulthandler.dump_traceback(all_threads=True)

    def note(self, count: str, text: str) -> None:
        """Count what went wrong, and say it; a child leaves that to its parent."""
        self.tally.add(count)
        text = f"{count}: {text}"
        if self.is_child:
            self.notes.append(text)
        else:
            print(text, flush=True)

    def line(self, seconds: float) -> None:
        """Print how it goes."""
        self.tally.counts["faults"] = self.faults
        counts = ", ".join(f"{self.tally.counts[name]} {name}" for name in SUMMARY)
        memory = psutil.Process().memory_info().rss >> 20
        print(
            f"{seconds / 60:.0f} min: {counts}; {memory} MiB resident, {len(os.listdir('/proc/self/fd'))} descriptors",
            flush=True,
        )

    @property
    def faults(self) -> int:
        """How many faults the server has injected."""
        return int(np.delete(self.board.met, NAMES.index(KILL), axis=1).sum())

    def report(self) -> int:
        """Print the table, and return the exit code."""
        counts = self.tally.counts
        rows = {
            "reads": counts["reads"],
            "bytes": counts["bytes"],
            "children forked": counts["forks"],
            "faults injected": self.faults,
            "reads right in spite of a fault": counts["survived"],
            "errors raised as they should": counts["errors"],
            "reads right after healing": counts["healed"],
            "workers and launchers killed": counts["kills"],
            "... survived": counts["kills"] - counts["worker errors"],
            "unexpected errors": counts["unexpected"],
            "wrong bytes": counts["wrong bytes"],
            "hangs": counts["hangs"],
            "leftovers": counts["leftovers"],
        }
        for name, count in rows.items():
            print(f"{name:34s} {count:>16,}")
        return int(any(counts[name] for name in ("unexpected", "wrong bytes", "hangs", "leftovers")))


class _Actor:
    """One thread that reads by all doors, in turn as chance has it.

    Args:
        soak: the run.
        chance: all its random decisions.
        own: row of the object that only it reads.
    """

    def __init__(self, soak: _Soak, chance: random.Random, own: int) -> None:
        self.soak, self.chance, self.own = soak, chance, own
        self.error: getm.GetmError | None = None  # the last one that was raised as it should
        self.held: deque[tuple[_Handle, memoryview, int]] = deque()  # views to be looked at again, with their offsets
        self.doors = (self.file, self.file, self.stream, self.parts, self.slice, self.copy, self.broken)

    def run(self) -> None:
        """Read until the soak is over."""
        while not self.soak.stop.is_set():
            self.turn()
        self.look_again(0)

    def turn(self) -> None:
        """Use one door."""
        try:
            self.chance.choice(self.doors)()
            if self.chance.random() < 0.02:
                engine = self.chance.choice(self.soak.engines)
                (close_default if engine is None else self.chance.choice([engine.close, engine.clear]))()
        except Exception:  # noqa: BLE001  # whatever leaves getm that is no GetmError
            self.soak.note("unexpected", traceback.format_exc())
        self.look_again(self.chance.randrange(40))

    def file(self) -> None:
        """Open a file, read here and there, perhaps in a forked child, too."""
        handle, options = self.pick()
        reader = self.attempt(handle, "open", lambda: getm.open(self.url(handle), **options))
        if reader is None:
            return
        with reader:
            for _ in range(self.chance.randrange(25)):
                if self.soak.stop.is_set() or reader.closed:
                    break
                self.chance.choice((self.sought, self.filled, self.line, self.on, self.at_once))(handle, reader)
            if not reader.closed and not self.soak.is_child and self.chance.random() < 0.1:
                self.fork(handle, reader)

    def sought(self, handle: _Handle, reader: getm.Reader) -> None:
        start, length = self.place(handle)
        reader.seek(start)
        self.read(handle, "seek, read", start, length, lambda: reader.read(length))

    def on(self, handle: _Handle, reader: getm.Reader) -> None:
        length = self.place(handle)[1]
        self.read(handle, "read on", reader.tell(), length, lambda: reader.read(length))

    def filled(self, handle: _Handle, reader: getm.Reader) -> None:
        start, length = self.place(handle)
        buffer = memoryview(bytearray(length))
        reader.seek(start)
        self.read(handle, "readinto", start, length, lambda: buffer[: reader.readinto(buffer)])

    def line(self, handle: _Handle, reader: getm.Reader) -> None:
        start = reader.tell()
        line = self.attempt(handle, "readline", reader.readline)
        if line is not None:
            self.check(handle, "readline", line, start)
            if line.find(b"\n") not in {-1, len(line) - 1} or not (line.endswith(b"\n") or start + len(line) >= handle.size):
                self.soak.note("wrong bytes", f"{handle}: no line, {len(line)} bytes at {start}")

    def at_once(self, handle: _Handle, reader: getm.Reader) -> None:
        """Read by several threads at once, and perhaps close meanwhile."""
        places = [self.place(handle) for _ in range(4)]
        is_closing = self.chance.random() < 0.1

        def read_at(start: int, length: int) -> None:
            try:
                self.read(handle, "read_at", start, length, lambda: reader.read_at(start, length))
            except ValueError:
                if not is_closing:
                    raise

        with ThreadPoolExecutor(4) as pool:
            reads = [pool.submit(read_at, *place) for place in places]
            if is_closing:
                reader.close()
        for read in reads:
            read.result()

    def stream(self) -> None:
        """Read a stream, hold its views for a while, also beyond its end."""
        handle, options = self.pick()
        stream = self.attempt(handle, "urlopen", lambda: getm.urlopen(self.url(handle), **options))
        if stream is None:
            return
        with stream:
            for _ in range(self.chance.randrange(60)):
                start, length = stream.tell(), self.place(handle)[1]
                view = self.read(handle, "read a view", start, length, lambda: stream.read(length))  # noqa: B023  # now
                if view is not None:
                    self.held.append((handle, view, start))
                self.look_again(40)

    def parts(self) -> None:
        """Iterate over the parts of an object, or over some of them."""
        handle, options = self.pick()
        length = self.chance.choice([4096, 100_000, MIB, 3 * MIB])
        parts = self.attempt(handle, "iter_content", lambda: getm.iter_content(self.url(handle), length, **options))
        if parts is None:
            return
        start = 0
        with contextlib.closing(parts):
            for _ in range(self.chance.randrange(200)):
                if start >= handle.size or self.read(handle, "next part", start, length, lambda: next(parts)) is None:
                    break
                start += length

    def slice(self) -> None:
        """Read a range of an object that is not open."""
        handle, options = self.pick()
        start, length = self.place(handle)
        self.read(handle, "getm.read", start, length, lambda: getm.read(self.url(handle), start, start + length, **options))

    def copy(self) -> None:
        """Copy an object and read the file; what a copy that failed has left is gone on with, or removed."""
        handle, options = self.pick()
        path = self.soak.folder / f"{os.getpid()}-{threading.get_ident()}"
        resume = self.chance.random() < 0.8
        for _ in range(3):
            work = functools.partial(getm.copy, self.url(handle), path, resume=resume, **options)
            if self.attempt(handle, f"copy, resume={resume}", work, COPY_LIMIT) is not None:
                with path.open("rb") as file:
                    for start in range(0, handle.size + 1, 8 * MIB):
                        self.check(handle, "copy", file.read(8 * MIB), start, 8 * MIB)
                path.unlink()
                break
            if path.exists() or (not resume and Path(f"{path}.part").exists()):
                self.soak.note("leftovers", f"a failed copy left {os.listdir(self.soak.folder)}")
        for ending in (".part", ".part.json"):
            left = Path(f"{path}{ending}")
            if not left.exists():
                continue
            if path.exists() or not resume:
                self.soak.note("leftovers", f"a copy left {left}")
            left.unlink()

    def broken(self) -> None:
        """Break an object for good: the next read must fail. Heal it: the one after that must not."""
        handle, options = self.pick(self.own)
        options["retries"] = handle.retries = 1
        engine = options["engine"] = self.chance.choice(self.soak.engines[1:])
        start = OWN - 8 * MIB + self.chance.randrange(MIB)
        length = self.chance.randrange(1, 2 * MIB)
        name = self.chance.choice(PERMANENT)
        with getm.open(self.url(handle), **options) as reader:
            self.read(handle, "read before", 0, MIB, lambda: reader.read_at(0, MIB))
            engine.clear()
            self.soak.board.broken[self.own] = NAMES.index(name) + 1
            try:
                data = self.read(handle, f"read with {name}", start, length, lambda: reader.read_at(start, length))
            finally:
                self.soak.board.broken[self.own] = 0
            if data is not None:
                self.soak.note("unexpected", f"{handle}: a read of {start}+{length} succeeded with {name}, {options}")
            if self.read(handle, "read healed", start, length, lambda: reader.read_at(start, length)) is not None:
                self.soak.tally.add("healed")
            elif not isinstance(self.error, getm.WorkerError):
                self.soak.note(
                    "unexpected", f"{handle}: a read of {start}+{length} failed when {name} was healed, {options}"
                )

    # What they have in common.

    def pick(self, row: int | None = None) -> tuple[_Handle, dict]:
        """Return an object at random, and options to open it with."""
        row = self.chance.randrange(len(SIZES)) if row is None else row
        handle = _Handle(row, self.soak.board.met[row].copy(), self.chance.choice([1, 7, 7, 7]))
        return handle, OPTIONS | {
            "retries": handle.retries,
            "concurrency": self.chance.choice(self.soak.concurrencies),
            "engine": self.chance.choice(self.soak.engines),
            "block_size": self.chance.choice([MIB, MIB, MIB, MIB // 4]),
        }

    def url(self, handle: _Handle) -> str:
        return f"{self.soak.url}/{handle.row}"

    def place(self, handle: _Handle) -> tuple[int, int]:
        """Return an offset and a length at random, often short, now and then beyond the end."""
        return self.chance.randrange(handle.size + 2), self.chance.randrange(1 << self.chance.randrange(1, 24))

    def read(
        self, handle: _Handle, what: str, start: int, length: int, work: Callable[[], bytes | memoryview]
    ) -> bytes | memoryview | None:
        """Read and check; None if there was an error, as there should."""
        before = self.soak.board.met[handle.row].copy()
        what = f"{what} {start}+{length}"
        data = self.attempt(handle, what, work)
        if data is not None and self.check(handle, what, data, start, length):
            self.soak.tally.add("survived", int((self.soak.board.met[handle.row] > before).any()))
        return data

    def attempt(self, handle: _Handle, what: str, work: Callable[[], T], limit: float = LIMIT) -> T | None:
        """Do it in time; None if it raised an error, as it should."""
        try:
            with self.soak.limited(f"{what} of {handle}", limit):
                return work()
        except getm.GetmError as error:
            self.error = error
            met = self.soak.board.met[handle.row] > handle.since
            is_due = any(type(error) in FAULTS[name] for name, is_met in zip(NAMES, met, strict=True) if is_met)
            is_final = type(error) in AT_ONCE or "was sent" in str(error) or (error.attempts or 0) > handle.retries
            if is_due and is_final:
                self.soak.tally.add("errors")
                self.soak.tally.add("worker errors", isinstance(error, getm.WorkerError))
            else:
                self.soak.note("unexpected", f"{what} of {handle}: {error!r}, {error.attempts} attempts")
            return None

    def check(self, handle: _Handle, what: str, data: bytes | memoryview, start: int, length: int | None = None) -> bool:
        """Compare bytes with what belongs there, of the version that the reader has brought before."""
        self.soak.tally.add("reads")
        self.soak.tally.add("bytes", len(data))
        wrong: list[str] = []
        right = {seed for seed in sorted(handle.seeds) if _is_ramp(data, start, seed, wrong)}
        if length is not None and len(data) != min(length, max(0, handle.size - start)):
            wrong.append(f"{len(data)} bytes")
        elif right:
            handle.seeds = right
            return True
        self.soak.note("wrong bytes", f"{what} of {handle}: {wrong}")
        return False

    def look_again(self, most: int) -> None:
        """Check views that are held, and let go of them, until there are at most so many."""
        while len(self.held) > most:
            handle, view, start = self.held.popleft()
            self.check(handle, "a view held", view, start)
            if self.chance.random() < 0.5:
                view.release()

    def fork(self, handle: _Handle, reader: getm.Reader) -> None:
        """Have a child read what is open here, and more, while this process reads on in its other threads."""
        if not self.soak.forks.acquire(blocking=False):
            return
        receiver, sender = os.pipe()
        seed = self.chance.random()
        child = os.fork()
        if child == 0:
            self._be_child(handle, reader, sender, random.Random(seed))
        self.soak.tally.add("forks")
        until = time.monotonic() + COPY_LIMIT
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.02)
            if time.monotonic() > until:
                until = float("inf")
                os.kill(child, signal.SIGUSR1)  # prints its stacks, also from within os.fork()
                time.sleep(1)
                os.kill(child, signal.SIGKILL)
        os.close(sender)
        os.set_blocking(receiver, False)  # another child may have a copy of the other end
        try:
            counts, notes = json.loads(os.read(receiver, 1 << 16))
        except (BlockingIOError, ValueError):
            counts, notes = {"hangs": 1}, [f"child {child} of {handle} ended without a word"]
        finally:
            os.close(receiver)
            self.soak.forks.release()
        for name, count in counts.items():
            self.soak.tally.add(name, count)
        for note in notes:
            print(f"in child {child}: {note}", flush=True)

    def _be_child(self, handle: _Handle, reader: getm.Reader, sender: int, chance: random.Random) -> NoReturn:
        """Read with what was open at the fork, and by other doors; report; end in one of the ways that there are."""
        try:
            self.soak.is_child, self.soak.tally, self.chance = True, _Tally(), chance
            self.soak.running = {}
            for _ in range(3):
                self.sought(handle, reader)
                self.turn()
            self.look_again(0)
            if chance.random() < 0.3:
                reader.close()
        except BaseException:  # noqa: BLE001  # a child must not go on as its parent
            self.soak.note("unexpected", traceback.format_exc())
        finally:
            os.write(sender, json.dumps((self.soak.tally.counts, [note[:9000] for note in self.soak.notes[:6]])).encode())
            if chance.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)


def _is_ramp(data: bytes | memoryview, start: int, seed: int, wrong: list[str]) -> bool:
    try:
        assert_ramp(data, start, seed)
    except AssertionError as error:
        wrong.append(str(error))
        return False
    return True


def _left(before: Counter[str]) -> list[str]:
    """Return what there is more than before, after a while in which it may go."""
    deadline = time.monotonic() + 5
    while (left := leftovers.everything() - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    return sorted(left.elements())


if __name__ == "__main__":
    sys.exit(main())
