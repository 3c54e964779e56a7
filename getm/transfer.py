"""Copy one object to a file: beside it as `FILE.part` first, and in its place once it is complete and verified."""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Unpack

from getm import buffers, config, integrity, uri
from getm.config import MIB, SHARE_LEAST, CommonOptions, Settings, Url
from getm.engine import Engine, Feed, Saving, chosen, first
from getm.errors import BadStatus, IntegrityError, ObjectChanged, SourceError, UsageError
from getm.integrity import Check, Promise
from getm.part import Part, Record
from getm.progress import Progress, watcher
from getm.ranges import Range, subtract, total
from getm.sources import UNTOLD, Source, open_source

HASH_LENGTH = MIB
"""Bytes that are read back and hashed at once."""
HASH_MOST = 8 * MIB
"""Bytes that are hashed before the workers are looked after again: 12 ms of MD5."""
_OF_FILES = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOMEM)
)
"""What goes wrong with files: other errors that name none are not about them, but of what a caller's `refresh` does."""


@dataclass(frozen=True)
class Copied:
    """What a copy has brought.

    Attributes:
        path: of the file.
        size: in bytes.
        seconds: from the first request to the file in its place.
        resumed: bytes that an earlier run had brought.
        digests: of the file as it is on the disk, in hexadecimal, by algorithm; empty if none was computed.
        verified: who promised the digest that the file has: "the caller", or the name of the server's header; None if
            nobody did.
        is_skipped: whether nothing was copied, because the file was that object already.
    """

    path: str
    size: int
    seconds: float
    resumed: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    verified: str | None = None
    is_skipped: bool = False


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """A copy was stopped by another thread."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a copy is made; the arguments of `copy` of these names say what each means."""

    checksum: str | None = "auto"
    require_checksum: bool = False
    resume: bool = True
    keep_time: bool = True
    fsync: bool = False
    limit_rate: float | None = None
    skip: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        rate: object = math.inf if self.limit_rate is None else self.limit_rate  # whatever the caller gave
        if not isinstance(rate, int | float) or not rate >= config.KIB:
            raise UsageError(f"limit_rate must be a number of bytes a second, at least {config.KIB}, not {rate!r}")
        if self.size is not None:
            config.check_count("size", self.size, 0)
        integrity.choose(self.checksum, {})

    @property
    def is_demanding(self) -> bool:
        """Whether it is a failure if what was copied cannot be verified: the caller has named a digest, or requires one."""
        return self.require_checksum or integrity.choose(self.checksum, {}) is not None


def copy(  # noqa: PLR0913  # options, each by its name
    url: Url,
    path: str | os.PathLike[str],
    *,
    concurrency: int | None = 8,
    checksum: str | None = "auto",
    require_checksum: bool = False,
    resume: bool = True,
    keep_time: bool = True,
    fsync: bool = False,
    limit_rate: float | None = None,
    skip: bool = False,
    size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    engine: Engine | None = None,
    **options: Unpack[CommonOptions],
) -> Copied:
    """Copy the object behind a URL to a file, and verify it.

    Workers write their ranges straight into `PATH.part`; when all are there and the file has the digest that was promised,
    it takes the place of *path*, and the mode of a file that was there. Until then that file stays as it is. A link is
    followed. What an interrupted copy has brought stays, with a record `PATH.part.json`, and the next one goes on with it,
    if the object is the same then.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        path: of the file; its folder must be there.
        concurrency: range requests at once, at most, each in a background process; None for the calling process alone.
        checksum: the digest that the file must have, as `algorithm:digest`, in hexadecimal or base64; "auto" for what the
            server promises, if it does; None to verify nothing. Algorithms: md5, sha1, sha256, sha512, crc32, crc32c,
            crc64nvme, s3-etag.
        require_checksum: whether it is an error if nobody promises a digest.
        resume: whether to go on with what an interrupted copy has brought, and to leave that behind.
        keep_time: whether the file gets the server's Last-Modified as its time.
        fsync: whether the file must be on the disk, not only written, before this returns.
        limit_rate: bytes a second at most; None for as many as come.
        skip: whether to leave a file alone that is the object already: by the digest that was promised, else by its size
            and time.
        size: bytes that the object must have; None for as many as it has.
        progress: True to draw a bar on standard error, or in a notebook; or what is called with the bytes that are there
            and those of the whole object, whenever more have come.
        engine: whose workers do it; None for those that all readers of this process share.
        **options: how the object is read, see `getm.config.Settings`.

    Returns:
        Where it is, how long it is, how long it took, and what was verified.

    Raises:
        IntegrityError: the bytes are not those that were promised, twice; nothing is left of them. Or it cannot be told
            whether they are, for want of the length of an S3 ETag's parts, and the caller has named the digest, or requires
            one: then `PATH.part` stays for another try.
        GetmError: the object cannot be had.
        OSError: the file cannot be written; its `filename` says which.
        UsageError: a URL or option cannot be used.
        TypeError: an option is unknown.
    """
    settings = config.settings({"concurrency": concurrency, **options})
    terms = Terms(
        checksum=checksum,
        require_checksum=require_checksum,
        resume=resume,
        keep_time=keep_time,
        fsync=fsync,
        limit_rate=limit_rate,
        skip=skip,
        size=size,
    )
    name = os.fsdecode(path)
    return Copy(
        url, name, settings, terms, chosen(engine, concurrency), watcher(progress, uri.printable(os.path.basename(name)))
    ).run()


class Copy:
    """One copy under way.

    Args:
        url: of the object.
        path: of the file.
        settings: how the object is read.
        terms: how it is copied.
        engine: whose workers do it.
        progress: is told what comes.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # its parts
        self, url: Url, path: str, settings: Settings, terms: Terms, engine: Engine, progress: Progress
    ) -> None:
        self._url = url
        self._path = path
        self._settings = settings
        self._terms = terms
        self._engine = engine
        self._progress = progress
        self._source: Source | None = None  # the last that was asked
        self._feed: Feed | None = None  # set while bytes come
        self._is_stopped = False

    def run(self) -> Copied:
        """Do it; see `copy`."""
        began = time.monotonic()
        try:
            target, mode = _target(self._path)
            if self._terms.skip and mode is not None:
                there = self._find(target)
                if there is not None:
                    return there
            with Part(target, mode) as part:
                copied = self._bring(part)
        except Exception:
            if self._is_stopped:
                raise Stopped from None
            raise
        finally:
            self._progress.close()
        return replace(copied, seconds=time.monotonic() - began)

    def stop(self) -> None:
        """Have `run`, in another thread, end with an error soon; what it has brought stays."""
        self._is_stopped = True
        source, feed = self._source, self._feed
        if source is not None:
            source.close()
        if feed is not None:
            self._engine.detach(feed)

    def _open(self, file: Callable[[], str] | None = None) -> Source:
        """Return a source of the object; see `open_source`."""
        self._source = source = open_source(self._url, self._settings, file)
        if self._is_stopped:  # asked once `stop` sees the source
            raise Stopped
        return source

    def _find(self, target: str) -> Copied | None:
        """Return what is at the target, if that is the object; the server is asked, unless the caller gave a digest."""
        began, headers = time.monotonic(), dict[str, str]()
        with open(target, "rb") as file:
            status = os.fstat(file.fileno())
            if self._terms.size not in (None, status.st_size):
                return None
            promise = integrity.choose(self._terms.checksum, {}) if self._terms.checksum != "auto" else None
            if promise is None:
                source = self._open()
                with closing(source), closing(first(source, self._settings, 0, 1, spools=False)[0]) as body:
                    size, headers = body.answer.version.size, dict(body.answer.headers)
                if size != status.st_size:
                    return None
                promise = integrity.choose(self._terms.checksum, headers)
            is_there = None if promise is None else self._has(file.fileno(), promise, status.st_size)
        copied = Copied(self._path, status.st_size, time.monotonic() - began, is_skipped=True)
        if is_there is None:  # then as `rsync` does: size and time, which a copy sets when it is whole
            is_alike = not self._terms.require_checksum and _modified(headers) == status.st_mtime
            return copied if is_alike else None
        return _verified(copied, promise) if is_there else None

    def _bring(self, part: Part) -> Copied:
        """Copy the object, once more if its bytes are wrong; leave behind what another run can go on with, or nothing."""
        try:
            try:
                return self._try(part)
            except IntegrityError as error:
                if not error.actual:
                    raise
            part.clear()
            return self._try(part)
        except BaseException as error:
            if _is_wrong(error) or not part.is_recorded:
                part.discard()
            if isinstance(error, OSError) and error.errno in _OF_FILES and error.filename is None:
                raise OSError(error.errno, os.strerror(error.errno), part.path) from error
            raise

    def _try(self, part: Part) -> Copied:
        """Copy the object, or what is missing of it."""
        feed = None
        try:
            source, feed, resumed = self._attach(part)
            promise = self._fill(part, source, feed)
            modified = _modified(source.headers) if self._terms.keep_time else None
            part.publish(modified=modified, is_durable=self._terms.fsync)
        except BaseException as error:
            if self._terms.resume and not _is_wrong(error) and feed is not None and feed.saving is not None:
                part.note(source.name, source.identity, feed.version, feed.saving.missing, is_last=True)
            raise
        finally:
            self._detach()
        return _verified(Copied(self._path, feed.size, 0.0, resumed), promise)

    def _attach(self, part: Part) -> tuple[Source, Feed, int]:
        """Send the first request, for what is missing; return also how many bytes are there already."""
        source = self._open(part.begin)
        record = part.read(source.identity) if self._terms.resume else None
        if record is not None:
            feed = self._go_on(source, part, record)
            if feed is not None:
                return source, feed, feed.size - total(record.missing)
            source = self._open(part.begin)
        part.is_stale = True
        feed = self._begin(source, part, [(0, UNTOLD)])
        part.begin()
        return source, feed, 0

    def _go_on(self, source: Source, part: Part, record: Record) -> Feed | None:
        """Send the first request for what is missing of a recorded version; return None if there is another by now."""
        source.expect(record.version)
        try:
            feed = self._begin(source, part, record.missing)
        except ObjectChanged:
            return None
        except BadStatus as error:
            if error.status == 416:  # as of S3, whose answer does not tell that the object is shorter now
                return None
            raise
        if feed.version.validator == record.version.validator:
            return feed
        self._detach()  # that it is the same nobody says any more
        return None

    def _begin(self, source: Source, part: Part, missing: list[Range]) -> Feed:
        """Send the first request for what is missing, and settle how fast each of them may be."""
        most = self._settings.concurrency or 1
        limit = self._terms.limit_rate or math.inf
        saving = Saving(part.descriptor, missing, limit / most)
        self._feed = self._engine.attach(source, self._settings, forward=True, saving=saving)
        left = total(saving.missing)
        requests = 1 if left <= self._settings.block_size else len(saving.missing) + -(-left // SHARE_LEAST)
        saving.pace = limit / min(most, requests)  # a few bytes have fewer of them
        if limit < math.inf:
            self._feed.planner.observe(None, saving.pace)  # so that all of them are used, though the server may be near
        return self._feed

    def _detach(self) -> None:
        if self._feed is not None:
            self._engine.detach(self._feed)
        self._feed = None

    def __del__(self) -> None:
        """Let go of the engine, if an interrupt has kept it from that."""
        if hasattr(self, "_is_stopped"):
            self._detach()

    def _check(self, source: Source, size: int) -> Check | None:
        """Return what verifies the file, if anybody promises anything that can be told."""
        if self._terms.size not in (None, size):
            text = f"{source.name}: {self._terms.size} bytes were promised, the object has {size}"
            raise IntegrityError(text, algorithm="size", expected=str(self._terms.size), url=source.name)
        promise = integrity.choose(self._terms.checksum, source.headers)
        if promise is None and self._terms.require_checksum:
            raise IntegrityError(f"{source.name}: the server promises no digest, and none was given", url=source.name)
        check = None if promise is None else Check(promise, size, source.name)
        if check is not None and check.is_hopeless:
            self._pass_over(check)
            return None
        return check

    def _fill(self, part: Part, source: Source, feed: Feed) -> Promise | None:
        """Fill the file with what is missing of the object, hash it behind that, and return what it is verified by."""
        saving, size = feed.saving, feed.size
        assert saving is not None
        check = self._check(source, size)
        part.reserve(size)
        saving.is_followed = check is not None and check.is_ordered
        for missing in self._engine.save(feed):
            self._progress.to(size - missing, size)
            if check is not None:
                self._hash(part.descriptor, check, subtract((0, size), saving.missing), HASH_MOST)
            if self._terms.resume:
                part.note(source.name, source.identity, feed.version, saving.missing)
            if self._is_stopped:
                raise Stopped
        if check is not None:
            self._hash(part.descriptor, check, [(0, size)], size)
        there = os.fstat(part.descriptor).st_size
        if there != size:
            raise SourceError(f"{source.name}: {size} bytes were promised, the file has {there}", url=source.name)
        return None if check is None else self._kept(check)

    def _kept(self, check: Check) -> Promise | None:
        """Return the promise that the bytes keep; None if it cannot be told, and need not."""
        if check.finish():
            return check.promise
        self._pass_over(check)
        return None

    def _pass_over(self, check: Check) -> None:
        """Leave a promise alone of which it cannot be told whether it is kept, unless the caller insists.

        Raises:
            IntegrityError: he does. What was brought stays, for who can tell more.
        """
        if self._terms.is_demanding:
            text = f"{check.name}: not verified, {integrity.UNTOLD}"
            raise IntegrityError(text, algorithm="s3-etag", expected=check.promise.text, url=check.name)

    def _hash(self, descriptor: int, check: Check, there: list[Range], most: int) -> None:
        """Go on hashing what is there of a file, *most* bytes of it at most."""
        wanted = check.wanted(there)
        buffer = buffers.buffer(min(HASH_LENGTH, most, total(wanted)))
        for start, stop in wanted:
            position = start
            while position < stop and most:
                if self._is_stopped:
                    raise Stopped
                count = os.preadv(descriptor, [buffer[: min(stop - position, most)]], position)
                if not count:
                    raise SourceError("the file was cut while it was written")
                check.update(buffer[:count], position)
                position, most = position + count, most - count

    def _has(self, descriptor: int, promise: Promise, size: int) -> bool | None:
        """Say whether a file has a digest; None if that cannot be told."""
        check = Check(promise, size)
        if check.is_hopeless:
            return None
        try:
            self._hash(descriptor, check, [(0, size)], size)
            return True if check.finish() else None
        except IntegrityError:
            return False


def _is_wrong(error: BaseException) -> bool:
    """Whether what a copy has brought is of no use: not what was promised, or not of one version."""
    return isinstance(error, ObjectChanged) or (isinstance(error, IntegrityError) and bool(error.actual))


def _verified(copied: Copied, promise: Promise | None) -> Copied:
    if promise is None:
        return copied
    return replace(copied, digests={promise.algorithm: promise.text}, verified=promise.origin)


def _modified(headers: Mapping[str, str]) -> float | None:
    """Return the object's Last-Modified in seconds since the epoch, if the server tells it."""
    try:
        when = parsedate_to_datetime(headers.get("last-modified", ""))
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, LookupError):
        return None


def _target(path: str) -> tuple[str, int | None]:
    """Return the file that *path* names, through links, and its mode if it is there.

    Raises:
        OSError: it cannot be replaced by another file: it is a folder, a device or a pipe.
        UsageError: it names nothing.
    """
    if not path:
        raise UsageError("the path of the file is empty")
    if path.endswith("/"):
        raise IsADirectoryError(errno.EISDIR, "names a folder, not a file in it", path)
    target = path if os.path.isabs(path) and not os.path.islink(path) else os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder: name a file in it", path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return target, mode & 0o777  # bits beyond would give the bytes of a server the rights of whoever copies them
