"""Read one object forwards, as memoryviews of shared memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, SupportsIndex, Unpack

from getm import config, integrity, uri
from getm.config import MIB, CommonOptions, Url, check_count
from getm.engine import Engine, Feed, Stats, chosen
from getm.errors import IntegrityError
from getm.handout import Handout
from getm.sources import open_source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Stream:
    """One object, read forwards.

    Not a file of the `io` module, because `read` returns memoryviews. One thread at a time may read.

    Made by `getm.urlopen`.

    Args:
        engine: that fetches its bytes.
        feed: its record there.
        checksum: the digest that it must have, see `urlopen`.

    Raises:
        IntegrityError: it is empty, and something else was promised.
    """

    def __init__(self, engine: Engine, feed: Feed, checksum: str | None = None) -> None:
        self._engine = engine
        self._feed = feed
        self._handout = Handout(feed, checksum)
        self._position = 0
        self._is_closed = False

    def __repr__(self) -> str:
        """Show what is read, and how far."""
        state = "closed" if self._is_closed else f"at {self._position}"
        return f"<getm.Stream {self.url!r} {state} of {self.size}>"

    @property
    def size(self) -> int:
        """Bytes in the object."""
        return self._feed.size

    @property
    def url(self) -> str:
        """The URL, without user info, query and fragment."""
        return self._feed.source.name

    @property
    def name(self) -> str:
        """The last segment of the URL's path."""
        return uri.name(self._feed.source.name)

    @property
    def stats(self) -> Stats:
        """What this stream has cost so far."""
        return self._feed.stats

    @property
    def verified(self) -> str | None:
        """Who promised the digest that the bytes have, once all were handed out: "the caller", or a header's name."""
        return self._handout.verified

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def read(self, size: SupportsIndex = -1, /) -> memoryview:
        """Return the next *size* bytes, fewer only at the end; all that are left for -1.

        The view is read-only and right for as long as it or anything made of it is held. It pins shared memory meanwhile;
        `release()` gives that back at once, letting go of it is as good. Parts that lie in one block are not copied.

        Raises:
            GetmError: the bytes cannot be had, or (`IntegrityError`) are not those promised; the position has not moved.
            ValueError: the stream is closed.
        """
        self._check_open()
        length = operator.index(size)
        left = self.size - self._position
        length = left if length < 0 else min(length, left)
        view = self._engine.lease(self._feed, self._position, length) if length else memoryview(b"")
        self._hand_out(view)
        return view

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill *buffer*, any writable contiguous one, less only at the end; return how many bytes were read.

        Raises:
            GetmError: the bytes cannot be had, or (`IntegrityError`) are not those promised; the position has not moved, and
                what the buffer holds is undefined.
            ValueError: the stream is closed.
        """
        self._check_open()
        view = memoryview(buffer)
        if view.readonly:
            raise TypeError("readinto() wants a writable buffer")
        if view.nbytes == 0:
            return 0
        if not view.c_contiguous:
            raise BufferError("readinto() wants a C-contiguous buffer")
        view = view.cast("B")[: self.size - self._position]
        if len(view):
            self._engine.readinto(self._feed, self._position, view)
        self._hand_out(view)
        return len(view)

    def close(self) -> None:
        """Give up what is under way; views that were handed out stay right. Twice is harmless."""
        self._is_closed = True
        self._engine.detach(self._feed)

    def __enter__(self) -> Self:
        """Return itself."""
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Close."""
        if hasattr(self, "_is_closed"):
            self.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("I/O operation on closed stream")

    def _hand_out(self, view: memoryview) -> None:
        """Hash what is about to be handed out, and move on.

        Raises:
            IntegrityError: it is the last, and all of it is wrong.
        """
        try:
            self._handout.add(self._position, view)
        except IntegrityError:
            view.release()
            self._engine.clear()  # who opens it again is not to be given the same bytes
            raise
        self._position += len(view)


def urlopen(
    url: Url,
    *,
    concurrency: int | None = 1,
    checksum: str | None = None,
    engine: Engine | None = None,
    **options: Unpack[CommonOptions],
) -> Stream:
    """Open the object behind a URL for reading forwards, as memoryviews of shared memory.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        concurrency: 1 for one background process and one request kept alive for the whole read; n for up to n range
            requests at once, each in a background process; None for the calling process alone.
        checksum: the digest that the bytes must have, as `algorithm:digest`, or "auto" for what the server promises, if it
            does; they are hashed as they are handed out, and the last are not if it is another. None to verify nothing.
        engine: that fetches and keeps the blocks; None for the one that all readers of this process share.
        **options: how the object is read, see `getm.config.Settings`.

    Raises:
        GetmError: the object cannot be had.
        UsageError: a URL or option cannot be used.
        TypeError: an option is unknown.
    """
    settings = config.settings({"concurrency": concurrency, **options})
    integrity.choose(checksum, {})
    engine = chosen(engine, concurrency)
    feed = engine.attach(open_source(url, settings, forward=True), settings, forward=True)
    try:
        return Stream(engine, feed, checksum)
    except BaseException:
        engine.detach(feed)
        raise


def iter_content(
    url: Url,
    chunk_size: int = MIB,
    *,
    concurrency: int | None = 1,
    checksum: str | None = None,
    engine: Engine | None = None,
    **options: Unpack[CommonOptions],
) -> Iterator[memoryview]:
    """Yield the object behind a URL in parts, each a memoryview that is released at the next step.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        chunk_size: bytes of every part but the last; one that divides the block size (1 MiB) is never copied.
        concurrency: as in `urlopen`.
        checksum: as in `urlopen`.
        engine: as in `urlopen`.
        **options: as in `urlopen`.

    Raises:
        GetmError: the object cannot be had, at once; or its bytes, at the step concerned; `IntegrityError` in place of the
            last part.
        UsageError: a URL or option cannot be used.
        TypeError: an option is unknown.
    """
    check_count("chunk_size", chunk_size, 1)
    return _parts(urlopen(url, concurrency=concurrency, checksum=checksum, engine=engine, **options), chunk_size)


def _parts(stream: Stream, chunk_size: int) -> Iterator[memoryview]:
    with stream:
        while stream.tell() < stream.size:
            with stream.read(chunk_size) as part:
                yield part
