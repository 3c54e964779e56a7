"""Blocks, pieces and ranges: the only place where their arithmetic and their HTTP texts are.

Every range is half-open, `[start, stop)`, in bytes. A block is `[i * block_size, (i + 1) * block_size)` of an object, and
a block has `PIECES` pieces of equal length. Which pieces of a block are there is one integer: bit i is piece i.
"""

from __future__ import annotations

import bisect
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PIECES = 64
ALL_PIECES = (1 << PIECES) - 1

Range = tuple[int, int]

_LENGTH = re.compile(r"\d{1,19}", re.ASCII)
_CONTENT_RANGE = re.compile(
    r"\s*bytes\s+(?:(\d{1,19})\s*-\s*(\d{1,19})|\*)\s*/\s*(\d{1,19}|\*)\s*", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True)
class ContentRange:
    """What a `Content-Range` header says (RFC 9110, 14.4).

    Attributes:
        start: first byte sent; None in the answer to a range that cannot be satisfied (`bytes */size`).
        stop: the byte after the last; None likewise.
        size: bytes in the whole object; None if the server does not know.
    """

    start: int | None
    stop: int | None
    size: int | None


def parse_length(text: str) -> int | None:
    """Return what a `Content-Length` header says; None if that is no number of bytes."""
    return int(text) if _LENGTH.fullmatch(text) else None


def range_header(start: int, stop: int) -> str:
    """Return the value of a `Range` header for a range that is not empty."""
    return f"bytes={start}-{stop - 1}"


def parse_content_range(text: str) -> ContentRange | None:
    """Return what *text* says, or None if it is not a byte range or contradicts itself."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    first, last, total = match.groups()
    size = None if total == "*" else int(total)
    if first is None:
        return None if size is None else ContentRange(None, None, size)
    start, stop = int(first), int(last) + 1
    if stop <= start or (size is not None and stop > size):
        return None
    return ContentRange(start, stop, size)


def floor(offset: int, grain: int) -> int:
    """Return the largest multiple of *grain* that is not above *offset*."""
    return offset - offset % grain


def ceil(offset: int, grain: int) -> int:
    """Return the smallest multiple of *grain* that is not below *offset*."""
    return offset + -offset % grain


def block_parts(start: int, stop: int, block_size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block, first, last) for every block that a range touches: offsets within that block, half-open."""
    while start < stop:
        block, first = divmod(start, block_size)
        part = min(stop - start, block_size - first)
        yield block, first, first + part
        start += part


def pieces_touched(first: int, last: int, piece: int) -> int:
    """Return the bit map of the pieces that hold any byte of `[first, last)` of a block; that is not empty."""
    return _bits(first // piece, -(-last // piece))


def pieces_whole(first: int, last: int, piece: int, length: int) -> int:
    """Return the bit map of the pieces wholly within `[first, last)` of a block of *length* bytes.

    The last piece of an object may be short; it is whole when its last byte is there. Pieces after it count as there too,
    so that a whole last block looks like any whole block.
    """
    start = -(-first // piece)
    stop = PIECES if last >= length else last // piece
    return _bits(start, stop) if stop > start else 0


def missing_parts(present: int, first: int, last: int, piece: int) -> Iterator[tuple[int, int]]:
    """Yield the neighbouring missing pieces that `[first, last)` of a block touches, as ranges of whole pieces in it."""
    missing = pieces_touched(first, last, piece) & ~present
    while missing:
        low = (missing & -missing).bit_length() - 1
        high = low + _ones(missing >> low)
        yield low * piece, high * piece
        missing &= -1 << high


def present_until(present: int, first: int, piece: int) -> int:
    """Return the first byte from *first* of a block on whose piece is not there."""
    index = first // piece
    return max(first, (index + _ones(present >> index)) * piece)


def present_around(present: int, first: int, piece: int) -> Range:
    """Return the neighbouring pieces that are there around byte *first* of a block; an empty range if that one is not."""
    index = first // piece
    if not present >> index & 1:
        return first, first
    below = ~present & (1 << index) - 1
    return below.bit_length() * piece, present_until(present, first, piece)


def subtract(wanted: Range, taken: Iterable[Range]) -> list[Range]:
    """Return what of *wanted* is in none of *taken*, in order."""
    start, stop = wanted
    rest = []
    for low, high in sorted(taken):
        if high <= max(start, low) or low >= stop:
            continue
        if low > start:
            rest.append((start, low))
        start = max(start, high)
    if start < stop:
        rest.append((start, stop))
    return rest


def coalesce(ranges: Iterable[Range], gap: int = 0) -> list[Range]:
    """Return ranges in order, those made one that overlap or have at most *gap* bytes between them."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1] + gap:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def cut(ranges: list[Range], start: int, stop: int) -> list[Range]:
    """Take `[start, stop)` out of a list of ranges in order that do not overlap; return what of them that was."""
    if start >= stop:
        return []
    first = bisect.bisect_right(ranges, start, key=_stop)
    last = bisect.bisect_left(ranges, stop, lo=first, key=_start)
    touched = ranges[first:last]
    ranges[first:last] = [rest for each in touched for rest in subtract(each, [(start, stop)])]
    return [(max(start, low), min(stop, high)) for low, high in touched]


def total(ranges: Iterable[Range]) -> int:
    """Return the number of bytes in ranges that share none."""
    return sum(stop - start for start, stop in ranges)


def overlap(one: Range, other: Range) -> bool:
    """Say whether two ranges share a byte."""
    return one[0] < other[1] and other[0] < one[1]


_start, _stop = operator.itemgetter(0), operator.itemgetter(1)


def _bits(start: int, stop: int) -> int:
    return (1 << stop) - (1 << start)


def _ones(bits: int) -> int:
    """Return how many of the lowest bits are set without a gap."""
    return ((bits + 1) & ~bits).bit_length() - 1
