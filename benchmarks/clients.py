"""Be one peer that does one piece of work, as a process of its own, and tell by one line of JSON how it went.

    python -m benchmarks.clients JOB

Whatever is to be imported is before the clock starts. Of what is read a check remains, the same for all who read the same;
it is made of so little that it takes no time.
"""

import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any, TypeAlias

from benchmarks import fetches, memory, streams
from benchmarks.files import OPENERS, pyarrow_store
from benchmarks.jobs import BUCKET, MIB, Job, Outcome

Work: TypeAlias = Callable[[], Outcome]
SHORT = 64 * 1024  # bytes of a random read
READS = 60
STRIDES, STRIDE, STRIDE_READ = 31, 17 * MIB // 4, MIB // 4  # 256 KiB are read, 4 MiB skipped
COLUMNS = ["column07", "column21"]
MEMBERS = 30  # read of a zip file
HITS = 20_000
THREAD_READS = 16  # of each thread
MODULES = {"getm": "getm", "requests": "requests", "urllib3": "urllib3", "obstore": "obstore", "megfile": "megfile"}


def main() -> None:
    """Do what the argument says."""
    job = Job.load(sys.argv[1])
    work = WORKLOADS[job.workload](job)
    cpu = time.process_time()
    outcome = work()
    print(json.dumps(asdict(outcome) | {"cpu_before": cpu}), flush=True)
    if job.name in {"cloudfiles", "s3fs"}:  # their threads may keep the process from its end
        os._exit(0)


def imported(job: Job) -> Work:
    """Import the peer's package."""

    def work() -> Outcome:
        began = time.perf_counter()
        __import__(MODULES[job.name])
        return Outcome(time.perf_counter() - began)

    return work


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
    is_into = job.name in {"getm", "local"} or job.option == "readinto"

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
    return _reads(job, [(start, SHORT) for start in _starts(job.size, READS)])


def skipping(job: Job) -> Work:
    """Read a little, skip more, and again."""
    return _reads(job, [(number * STRIDE, STRIDE_READ) for number in range(min(STRIDES, job.size // STRIDE))])


def _starts(size: int, count: int, seed: int = 1) -> list[int]:
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


def parquet(job: Job) -> Work:
    """Read two columns of thirty."""
    import pyarrow.parquet

    opener = OPENERS[job.name](job) if job.peer != "pyarrow" else None

    def table() -> Any:  # noqa: ANN401  # a table of pyarrow
        if opener is None:
            return pyarrow.parquet.read_table(f"{BUCKET}/{job.key}", columns=COLUMNS, filesystem=pyarrow_store(job))
        with opener() as file:
            if job.option.endswith("prefetch"):
                file.prefetch(_chunks(pyarrow.parquet.ParquetFile(file).metadata))
            return pyarrow.parquet.read_table(file, columns=COLUMNS)

    def work() -> Outcome:
        began = time.perf_counter()
        columns = table()
        seconds = time.perf_counter() - began
        check = 0
        for chunk in (chunk for column in columns.columns for chunk in column.chunks):
            check = zlib.crc32(chunk.to_numpy(), check)
        return Outcome(seconds, check, columns.nbytes)

    return work


def _chunks(metadata: Any) -> list[tuple[int, int]]:  # noqa: ANN401  # as pyarrow has it
    """Return where the columns are that are read: `[start, stop)` of each of their chunks."""
    ranges = []
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(number) for number in range(group.num_columns)):
            if column.path_in_schema in COLUMNS:
                start = min(place for place in (column.dictionary_page_offset, column.data_page_offset) if place is not None)
                ranges.append((start, start + column.total_compressed_size))
    return ranges


def members(job: Job) -> Work:
    """Read some members of a zip file."""
    import zipfile

    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        check, size = 0, 0
        began = time.perf_counter()
        with opener() as file, zipfile.ZipFile(file) as archive:
            for name in random.Random(2).sample(archive.namelist(), MEMBERS):
                data = archive.read(name)
                check, size = zlib.crc32(data, check), size + len(data)
            seconds = time.perf_counter() - began
        return Outcome(seconds, check, size)

    return work


def slices(job: Job) -> Work:
    """Read rows, and columns, of an array in a HDF5 file."""
    import h5py

    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        began = time.perf_counter()
        with opener() as file, h5py.File(file, "r") as archive:
            found = [archive["array"][500:510, :], archive["array"][:, 2500:2510]]
        seconds = time.perf_counter() - began
        check = 0
        for array in found:
            check = zlib.crc32(array.tobytes(), check)
        return Outcome(seconds, check, sum(array.nbytes for array in found))

    return work


def many(job: Job) -> Work:
    """Fetch many small objects, after one that warms up whatever is to be warm."""
    fetch_all = fetches.FETCHES[job.peer](job)

    def work() -> Outcome:
        fetch_all(job.keys[:1])
        began = time.perf_counter()
        found = fetch_all(job.keys[1:])
        seconds = time.perf_counter() - began
        check = 0
        for data in found:
            check = zlib.crc32(data, check)
        return Outcome(seconds, check, sum(map(len, found)))

    return work


def idle(job: Job) -> Work:
    """Open so many readers, read a byte of each, and keep them; measure what each costs."""
    import getm

    def work() -> Outcome:
        with ExitStack() as stack:
            stack.enter_context(getm.open(job.url)).read(1)
            before = memory.tree(os.getpid())
            began = time.perf_counter()
            for _ in range(job.point):
                stack.enter_context(getm.open(job.url)).read(1)
            seconds = time.perf_counter() - began
            after = memory.tree(os.getpid())
        each = (after.proportional - before.proportional) / job.point
        return Outcome(seconds, figures={"KiB a reader": each / 1024, "processes": after.processes})

    return work


def threads(job: Job) -> Work:
    """Read here and there, from so many threads on one reader."""
    import getm

    def work() -> Outcome:
        with getm.open(job.url) as file, ThreadPoolExecutor(job.point) as pool:
            file.read(1)
            starts = [_starts(job.size, THREAD_READS, seed) for seed in range(job.point)]
            began = time.perf_counter()
            sizes = pool.map(lambda own: sum(len(file.read_at(start, SHORT)) for start in own), starts)
            total = sum(sizes)
            seconds = time.perf_counter() - began
        return Outcome(seconds, size=total, figures={"reads a second": job.point * THREAD_READS / seconds})

    return work


def hits(job: Job) -> Work:
    """Read what is there already, of an object that was read as a whole and fits in memory."""
    import getm

    def work() -> Outcome:
        with closing(getm.Engine(memory=256 * MIB)) as engine, getm.open(job.url, engine=engine) as file:
            file.read()
            misses, starts = file.stats.misses, _starts(job.size, HITS)
            began = time.perf_counter()
            for start in starts:
                file.seek(start)
                file.read(4096)
            seconds = time.perf_counter() - began
            if file.stats.misses != misses:
                raise RuntimeError("it was not there already")
        return Outcome(seconds, size=HITS * 4096, figures={"us a read": seconds / HITS * 1e6})

    return work


WORKLOADS: dict[str, Callable[[Job], Work]] = {
    "import": imported,
    "first": first,
    "sequential": sequential,
    "random": random_reads,
    "skip": skipping,
    "parquet": parquet,
    "zip": members,
    "hdf5": slices,
    "many": many,
    "idle": idle,
    "threads": threads,
    "hits": hits,
}


if __name__ == "__main__":
    main()
