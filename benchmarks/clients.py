"""Be one peer that does one piece of work, as a process of its own, and tell by one line of JSON how it went.

    python -m benchmarks.clients JOB

Whatever is to be imported is before the clock starts. Of what is read a check remains, the same for all who read the same;
it is made of so little that it takes no time.
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict

from benchmarks import fetches, formats, growth, reading
from benchmarks.jobs import Job, Outcome, Work


def main() -> None:
    """Do what the argument says."""
    job = Job.load(sys.argv[1])
    work = WORKLOADS[job.workload](job)
    cpu = time.process_time()
    outcome = work()
    print(json.dumps(asdict(outcome) | {"cpu_before": cpu}), flush=True)
    if job.name in {"cloudfiles", "s3fs"}:  # their threads may keep the process from its end
        os._exit(0)


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


WORKLOADS: dict[str, Callable[[Job], Work]] = {
    "first": reading.first,
    "sequential": reading.sequential,
    "random": reading.random_reads,
    "skip": reading.skipping,
    "parquet": formats.parquet,
    "csv": formats.rows,
    "zip": formats.members,
    "hdf5": formats.slices,
    "many": many,
    "idle": growth.idle,
    "threads": growth.threads,
    "hits": growth.hits,
}


if __name__ == "__main__":
    main()
