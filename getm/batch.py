"""Copy many objects, several at a time, and say of each what became of it."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Unpack

from getm import config, manifest, uri
from getm.about import Info, look
from getm.config import CommonOptions, Settings, check_count
from getm.engine import Engine, chosen
from getm.errors import UsageError
from getm.manifest import Entry
from getm.progress import Board, Progress
from getm.transfer import Copied, Copy, Stopped, Terms

STOP_SECONDS = 1.5
"""So long may copies take to record what they have when all are stopped: they hear of it at once, unless they wait for a
connection, and then they have nothing."""

NEXT_SECONDS = 0.005
NEXT_SHARE = 0.75
"""One more thread begins whenever those there are have had nothing done for so many seconds, or have kept a processor busy
for less than this share of them. Otherwise they do not wait, and more would only be in each other's way: 2,000 objects of
100 KiB from a near server took 1.0 s by one thread, 1.3 by two, and 1.7 by sixteen."""


@dataclass(frozen=True)
class Result:
    """What became of one entry of a manifest.

    Attributes:
        url: without user info, query and fragment.
        path: of the file; None if the server was to name it, and did not.
        copied: what was brought; None if nothing was.
        error: why not; None if all is well.
        entry: of the manifest.
    """

    url: str
    path: str | None
    copied: Copied | None = None
    error: Exception | None = None
    entry: Entry | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Task:
    """One entry of a manifest, and how it is copied.

    Attributes:
        entry: of the manifest.
        target: path of the file; None where the server is to name it.
        settings: how it is read.
        terms: how it is copied.
    """

    entry: Entry
    target: str | None
    settings: Settings = field(repr=False)
    terms: Terms


def copy_many(  # noqa: PLR0913  # options, each by its name
    given: str | os.PathLike[str] | Iterable[str | Mapping[str, object] | Entry],
    folder: str | os.PathLike[str] = ".",
    *,
    jobs: int = 8,
    concurrency: int | None = 8,
    fail_fast: bool = False,
    allow_absolute: bool = False,
    terms: Terms | None = None,
    progress: bool = False,
    on_result: Callable[[Result], None] | None = None,
    engine: Engine | None = None,
    **options: Unpack[CommonOptions],
) -> list[Result]:
    """Copy all objects of a manifest to files, each as `getm.copy` does; a file that is there already is left alone.

    One that fails does not keep others from being copied. All together have at most *concurrency* range requests under way
    in background processes, and each job one of its own: small objects are fetched by those, over connections kept alive.

    Args:
        given: the path of a manifest, in any form that `getm.manifest.read` knows; or its entries, as URLs or objects.
        folder: where the files go; what is missing of folders is made.
        jobs: objects at once, at most: as many as help.
        concurrency: range requests at once, for all of them; None for the calling process alone.
        fail_fast: whether to stop all after the first failure.
        allow_absolute: whether a manifest may name files elsewhere than in *folder*.
        terms: how each is copied, but for what the manifest says of it; a limit of the rate is one for all together.
        progress: whether to draw bars on standard error, or in a notebook: one for all, one for each under way.
        on_result: is called for each entry when it is done, in the calling thread.
        engine: whose workers do it; None for those that all readers of this process share.
        **options: how the objects are read, see `getm.config.Settings`.

    Returns:
        What became of each entry that was begun and not stopped, in their order.

    Raises:
        UsageError: an option or the manifest cannot be used; nothing was begun.
        OSError: the manifest cannot be read.
    """
    settings = config.settings({"concurrency": concurrency, **options})
    check_count("jobs", jobs, 1)
    if not isinstance(progress, bool):
        raise UsageError(f"progress must be True or False, not {progress!r}: on_result is told of each file")
    if isinstance(given, str | os.PathLike):
        with open(given, "rb") as file:
            entries = manifest.read(file.read())
    else:
        entries = manifest.entries(given)
    terms = Terms(skip=True) if terms is None else terms
    tasks = plan(entries, os.fspath(folder), settings, terms, jobs=jobs, allow_absolute=allow_absolute)
    board = Board("all files") if progress else None
    batch = Batch(tasks, os.fspath(folder), chosen(engine, concurrency), board)
    try:
        batch.run(jobs, on_result, fail_fast=fail_fast)
    finally:
        if board is not None:
            board.close()
    return batch.results


def plan(  # noqa: PLR0913  # what all entries have in common
    entries: Sequence[Entry],
    folder: str,
    settings: Settings,
    terms: Terms,
    *,
    jobs: int,
    allow_absolute: bool = False,
) -> list[Task]:
    """Return how the entries of a manifest are to be copied, *jobs* at once.

    Raises:
        UsageError: one of them cannot be, or two are in each other's way; the text says which.
    """
    targets = manifest.place(entries, folder, allow_absolute=allow_absolute)
    if terms.limit_rate is not None:
        terms = replace(terms, limit_rate=max(config.KIB, terms.limit_rate / max(1, min(jobs, len(entries)))))
    tasks = []
    for entry, target in zip(entries, targets, strict=True):
        headers = {**settings.headers, **entry.headers}
        checksum = terms.checksum if entry.checksum is None else entry.checksum
        try:
            own = replace(terms, checksum=checksum, size=entry.size)
        except UsageError as error:
            raise UsageError(f"{entry.place}: {error}") from None
        tasks.append(Task(entry, target, replace(settings, headers=headers) if entry.headers else settings, own))
    return tasks


class Batch:
    """Entries of a manifest that are being copied, by threads that take one after the other.

    Args:
        tasks: what to copy, and how.
        folder: where the files go that the server names.
        engine: whose workers do it.
        board: on which progress is drawn; None for nowhere.
        keeps_files: whether a file that is there already is an error, whatever it holds.
    """

    def __init__(
        self, tasks: Sequence[Task], folder: str, engine: Engine, board: Board | None, *, keeps_files: bool = False
    ) -> None:
        self._tasks = tasks
        self._folder = folder
        self._engine = engine
        self._board = board
        self._keeps_files = keeps_files
        self._folders: set[str] = set()  # that are there
        self._results: dict[int, Result] = {}  # by number of the task; of the thread that runs all
        self._waiting = deque(enumerate(tasks))  # taken from by the threads; cleared to stop them
        self._done: queue.SimpleQueue[tuple[int, Result] | None] = queue.SimpleQueue()  # None when a thread ends
        self._lock = threading.Lock()  # guards the three below
        self._copies: dict[Copy, str] = {}  # under way, and where to
        self._taken = {task.target for task in tasks if task.target is not None}
        self._is_stopped = False

    @property
    def results(self) -> list[Result]:
        """What became of each entry that is done, in their order."""
        return [self._results[number] for number in sorted(self._results)]

    @property
    def unfinished(self) -> list[Entry]:
        """The entries that are not copied, in their order."""
        done = {number for number, result in self._results.items() if result.error is None}
        return [task.entry for number, task in enumerate(self._tasks) if number not in done]

    def run(self, jobs: int, on_result: Callable[[Result], None] | None = None, *, fail_fast: bool = False) -> None:
        """Copy all; see `copy_many`. However this ends, `results` and `unfinished` say what was done."""
        threads: list[threading.Thread] = []
        try:
            self._gather(threads, jobs, on_result, fail_fast=fail_fast)
        except BaseException:
            self._stop(threads, None)
            raise
        self._stop(threads, on_result)

    def _gather(
        self, threads: list[threading.Thread], jobs: int, on_result: Callable[[Result], None] | None, *, fail_fast: bool
    ) -> None:
        """Begin threads, and take in what becomes of entries until all have ended, or one entry has failed too many."""
        ended, load = 0, _Load()
        if self._waiting:
            self._begin(threads, fail_fast=fail_fast)
        while ended < len(threads):
            may_begin = self._waiting and len(threads) < jobs
            try:
                news = self._done.get(timeout=NEXT_SECONDS if may_begin else None)
            except queue.Empty:
                self._begin(threads, fail_fast=fail_fast)
                load = _Load()
                continue
            if may_begin and load.seconds > NEXT_SECONDS:
                if load.share < NEXT_SHARE:
                    self._begin(threads, fail_fast=fail_fast)
                load = _Load()
            if news is None:
                ended += 1
                continue
            self._note(news, on_result)
            if fail_fast and news[1].error is not None:
                return

    def _begin(self, threads: list[threading.Thread], *, fail_fast: bool) -> None:
        """Have one more thread copy."""
        thread = threading.Thread(target=self._work, args=(fail_fast,), daemon=True)
        threads.append(thread)
        thread.start()

    def _note(self, news: tuple[int, Result], on_result: Callable[[Result], None] | None) -> None:
        number, result = news
        self._results[number] = result
        if on_result is not None:
            on_result(result)

    def _stop(self, threads: Iterable[threading.Thread], on_result: Callable[[Result], None] | None) -> None:
        """Have all copies end, and none begin. What is there of them stays; those that have nothing leave nothing."""
        self._waiting.clear()
        with self._lock:
            self._is_stopped = True
            copies = list(self._copies)
        for copy in copies:
            copy.stop()
        until = time.monotonic() + STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:  # otherwise it was about to be started
                thread.join(max(0.0, until - time.monotonic()))
        with self._lock:
            for target in self._copies.values():
                _forget_empty(os.path.realpath(target))
        while not self._done.empty():
            news = self._done.get()
            if news is not None and not isinstance(news[1].error, Stopped):
                self._note(news, on_result)

    def _work(self, fail_fast: bool) -> None:  # noqa: FBT001  # as a thread is given it
        """Copy one entry after the other, until none is left or, with *fail_fast*, one has failed."""
        try:
            while True:
                try:
                    number, task = self._waiting.popleft()
                except IndexError:
                    return
                result = self._result(task)
                if fail_fast and result.error is not None:
                    self._waiting.clear()  # not only when the result is looked at: another would have begun by then
                self._done.put((number, result))
        finally:
            self._done.put(None)

    def _result(self, task: Task) -> Result:
        """Copy one entry."""
        entry, target = task.entry, task.target
        url = uri.redact(entry.url)
        try:
            target = target or self._named(task)
            if self._keeps_files:
                check_absent(target)
            folder = os.path.dirname(target)
            if folder not in self._folders:
                os.makedirs(folder, exist_ok=True)
                self._folders.add(folder)
            return Result(url, target, self._copy(task, target), entry=entry)
        except Exception as error:  # noqa: BLE001  # it is the caller's to look at
            return Result(url, target, error=error, entry=entry)

    def _copy(self, task: Task, target: str) -> Copied:
        label = uri.printable(os.path.basename(target))
        progress = Progress() if self._board is None else self._board.file(label)
        copy = Copy(task.entry.url, target, task.settings, task.terms, self._engine, progress)
        with self._lock:
            if self._is_stopped:
                raise Stopped
            self._copies[copy] = target
        try:
            return copy.run()
        finally:
            progress.close()
            with self._lock:
                del self._copies[copy]

    def _named(self, task: Task) -> str:
        """Return where an entry goes that only the server names.

        Raises:
            UsageError: it does not, or as another is named.
            FileExistsError: something else is there, and is to be left alone.
        """
        target = remote_target(task.entry.url, os.path.realpath(self._folder), task.settings, force=not task.terms.skip)
        with self._lock:
            if target in self._taken:
                raise UsageError(
                    f"{uri.redact(task.entry.url)}: another entry has the name that the server gives: give a path"
                )
            self._taken.add(target)
        return target


def remote_target(url: str, folder: str, settings: Settings, *, force: bool) -> str:
    """Return the path of a file in *folder*, by the name that the server, or else the URL, gives an object.

    Args:
        url: of the object.
        folder: where it goes.
        settings: how it is read.
        force: whether the server may name a file that is there already, and is not this object by its size and time.

    Raises:
        UsageError: neither gives a name.
        FileExistsError: such a file is there.
        GetmError: the object cannot be had.
    """
    info = look(url, settings)
    # The server's name, or that of a redirect, is not to be trusted with a hidden file.
    name = info.name if info.name == uri.name(url) else info.name.lstrip(". ")
    if not name:
        raise UsageError(f"neither {uri.redact(url)} nor its server name a file: give a FILE")
    path = os.path.join(folder, name)
    if os.path.lexists(path) and not force and not _is_alike(path, info):
        raise FileExistsError(
            errno.EEXIST, "exists already, and is not this object: name another file, or force it to be replaced", path
        )
    return path


def check_absent(path: str) -> None:
    """Raise `FileExistsError` if there is anything at *path*."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists already", path)


class _Load:
    """How busy this process has been since this was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._spent = time.process_time()

    @property
    def seconds(self) -> float:
        """How long that is."""
        return time.monotonic() - self._began

    @property
    def share(self) -> float:
        """Seconds of processors a second."""
        return (time.process_time() - self._spent) / self.seconds


def _is_alike(path: str, info: Info) -> bool:
    """Whether a file has the size and the time of an object, as a copy of it has."""
    try:
        status = os.stat(path)
        modified = parsedate_to_datetime(info.last_modified or "").timestamp()
    except (OSError, ValueError, TypeError, OverflowError):
        return False
    return (status.st_size, status.st_mtime) == (info.size, modified)


def _forget_empty(target: str) -> None:
    """Remove the unfinished file of a copy that still waits for a connection, unless an earlier run left it."""
    with suppress(OSError):
        if not os.path.getsize(target + ".part") and not os.path.exists(target + ".part.json"):
            os.unlink(target + ".part")
