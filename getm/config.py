"""All tunables, validated once, with their units and the reasons for their defaults."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypedDict

from getm.errors import UsageError
from getm.ranges import PIECES

Url: TypeAlias = str | Callable[[], str]
"""Where an object is, or what returns that, called for each fresh one."""
Path: TypeAlias = str | os.PathLike[str]

KIB = 1 << 10
MIB = 1 << 20

BLOCK_SIZE = MIB
MEMORY = 128 * MIB
LOCAL_MEMORY = 8 * MIB
PROCESSES = 32
SPOOL = 4096 * MIB

FETCH_LEAST = 64 * KIB
"""The least that is fetched at a jump: less saves no time at any rate above 2 MB/s and 30 ms."""
RUN_MOST = 32 * MIB
"""Longest run: at 30 ms and 50 MB/s a request of 32 MiB loses 4% to its first-byte time."""
SHARE_LEAST = 2 * MIB
"""Shortest run at the end of an object: at 30 ms and 50 MB/s it still moves at 57% of the connection's rate."""
RUN_LATENCIES = 10
"""A run lasts at least this many first-byte times."""
ANNOUNCE_FIRST = 64 * KIB
ANNOUNCE_EVERY = MIB
ANNOUNCE_SECONDS = 0.02
"""Of a run that somebody waits for a worker announces what that one wants or 64 KiB, then every MiB or 20 ms."""
QUIET_EVERY = 8 * MIB
QUIET_SECONDS = 0.1
"""Of others less: each word wakes the calling process, which kept servers of the same machine from 15% of their speed."""
RATE_LEAST = 512 * KIB
"""Bytes after which the rate of a run is worth something."""
STALL_LEAST = KIB
"""Fewer bytes than this within the stall time are a stall."""
PACED_SECONDS = 0.1
"""So many seconds' worth of bytes are received at once where there is a limit to their rate."""
IDLE_SECONDS = 30.0
"""A worker without work ends after this time, and the launcher after its last worker."""


class CommonOptions(TypedDict, total=False):
    """The keyword arguments that every door takes; `Settings` says what they mean."""

    block_size: int
    headers: Mapping[str, str]
    auth: object
    session: object
    timeout: float | tuple[float, float]
    retries: int
    deadline: float
    refresh: Callable[[], str] | None
    spool: int
    verify: bool | Path | None
    cert: Path | tuple[Path, Path] | None
    proxies: Mapping[str, str] | None


class Options(CommonOptions, total=False):
    """The keyword arguments of doors that have no *concurrency* of their own."""

    concurrency: int | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one object is read.

    Attributes:
        concurrency: range requests at once, at most, each in a background process; 1 keeps one request alive for as long
            as the reader reads on; None does everything in the calling process. Until background processes are up, the
            calling one fetches what a near server sends first, and needs none for what is short.
        block_size: bytes of a block, the grain of the cache; a multiple of 4 KiB, at most the engine's.
        headers: sent with every request.
        auth: `(user, password)` or a `requests` auth object.
        session: a `requests.Session` whose headers, cookies, auth, proxies and certificates are applied.
        timeout: seconds to connect, or (connect, stall): a stall is under 1 KiB in that time.
        retries: attempts after the first, at one place of the object, before its error is raised.
        deadline: seconds in which less than 1 KiB has come, after which a read or copy gives up.
        refresh: returns a fresh URL of the same object; called by a reading thread, shortly before a signed URL says that
            it expires, and when the server refuses.
        spool: bytes of the largest object that is read by way of a temporary file, because its server knows no ranges;
            0 for none.
        verify: whether to check TLS certificates, or the path of a CA bundle; None is True or what the environment says.
        cert: path of a client certificate, or (certificate, key).
        proxies: proxy URL by scheme; None is what the environment says.
    """

    concurrency: int | None = 8
    block_size: int = BLOCK_SIZE
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: object = field(default=None, repr=False)
    session: object = field(default=None, repr=False)
    timeout: float | tuple[float, float] = (10.0, 30.0)
    retries: int = 7
    deadline: float = 120.0
    refresh: Callable[[], str] | None = field(default=None, repr=False)
    spool: int = SPOOL
    verify: bool | str | None = None
    cert: str | tuple[str, str] | None = None
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    connect: float = field(init=False)
    stall: float = field(init=False)

    def __post_init__(self) -> None:
        if self.concurrency is not None:
            check_count("concurrency", self.concurrency, 1)
        check_count("retries", self.retries, 0)
        check_count("spool", self.spool, 0)
        check_count("block_size", self.block_size, PIECES * 64)
        if self.block_size % (PIECES * 64):
            raise UsageError(f"block_size must be a multiple of {PIECES * 64} bytes, not {self.block_size}")
        pair: tuple[float, ...] = self.timeout if isinstance(self.timeout, tuple) else (self.timeout, 30.0)
        if len(pair) != 2 or not all(_is_duration(value) for value in (*pair, self.deadline)):
            raise UsageError("timeout and deadline are finite seconds above 0, timeout may be a pair (connect, stall)")
        for name, value in (("headers", self.headers), ("proxies", self.proxies or {})):
            texts: list[object] = [text for item in dict(value).items() for text in item] if _is_mapping(value) else [None]
            if not all(isinstance(text, str) for text in texts):
                raise UsageError(f"{name} must map str to str")
        if self.refresh is not None and not callable(self.refresh):
            raise UsageError(f"refresh must be callable and return a URL, not {type(self.refresh).__name__}")
        object.__setattr__(self, "connect", min(pair[0], self.deadline))
        object.__setattr__(self, "stall", min(pair[1], self.deadline))


_KNOWN = tuple(each.name for each in fields(Settings) if each.init)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one engine may use.

    Attributes:
        memory: bytes of blocks, for all open objects together.
        processes: workers at most.
        block_size: bytes of a slot, the longest block.
        forks: whether workers may be forked from this process, where it has one thread.
    """

    memory: int = MEMORY
    processes: int = PROCESSES
    block_size: int = BLOCK_SIZE
    forks: bool = False

    def __post_init__(self) -> None:
        check_count("processes", self.processes, 0)
        check_count("block_size", self.block_size, PIECES * 64)
        check_count("memory", self.memory, 4 * self.block_size)

    @property
    def slots(self) -> int:
        """Slots of the arena: at least four, and no more than a quarter of the control group's memory."""
        memory = min(self.memory, _group_memory() // 4)
        return max(4, memory // self.block_size)


def settings(options: Mapping[str, Any]) -> Settings:
    """Return the settings that a caller's keyword arguments say.

    Raises:
        TypeError: there is no such option.
        UsageError: a value cannot be used.
    """
    unknown = sorted(options.keys() - _KNOWN)
    if unknown:
        raise TypeError(f"no such option: {', '.join(unknown)}; there are {', '.join(_KNOWN)}")
    paths = {name: _texts(options[name]) for name in ("verify", "cert") if name in options}
    return Settings(**{**options, **paths}) if options else _USUAL


def paced_length(pace: float) -> int:
    """Return how many bytes are to be received at once, if *pace* a second are allowed."""
    return int(min(MIB, max(KIB, pace * PACED_SECONDS)))


def available_cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_count(name: str, value: object, least: int) -> None:
    """Raise `UsageError` unless *value* is a whole number of at least *least*."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _texts(given: Any) -> Any:  # noqa: ANN401  # what a caller gave, which is looked at later
    """Return a path, or each of a tuple, as a text."""
    if isinstance(given, tuple):
        return tuple(map(_texts, given))
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _group_memory() -> int:
    """Return the memory limit of this process's control group in bytes, or a huge number if there is none.

    A control group kills where an ordinary limit refuses, so the bound has to be known beforehand.
    """
    least = 1 << 62
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return least
    for _, controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        root, name = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("/sys/fs/cgroup", "memory.max")
        for folder in _and_above(path):
            try:
                with open(f"{root}{folder}/{name}", "rb") as limit:
                    least = min(least, int(limit.read()))
            except (OSError, ValueError):
                continue  # no such file, or "max"
    return least


def _and_above(path: str) -> Iterator[str]:
    """Yield a path, without its last slash, and all paths above it."""
    path = path.rstrip("/")
    yield path
    while path:
        path = os.path.dirname(path).rstrip("/")
        yield path


_USUAL = Settings()
