"""Run a command as a process of its own, and count what it and all that descend from it have used until they ended."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from benchmarks import memory

LIMIT = 180.0  # seconds for one run
SET_CHILD_SUBREAPER = 36  # of prctl(2)
EVERY = 0.05  # seconds between two looks at the memory; each takes some, so times do not count where these are taken


@dataclass(frozen=True)
class Measured:
    """What a command has used.

    Attributes:
        seconds: of the clock, from its start to its end.
        cpu: seconds of processors, of all processes.
        proportional: bytes of memory at most, see `memory.Taken`; 0 if not asked for.
        output: what it printed.
        failure: what was wrong; None if nothing was.
    """

    seconds: float
    cpu: float
    proportional: int
    output: str
    failure: str | None


def adopt() -> None:
    """Become the parent of whatever loses its own below this process, and so be told what it has used."""
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def run(command: Sequence[str], folder: str, environment: Mapping[str, str], *, looks: bool = False) -> Measured:
    """Run a command in a folder, and wait until it and all its descendants have ended; `adopt` is to come first.

    Args:
        command: program and arguments.
        folder: where it runs.
        environment: all of it.
        looks: whether to look at its memory.
    """
    others = memory.children(os.getpid())
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        watch = _Watch(process.pid) if looks else None
        try:
            is_late = not _wait(process.pid)
        finally:  # it is still there, as it has not been waited for
            ended = time.perf_counter()
            most = watch.stop() if watch else 0
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime + _reap(others)
        said = [_text(file) for file in (output, errors)]
    failure = f"no end in {LIMIT:.0f} s" if is_late else f"exit code {process.returncode}" if process.returncode else None
    return Measured(ended - began, cpu, most, said[0], failure and f"{failure}: {' '.join(said[1].split())[-300:]}")


def _wait(process: int) -> bool:
    """Wait for the end of a process, without taking its status, and say whether it came within LIMIT."""
    descriptor = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(LIMIT * 1000))
    finally:
        os.close(descriptor)


def _reap(others: set[int]) -> float:
    """Wait for the orphans that are left, those that do not end by themselves are killed; return their CPU seconds."""
    cpu, deadline = 0.0, time.monotonic() + 5
    while orphans := memory.children(os.getpid()) - others:
        for orphan in orphans:
            if time.monotonic() > deadline:
                os.kill(orphan, signal.SIGKILL)
            process, _, usage = os.wait4(orphan, os.WNOHANG)
            cpu += usage.ru_utime + usage.ru_stime if process else 0
        time.sleep(0.005)
    return cpu


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


class _Watch:
    """Look at the memory of a tree of processes, again and again."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._most = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> int:
        """Look no more; return the most that was seen."""
        self._is_over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._is_over.wait(EVERY):
            self._most = max(self._most, memory.tree(self._process).proportional)
