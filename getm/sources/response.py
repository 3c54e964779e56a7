"""Answers that no server can hold us up with: the head of one has to come whole, soon, and not be too long.

`http.client` bounds the length of a line and the number of header lines, but reads interim answers and trailers for ever,
and a line for as long as another byte comes within the socket's timeout. It leaves reading the fields to the `email`
package, which takes a tenth of all that a small object costs, and takes a head that was cut off for a whole one. So heads
are read here; bodies in chunks are left to it.
"""

from __future__ import annotations

import functools
import http
import http.client
import io
import math
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from getm.ranges import parse_length
from getm.sources.lowwater import LowWater

BUFFER = 4096
"""Bytes of an answer's buffer: most heads fit. With the usual 8 KiB a reader that waits takes 20 KiB in place of 16."""
HEAD_MOST = 256 * 1024
"""Bytes of an answer before its body, interim answers included."""
PARTIAL_RECORD = 32 * 1024
"""What of the bytes to come may be taken from the socket already: a record of TLS that has not come whole."""
BLANKS = " \t"
BODILESS = frozenset({http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED})

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(r"HTTP/(0\.9|1\.\d+)[ \t]+([1-9]\d\d)(|[ \t].*)", re.ASCII)


class Call:
    """The requests of one thread, as a context manager: another may end its waiting for the head of an answer.

    Not its waiting for a connection, which ends by itself, and before long.

    Attributes:
        is_over: whether it was ended, for good.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._stream: io.BufferedReader | None = None  # from which the head is being read

    def __enter__(self) -> None:
        _thread.call = self

    def __exit__(self, *_: object) -> None:
        _thread.call = None

    def end(self) -> None:
        """Have the request that is under way fail at once, and every later one."""
        self.is_over = True
        stream = self._stream
        if stream is not None:
            cut(stream)

    @contextmanager
    def listening(self, stream: io.BufferedReader) -> Iterator[None]:
        """Have `end` cut *stream* in this context.

        Raises:
            TimeoutError: it has, or was called before.
        """
        self._stream = stream
        try:
            self._check()  # now that `end` sees the stream
            yield
        finally:
            self._stream = None
            self._check()

    def _check(self) -> None:
        if self.is_over:
            raise TimeoutError("nobody waits for the answer any more")


def cut(stream: io.BufferedReader) -> None:
    """End the connection of a stream that another thread may be reading from: that ends at once."""
    try:
        with socket.socket(fileno=os.dup(stream.fileno())) as twin:
            # Reset at the close that follows. After a mere shutdown the kernel opens a window that was full no more: a
            # server in the middle of sending would notice after a minute only that nobody is there.
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            twin.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError):
        return


def receive(response: http.client.HTTPResponse, buffer: memoryview) -> int:
    """Read what has come of a body of known length, at least one byte; return how many, 0 at the end of the connection.

    Raises:
        OSError: the connection is lost, or nothing came in the time that its socket allows.
    """
    if isinstance(response, Response):
        return response.receive(buffer)
    stream: io.BufferedReader | None = response.fp  # of a session's own adapter
    return 0 if stream is None else stream.readinto1(buffer)


class _Lines:
    """What heads and lines are read from: they come in time, and there are not too many of them.

    Args:
        stream: the buffered socket.
        seconds: in which all that is read here has to come.
    """

    def __init__(self, stream: io.BufferedReader, seconds: float | None) -> None:
        self._stream = stream
        self._stop = None if seconds is None else time.monotonic() + seconds
        self._left = HEAD_MOST

    def head(self) -> bytes:
        """Return all lines up to an empty one, that included.

        Raises:
            RemoteDisconnected: the connection ends before.
            TimeoutError: they do not come in time.
            HTTPException: this is too much.
        """
        end = _END.search(self._stream.peek(1))
        if end and end.end() < self._left:
            self._left -= end.end()
            self._check_time()
            return self._stream.read(end.end())
        lines = [self.readline()]
        if not (lines[0].startswith(b"HTTP/") or b"HTTP/".startswith(lines[0])):
            return lines[0]  # of something else nothing more may come
        while lines[-1].endswith(b"\n") and lines[-1].strip(b"\r\n"):
            lines.append(self.readline())
        if not lines[-1].endswith(b"\n"):
            raise http.client.RemoteDisconnected("the head was cut off")
        return b"".join(lines)

    def readline(self, size: int = -1, /) -> bytes:
        """Return a line, or its first *size* bytes.

        Raises:
            TimeoutError: it does not come in time.
            HTTPException: this is too much.
        """
        most = self._left if size < 0 else min(size, self._left)
        line = bytearray()
        while len(line) < most and not line.endswith(b"\n"):
            there = self._stream.peek(1)[: most - len(line)]
            if not there:
                break
            line += self._stream.read(there.find(b"\n") + 1 or len(there))
            self._check_time()
        self._left -= len(line)
        if not self._left:
            raise http.client.HTTPException("the head of the answer is too long")
        return bytes(line)

    def _check_time(self) -> None:
        if self._stop is not None and time.monotonic() > self._stop:
            raise TimeoutError("the head of the answer did not come in time")

    def flush(self) -> None:
        """Do nothing, as a stream that is read; an answer that is interrupted is closed with this in place of its stream."""

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class Response(http.client.HTTPResponse):
    """An answer whose head is read with patience that ends; of connections of ours, and of those that `urllib3` has.

    Attributes:
        fields: names and values of its head, in order.
        values: by names in lower case; of several of a name a list, as HTTP writes it.
    """

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  # likewise
        super().__init__(sock, *arguments, **options)
        self.fields: list[tuple[str, str]] = []
        self.values: dict[str, str] = {}
        self._seconds = sock.gettimeout()
        self._sock: socket.socket | None = None  # where the body comes from, if that can be waited for
        self._water: LowWater | None = None  # set while the body is received
        self._is_drained = False  # whether all that had come was taken
        if isinstance(sock, socket.socket):  # not TLS through that of a proxy
            self._sock = sock
            raw = cast("Any", self.fp).detach()
            if isinstance(sock, ssl.SSLSocket):  # without the methods between, which are Python
                raw.readinto = functools.partial(_read_record, sock)
            else:
                raw.readinto = functools.partial(_read_packets, sock)
            self.fp = io.BufferedReader(raw, BUFFER)
        self._stream = self.fp
        self.fp = cast("io.BufferedReader", _Lines(self.fp, self._seconds))  # a proxy's answer to CONNECT is lines alone

    def begin(self) -> None:
        """Read the head.

        Raises:
            OSError: it does not come, or not in time.
            HTTPException: it is none.
        """
        call: Call | None = getattr(_thread, "call", None)
        with nullcontext() if call is None else call.listening(self._stream), self._patience() as lines:
            self._understand(lines.head())
            while http.HTTPStatus.SWITCHING_PROTOCOLS < self.status < http.HTTPStatus.OK or self.status == 100:
                self._understand(lines.head())  # after an interim one, as 103 Early Hints

    def _understand(self, head: bytes) -> None:
        """Take in what a head says."""
        first, *lines = head.decode("latin-1").replace("\r", " ").split("\n")
        found = _STATUS.fullmatch(first)
        if found is None:
            raise http.client.BadStatusLine(first[:200])
        self.version = 10 if found[1] in ("0.9", "1.0") else 11
        self.code = self.status = int(found[2])
        self.reason = found[3].strip(BLANKS)
        self.fields = _fields(lines)
        self.values = values = _joined(self.fields)
        self.chunked = values.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.length = None if self.chunked else parse_length(values.get("content-length", ""))
        if self.status in BODILESS or cast("Any", self)._method == "HEAD":  # noqa: SLF001  # it has no other name
            self.length = 0
        said = values.get("connection", "").lower()
        is_kept = "close" not in said if self.version == 11 else "keep-alive" in said or "keep-alive" in values
        self.will_close = not is_kept or (self.length is None and not self.chunked)

    def receive(self, buffer: memoryview) -> int:
        """Read what has come of the body, see the function of that name.

        A record of TLS has 16 KiB at most: those that have come are read one after the other without a step of ours between.
        """
        stream: io.BufferedReader | None = self.fp
        if stream is None:
            return 0
        if self._sock is None:
            return stream.readinto1(buffer)
        if self._water is None:
            self._sock.settimeout(0.0)  # until the next request, which sets it anew
            self._water = LowWater(self._sock)
        is_tls = isinstance(self._sock, ssl.SSLSocket)
        most = len(buffer) - (PARTIAL_RECORD if is_tls else 0)
        stop = 0.0
        while True:
            if self._is_drained:
                stop = stop or time.monotonic() + (self._seconds or math.inf)
                self._water.wait(most, stop)  # of TLS a record has to be there by then as a whole
            count: int | None = stream.readinto(buffer) if is_tls else stream.readinto1(buffer)
            self._is_drained = count is None or count < len(buffer)
            if count is not None:
                return count

    def close(self) -> None:
        """Take leave of the connection, which may go on with another answer."""
        water, self._water = self._water, None
        if water is not None:
            water.reset()
        super().close()

    def _read_next_chunk_size(self) -> int:
        with self._patience():
            return int(super()._read_next_chunk_size())  # type: ignore[misc]

    def _read_and_discard_trailer(self) -> None:
        """Leave trailers: the connection of an answer in chunks is not used again."""

    @contextmanager
    def _patience(self) -> Iterator[_Lines]:
        lines = _Lines(self._stream, self._seconds)
        self.fp = cast("io.BufferedReader", lines)
        try:
            yield lines
        finally:
            if self.fp is not None:  # closed
                self.fp = self._stream


def _fields(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Return the names and values that the lines of a head hold; what is no header is passed over."""
    fields: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and fields:  # goes on with the one before (RFC 9112, 5.2)
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip(BLANKS)}".strip(BLANKS))
        elif colon:
            fields.append((name.strip(BLANKS), value.strip(BLANKS)))
    return fields


def _joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        values[key] = value if values.get(key, value) == value else f"{values[key]}, {value}"
    return values


def _read_packets(sock: socket.socket, buffer: memoryview) -> int | None:
    """Read what has come; None if nothing has, and the socket does not wait: an error would lose what is buffered."""
    try:
        return sock.recv_into(buffer)
    except BlockingIOError:
        return None


def _read_record(sock: ssl.SSLSocket, buffer: memoryview) -> int | None:
    """Read from a record of TLS, or from the next one; None if that has not come whole, and the socket does not wait."""
    try:
        return cast("int", sock.read(0, cast("bytearray", buffer)))  # 0 is for as much as there is room for
    except ssl.SSLWantReadError:
        return None


_thread = threading.local()
