"""The background processes: a launcher that imports once and forks, and workers that turn runs into filled slots.

The calling process starts the launcher as a plain interpreter, which never sees the caller's `__main__`, threads or
locks. A worker does one request at a time. Its main thread sends, reads and reports; a second thread listens to the
calling process, so that grants, cancels and the end of that process are noticed in the middle of a body, and also while a
connection or an answer is waited for. A worker decides nothing: it does not retry, wait for better times, or keep
credentials.
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

from getm import buffers
from getm.config import (
    ANNOUNCE_EVERY,
    ANNOUNCE_FIRST,
    ANNOUNCE_SECONDS,
    IDLE_SECONDS,
    MIB,
    QUIET_EVERY,
    QUIET_SECONDS,
    paced_length,
)
from getm.engine.arena import map_arena, populate
from getm.engine.messages import (
    PACKET_MOST,
    Bye,
    Ended,
    Fetch,
    Filled,
    FromWorker,
    Grant,
    Hello,
    Report,
    Segment,
    Started,
    ToWorker,
    decode_to_worker,
    encode,
)
from getm.retry import Failure, RequestFailed, Trouble
from getm.sources.base import Body, Transport
from getm.sources.transport import open_transport

THROWN_AWAY = 64 * 1024
FILE_BUFFER = MIB
FILE_LEAST = 64 * 1024
"""What has come is written to a file once it is so much, and not only when the buffer is full: shorter writes cost more, and
longer ones hold up those of the other workers. 1 GiB over 8 connections: 0.84 s; 0.95 with a buffer of 64 KiB."""
END_SECONDS = 0.5
ANSWER_SECONDS = 0.1
"""A worker whose request was cancelled ends if the answer's head does not come in this time: it cannot be listened for."""


def launch(channel: socket.socket, arena: int, parent: int, known: Iterable[str] = ()) -> NoReturn:
    """Fork a worker for every descriptor that comes by the channel, until it closes; never returns.

    Args:
        channel: to the calling process; each packet brings one descriptor, a new worker's end of its own channel.
        arena: descriptor of the shared memory.
        parent: descriptor that becomes readable when the calling process has ended; -1 if the system has none.
        known: what its requests have needed, see `sources.transport.known`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _give_way()
    memory = map_arena(arena)
    transport = open_transport(known)
    gc.freeze()
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = select.poll()
    for descriptor in (channel.fileno(), wake, parent):
        if descriptor >= 0:
            waiting.register(descriptor, select.POLLIN)
    workers: set[int] = set()
    while True:
        ready = {descriptor for descriptor, _ in waiting.poll(IDLE_SECONDS * 1000)}
        if parent in ready or not (ready or workers):
            _end(workers)
        if wake in ready:
            os.read(wake, 4096)
            _reap(workers)
        if channel.fileno() in ready:
            packet, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
            if not packet:
                _end(workers)
            process = os.fork()
            if process == 0:
                channel.close()
                os.close(wake)
                os.close(woken)
                _work(socket.socket(fileno=descriptors[0]), memory, parent, transport)
            workers.add(process)
            os.close(descriptors[0])


def _give_way() -> None:
    """Have this process and those it forks not push others from a processor whenever bytes come; they still get their share.

    Otherwise each packet interrupts who sends it, if that is on this machine, and who computes: copies of 1 GiB over 16
    connections from a distant server, nginx here, took 1.90 s in place of 1.70; with other work on both processors 2.49 and
    2.10.
    """
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _end(workers: set[int]) -> NoReturn:
    """End the launcher, after its workers, whose channels have closed with its own, so that their times are counted."""
    stop = time.monotonic() + END_SECONDS
    while workers and time.monotonic() < stop:
        _reap(workers)
        time.sleep(0.001)
    os._exit(0)


def _reap(workers: set[int]) -> None:
    """Take the exit statuses of workers that have ended."""
    for process in list(workers):
        if os.waitpid(process, os.WNOHANG)[0]:
            workers.discard(process)


def _work(channel: socket.socket, memory: mmap.mmap, parent: int, transport: Transport) -> None:
    """Be a worker, in a newly forked process; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _Worker(channel, memory, parent, transport).work()
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0
    finally:
        os._exit(status)


class _Worker:
    """One worker: what it was told, and what it does about it."""

    def __init__(self, channel: socket.socket, memory: mmap.mmap, parent: int, transport: Transport) -> None:
        self._channel = channel
        self._memory = memory
        self._view = memoryview(memory)
        self._parent = parent
        self._transport = transport
        self._told = threading.Condition()  # guards all below; notified by the listening thread
        self._fetches: deque[tuple[Fetch, int, _Progress]] = deque()  # and the descriptor that came with it, or -1
        self._segments: deque[Segment] = deque()  # its places that are not filled yet
        self._is_cancelled = False
        self._body: Body | None = None
        self._mapped: set[int] = set()  # places whose pages were populated; if given back since, they fault one by one

    def work(self) -> None:
        """Do what is told until there is nothing to do for long."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(Hello(os.getpid()))
        while True:
            with self._told:
                if not self._fetches and not self._told.wait_for(lambda: bool(self._fetches), IDLE_SECONDS):
                    self._send(Bye())
                    return
                fetch, descriptor, progress = self._fetches[0]
            try:
                ended = self._fetch(fetch, descriptor, progress)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            with self._told:
                self._fetches.popleft()
                self._segments.clear()
                self._is_cancelled = False
            self._send(ended)

    def _listen(self) -> NoReturn:
        """Hear the calling process out, and end this one when that does; or when it cannot be heard, for whatever reason."""
        try:
            self._listen_on()
        finally:
            os._exit(1)

    def _listen_on(self) -> None:
        waiting = select.poll()
        waiting.register(self._channel.fileno(), select.POLLIN)
        if self._parent >= 0:
            waiting.register(self._parent, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in waiting.poll(ANSWER_SECONDS * 1000 if self._is_cancelled else None)}
            if self._parent in ready:
                os._exit(0)
            if not ready:
                self._give_up_answer()
                continue
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._channel, PACKET_MOST, 1)
            except OSError:
                os._exit(0)
            if not packet:
                os._exit(0)
            with self._told:
                self._hear(decode_to_worker(packet), descriptors[0] if descriptors else -1)
                self._told.notify()

    def _give_up_answer(self) -> None:
        """End the process, and its connection with it, if it was cancelled and still waits for the head of an answer."""
        with self._told:
            if self._is_cancelled and self._body is None:
                try:
                    self._send(Bye())
                finally:
                    os._exit(0)

    def _hear(self, message: ToWorker, descriptor: int) -> None:
        if isinstance(message, Fetch):
            self._fetches.append((message, descriptor, _Progress(message)))
            self._segments.extend(message.segments)
        elif not self._fetches or message.run != self._fetches[0][0].run:
            return  # about a run that has ended
        elif isinstance(message, Grant):
            self._segments.extend(message.segments)
        elif isinstance(message, Report):
            progress = self._fetches[0][2]
            progress.hasten(message.stop)
            self._send(Filled(message.run, progress.position, progress.seconds()))
        else:
            self._is_cancelled = True
            if self._body is not None:
                self._body.abort()

    def _send(self, message: FromWorker) -> None:
        self._channel.send(encode(message))

    def _fetch(self, fetch: Fetch, descriptor: int, progress: _Progress) -> Ended:
        """Carry out one run and return how it ended."""
        failure = None
        try:
            if not self._is_cancelled:
                began = time.monotonic()
                body = self._transport.send(fetch.request)
                with self._told:
                    self._body = body
                try:
                    self._send(Started(fetch.run, body.answer.stop, time.monotonic() - began))
                    progress.resume()
                    if fetch.to_file:
                        self._fill_file(fetch, body, descriptor, progress)
                    else:
                        self._fill_slots(fetch.run, body, progress)
                finally:
                    with self._told:
                        self._body = None
                    body.close()
        except RequestFailed as failed:
            failure = None if self._is_cancelled else failed.failure
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise
            failure = Failure(Trouble.WRITE, os.strerror(error.errno or 0), errno=error.errno)
        return Ended(fetch.run, progress.position, progress.seconds(), failure)

    def _fill_slots(self, run: int, body: Body, progress: _Progress) -> None:
        """Read a body into the slots granted for it, to its end or until cancelled."""
        stop = body.answer.stop
        waste = memoryview(bytearray(THROWN_AWAY))
        while progress.position < stop:
            segment = self._next_segment(run, progress)
            if segment is None:
                return
            if segment.start != progress.position:
                raise RuntimeError(f"granted a place for byte {segment.start} at byte {progress.position}")
            last = min(segment.stop, stop)
            if segment.address is None:
                place = waste
            else:
                place = self._view[segment.address : segment.address + last - segment.start]
                if segment.address not in self._mapped:
                    populate(self._memory, segment.address, len(place))
                    self._mapped.add(segment.address)
            filled = 0
            while progress.position < last and not self._is_cancelled:
                part = place[filled:] if segment.address is not None else place[: last - progress.position]
                count = body.readinto(part)
                filled += count
                if progress.add(count) and progress.position < stop:
                    self._send(Filled(run, progress.position, progress.seconds()))
            if self._is_cancelled:
                return

    def _next_segment(self, run: int, progress: _Progress) -> Segment | None:
        """Return the next place to fill, waiting until there is one; None if cancelled meanwhile."""
        if not self._segments and not self._is_cancelled:
            progress.halt()
            self._send(Filled(run, progress.position, progress.seconds()))
            with self._told:
                self._told.wait_for(lambda: bool(self._segments) or self._is_cancelled)
            progress.resume()
        return None if self._is_cancelled else self._segments.popleft()

    def _fill_file(self, fetch: Fetch, body: Body, descriptor: int, progress: _Progress) -> None:
        """Read a body into a file, at its own offsets, to its end or until cancelled."""
        stop, began = body.answer.stop, time.monotonic()
        length = min(FILE_BUFFER, stop - progress.position, paced_length(fetch.pace))
        buffer = buffers.buffer(length)
        while progress.position < stop:
            start, received, written = progress.position, 0, 0
            most, enough = min(stop - start, len(buffer)), min(stop - start, FILE_LEAST)
            try:
                while received < enough and not (self._is_cancelled or (received and progress.is_due(received))):
                    received += body.readinto(buffer[received:most])
            finally:  # what came before a failure counts, once it is written
                while written < received:
                    written += os.pwrite(descriptor, buffer[written:received], start + written)
                progress.position += written
            if progress.add(0) and progress.position < stop:
                self._send(Filled(fetch.run, progress.position, progress.seconds()))
            early = began + (progress.position - fetch.request.start) / fetch.pace - time.monotonic()
            if early > 0:
                with self._told:
                    self._told.wait_for(lambda: self._is_cancelled, early)
            if self._is_cancelled:
                return


class _Progress:
    """How far a run is, and when that is worth a word.

    Args:
        fetch: the run.
    """

    def __init__(self, fetch: Fetch) -> None:
        self.position = fetch.request.start
        self._every, self._seconds = QUIET_EVERY, QUIET_SECONDS
        self._due = self._next()
        if fetch.awaited:
            self.hasten(fetch.awaited)
        self._told = 0.0  # when the last word went out
        self._since = 0.0  # when the clock was last set going; 0 while it stands
        self._spent = 0.0  # seconds on the clock before that

    def hasten(self, stop: int) -> None:
        """Find more worth a word from now on, the bytes before *stop* above all: somebody waits. Any thread may say so."""
        self._every, self._seconds = ANNOUNCE_EVERY, ANNOUNCE_SECONDS
        self._due = min(self.position + ANNOUNCE_FIRST, stop)

    def seconds(self) -> float:
        """Return the time spent on the body, without the waits for grants."""
        return self._spent + (time.monotonic() - self._since if self._since else 0.0)

    def halt(self) -> None:
        """Stop the clock."""
        self._spent, self._since = self.seconds(), 0.0

    def resume(self) -> None:
        """Set the clock going."""
        self._since = self._told = time.monotonic()

    def add(self, count: int) -> bool:
        """Note that *count* more bytes are in place; say whether that is to be announced."""
        self.position += count
        if not self.is_due():
            return False
        self._due, self._told = self._next(), time.monotonic()
        return True

    def is_due(self, more: int = 0) -> bool:
        """Say whether *more* bytes are to be announced at once."""
        return self.position + more >= self._due or time.monotonic() - self._told >= self._seconds

    def _next(self) -> int:
        """Return the next place of those that lie so many bytes apart."""
        return self.position - self.position % self._every + self._every
