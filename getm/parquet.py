"""Where the columns of a Parquet file lie, and which of them a reader is going to ask for next.

Such a file ends in a directory of all its parts, which a reader reads first; then it takes the columns that it wants from
one group of rows after the other, each by a read of its own, and waits for each. The distances are never the same, so only
the directory tells where the next ones are. It is read here, as far as that takes: a `FileMetaData` of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift in the compact protocol of
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import bisect
from typing import Any

from getm.engine import Engine, Feed
from getm.ranges import Range, total

MAGIC = b"PAR1"
TAIL = 8
"""Bytes behind the directory: its length, and `MAGIC`."""
DIRECTORY_MOST = 256 * 1024
"""Longest directory that is looked at, as it takes about 0.1 s."""
GROUPS_LEAST = 3
"""So many groups of rows have to have been read before: whoever wants one or two has nothing fetched in vain."""
BYTES_AHEAD = 32 << 20
"""So much is foretold at most that is not read yet, and no more groups than were read: whoever reads no further, or
elsewhere, has it fetched in vain, once."""
DEPTH_MOST = 16
VARINT_MOST = 10

_GROUPS, _COLUMNS, _PATH, _ABOUT, _LENGTH, _DATA, _DICTIONARY = 4, 1, 1, 3, 7, 9, 11  # numbers of fields


class Foresight:
    """Announces what a reader is likely to read next, if it reads a Parquet file.

    Args:
        engine: that fetches its bytes.
        feed: its record there.
    """

    def __init__(self, engine: Engine, feed: Feed) -> None:
        self._engine = engine
        self._feed = feed
        self._columns: Columns | None = None

    def before(self, start: int, stop: int) -> None:
        """Note that `[start, stop)` is about to be read."""
        columns = self._columns
        if columns is not None and not self._feed.planner.is_near:  # there the next is as soon asked for
            with self._feed.turn:
                ranges = columns.foretell(start, stop)
            if ranges:
                self._engine.announce(self._feed, ranges)

    def after(self, start: int, view: memoryview) -> None:
        """Look at what was read from *start* on: it may tell where the columns are."""
        size = self._feed.size
        if self._columns is None and start + len(view) == size and view[-4:] == MAGIC:
            self._columns = Columns(size) if self._feed.settings.concurrency is not None else None
        if self._columns is not None:
            self._columns.look(start, view)


class Columns:
    """The columns of one file, as far as they are known, and those that were read.

    Args:
        size: bytes in the file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._directory: Range | None = None  # where it is, once that is known
        self._content = b""  # of the directory, until it is needed
        self._groups: list[list[Range]] = []  # by group of rows, the parts of its columns
        self._starts: list[tuple[int, int, int]] = []  # of all parts: (start, group, column)
        self._read: set[int] = set()  # groups of which something was read
        self._wanted: set[int] = set()  # columns likewise
        self._told: set[int] = set()  # groups that were foretold

    def look(self, start: int, data: memoryview) -> None:
        """Look at bytes that were read from *start* on: the directory may be among them."""
        stop = start + len(data)
        if stop == self._size and len(data) >= TAIL:
            length = int.from_bytes(data[-TAIL:-4], "little")
            if length <= min(DIRECTORY_MOST, self._size - TAIL):
                self._directory = (self._size - TAIL - length, self._size - TAIL)
        if self._starts or self._directory is None:
            return
        if start <= self._directory[0] and self._directory[1] <= stop:
            self._content = bytes(data[self._directory[0] - start : self._directory[1] - start])

    def foretell(self, start: int, stop: int) -> list[Range]:
        """Return what is likely to be read soon by who reads `[start, stop)`: each part once."""
        if self._content:
            self._groups, self._content = _groups(self._content, self._size), b""
            self._starts = sorted(
                (start, group, column) for group, parts in enumerate(self._groups) for column, (start, _) in enumerate(parts)
            )
        first = bisect.bisect_left(self._starts, (start, 0, 0))
        if first == len(self._starts) or self._starts[first][0] != start:
            return []
        for begin, group, column in self._starts[first:]:
            if begin >= stop:
                break
            self._read.add(group)
            self._wanted.add(column)
        return self._next() if len(self._read) >= GROUPS_LEAST else []

    def _next(self) -> list[Range]:
        """Return the parts that are wanted of the next groups, those between the groups that were read first."""
        ahead = self._told - self._read
        left = BYTES_AHEAD - sum(map(self._length, ahead))
        found: list[Range] = []
        for group in range(min(self._read), min(max(self._read) + 1 + len(self._read), len(self._groups))):
            if group in self._told or group in self._read:
                continue
            left -= self._length(group)
            if left < 0 or len(ahead) >= len(self._read):
                break
            ahead.add(group)
            found += self._parts(group)
        self._told |= ahead
        return found

    def _parts(self, group: int) -> list[Range]:
        parts = self._groups[group]
        return [parts[column] for column in sorted(self._wanted) if column < len(parts)]

    def _length(self, group: int) -> int:
        return total(self._parts(group))


def _groups(directory: bytes, size: int) -> list[list[Range]]:
    """Return the parts of columns that a directory names, by group of rows; none if it is not understood."""
    try:
        groups = _Compact(directory).struct()[_GROUPS]
        found = [[_part(column) for column in group[_COLUMNS]] for group in groups]
    except (IndexError, KeyError, TypeError, ValueError):
        return []
    is_sound = all(0 < start <= stop <= size for group in found for start, stop in group)
    return found if is_sound else []


def _part(column: dict[int, Any]) -> Range:
    """Return where a part of a column is.

    Raises:
        ValueError: in another file.
    """
    if column.get(_PATH):
        raise ValueError("in another file")
    about = column[_ABOUT]
    start = min(about[_DATA], about.get(_DICTIONARY) or about[_DATA])
    return start, start + about[_LENGTH]


class _Compact:
    """Reads what Thrift writes in its compact protocol.

    Args:
        data: that was written.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a struct, by their numbers.

        Raises:
            IndexError: it ends too early.
            ValueError: it is none.
        """
        fields: dict[int, Any] = {}
        number = 0
        while True:
            head = self._byte()
            kind = head & 15
            if not kind:
                return fields
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)

    def _value(self, kind: int, depth: int) -> Any:  # noqa: ANN401  # what it is, the kind says
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (1, 2, 3):
            return self._byte()
        if kind == 8:
            return self._take(self._varint())
        if kind == 7:
            return self._take(8)
        if kind in (9, 10, 12):
            if depth >= DEPTH_MOST:
                raise ValueError("nested too deep")
            return self.struct(depth) if kind == 12 else self._list(depth)
        raise ValueError(f"no kind of value that is used: {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4
        if count == 15:
            count = self._varint()
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _integer(self) -> int:
        found = self._varint()
        return found >> 1 ^ -(found & 1)

    def _varint(self) -> int:
        found = 0
        for shift in range(0, 7 * VARINT_MOST, 7):
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
        raise ValueError("an integer of more than 64 bits")

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _take(self, length: int) -> bytes:
        start, self._position = self._position, self._position + length
        if self._position > len(self._data):
            raise IndexError
        return self._data[start : self._position]
