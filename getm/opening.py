"""Open one object as a file, or read a range of it: as the builtin does, for URLs."""

from __future__ import annotations

import io
import operator
from contextlib import closing
from typing import Literal, Unpack, overload

from getm import config, integrity
from getm.config import Options, Url
from getm.engine import Engine, chosen, first, first_bytes
from getm.errors import UsageError
from getm.reader import SMALL, Reader
from getm.sources import open_source
from getm.verifying import Verifying


@overload
def open(  # type: ignore[overload-overlap]  # 0 is an int, too
    url: Url,
    mode: Literal["rb"] = "rb",
    *,
    buffering: Literal[0] = 0,
    checksum: str | None = None,
    engine: Engine | None = None,
    **options: Unpack[Options],
) -> Reader: ...
@overload
def open(
    url: Url,
    mode: Literal["rb"] = "rb",
    *,
    buffering: int,
    checksum: str | None = None,
    engine: Engine | None = None,
    **options: Unpack[Options],
) -> io.BufferedReader[Reader]: ...
@overload
def open(
    url: Url,
    mode: Literal["r", "rt"],
    *,
    buffering: int = 0,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    checksum: str | None = None,
    engine: Engine | None = None,
    **options: Unpack[Options],
) -> io.TextIOWrapper: ...
def open(  # noqa: PLR0913  # what the builtin has, and an engine
    url: Url,
    mode: str = "rb",
    *,
    buffering: int = 0,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    checksum: str | None = None,
    engine: Engine | None = None,
    **options: Unpack[Options],
) -> Reader | io.BufferedReader[Reader] | io.TextIOWrapper:
    """Open the object behind a URL as a seekable, read-only file.

    One request is sent, for the first block. Background processes start when reading goes beyond it.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        mode: "rb", or "r" or "rt" for text.
        buffering: 0 for the raw reader, which is good for everything but a great many tiny reads; a size above 1, or -1
            for the usual one, for an `io.BufferedReader` over it. Text is always buffered.
        encoding: of text, as in the builtin `open`.
        errors: likewise.
        newline: likewise.
        checksum: the digest that the object must have, as `algorithm:digest`, or "auto" for what the server promises, if it
            does. Bytes are hashed as they are read, as long as that is in order from the first to the last, which are not
            handed out if it is another; `verified` says so. A read of the first begins anew; one elsewhere, or of several
            threads at once, ends it with a warning. What `read_at` and `read_ranges` return is not verified, which a
            warning says, too. None to verify nothing.
        engine: that fetches and keeps the blocks; None for the one that all readers of this process share.
        **options: how the object is read, see `getm.config.Settings`.

    Returns:
        A `Reader`, an `io.BufferedReader` or an `io.TextIOWrapper`.

    Raises:
        GetmError: the object cannot be had, or (`IntegrityError`) it is empty and another was promised.
        UsageError: a URL, mode or option cannot be used.
        TypeError: an option is unknown.
    """
    if mode not in ("rb", "r", "rt"):
        raise UsageError(f"mode must be 'rb', 'r' or 'rt', not {mode!r}: an object is only read")
    is_text = mode != "rb"
    if not is_text and (encoding, errors, newline) != (None, None, None):
        raise UsageError("encoding, errors and newline are for text: give mode 'r'")
    config.check_count("buffering", buffering, -1)
    settings = config.settings(options)
    integrity.choose(checksum, {})
    engine = chosen(engine, settings.concurrency)
    feed = engine.attach(open_source(url, settings), settings)
    reader = Reader(engine, feed, settings) if checksum is None else Verifying(engine, feed, settings, checksum)
    if not is_text and buffering == 0:
        return reader
    try:
        size = buffering if buffering > 1 else SMALL
        if is_text:
            return io.TextIOWrapper(_Buffered(reader, size), encoding, errors, newline)
        return io.BufferedReader(reader, size)
    except BaseException:
        reader.close()
        raise


class _Buffered(io.BufferedReader):
    """A buffered reader that says without asking its raw one whether it is closed: text asks before each line."""

    closed = False

    def close(self) -> None:
        """Close it."""
        super().close()
        self.closed = True


def read(
    url: Url,
    start: int = 0,
    stop: int | None = None,
    *,
    engine: Engine | None = None,
    **options: Unpack[Options],
) -> bytes:
    """Return the bytes `[start, stop)` of the object behind a URL, as a slice does: fewer if it ends before.

    A range of up to a block costs one request, and so does an object of that size.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        start: first byte; not negative.
        stop: the byte after the last; None for the end.
        engine: as in `open`.
        **options: as in `open`.

    Raises:
        GetmError: the bytes cannot be had.
        UsageError: a URL, range or option cannot be used.
    """
    start = operator.index(start)
    stop = None if stop is None else operator.index(stop)
    if start < 0 or (stop is not None and stop < 0):
        raise UsageError(f"start and stop must not be negative: {start}, {stop}")
    if stop is not None and stop <= start:
        return b""
    settings = config.settings(options)
    engine = chosen(engine, settings.concurrency)
    source = open_source(url, settings)
    limit = start + settings.block_size
    begun = None
    if not source.is_local or (stop is not None and stop <= limit):  # otherwise `attach` warns before anything is sent
        begun = first(source, settings, start, limit if stop is None else min(stop, limit))
        last = begun[0].answer.version.size if stop is None else min(stop, begun[0].answer.version.size)
        if last <= limit:
            with closing(source):
                return first_bytes(source, settings, begun[0], last)
    with Reader(engine, engine.attach(source, settings, begun=begun), settings) as reader:
        return reader.read_at(start, max(0, (reader.size if stop is None else stop) - start))
