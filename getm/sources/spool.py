"""Objects of servers that know no ranges: one pass over the whole body, kept in a temporary file, read anywhere.

Or kept nowhere, for who reads forwards alone: what lies before the pass then takes another one.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace

from getm.retry import Failure, RequestFailed, Trouble
from getm.sources.base import Answer, Body, Version

SCRATCH = 1 << 20


class Spool:
    """The bytes of one object, as far as the pass over them has come; any thread may read.

    The file has no name from its beginning, so that it is gone with the process. After a fork both processes go on in the
    same file, each by a pass of its own: what they write is the same.

    Args:
        body: of an answer that holds the whole object, from its first byte on.
        most: bytes that the object may have in a temporary file.
        send: sends another such request, and checks that it is answered by the same version.
        file: path of the caller's file, which is there; None for a temporary one.
        keeps: whether there is a file at all.
    """

    def __init__(
        self, body: Body, most: int, send: Callable[[], Body], file: str | None = None, *, keeps: bool = True
    ) -> None:
        self.answer = body.answer
        self._most = most if file is None and keeps else sys.maxsize
        self._send = send
        self._body: Body | None = body
        self._passed = 0  # bytes that the body has brought
        self._count = 0  # bytes in the file, if there is one
        self._process = os.getpid()
        self._lock = threading.Lock()  # for the pass
        self._folder: str | None = None  # of the temporary file, for errors
        self._descriptor = -1
        if not keeps:
            return
        if file is None:
            import tempfile  # noqa: PLC0415  # takes 2 ms

            self._folder = tempfile.gettempdir()
            with tempfile.TemporaryFile() as temporary:
                self._descriptor = os.dup(temporary.fileno())
        else:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)  # without the lock of the caller's
        weakref.finalize(self, os.close, self._descriptor)
        if self.answer.version.size > self._most:
            raise self._too_large()

    def complete(self) -> Version:
        """Bring all bytes, whose number the server does not tell, and return the version with their number.

        Raises:
            RequestFailed: the pass was broken off.
        """
        scratch = memoryview(bytearray(SCRATCH))
        while self.read(self._count, scratch):
            pass
        if self._body is None:  # closed by another thread, which looks like its end
            raise RequestFailed(Failure(Trouble.CUT, "the body of unknown length was broken off"))
        version = replace(self.answer.version, size=self._count)
        self.answer = replace(self.answer, stop=self._count, version=version)
        return version

    def body(self, start: int, stop: int) -> Body:
        """Return the bytes `[start, stop)`, fewer if the object ends before, as if they had been asked for."""
        size, is_saved = self.answer.version.size, self._folder is None
        answer = replace(self.answer, start=min(start, size), stop=min(stop, size), is_whole=False, is_saved=is_saved)
        return _Part(self, answer)

    def read(self, start: int, buffer: memoryview) -> int:
        """Fill *buffer* with bytes from *start* on, as far as they come at once, but one at least; 0 at the end.

        Raises:
            RequestFailed: the pass was broken off; the next call begins another.
            OSError: the file cannot be written; its `filename` is the folder of a temporary one.
        """
        if self._process != os.getpid():
            self._process, self._lock, self._body = os.getpid(), threading.Lock(), None
        if start >= self._count:
            with self._lock:
                if start >= self._count:
                    return self._receive(start, buffer)
        return os.preadv(self._descriptor, [buffer[: self._count - start]], start)

    def abort(self) -> None:
        """Make a `read` under way in another thread return or fail at once."""
        if self._body is not None:
            self._body.abort()

    def close(self) -> None:
        """Break the pass off; the file goes with this object: a thread may be at it."""
        body, self._body = self._body, None
        if body is not None:
            body.abort()
            body.close()

    def _receive(self, start: int, buffer: memoryview) -> int:
        """Go on with the pass as far as *start*, and from there into *buffer*."""
        try:
            if start < self._passed:  # and was not kept
                self.close()
            if self._body is None:
                self._body, self._passed = self._send(), 0
            scratch = memoryview(bytearray(min(SCRATCH, start - self._passed))) if start > self._passed else buffer
            while self._passed < start:
                if not self._keep(self._body, scratch[: start - self._passed]):
                    return 0
            return self._keep(self._body, buffer)
        except BaseException:
            self.close()
            raise

    def _keep(self, body: Body, buffer: memoryview) -> int:
        """Receive the next bytes and write those to the file that are not in it."""
        count = body.readinto(buffer)
        start, self._passed = self._passed, self._passed + count
        if self._passed > self._most:
            raise self._too_large()
        if self._descriptor < 0:
            return count
        try:
            while self._count < self._passed:
                self._count += os.pwrite(self._descriptor, buffer[self._count - start : count], self._count)
        except OSError as error:
            raise OSError(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO), self._folder) from None
        return count

    def _too_large(self) -> RequestFailed:
        text = f"the server knows no ranges, and the object is larger than spool={self._most} allows"
        return RequestFailed(Failure(Trouble.RANGE, text))


class _Part:
    """A range of a spool, as the body of an answer."""

    def __init__(self, spool: Spool, answer: Answer) -> None:
        self._spool = spool
        self._position = answer.start
        self.answer = answer

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one and at most `len(buffer)` bytes, as they come."""
        count = self._spool.read(self._position, buffer[: self.answer.stop - self._position])
        if count == 0:
            raise RequestFailed(Failure(Trouble.CUT, "the object ended early"))
        self._position += count
        return count

    def close(self) -> None:
        """Do nothing: the pass goes on when somebody reads on."""

    def abort(self) -> None:
        """Make a `readinto` under way in another thread return or fail at once."""
        self._spool.abort()
