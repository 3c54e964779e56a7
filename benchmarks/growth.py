"""Do with getm what costs more as something grows: readers, threads, what is in memory."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from benchmarks import memory
from benchmarks.jobs import MIB, Job, Outcome, Work
from benchmarks.reading import SHORT, starts

HITS = 20_000
THREAD_READS = 16  # of each thread


def idle(job: Job) -> Work:
    """Open so many readers, read a byte of each, and keep them; measure what each costs."""
    import getm.api

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
    import getm.api

    def work() -> Outcome:
        with getm.open(job.url) as file, ThreadPoolExecutor(job.point) as pool:
            file.read(1)
            places = [starts(job.size, THREAD_READS, seed) for seed in range(job.point)]
            began = time.perf_counter()
            sizes = pool.map(lambda own: sum(len(file.read_at(start, SHORT)) for start in own), places)
            total = sum(sizes)
            seconds = time.perf_counter() - began
        return Outcome(seconds, size=total, figures={"reads a second": job.point * THREAD_READS / seconds})

    return work


def hits(job: Job) -> Work:
    """Read what is there already, of an object that was read as a whole and fits in memory."""
    import getm.api

    def work() -> Outcome:
        with closing(getm.Engine(memory=256 * MIB)) as engine, getm.open(job.url, engine=engine) as file:
            file.read()
            misses, places = file.stats.misses, starts(job.size, HITS)
            began = time.perf_counter()
            for start in places:
                file.seek(start)
                file.read(4096)
            seconds = time.perf_counter() - began
            if file.stats.misses != misses:
                raise RuntimeError("it was not there already")
        return Outcome(seconds, size=HITS * 4096, figures={"us a read": seconds / HITS * 1e6})

    return work
