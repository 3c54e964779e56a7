"""The file in which a copy grows beside its target, and the record beside that, by which another run goes on with it.

`FILE.part` is locked as long as somebody writes it. `FILE.part.json` says which version of which object it holds, and
which ranges of it are there. In one boot of the machine a range is there once it was written, whoever was killed since;
after another boot only what had been flushed to the disk before it was recorded.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import hashlib
import json
import os
import stat
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from types import TracebackType
from typing import Self

from getm.ranges import Range, subtract
from getm.sources.base import Version

LOCK_SECONDS = 2.0
"""So long may another writer take to end: workers of a killed process do within a second."""
RECORD_FIRST = 0.1
RECORD_SECONDS = 1.0
"""At most so much work is lost by a kill, but for a copy that has begun just now as much as it had done before."""
FLUSH_SECONDS = 30.0
"""At most so much is lost by the end of the machine; a flush may take seconds, in which nothing new is asked for."""
RESERVE_LEAST = 1 << 20
_ENDING = ".part"
_RECORD_MOST = 1 << 22
_KEEP_SIZE = 1
_TMPFS = 0x01021994


@dataclass(frozen=True)
class Record:
    """What an unfinished file holds.

    Attributes:
        version: of the object.
        finished: the ranges that are there, in order.
    """

    version: Version
    finished: tuple[Range, ...]

    @property
    def missing(self) -> list[Range]:
        """The ranges that are not there, in order."""
        return subtract((0, self.version.size), self.finished) if self.version.size else []


class Part:
    """The unfinished file of one target, open and locked; a context manager that closes it.

    A child that is forked meanwhile has nothing to do with it, and does not keep it locked.

    Args:
        target: the file that it is to become.
        mode: permissions of the target, to be kept; None for those of any new file.

    Raises:
        OSError: the folder is not there or cannot be written, or another process is writing the same file.

    Attributes:
        path: of the unfinished file.
        descriptor: of it; -1 in a forked child.
        is_recorded: whether another run can go on with it.
        is_stale: whether what it holds is of no use to this run, and goes when that has anything to write: a run that gets
            no answer, of a wrong URL perhaps, leaves it to the next.
    """

    def __init__(self, target: str, mode: int | None = None) -> None:
        self.path = target + _ENDING
        self._target = target
        self._mode = mode
        self._record_path = self.path + ".json"
        self._recorded = self._flushed = time.monotonic()
        self._pause = RECORD_FIRST  # seconds between the last record and the next
        self._synced: list[Range] = []
        self._is_lost = False  # whether a flush has failed: what is there then nobody knows
        _register_hook()
        self._file = _locked(self.path, 0o666 if mode is None else mode | 0o600)  # no wider while it grows, either
        self.descriptor = self._file.fileno()
        self.is_recorded = os.path.lexists(self._record_path)  # asked now: whoever had the lock may have removed it
        self.is_stale = False
        _open.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _open.discard(self)
        self._file.close()

    def read(self, identity: str) -> Record | None:
        """Return what the file holds of an object, if that is recorded and can be believed."""
        if not self.is_recorded:
            return None
        try:
            said = json.loads(_content(self._record_path))
            status = os.fstat(self.descriptor)
            if (said["object"], said["inode"]) != (_digest(identity), status.st_ino):
                return None
            size, etag, last_modified = said["size"], said["etag"], said["last_modified"]
            if not (_is_offset(size) and isinstance(etag, str | None) and isinstance(last_modified, str | None)):
                return None
            flushed = _ranges(said["flushed"], status.st_size)
            finished = _ranges(said["finished"], status.st_size) if said["boot"] == _boot() else flushed
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return None
        version = Version(size, etag, last_modified)
        if status.st_size > size or not version.validator:
            return None
        self._synced = flushed
        return Record(version, tuple(finished))

    def begin(self) -> str:
        """Clear it, if it is stale, before anything is written; return its path."""
        if self.is_stale:
            self.clear()
        return self.path

    def clear(self) -> None:
        """Forget what it holds, before it holds anything else."""
        if self.is_recorded:
            with suppress(FileNotFoundError):
                os.unlink(self._record_path)
        self._synced = []
        self.is_recorded = self.is_stale = self._is_lost = False
        os.ftruncate(self.descriptor, 0)

    def reserve(self, size: int) -> None:
        """Have the file system find room for *size* bytes, where it can do so without writing them; cut off what is beyond.

        Not on tmpfs, where it doubles the time that writing takes (0.73 s a GiB beside 0.51).

        Raises:
            OSError: there is none.
        """
        there = os.fstat(self.descriptor).st_size
        if there > size:  # of an answer of untold length that was broken off
            os.ftruncate(self.descriptor, size)
        if size < RESERVE_LEAST:
            return
        libc = ctypes.CDLL(None, use_errno=True)  # os.posix_fallocate writes where the file system cannot do it
        facts = (ctypes.c_long * 64)()
        if libc.fstatfs(self.descriptor, facts) or facts[0] == _TMPFS:
            return
        if libc.fallocate(self.descriptor, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)):
            number = ctypes.get_errno()
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                os.ftruncate(self.descriptor, there)  # ext4 keeps what it has found
                raise OSError(number, os.strerror(number), self.path)

    def note(self, url: str, identity: str, version: Version, missing: Iterable[Range], *, is_last: bool = False) -> None:
        """Record what is missing of the file, if the last record is old enough or this is to be the *last* one.

        Args:
            url: where the object is, without secrets.
            identity: what tells it from others.
            version: of it; one without a validator is not recorded.
            missing: ranges that are not there.
            is_last: whether there will be no other.

        Raises:
            OSError: what was written cannot be brought to the disk; nothing is recorded from then on.
        """
        now = time.monotonic()
        is_due = is_last or now - self._recorded >= min(self._pause, RECORD_SECONDS)
        if not is_due or version.validator is None or self._is_lost or self.descriptor < 0:
            return
        self._recorded = now
        finished = subtract((0, version.size), missing)
        if not finished:
            return
        self._pause *= 2
        is_flushed = not is_last and now - self._flushed >= FLUSH_SECONDS
        if is_flushed:
            self._flush(os.fdatasync)
            self._synced, self._flushed = finished, time.monotonic()
        try:
            self._record(url, identity, version, finished, is_durable=is_flushed)
        except OSError:  # then an older record stands, which is right as far as it goes
            with suppress(OSError):
                os.unlink(self._record_path + ".new")

    def publish(self, *, modified: float | None, is_durable: bool) -> None:
        """Put the file, which is whole, in the place of its target.

        Args:
            modified: when its content was changed, in seconds since the epoch; None for now.
            is_durable: whether it must survive the end of the machine from now on.

        Raises:
            OSError: it cannot be; the target is as it was.
        """
        if modified is not None:
            with suppress(OSError, OverflowError):  # no file system knows all years, and some let only the owner say it
                os.utime(self.descriptor, (time.time(), modified))
        if is_durable:
            self._flush(os.fsync)
        else:
            self._flush(lambda descriptor: os.close(os.dup(descriptor)))  # NFS tells only then that its disk is full
        if self._mode is not None and self._mode != stat.S_IMODE(os.fstat(self.descriptor).st_mode):
            os.fchmod(self.descriptor, self._mode)
        os.replace(self.path, self._target)
        self._forget_record()
        if is_durable:
            folder = os.open(os.path.dirname(self._target) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Remove it, as far as that can be."""
        if self.descriptor >= 0:
            self._forget_record()
            with suppress(OSError):
                os.unlink(self.path)

    def leave(self) -> None:
        """Have nothing to do with it any more, in a forked child."""
        self._file.close()
        self.descriptor = -1

    def _flush(self, flush: Callable[[int], None]) -> None:
        """Have the system say whether what was written is lost: it says so only once, and not which bytes it are."""
        try:
            flush(self.descriptor)
        except OSError:
            self._is_lost = True
            self._forget_record()
            raise

    def _record(self, url: str, identity: str, version: Version, finished: list[Range], *, is_durable: bool) -> None:
        said = {
            "url": url,
            "object": _digest(identity),
            "inode": os.fstat(self.descriptor).st_ino,
            "size": version.size,
            "etag": version.etag,
            "last_modified": version.last_modified,
            "boot": _boot(),
            "finished": finished,
            "flushed": self._synced,
        }
        fresh = self._record_path + ".new"
        with suppress(FileNotFoundError):  # of a killed process; or a link, that is not to be followed
            os.unlink(fresh)
        # For the owner alone: who has the digest of a URL can try passwords.
        with open(fresh, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(said, file)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        os.replace(fresh, self._record_path)
        self.is_recorded = True

    def _forget_record(self) -> None:
        self.is_recorded = False
        for path in (self._record_path, self._record_path + ".new"):
            with suppress(OSError):
                os.unlink(path)


_open: weakref.WeakSet[Part] = weakref.WeakSet()


@functools.cache
def _register_hook() -> None:
    os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    for part in list(_open):
        part.leave()
    _open.clear()


def _locked(path: str, mode: int) -> FileIO:
    """Open a file for writing, new or not, and keep others from writing it.

    Raises:
        OSError: it cannot be opened, or somebody is writing it.
    """
    until = time.monotonic() + LOCK_SECONDS
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            file = FileIO(path, "r+", opener=lambda path, _: os.open(path, flags, mode))  # closed whatever comes between
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such folder", os.path.dirname(path)) from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name = path.removesuffix(_ENDING)
            raise OSError(error.errno, f"file name too long: there must be room for {_ENDING!r} after it", name) from None
        try:
            opened = _lock(file.fileno(), path)
            with suppress(FileNotFoundError):  # whoever had it may have put it in its place, or removed it
                there = os.stat(path, follow_symlinks=False)
                if os.path.samestat(opened, there):
                    if there.st_nlink <= 1:
                        return file
                    os.unlink(path)  # a copy of the folder made of links has it, too
        except BlockingIOError:
            if time.monotonic() > until:
                file.close()
                raise OSError(errno.EBUSY, "another copy is writing this file", path) from None
            time.sleep(0.05)
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(descriptor: int, path: str) -> os.stat_result:
    """Lock a regular file, if nobody else has, and return its status."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # as on Lustre: then there are no locks
            raise
    return status


def _content(path: str) -> bytes:
    """Return what is in a file, up to the most that a record may be; never waits for a pipe."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(path, "rb", opener=lambda path, _: os.open(path, flags)) as file:
        return file.read(_RECORD_MOST)


def _ranges(said: Iterable[tuple[int, int]], most: int) -> list[Range]:
    """Return the ranges that a record names, which lie below *most*, in order.

    Raises:
        ValueError: they do not, or are none.
    """
    ranges = [(start, stop) for start, stop in said]
    bounds = [0, *(bound for span in ranges for bound in span), most]
    if not all(map(_is_offset, bounds)) or bounds != sorted(bounds) or any(start == stop for start, stop in ranges):
        raise ValueError
    return ranges


def _is_offset(said: object) -> bool:
    return isinstance(said, int) and not isinstance(said, bool) and said >= 0


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


def _boot() -> str:
    """Return what names this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()
