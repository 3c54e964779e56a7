"""Read BAM, CRAM, VCF and BCF by pysam, through getm: whole, or regions of them by an index.

    from getm.contrib.pysam import AlignmentFile, VariantFile

    with AlignmentFile("https://host/reads.bam", index="https://host/reads.bam.bai") as file:
        for read in file.fetch("chr1", 1000, 2000):
            ...

Both are pysam's own, with all that those offer. What cannot be read is raised as getm's own error. pysam alone takes some
failures for the end of the file; so what reads without a method of the file, as `pysam.IndexedReads` does, is sure to be
whole only once the file was closed without an error.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Concatenate, ParamSpec, Self, TypeAlias, TypeVar, Unpack, cast
from urllib.parse import urlsplit

import getm
from getm import uri
from getm.config import Options, Url
from getm.contrib.htslib import Served, pysam
from getm.engine import Engine
from getm.errors import AccessDenied, NotFound, UsageError
from getm.reader import Reader

__all__ = ["AlignmentFile", "VariantFile"]

Index: TypeAlias = Url | os.PathLike[str] | None
T = TypeVar("T")
P = ParamSpec("P")


class AlignmentOptions(Options, total=False):
    """The keyword arguments of `AlignmentFile`: how the object is read, and pysam's own."""

    check_header: bool
    check_sq: bool
    format_options: Sequence[str]
    ignore_truncation: bool
    reference_filename: str
    require_index: bool


class VariantOptions(Options, total=False):
    """The keyword arguments of `VariantFile`: how the object is read, and pysam's own."""

    drop_samples: bool
    ignore_truncation: bool


class _Rows(Iterator[T]):
    """What an iterator of pysam yields, until it ends for good reason.

    Args:
        rows: the iterator; it has other attributes, too.
        data: what it reads.
    """

    def __init__(self, rows: Iterator[T], data: Served) -> None:
        self._rows = rows
        self._data = data

    def __next__(self) -> T:
        """Return the next row."""
        try:
            return next(self._rows)
        except Exception as error:
            self._data.check(error)
            raise

    def __getattr__(self, name: str) -> object:
        """Return what pysam's own has."""
        return getattr(self._rows, name)


class _Remote:
    """What files of pysam over objects of getm have in common."""

    _data: Served
    _index: Served | None

    @property
    def reader(self) -> Reader:
        """What getm reads: its `stats`, `size`, `etag`, `url`."""
        return cast(Reader, self._data.file)

    def _leave(self) -> None:
        for served in (self._data, self._index):
            if served is not None:
                served.close()


F = TypeVar("F", bound=_Remote)


def _rows(method: Callable[Concatenate[F, P], Iterable[T]]) -> Callable[Concatenate[F, P], _Rows[T]]:
    """Return a method of pysam's that returns an iterator, with getm's errors."""

    @functools.wraps(method)
    def checked(self: F, /, *arguments: P.args, **options: P.kwargs) -> _Rows[T]:
        with self._data.checked():
            return _Rows(iter(method(self, *arguments, **options)), self._data)

    return checked


def _result(method: Callable[Concatenate[F, P], T]) -> Callable[Concatenate[F, P], T]:
    """Return a method of pysam's that reads, with getm's errors."""

    @functools.wraps(method)
    def checked(self: F, /, *arguments: P.args, **options: P.kwargs) -> T:
        with self._data.checked():
            return method(self, *arguments, **options)

    return checked


def _closing(method: Callable[[F], None]) -> Callable[[F], None]:
    """Return pysam's `close`, which says again what was raised before, and closes what getm has open."""

    @functools.wraps(method)
    def closed(self: F) -> None:
        is_known = bool(self._data.failure)
        try:
            with self._data.checked():
                method(self)
        except OSError:
            if not is_known:
                raise
        finally:
            self._leave()

    return closed


class AlignmentFile(_Remote, pysam.AlignmentFile):
    """A `pysam.AlignmentFile` over the object behind a URL: BAM, or CRAM with a local `reference_filename`.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        mode: "r", "rb" or "rc".
        index: URL, or what returns one, or path of its index. None for one that is called as the object is, with an ending
            .bai, .csi or .crai, and has the same query: so not for signed URLs. Without an index there are no regions.
        threads: 1; others would wait for each other for ever. `getm.pipe` can be read with more of them.
        engine: as in `getm.open`.
        **options: how object and index are read, see `getm.config.Settings`; and `check_sq`, `ignore_truncation`,
            `reference_filename`, `require_index`, `format_options`, as pysam has them.

    Raises:
        GetmError: the object, or the index that was named, cannot be had; from all that reads, too.
        OSError: pysam cannot read it; or a ValueError.
        UsageError: an argument cannot be used.
        TypeError: an option is unknown.
    """

    def __new__(  # pysam opens what it reads there, too
        cls,
        url: Url,
        mode: str = "r",
        *,
        index: Index = None,
        threads: int = 1,
        engine: Engine | None = None,
        **options: Unpack[AlignmentOptions],
    ) -> Self:
        """Open it."""
        ours, others = _divided(options)
        _check(mode, threads)
        is_cram = mode == "rc" or _path(url).endswith(".cram")
        with _opened(url, index, (".crai",) if is_cram else (".bai", ".csi"), engine, ours) as (data, served, name):
            self: Self = super().__new__(cls, data.name, mode, index_filename=name, **others)
            self._data, self._index = data, served
        return self

    def __del__(self) -> None:
        """Close what getm has open, once pysam has."""
        if hasattr(self, "_index"):
            self._leave()

    def _open(self, *arguments: object, **options: object) -> None:
        """Have pysam open it; what fails and is let go of, pysam closes with an error that nobody can catch."""
        try:
            super()._open(*arguments, **options)
        except BaseException:
            with contextlib.suppress(OSError):
                pysam.AlignmentFile.close(self)
            raise

    __next__ = _result(pysam.AlignmentFile.__next__)
    fetch = _rows(pysam.AlignmentFile.fetch)
    head = _rows(pysam.AlignmentFile.head)
    pileup = _rows(pysam.AlignmentFile.pileup)
    seek = _result(pysam.AlignmentFile.seek)
    reset = _result(pysam.AlignmentFile.reset)
    close = _closing(pysam.AlignmentFile.close)


class VariantFile(_Remote, pysam.VariantFile):
    """A `pysam.VariantFile` over the object behind a URL: VCF compressed by bgzip, or BCF.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        mode: "r", "rb" or "rz".
        index: as in `AlignmentFile`, with endings .tbi and .csi.
        threads: as in `AlignmentFile`.
        engine: as in `getm.open`.
        **options: how object and index are read, see `getm.config.Settings`; and `drop_samples` and `ignore_truncation`,
            as pysam has them.

    Raises:
        GetmError: the object, or the index that was named, cannot be had; from all that reads, too.
        OSError: pysam cannot read it; or a ValueError.
        UsageError: an argument cannot be used.
        TypeError: an option is unknown.
    """

    def __init__(
        self,
        url: Url,
        mode: str = "r",
        *,
        index: Index = None,
        threads: int = 1,
        engine: Engine | None = None,
        **options: Unpack[VariantOptions],
    ) -> None:
        ours, others = _divided(options)
        _check(mode, threads)
        with _opened(url, index, (".tbi", ".csi"), engine, ours) as (data, served, name):
            super().__init__(data.name, mode, index_filename=name, **others)
            self._data, self._index = data, served

    def __del__(self) -> None:
        """Close what getm has open, once pysam has."""
        if hasattr(self, "_index"):
            self._leave()

    __next__ = _result(pysam.VariantFile.__next__)
    fetch = _rows(pysam.VariantFile.fetch)
    seek = _result(pysam.VariantFile.seek)
    reset = _result(pysam.VariantFile.reset)
    close = _closing(pysam.VariantFile.close)


def _divided(options: Mapping[str, object]) -> tuple[Options, dict[str, object]]:
    """Return the options that are getm's, and those that are not."""
    for name in ("filepath_index", "index_filename"):
        if name in options:
            raise TypeError(f"no such option: {name}; index= names an index, by URL or path")
    ours = {name: value for name, value in options.items() if name in Options.__annotations__}
    return cast(Options, ours), {name: value for name, value in options.items() if name not in ours}


def _check(mode: str, threads: int) -> None:
    """Raise `UsageError` for what pysam could, but not through getm."""
    if not mode.startswith("r"):
        raise UsageError(f"mode must begin with 'r', not {mode!r}: an object is only read")
    if threads != 1:
        raise UsageError(
            "threads must be 1: another would wait for the interpreter's lock, which pysam holds while it waits for that "
            "thread; to read all of a file, give a getm.pipe to pysam, with threads"
        )


@contextlib.contextmanager
def _opened(
    url: Url, index: Index, endings: Sequence[str], engine: Engine | None, options: Options
) -> Iterator[tuple[Served, Served | None, str | None]]:
    """Open an object and its index for htslib: yield both, and the index's name; close them again if the block raises."""
    with contextlib.ExitStack() as stack:
        reader = getm.open(url, engine=engine, **options)
        data = Served(reader, reader.url)
        stack.callback(data.close)
        served, name = None, None
        if index is not None and not callable(index) and "://" not in os.fspath(index):
            name = os.fspath(index)
        else:
            served = _served_index(url, index, endings, engine, options)
            if served is not None:
                stack.callback(served.close)
                name = served.name
        with data.checked():
            yield data, served, name
        stack.pop_all()


def _served_index(url: Url, index: Index, endings: Sequence[str], engine: Engine | None, options: Options) -> Served | None:
    """Return an index, whole: pysam reads it whole, and again for each iterator of its own."""
    options = cast(Options, {name: value for name, value in options.items() if name != "refresh"})  # that is of the object
    if index is not None:
        where = index if callable(index) else os.fspath(index)
        content = getm.read(where, engine=engine, **options)
        return Served(io.BytesIO(content), "index" if callable(where) else uri.redact(where))
    if callable(url):
        return None
    parts = urlsplit(url)
    for ending in endings:
        beside = parts._replace(path=parts.path + ending).geturl()
        with contextlib.suppress(NotFound, AccessDenied):  # which stores say of what is not there, too
            return Served(io.BytesIO(getm.read(beside, engine=engine, **options)), uri.redact(beside))
    return None


def _path(url: Url) -> str:
    return "" if callable(url) else urlsplit(url).path
