"""Stream one object into a pipe, for whatever insists on a descriptor.

     caller                                  feeder: a process of its own
     fileno() ◄──────── pipe ◄────────────── os.write(urlopen(url).read(...))
     channel  ◄──────── the pipe's reading end, or an error; in the end None, or an error

A thread of the calling process cannot feed: who reads the descriptor may hold the interpreter's lock meanwhile, as pysam
does. The feeder lives as long as anybody can read what it writes. The end of a pipe says nothing of why it ended, so that is
told by the channel, before.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO, NoReturn, Unpack

from getm import config
from getm.config import MIB, CommonOptions, Url
from getm.engine.pool import search_path
from getm.errors import TransferTimeout, UsageError, WorkerError
from getm.stream import Stream, urlopen

_FEEDER = """\
import pickle, socket, sys
channel = socket.socket(fileno=0)
asked = channel.makefile("rb")
sys.path[:] = pickle.load(asked)
from getm.pipes import feed
feed(channel, asked)
"""
PIPE_SIZE = MIB
"""Bytes that a pipe holds, where the system allows so many; the least that was as fast as more."""
LEAVE_SECONDS = 1.0
"""So long a feeder is waited for whose block has failed already."""


@contextlib.contextmanager
def pipe(
    url: Url, *, concurrency: int | None = 1, checksum: str | None = None, **options: Unpack[CommonOptions]
) -> Iterator[io.BufferedReader]:
    """Open the object behind a URL as a pipe: a binary file with a descriptor, from the first byte to the last.

    For the standard input of another program, `pysam.AlignmentFile(...)` with `until_eof`, `numpy.fromfile`. Whatever can do
    without a descriptor is better served by `getm.open` and `getm.urlopen`.

    Who reads cannot tell the end of the object from a failure: **a failure is raised where the block is left**, and what was
    made of the bytes is not to be used before. Wait for other programs within the block; if they are still reading, leaving
    it waits for them to end. To leave it early is no error, and verifies nothing.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        concurrency: 1 or None for one request kept alive, by the process that streams; n for up to n range requests at
            once, each in a background process of its own.
        checksum: as in `urlopen`; the last part is not written if the bytes are not those that were promised.
        **options: how the object is read, see `getm.config.Settings`. They, and a callable *url*, go to another process:
            functions and objects must be of modules that can be imported there, not of a script.

    Yields:
        The reading end.

    Raises:
        GetmError: the object cannot be had, at once; or its bytes, when the block is left, unless it raised something
            itself, of which, or of whose own `__cause__`, this is the `__cause__` then; `WorkerError` if the process that
            streams was killed.
        UsageError: a URL or option cannot be used, or cannot be sent to another process.
        TypeError: an option is unknown.
    """
    settings = config.settings({"concurrency": concurrency, **options})
    concurrency = None if concurrency == 1 else concurrency  # the feeder is one; another would cost a fifth of the rate
    asked = _pickled(url, settings.deadline, {"concurrency": concurrency, "checksum": checksum, **options})
    with _feeder() as channel:
        with contextlib.suppress(ConnectionError):  # it has ended; `_opened` says so
            channel.sendall(asked)
        file = _opened(channel)
        caller = os.getpid()
        try:
            with file:
                yield file
        except BaseException as error:
            if caller == os.getpid():
                channel.settimeout(LEAVE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    _blame(error, _failure(channel))
            raise
        failure = _failure(channel) if caller == os.getpid() else None
        if failure is not None:
            raise failure


def feed(channel: socket.socket, asked: BinaryIO) -> NoReturn:
    """Be a feeder: stream what is asked for into a pipe whose reading end is sent, and tell how that ended.

    Args:
        channel: to the calling process.
        asked: what it asks for, the other end of `_pickled`.
    """
    failure: Exception | None = None
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _feed(channel, asked)
    except BrokenPipeError:
        pass  # nobody reads it
    except Exception as error:  # noqa: BLE001  it is raised in the calling process
        failure = error
    _end(channel, failure)


def _pickled(url: Url, deadline: float, options: dict[str, object]) -> bytes:
    """Return what a feeder is to do, and where it finds modules: where this process does, but for the current folder.

    Raises:
        UsageError: it cannot be sent.
    """
    try:
        return pickle.dumps(search_path()) + pickle.dumps((url, deadline, options))
    except Exception as error:  # an object's own reasons
        raise UsageError(_unsendable(error)) from error


def _unsendable(error: Exception) -> str:
    return (
        "url and options of a pipe go to another process, and one of them cannot: give a URL that lasts in place of a "
        f"function, or a function of a module that can be imported ({type(error).__name__}: {error})"
    )


@contextlib.contextmanager
def _feeder() -> Iterator[socket.socket]:
    """Start a feeder, yield the channel to it, and end it.

    Raises:
        WorkerError: it cannot be started.
    """
    near, far = socket.socketpair()
    with near:
        try:
            with far:
                process = subprocess.Popen(  # noqa: S603  our own interpreter
                    [sys.executable, "-P", "-c", _FEEDER],
                    stdin=far.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise WorkerError(f"the process that streams into a pipe cannot be started: {error}") from error
        caller = os.getpid()
        try:
            yield near
        finally:
            if caller == os.getpid():
                process.kill()
                process.wait()
            else:
                process.returncode = 0  # not this process's child


def _opened(channel: socket.socket) -> io.BufferedReader:
    """Return the pipe's reading end when the object is open.

    Raises:
        GetmError: the object cannot be had.
    """
    word, descriptors = b"", list[int]()
    with contextlib.suppress(ConnectionResetError):  # it has ended, and not read all
        word, descriptors, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not descriptors:
        raise _failure(channel, word) or WorkerError("the process that streams into a pipe did not open it")
    return open(descriptors[0], "rb")


def _failure(channel: socket.socket, word: bytes = b"") -> Exception | None:
    """Wait for the feeder to end and return why, None if all was written or nobody reads any more.

    Args:
        channel: to the feeder.
        word: what it has said of that already.
    """
    with contextlib.suppress(ConnectionResetError), channel.makefile("rb") as told:
        channel.shutdown(socket.SHUT_WR)
        word += told.read()
    if not word:
        return WorkerError("the process that streams into a pipe was killed, or could not start: not all was read")
    try:
        failure: Exception | None = pickle.loads(word)  # noqa: S301  our own feeder on a private socket
    except Exception as error:  # noqa: BLE001  that of a foreign class
        return WorkerError(f"the process that streams into a pipe failed with what cannot be told here: {error}")
    return failure


def _blame(error: BaseException, failure: Exception | None) -> None:
    """Make a failure, if there is one, the cause of an error, or of what that says is its cause."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    if failure is not None and cause is None:
        chain[-1].__cause__ = failure


def _feed(channel: socket.socket, asked: BinaryIO) -> None:
    try:
        url, deadline, options = pickle.load(asked)  # noqa: S301  of our own calling process on a private socket
    except Exception as error:
        raise UsageError(_unsendable(error)) from error
    with urlopen(url, **options) as stream:
        reading, writing = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        socket.send_fds(channel, [b"+"], [reading])
        os.close(reading)
        threading.Thread(target=_watch, args=(channel, writing, stream, deadline), daemon=True).start()
        while part := stream.read(PIPE_SIZE):
            while part:
                part = part[os.write(writing, part) :]


def _watch(channel: socket.socket, writing: int, stream: Stream, deadline: float) -> NoReturn:
    """End this process when nobody can read the pipe any more, or nobody does for long after the block was left."""
    watched = select.poll()
    watched.register(writing, 0)  # an error is told in any case: nobody has the reading end
    watched.register(channel.fileno(), select.POLLRDHUP)
    ready = dict(watched.poll())
    watched.unregister(channel.fileno())
    position = -1
    while writing not in ready:
        if position == stream.tell():
            _end(channel, TransferTimeout(f"{stream.url}: nothing was read from its pipe for {deadline:g} s"))
        position = stream.tell()
        ready = dict(watched.poll(deadline * 1000))
    _end(channel, None)


def _end(channel: socket.socket, failure: Exception | None) -> NoReturn:
    """Tell how it ended, then end, and the pipe with it."""
    try:
        word = pickle.dumps(failure)
    except Exception:  # noqa: BLE001  that of a foreign class
        word = pickle.dumps(WorkerError(f"{type(failure).__name__}: {failure}"))
    with contextlib.suppress(OSError):
        channel.sendall(word)
    os._exit(0)
