"""Read one object as a file, and verify it if that is done in order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import SupportsIndex

from getm.config import Settings, Url
from getm.engine import Engine, Feed
from getm.errors import IntegrityError
from getm.handout import Handout
from getm.reader import Reader, attached
from getm.sources import Version


class Verifying(Reader):
    """A reader that hashes what it hands out.

    Args:
        engine: that fetches its bytes.
        feed: its record there.
        settings: how it is read.
        checksum: the digest that the object must have.

    Raises:
        IntegrityError: it is empty, and something else was promised.
    """

    def __init__(self, engine: Engine, feed: Feed, settings: Settings, checksum: str) -> None:
        super().__init__(engine, feed, settings)
        self._checksum = checksum
        try:
            self._handout = Handout(feed, checksum)
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> tuple[Callable[..., Reader], tuple[object, ...]]:
        """Pickle the checksum, too: what is unpickled hashes anew, and so verifies only what it reads from first to last."""
        _, arguments = super().__reduce__()
        return _reopen, (*arguments, self._checksum)

    @property
    def verified(self) -> str | None:
        """Who promised the digest that the bytes have, once all were read in order."""
        return self._handout.verified

    def read(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Read as `Reader.read` does."""
        self._check_open()
        start, length = self._advance(-1 if size is None else operator.index(size))
        try:
            data = self._bytes(start, length)
            self._hand_out(start, data)
        except BaseException:
            self._retreat(start, length)
            raise
        return data

    def readline(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Read as `Reader.readline` does."""
        start = self.seek(self.tell())  # this thread's own, whatever others do in between
        line = super().readline(size)
        self._hand_over(start, line)
        return line

    def read_at(self, offset: SupportsIndex, length: SupportsIndex) -> bytes:
        """Read as `Reader.read_at` does, and warn that this is not verified; what is read in order still is."""
        data = super().read_at(offset, length)
        if data:
            self._handout.pass_by()
        return data

    def _whole_lines(self, start: int) -> bytes:
        """Return lines that are at hand; the last of all alone."""
        whole = super()._whole_lines(start)
        return whole if start + len(whole) < self._size else whole[: whole.rfind(b"\n", 0, -1) + 1] or whole

    def _begin_lines(self, start: int, content: bytes) -> Iterable[bytes]:
        """Return what yields lines that are at hand; they are hashed when they are left, but the last of all before."""
        if start + len(content) < self._size:
            return super()._begin_lines(start, content)
        self._hand_over(start, content)
        return (content,)

    def _leave_lines(self) -> None:
        """End the iteration over lines that are at hand as `Reader` does, and hash those that were handed out."""
        lines = self._lines
        taken = memoryview(b"") if lines is None else lines.taken
        super()._leave_lines()
        if lines is not None and self._lines is not lines:
            self._hand_out(lines.start, taken)

    def _lease(self, start: int, length: int) -> memoryview:
        """Return a view of bytes, as `read_buffer` wants it."""
        view = super()._lease(start, length)
        self._hand_out(start, view)
        return view

    def _fill(self, start: int, view: memoryview) -> None:
        """Fill the caller's buffer, as `readinto` wants it."""
        super()._fill(start, view)
        self._hand_out(start, view)

    def _hand_over(self, start: int, data: bytes) -> None:
        """Hash what was read and is about to be handed out; go back to before it if that is refused."""
        try:
            self._hand_out(start, data)
        except BaseException:
            self._retreat(start, len(data))
            raise

    def _hand_out(self, start: int, data: bytes | memoryview) -> None:
        """Hash what is about to be handed out.

        Raises:
            IntegrityError: it is the last, and all of it is wrong.
        """
        try:
            self._handout.add(start, data)
        except IntegrityError:
            self._engine.clear()  # who opens it again is not to be given the same bytes
            raise


def _reopen(url: Url, settings: Settings, version: Version, position: int, checksum: str) -> Reader:
    """Open an object again, as it was when its reader was pickled.

    Raises:
        ObjectChanged: it has been replaced since.
        GetmError: it cannot be had.
    """
    reader = Verifying(*attached(url, settings, version), settings, checksum)
    reader.seek(position)
    return reader
