"""Read an object: all of it, or here and there."""

import random
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import streams
from benchmarks.files import OPENERS
from benchmarks.jobs import MIB, Job, Outcome, Work

SHORT = 64 * 1024  # bytes of a random read
READS = 60
STRIDES, STRIDE, STRIDE_READ = 31, 17 * MIB // 4, MIB // 4  # 256 KiB are read, 4 MiB skipped


def first(job: Job) -> Work:
    """Open, and read one byte."""
    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        began = time.perf_counter()
        with opener() as file:
            byte = bytes(file.read(1))
            seconds = time.perf_counter() - began
        return Outcome(seconds, check=byte[0], size=1)

    return work


def sequential(job: Job) -> Work:
    """Read all, in the order it comes, by MiB where the peer lets its caller choose."""
    consume = _Consumer(job.compute)
    stream = streams.STREAMS.get(job.peer.rstrip(" 0123456789"))
    run = stream(job, consume) if stream else _read_all(job, consume)

    def work() -> Outcome:
        began = time.perf_counter()
        run()
        return Outcome(time.perf_counter() - began, zlib.crc32(consume.samples), consume.size)

    return work


def _read_all(job: Job, consume: Callable[[Any], None]) -> Callable[[], None]:
    opener = OPENERS[job.name](job)
    is_into = job.name in {"getm", "original", "local"} or job.option == "readinto"

    def run() -> None:
        with opener() as file:
            if is_into:
                buffer = memoryview(bytearray(MIB))
                while count := file.readinto(buffer):
                    consume(buffer[:count])
            else:
                left = job.size  # nobody is asked for what is beyond the end: remfile fails there
                while left and len(data := file.read(min(MIB, left))):
                    left -= len(data)
                    consume(data)

    return run


class _Consumer:
    """Take what is read: keep the first byte of each MiB, and compute for each MiB as long as is asked for."""

    def __init__(self, compute: float) -> None:
        self.size = 0
        self.samples = bytearray()
        self._compute = compute

    def __call__(self, part: Any) -> None:  # noqa: ANN401  # bytes, or a view of any kind
        due = len(self.samples) * MIB
        while due < self.size + len(part):
            self.samples.append(part[due - self.size])
            due += MIB
            if self._compute:
                self._think()
        self.size += len(part)

    def _think(self) -> None:
        """Hold the interpreter, as Python code does that works."""
        until = time.thread_time() + self._compute
        while time.thread_time() < until:
            sum(range(2000))


def random_reads(job: Job) -> Work:
    """Read here and there."""
    return _reads(job, [(start, SHORT) for start in starts(job.size, READS)])


def skipping(job: Job) -> Work:
    """Read a little, skip more, and again."""
    return _reads(job, [(number * STRIDE, STRIDE_READ) for number in range(min(STRIDES, job.size // STRIDE))])


def starts(size: int, count: int, seed: int = 1) -> list[int]:
    """Return random places of which SHORT bytes can be read, the same for the same seed."""
    source = random.Random(seed)
    return [source.randrange(size - SHORT) for _ in range(count)]


def _reads(job: Job, reads: Sequence[tuple[int, int]]) -> Work:
    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        check, size, times = 0, 0, []
        began = time.perf_counter()
        with opener() as file:
            for start, length in reads:
                asked = time.perf_counter()
                file.seek(start)
                data = file.read(length)
                times.append(time.perf_counter() - asked)
                check = zlib.crc32(data, check)
                size += len(data)
            seconds = time.perf_counter() - began
        return Outcome(seconds, check, size, tuple(times))

    return work
