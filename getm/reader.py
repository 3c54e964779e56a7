"""Read one object as a seekable file."""

from __future__ import annotations

import ctypes
import io
import itertools
import operator
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from getm import uri
from getm.config import Settings, Url
from getm.engine import Engine, Feed, Stats, Window, default
from getm.parquet import Foresight
from getm.sources import Version, open_source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SMALL = 64 * 1024
"""Reads up to this length are served from a window where there is one, which costs a tenth of asking the engine."""

_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object
_address = ctypes.pythonapi.PyBytes_AsString
_address.argtypes, _address.restype = (ctypes.py_object,), ctypes.c_void_p
_Memory = ctypes.c_char * sys.maxsize  # of any length: a type for each would cost more than what it is for


class Reader(io.RawIOBase):
    """One object as a seekable, read-only, binary file.

    Every read is full but at the end of the object, or raises. Any thread may read; a thread's seek holds for its own next
    read, whatever others that seek do in between. A read without one goes on from the position that all threads share, and
    has all of them go on from there.

    Made by `getm.open`.

    Args:
        engine: that fetches its bytes.
        feed: its record there.
        settings: how it is read.
    """

    def __init__(self, engine: Engine, feed: Feed, settings: Settings) -> None:
        self._engine = engine
        self._feed = feed
        self._settings = settings
        self._size = feed.size
        self._foresight = Foresight(engine, feed)
        self._position = 0  # shared by all threads
        self._claims: dict[int, int] = {}  # position by thread that has sought and not read yet
        self._window: Window | None = None  # bytes that are there, from the last small read
        self._lines: _Lines | None = None  # that are being iterated over
        self._window_read: tuple[int, int] | None = None  # what was read of it, and the engine does not know yet

    def __repr__(self) -> str:
        """Show what is read, how far, and what it has cost."""
        state = "closed" if self.closed else f"at {self._place()}"
        stats = self._feed.stats
        return (
            f"<getm.Reader {self.url!r} {state} of {self._size}, {stats.requests} requests, {stats.fetched} bytes fetched>"
        )

    def __reduce__(self) -> tuple[Callable[..., Reader], tuple[object, ...]]:
        """Pickle what to read, how, which version, and the position; unpickling opens it anew, on that version only.

        The pickle holds URL, headers and credentials. What is unpickled is served by the engine of its process that all
        readers share, whichever this one had.

        Raises:
            ValueError: the reader is closed.
        """
        return _reopen, (self._feed.source.origin, self._settings, self._feed.version, self.tell())

    def __reduce_ex__(self, _protocol: SupportsIndex, /) -> tuple[Any, ...]:
        """Pickle as `__reduce__` does; `io.RawIOBase` refuses."""
        return self.__reduce__()

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name what is read for dask, which would otherwise open it once more, and leave that open, to find a name."""
        origin = self._feed.source.origin
        return "getm.Reader", origin if callable(origin) else uri.unsigned(origin), self._feed.version, self._place()

    @property
    def size(self) -> int:
        """Bytes in the object."""
        return self._size

    @property
    def etag(self) -> str | None:
        """The object's ETag as the server sent it, or None."""
        return self._feed.version.etag

    @property
    def url(self) -> str:
        """The URL, without user info, query and fragment."""
        return self._feed.source.name

    @property
    def name(self) -> str:
        """The last segment of the URL's path."""
        return uri.name(self._feed.source.name)

    @property
    def mode(self) -> str:
        """Always "rb"."""
        return "rb"

    @property
    def verified(self) -> str | None:
        """Who promised the digest that the bytes have, once all were read in order: "the caller", or a header's name."""
        return None

    @property
    def stats(self) -> Stats:
        """What this reader has cost so far."""
        return self._feed.stats

    def readable(self) -> bool:
        """Say that it can be read."""
        self._check_open()
        return True

    def seekable(self) -> bool:
        """Say that it can be sought in."""
        self._check_open()
        return True

    def writable(self) -> bool:
        """Say that it cannot be written."""
        self._check_open()
        return False

    def tell(self) -> int:
        """Return the position of this thread's next read."""
        self._check_open()
        return self._place()

    def seek(self, offset: SupportsIndex, whence: int = io.SEEK_SET) -> int:
        """Set the position of this thread's next read, and the shared one; past the end is allowed.

        Raises:
            ValueError: it would be negative, or *whence* is unknown; nothing has moved.
        """
        self._check_open()
        position = operator.index(offset)
        if whence == io.SEEK_CUR:
            position += self.tell()
        elif whence == io.SEEK_END:
            position += self._size
        elif whence != io.SEEK_SET:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence!r}")
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._leave_lines()
        self._claims[threading.get_ident()] = self._position = position
        return position

    def read(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Read *size* bytes, fewer only at the end; all that are left for -1 or None.

        Raises:
            GetmError: they cannot be had; the position has not moved.
        """
        window = self._window
        if window is not None and size.__class__ is int and not self._claims and self._lines is None:
            data = self._next(window, size)
            if data is not None:
                return data
        self._check_open()
        length = -1 if size is None else operator.index(size)
        start, length = self._advance(length)
        try:
            return self._bytes(start, length)
        except BaseException:
            self._retreat(start, length)
            raise

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read(-1)

    def read1(self, size: SupportsIndex = -1, /) -> bytes:
        """Read *size* bytes, fewer only at the end; for -1 as many as a block has."""
        length = operator.index(size)
        return self.read(length if length >= 0 else self._settings.block_size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill *buffer*, any writable contiguous one, less only at the end; return how many bytes were read.

        Raises:
            GetmError: they cannot be had; the position has not moved, and what the buffer holds is undefined.
        """
        self._check_open()
        view = memoryview(buffer)
        if view.readonly:
            raise TypeError("readinto() wants a writable buffer")
        if view.nbytes == 0:
            return 0
        if not view.c_contiguous:
            raise BufferError("readinto() wants a C-contiguous buffer")
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        start, length = self._advance(len(view))
        try:
            self._fill(start, view[:length])
        except BaseException:
            self._retreat(start, length)
            raise
        return length

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Fill *buffer* as `readinto` does."""
        return self.readinto(buffer)

    def peek(self, size: int = 0, /) -> bytes:
        """Return bytes from the position on without moving it: at least one, but at the end; more if they are at hand."""
        start = self.tell()
        return self._at_hand(start, max(size, SMALL))

    def readline(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Read up to and with the next newline, at most *size* bytes if that is not negative."""
        self._check_open()
        most = -1 if size is None else operator.index(size)
        while True:
            start, is_own = self._start()
            line = self._line(start, self._size if most < 0 else start + most)
            if self._move(start, start + len(line), is_own=is_own):
                return line

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the lines from the position on, which moves on with each; after a seek, from there."""
        self._check_open()
        lines = itertools.chain.from_iterable(self._parts())  # no line costs a call of Python
        return itertools.chain(lines, iter(self.readline, b""))  # for after a failure, which ends the other

    def __next__(self) -> bytes:
        """Return the next line."""
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def read_at(self, offset: SupportsIndex, length: SupportsIndex) -> bytes:
        """Read *length* bytes from *offset* on, fewer only at the end, without a position; from any thread.

        Raises:
            ValueError: the offset or the length is negative.
            GetmError: the bytes cannot be had.
        """
        self._check_open()
        start, count = operator.index(offset), operator.index(length)
        if start < 0 or count < 0:
            raise ValueError(f"offset and length must not be negative: {start}, {count}")
        return self._bytes(start, min(count, max(0, self._size - start)))

    def read_buffer(self, size: SupportsIndex = -1, /) -> memoryview:
        """Read as `read` does, but return a read-only view, on shared memory where that is possible.

        It stays right as long as it is held. `pyarrow` reads this way, without a copy.

        Raises:
            GetmError: the bytes cannot be had; the position has not moved.
        """
        self._check_open()
        start, length = self._advance(operator.index(size))
        try:
            return self._lease(start, length)
        except BaseException:
            self._retreat(start, length)
            raise

    def prefetch(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> None:
        """Announce ranges that are going to be read, so that they are fetched in parallel; return at once.

        They are asked for in the order of their offsets, neighbours by one request, as far as requests may be under way and
        memory allows, and the rest at later calls of any method that reads, as these come and are read. With `concurrency`
        None nothing is fetched before it is read.

        Args:
            ranges: half-open, `(start, stop)`, in any order; they may overlap, and end beyond the object.

        Raises:
            ValueError: a range is negative; nothing is announced.
        """
        self._check_open()
        self._engine.announce(self._feed, _checked(ranges))

    def read_ranges(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[bytes]:
        """Read many ranges at once, without a position; from any thread.

        Args:
            ranges: as in `prefetch`.

        Returns:
            The bytes of each, in the order given, fewer where it ends beyond the object.

        Raises:
            ValueError: a range is negative.
            GetmError: some bytes cannot be had.
        """
        self._check_open()
        checked = _checked(ranges)
        self._engine.announce(self._feed, checked)
        parts = {span: self.read_at(span[0], span[1] - span[0]) for span in sorted(checked)}
        return [parts[span] for span in checked]

    def write(self, _data: object, /) -> NoReturn:
        """Refuse with `io.UnsupportedOperation`."""
        raise io.UnsupportedOperation("write")

    def close(self) -> None:
        """Give up what is under way for this reader; views that were handed out stay right. Twice is harmless."""
        if not self.closed:
            super().close()
            self._window = None
            self._leave_lines()
        self._engine.detach(self._feed)  # again, if an interrupt came in between

    def __del__(self) -> None:
        """Close, and warn as files do, if it was left open."""
        if getattr(self, "_feed", None) is None:
            return
        try:
            if not self.closed:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:  # warnings may be errors
            self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _next(self, window: Window, length: int) -> bytes | None:
        """Read the bytes that are next, if they are in the window: for fields of some bytes, by the thousand."""
        with self._feed.turn:
            start = self._position
            stop = start + length
            if start < window.start or stop > window.stop or stop <= start:
                return None
            data = self._copy(window, start, stop)
            if data is not None:
                self._position = stop
            return data

    def _place(self) -> int:
        """Return the position of this thread's next read, also of a closed reader."""
        thread, lines = threading.get_ident(), self._lines
        if lines is not None and lines.thread == thread:
            return lines.position
        return self._claims.get(thread, self._position)

    def _advance(self, length: int) -> tuple[int, int]:
        """Move on by *length* bytes, as far as there are any, all if it is negative; return from where, and how many.

        Threads that read without a seek of their own get one part after the other.
        """
        with self._feed.turn:
            start = self._begin()
            left = max(0, self._size - start)
            length = left if length < 0 else min(length, left)
            self._position = start + length
        return start, length

    def _parts(self) -> Iterator[Iterable[bytes]]:
        """Yield lines that are at hand together, as long as there are any; who asks may go elsewhere meanwhile."""
        while True:
            self._check_open()
            start, is_own = self._start()
            whole = self._whole_lines(start)
            if not whole:
                return
            if self._move(start, start + len(whole), is_own=is_own):
                yield self._begin_lines(start, whole)

    def _whole_lines(self, start: int) -> bytes:
        """Return as many lines as are at hand from *start* on, one at least, but at the end."""
        part = self._at_hand(start, self._size)
        return part[: part.rfind(b"\n") + 1] or self._line(start, self._size)

    def _line(self, start: int, stop: int) -> bytes:
        """Return what lies before *stop* from *start* on, up to and with the next newline."""
        position, stop = start, min(stop, self._size)
        parts = []
        while position < stop:
            part = self._at_hand(position, stop - position, until=b"\n")
            parts.append(part)
            position += len(part)
            if part.endswith(b"\n"):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _start(self) -> tuple[int, bool]:
        """Return where this thread's read of unknown length begins, and whether it has sought that place itself."""
        with self._feed.turn:
            is_own = threading.get_ident() in self._claims
            self._position = start = self._begin()
        return start, is_own

    def _move(self, start: int, stop: int, *, is_own: bool) -> bool:
        """Move on from where such a read began; say whether what it has read is this thread's, or another has it already."""
        with self._feed.turn:
            if self._position == start:
                self._position = stop
                return True
            return is_own

    def _begin_lines(self, start: int, content: bytes) -> Iterable[bytes]:
        """Return what yields lines that are at hand."""
        self._lines = lines = _Lines(content, start)
        return lines.data

    def _leave_lines(self) -> None:
        """End the iteration over lines that are at hand, if this thread is at it; what it has not got is read again."""
        lines = self._lines
        if lines is not None and (lines.thread == threading.get_ident() or self.closed):
            self._lines = None
            if self._position == lines.stop:
                self._position = lines.position
            lines.data.seek(0, io.SEEK_END)

    def _retreat(self, start: int, length: int) -> None:
        """Go back to before a read that failed."""
        with self._feed.turn:
            self._claims[threading.get_ident()] = start
            if self._position == start + length:
                self._position = start

    def _begin(self) -> int:
        """Return where this thread's read begins; a read without a seek of its own voids all claims."""
        self._leave_lines()
        if not self._claims:
            return self._position
        start = self._claims.pop(threading.get_ident(), None)
        if start is None:
            self._claims.clear()
            return self._position
        return start

    def _bytes(self, start: int, length: int) -> bytes:
        """Return bytes that the object has."""
        stop = start + length
        window = self._window
        if window is not None and window.start <= start and stop <= window.stop:
            data = self._copy(window, start, stop)
            if data is not None:
                return data
        if length == 0:
            return b""
        data, view = _fresh(length)
        self._ask(start, view)
        if length <= SMALL:
            self._window = self._engine.window(self._feed, start)
        return data

    def _lease(self, start: int, length: int) -> memoryview:
        """Return a view of bytes that the object has."""
        if length <= SMALL:
            return memoryview(self._bytes(start, length))
        self._tell(start)
        self._foresight.before(start, start + length)
        view = self._engine.lease(self._feed, start, length)
        self._foresight.after(start, view)
        return view

    def _fill(self, start: int, view: memoryview) -> None:
        """Copy bytes that the object has to *view*."""
        if len(view) > SMALL:
            self._ask(start, view)
        else:
            view[:] = self._bytes(start, len(view))

    def _ask(self, start: int, view: memoryview) -> None:
        """Have the engine fill *view*, after telling it what was read without it."""
        self._tell(start)
        self._foresight.before(start, start + len(view))
        self._engine.readinto(self._feed, start, view)
        self._foresight.after(start, view)

    def _tell(self, start: int) -> None:
        """Tell the engine what was read in a window before a read from *start* on, and leave that.

        What was only looked at, as `peek` does, was not read: the next read begins within it.
        """
        read, self._window, self._window_read = self._window_read, None, None
        if read is not None:
            first, stop = read
            self._engine.follow(self._feed, first, start if first <= start < stop else stop)

    def _at_hand(self, start: int, most: int, until: bytes | None = None) -> bytes:
        """Return at least one byte from *start* on, but at the end; more if they are there; not beyond an *until*."""
        length = min(most, self._size - start)
        if length <= 0:
            return b""
        window = self._window
        if window is None or not window.start <= start < window.stop:
            self._bytes(start, 1)
            window = self._window
        if window is not None:
            part = self._copy(window, start, min(window.stop, start + length), until)
            if part is not None:
                return part
        data = self._bytes(start, min(length, SMALL))
        return data if until is None else data[: data.find(until) + 1] or data

    def _copy(self, window: Window, start: int, stop: int, until: bytes | None = None) -> bytes | None:
        """Return bytes that the window has, None if they are gone; note that they were read, for the engine."""
        data = window.copy(start, stop, until=until)
        if data is not None:
            self._window_read = (self._window_read[0] if self._window_read else start, start + len(data))
        return data


class _Lines:
    """Whole lines, iterated over by one thread.

    Args:
        content: the lines.
        start: of the first of them in the object.
    """

    def __init__(self, content: bytes, start: int) -> None:
        self.data = io.BytesIO(content)
        self.start = start
        self.stop = start + len(content)
        self.thread = threading.get_ident()

    @property
    def position(self) -> int:
        """Where the next line is in the object."""
        return self.start + self.data.tell()

    @property
    def taken(self) -> memoryview:
        """Those that were handed out."""
        return memoryview(self.data.getvalue())[: self.data.tell()]


def _fresh(length: int) -> tuple[bytes, memoryview]:
    """Return new bytes, and a view to fill them by before anybody else has them; the view keeps them.

    That is what the C API says of bytes made without contents: https://docs.python.org/3/c-api/bytes.html. (A `BytesIO` is
    not for this: a view of it in the traceback of a failed read crashes Python 3.12 when the collector finds it.)
    """
    data = _new_bytes(None, length)
    array = _Memory.from_address(_address(data))
    array.owner = data  # type: ignore[attr-defined]  # an array of ctypes takes any attribute
    return data, memoryview(array).cast("B")[:length]


def _checked(ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[tuple[int, int]]:
    """Return ranges as plain integers, none of which stops before it starts.

    Raises:
        ValueError: one is negative.
    """
    checked = []
    for each in ranges:
        start, stop = map(operator.index, each)
        if start < 0 or stop < 0:
            raise ValueError(f"start and stop must not be negative: {start}, {stop}")
        checked.append((start, max(start, stop)))
    return checked


def _reopen(url: Url, settings: Settings, version: Version, position: int) -> Reader:
    """Open an object again, as it was when its reader was pickled.

    Raises:
        ObjectChanged: it has been replaced since.
        GetmError: it cannot be had.
    """
    reader = Reader(*attached(url, settings, version), settings)
    reader.seek(position)
    return reader


def attached(url: Url, settings: Settings, version: Version) -> tuple[Engine, Feed]:
    """Return an engine, and the record there of a new reader of a version of an object.

    Raises:
        ObjectChanged: it has been replaced since.
        GetmError: it cannot be had.
    """
    engine = default(settings.concurrency)
    source = open_source(url, settings)
    source.expect(version)
    return engine, engine.attach(source, settings)
