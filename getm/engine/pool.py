"""Worker processes as the calling process sees them: start, assign, collect, notice death.

One launcher is started as a plain interpreter with inherited descriptors, or forked from this process where that is allowed;
it forks the workers. Each worker has a channel
of its own, a pair of packet sockets whose far end goes to the launcher as a descriptor, so that the end of the channel is
the end of that worker. Nothing here waits for a worker to come up: what is sent before lies in the socket.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import importlib
import io
import itertools
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from getm.engine.messages import PACKET_MOST, Bye, FromWorker, Hello, ToWorker, decode_from_worker, encode

_log = logging.getLogger(__name__)

_LAUNCHER = """\
import socket, sys, types
channel = socket.socket(fileno=int(sys.argv[1]))
home, *sys.path[:] = channel.recv(1 << 17).decode("utf-8", "surrogateescape").split("\\0")
for name, folder in ("getm", ""), ("getm.engine", "/engine"), ("getm.sources", "/sources"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [home + folder]
from getm.engine.worker import launch
launch(channel, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
"""
"""What the launcher runs. It leaves out what the `__init__.py` import, which is the calling process's side: 40 ms."""
_TITLE = b"getm: background"
_NO_WORKER = "they end as soon as they are started"
CLOSE_SECONDS = 2.0
LAUNCH_SECONDS = 0.08
"""What a launcher takes to come up: Python, and `http.client`."""
SOON = 0.02
"""Seconds in which workers that are late are up, perhaps."""
LAUNCHES_MOST = 3
"""Launchers started in a row none of whose workers came up; then it is given up."""
BIRTHS_MOST = 16
"""Likewise of workers that ended before they came up, as where a limit keeps them from starting a thread."""


@dataclass(eq=False)
class Worker:
    """One worker, from here: its channel, and what it is doing."""

    channel: socket.socket
    born: float  # when it was started
    pid: int | None = None  # told by its first message
    run: int | None = None  # number of the run it was given and has not ended
    host: str = ""  # scheme and host of its last request: there it has a connection


class Pool:
    """The workers of one engine.

    Not safe against threads: the engine calls it under its lock, but for `wait`, which may run beside everything else.

    Args:
        arena: descriptor of the shared memory.
        most: how many workers at most.
        forks: whether they may be forked from this process, as long as it has one thread.
        known: tells what the workers had better read before they begin, see `getm.sources.transport.known`.
    """

    def __init__(self, arena: int, most: int, *, forks: bool = False, known: Callable[[], list[str]] = list) -> None:
        self.most = most
        self._forks = forks
        self._known = known
        self.workers: dict[int, Worker] = {}  # by descriptor of the channel
        self._arena = arena
        self._launcher: subprocess.Popen[bytes] | Clone | None = None
        self._channel: socket.socket | None = None  # to the launcher
        self._due = 0.0  # when it is likely to be up
        self._is_tried = False  # whether this launcher was given a worker to start
        self._fruitless = 0  # launchers that were, since a worker last came up
        self._stillborn = 0  # workers that have ended before, since then
        self._ready = select.epoll()
        self._alarm = io.FileIO(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._ready.register(self._alarm, select.EPOLLIN)

    def warm(self) -> bool:
        """Start the launcher, if it is not there, without waiting for it; say whether there is one.

        A launcher that could not be started is not tried again.
        """
        if self._channel is not None:
            return True
        if not self.most:
            return False
        if not sys.executable:
            return self._go_without("sys.executable is empty")
        if self._fruitless >= LAUNCHES_MOST:
            return self._go_without(_NO_WORKER)
        try:
            self._launch()
        except (OSError, ValueError) as error:
            return self._go_without(str(error))
        return True

    def coming(self) -> float:
        """Return the seconds in which the first worker, started now at the latest, is likely to be up; 0.0 if one is.

        What is forked from this process is up at once.
        """
        if self._forks or any(worker.pid is not None for worker in self.workers.values()):
            return 0.0
        return max(SOON, LAUNCH_SECONDS if self._channel is None else self._due - time.monotonic())

    def idle(self, host: str) -> Worker | None:
        """Return a worker without work, one that has a connection to *host* if there is one; None if all have work."""
        found = None
        for worker in self.workers.values():
            if worker.run is None:
                if worker.host == host:
                    return worker
                found = worker
        return found

    def start(self) -> Worker | None:
        """Start one more worker; None if there are as many as may be, or none can be started."""
        if len(self.workers) >= self.most or not self.warm():
            return None
        try:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return None
        with far:
            if not self._hand_over(far):
                near.close()
                return None
        worker = Worker(near, time.monotonic())
        self.workers[near.fileno()] = worker
        self._ready.register(near.fileno(), select.EPOLLIN)
        return worker

    def send(self, worker: Worker, message: ToWorker, descriptor: int | None = None) -> bool:
        """Send a message, with a descriptor if need be; say whether the worker can have got it.

        One that takes nothing any more is lost; `collect` says so.
        """
        packet = encode(message)
        extra = []
        if descriptor is not None:
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            worker.channel.sendmsg([packet], extra, socket.MSG_DONTWAIT)
        except OSError:
            self._shut(worker)
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Wait until a worker has something to say or `wake` is called, or for so many seconds; not once it is closed."""
        with contextlib.suppress(ValueError, OSError):  # closed before, or in this moment; or nobody has called `wake`
            self._ready.poll(seconds)
            os.eventfd_read(self._alarm.fileno())  # here, and not in `collect`: who waits has to see it

    def wake(self) -> None:
        """End the wait under way."""
        os.eventfd_write(self._alarm.fileno(), 1)

    def collect(self) -> Iterator[tuple[Worker, FromWorker | None]]:
        """Yield what workers have said, without waiting; the last of one is `Bye`, or None if it ended without a word."""
        for descriptor, _ in self._ready.poll(0) if self.workers else ():
            worker = self.workers.get(descriptor)
            while worker is not None:
                sender = worker
                try:
                    packet = worker.channel.recv(PACKET_MOST, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except OSError:
                    packet = b""
                if not packet:
                    self.retire(worker)
                    self._stillborn += worker.pid is None
                    if self._stillborn >= BIRTHS_MOST and self.most:
                        self._go_without(_NO_WORKER)
                    yield worker, None
                    break
                message = decode_from_worker(packet)
                if isinstance(message, Hello):
                    worker.pid = message.pid
                    self._fruitless = self._stillborn = 0
                    continue
                if isinstance(message, Bye):
                    self.retire(worker)
                    worker = None
                yield sender, message

    def retire(self, worker: Worker) -> None:
        """Close a worker's channel: it ends if it has not."""
        descriptor = worker.channel.fileno()
        self._ready.unregister(descriptor)
        del self.workers[descriptor]
        worker.channel.close()

    def close(self) -> None:
        """End all workers and the launcher, and wait until the launcher is gone. Twice is harmless."""
        for descriptor, worker in list(self.workers.items()):
            with contextlib.suppress(OSError, ValueError):  # done before
                self._ready.unregister(descriptor)
            worker.channel.close()
        self.workers.clear()
        self._ready.close()
        self._alarm.close()
        self._close_launcher()

    def abandon(self) -> None:
        """Close this process's copies of all channels, in a forked child: the processes are its parent's."""
        for worker in self.workers.values():
            worker.channel.close()
        self.workers.clear()
        self._ready.close()
        self._alarm.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._launcher is not None:
            self._launcher.returncode = 0  # not this process's child: nothing to wait for, nothing to warn of
            self._launcher = None

    def _go_without(self, reason: str) -> bool:
        """Say once that there are no workers, and have none."""
        _log.warning("no background processes (%s): reading goes on in this one", reason)
        self.most = 0
        return False

    def _launch(self) -> None:
        self._close_launcher()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = _own_pidfd()
        inherited: list[int] = []
        try:
            inherited.extend(  # above 2: if the caller has closed its own, ours may be there, and become /dev/null
                fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) if descriptor >= 0 else -1
                for descriptor in (far.fileno(), self._arena, parent)
            )
            if self._forks and threading.active_count() == 1:
                self._launcher = Clone(inherited)
            else:
                self._due = time.monotonic() + LAUNCH_SECONDS
                self._launcher = subprocess.Popen(  # noqa: S603  our own interpreter
                    [sys.executable, "-P", "-c", _LAUNCHER, *map(str, inherited), *self._known()],
                    pass_fds=[descriptor for descriptor in inherited if descriptor >= 0],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                near.send("\0".join(search_path()).encode("utf-8", "surrogateescape"))
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
            for descriptor in (parent, *inherited):
                if descriptor >= 0:
                    os.close(descriptor)
        self._channel, self._is_tried = near, False

    def _hand_over(self, far: socket.socket) -> bool:
        """Give the launcher a new worker's end of its channel; start another launcher if this one has ended."""
        for _ in range(2):
            if self._channel is None and not self.warm():
                return False
            try:
                assert self._channel is not None
                socket.send_fds(self._channel, [b"+"], [far.fileno()], socket.MSG_DONTWAIT)
            except OSError:
                self._close_launcher()
            else:
                self._fruitless += not self._is_tried
                self._is_tried = True
                return True
        return False

    def _close_launcher(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._launcher is not None:
            try:
                self._launcher.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._launcher.kill()
                self._launcher.wait()
            self._launcher = None

    def _shut(self, worker: Worker) -> None:
        """Make a worker's channel end, so that `collect` finds it lost and the worker finds itself alone."""
        try:
            worker.channel.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class Clone:
    """A launcher that is a copy of this process: it has imported everything already. To the pool it is as a `Popen`.

    Args:
        descriptors: what it is to have: its channel, the arena, and this process's, or -1.

    Attributes:
        pid: of the copy.
        returncode: as that of a `Popen`.
    """

    is_beginning = False
    """Whether a fork under way is one of these, of which engines need not know."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.returncode: int | None = None
        Clone.is_beginning = True
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_launcher(descriptors)
        finally:
            Clone.is_beginning = False

    def wait(self, timeout: float = CLOSE_SECONDS) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, in so many seconds.
        """
        until = time.monotonic() + timeout
        while self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            if process:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("getm", timeout)
            else:
                time.sleep(0.0005)
        return self.returncode

    def kill(self) -> None:
        """End it on the spot."""
        os.kill(self.pid, signal.SIGKILL)


def _be_launcher(descriptors: Sequence[int]) -> NoReturn:
    """Keep nothing of the process that was copied but its modules, and be a launcher."""
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        bounds = [2, *sorted(descriptor for descriptor in descriptors if descriptor >= 0), os.sysconf("SC_OPEN_MAX")]
        for low, high in itertools.pairwise(bounds):
            os.closerange(low + 1, high)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _hide_arguments()
        worker = importlib.import_module("getm.engine.worker")  # which no other process imports
        worker.launch(socket.socket(fileno=descriptors[0]), *descriptors[1:])
    finally:
        os._exit(1)


def _hide_arguments() -> None:
    """Overwrite the command line, as others see it: it is that of the process that was copied, and may hold secrets."""
    with open("/proc/self/stat", "rb") as file:
        facts = file.read().rpartition(b")")[2].split()
    start, stop = int(facts[45]), int(facts[46])  # arg_start and arg_end, see proc(5)
    if 0 < start < stop:
        ctypes.memset(start, 0, stop - start)
        ctypes.memmove(start, _TITLE, min(len(_TITLE), stop - start - 1))


def _own_pidfd() -> int:
    """Return a descriptor that becomes readable when this process has ended; -1 if the system has none."""
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return -1


def search_path() -> list[str]:
    """Return the folder of getm, and where else to look for modules: where this process does, but for the current folder."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [home, *(os.path.abspath(path) for path in sys.path if path)]
