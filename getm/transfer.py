"""Copy one object to a file: beside it as `FILE.part` first, and in its place once it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Unpack

from getm import config, uri
from getm.config import CommonOptions, Settings, Url
from getm.engine import Engine, chosen
from getm.errors import GetmError, SourceError, UsageError
from getm.progress import Progress
from getm.sources import Source, open_source


@dataclass(frozen=True)
class Copied:
    """What a copy has brought.

    Attributes:
        path: of the file.
        size: in bytes.
        seconds: from the first request to the file in its place.
    """

    path: str
    size: int
    seconds: float


def copy(
    url: Url,
    path: str | os.PathLike[str],
    *,
    concurrency: int | None = 8,
    progress: bool = False,
    engine: Engine | None = None,
    **options: Unpack[CommonOptions],
) -> Copied:
    """Copy the object behind a URL to a file.

    Workers write their ranges straight into `PATH.part`; when all are there, it takes the place of *path*, and the mode
    of a file that was there. Until then that file stays as it is. A link is followed. When anything fails, `PATH.part` is
    removed.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        path: of the file; its folder must be there.
        concurrency: range requests at once, each in a background process; None for the calling process alone.
        progress: whether to draw a bar on standard error.
        engine: whose workers do it; None for those that all readers of this process share.
        **options: how the object is read, see `getm.config.Settings`.

    Returns:
        Where it is, how long it is and how long it took.

    Raises:
        GetmError: the object cannot be had.
        OSError: the file cannot be written; its `filename` says which.
        UsageError: a URL or option cannot be used.
        TypeError: an option is unknown.
    """
    began = time.monotonic()
    settings = config.settings({"concurrency": concurrency, **options})
    target, mode = _target(os.fspath(path))
    source = open_source(url, settings)
    part = target + ".part"
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such folder", os.path.dirname(target)) from None
    try:
        _lock(descriptor, part)
        try:
            size = _fill(chosen(engine, concurrency), source, settings, descriptor, show=progress)
            if mode is not None:
                os.fchmod(descriptor, mode)
            os.replace(part, target)
        except BaseException as error:
            with suppress(FileNotFoundError):
                os.unlink(part)
            if isinstance(error, OSError) and not isinstance(error, GetmError) and error.errno and error.filename is None:
                raise OSError(error.errno, os.strerror(error.errno), part) from error
            raise
    finally:
        os.close(descriptor)
    return Copied(os.fspath(path), size, time.monotonic() - began)


def _target(path: str) -> tuple[str, int | None]:
    """Return the file that *path* names, through links, and its mode if it is there.

    Raises:
        OSError: it cannot be replaced by another file: it is a folder, a device or a pipe.
        UsageError: it names nothing.
    """
    if not path:
        raise UsageError("the path of the file is empty")
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return target, stat.S_IMODE(mode)


def _fill(engine: Engine, source: Source, settings: Settings, descriptor: int, *, show: bool) -> int:
    """Fill the file behind *descriptor* with the object, and return its size."""
    feed = engine.attach(source, settings, forward=True, descriptor=descriptor)
    try:
        os.ftruncate(descriptor, 0)
        with Progress(feed.size, uri.name(source.name), show=show) as progress:
            for missing in engine.save(feed):
                progress.add(feed.size - missing - progress.count)
        size = os.fstat(descriptor).st_size
    finally:
        engine.detach(feed)
    if size != feed.size:
        raise SourceError(f"{source.name}: {feed.size} bytes were promised, the file has {size}", url=source.name)
    return size


def _lock(descriptor: int, part: str) -> None:
    """Keep others from writing the same file.

    Raises:
        OSError: somebody is writing it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another copy is writing this file", part) from None
