"""What a test may leave behind: processes, descriptors, threads, shared memory, temporary files."""

import contextlib
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "GETM_TESTS"  # in the environment of every process that a test starts: shows us orphans, too


def everything() -> Counter[str]:
    """Count what there is, each by a name; what a test left is the difference."""
    return Counter(
        [
            *_processes(),
            *_descriptors(),
            *(f"thread {thread.name}" for thread in threading.enumerate()),
            *(str(path) for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.mp-")),  # of tests beside us
            *map(str, Path(tempfile.gettempdir()).glob("getm*")),
        ]
    )


def _processes() -> Iterator[str]:
    """Name our descendants, and those that were but lost their parent."""
    for process in {*psutil.Process().children(recursive=True), *filter(_is_marked, psutil.process_iter())}:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = process.as_dict(["cmdline"])["cmdline"] or ["(zombie)"]
            yield f"process {process.pid}: {' '.join(command)}"


def _is_marked(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == os.environ[MARK]
    except psutil.Error:
        return False


def _descriptors() -> Iterator[str]:
    """Name what our descriptors are open on, without inode numbers."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            yield "descriptor of " + re.sub(r":\[\d+\]$", "", str(descriptor.readlink()))
