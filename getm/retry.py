"""Which failures deserve another try, after how long, and which exception they become: pure decisions."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from enum import Enum, auto

from getm.errors import (
    AccessDenied,
    BadStatus,
    GetmError,
    NotFound,
    ObjectChanged,
    RangeNotSupported,
    ShortRead,
    SourceError,
    TransferTimeout,
    WorkerError,
)

BACKOFF_FIRST = 0.1
BACKOFF_MOST = 20.0
RETRY_AFTER_MOST = 60.0

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class Trouble(Enum):
    """What kind of thing went wrong with a request."""

    CONNECT = auto()
    TIMEOUT = auto()
    CUT = auto()
    STATUS = auto()
    EXPIRED = auto()
    RANGE = auto()
    CHANGED = auto()
    PROTOCOL = auto()
    WORKER = auto()
    WORKERS = auto()
    WRITE = auto()


_ERRORS: dict[Trouble, type[GetmError]] = {
    Trouble.CONNECT: SourceError,
    Trouble.TIMEOUT: TransferTimeout,
    Trouble.CUT: ShortRead,
    Trouble.STATUS: BadStatus,
    Trouble.EXPIRED: AccessDenied,
    Trouble.RANGE: RangeNotSupported,
    Trouble.CHANGED: ObjectChanged,
    Trouble.PROTOCOL: SourceError,
    Trouble.WORKER: WorkerError,
    Trouble.WORKERS: WorkerError,
}
_STATUS_ERRORS: dict[int, type[GetmError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    410: NotFound,
}
_TRANSIENT = frozenset({Trouble.CONNECT, Trouble.TIMEOUT, Trouble.CUT, Trouble.WORKER})


@dataclass(frozen=True)
class Failure:
    """Why a request did not bring its bytes; plain data, so that it can travel between processes.

    Attributes:
        trouble: the kind.
        message: what was expected and what came, without secrets.
        status: the HTTP status, if there was an answer.
        retry_after: seconds the server asks to wait, if it does.
        errno: the system's error number, where writing a file failed.
    """

    trouble: Trouble
    message: str
    status: int | None = None
    retry_after: float | None = None
    errno: int | None = None

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        if self.trouble is Trouble.STATUS:
            return self.status in TRANSIENT_STATUS
        return self.trouble in _TRANSIENT

    @property
    def is_refusal(self) -> bool:
        """Whether the same request may succeed with another URL for the same object."""
        return self.trouble is Trouble.EXPIRED or (self.trouble is Trouble.STATUS and self.status in _STATUS_ERRORS)

    @property
    def is_absence(self) -> bool:
        """Whether the server says that there is no such object."""
        return self.trouble is Trouble.STATUS and _STATUS_ERRORS.get(self.status or 0) is NotFound

    def told(self, url: str, start: int, stop: int, attempt: int) -> str:
        """Return the line for the log: what an attempt at `[start, stop)` has come to; *url* is redacted."""
        return f"{url}, bytes {start}-{stop - 1}, attempt {attempt}: {self.message}"

    def error(self, url: str, start: int, stop: int, attempts: int) -> OSError:
        """Return the exception for the caller.

        Args:
            url: redacted.
            start: first byte of what could not be had.
            stop: the byte after the last.
            attempts: how often it was tried.
        """
        if self.errno is not None:
            return OSError(self.errno, self.message)
        kind = _ERRORS[self.trouble]
        if self.trouble is Trouble.STATUS and self.status is not None:
            kind = _STATUS_ERRORS.get(self.status, kind)
        times = "" if attempts < 2 else f" ({attempts} attempts)"
        where = "" if issubclass(kind, NotFound | AccessDenied) else f", bytes {start}-{stop - 1}"
        message = f"{url}{where}: {self.message}{times}"
        return kind(message, url=url, start=start, stop=stop, status=self.status, attempts=attempts)


class RequestFailed(Exception):  # noqa: N818  # named as the exceptions that it becomes
    """Carries a `Failure` up to whoever decides about it; never leaves getm."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class StallWatch:
    """Notices that too few bytes come: fewer than *least* within *seconds*.

    Args:
        seconds: length of the time that is looked at.
        least: bytes that must come in it.
        now: when it begins; any clock that does not go back.
    """

    def __init__(self, seconds: float, least: int, now: float) -> None:
        self._seconds = seconds
        self._least = least
        self._began = now
        self._count = 0

    def add(self, count: int, now: float) -> None:
        """Note that *count* bytes have come.

        Raises:
            RequestFailed: that is too few for too long.
        """
        self._count += count
        passed = now - self._began
        if passed < self._seconds:
            return
        if self._count < self._least:
            raise RequestFailed(Failure(Trouble.TIMEOUT, f"{self._count} bytes in {passed:.1f} s are a stall"))
        self._began, self._count = now, 0


def pause(attempt: int, retry_after: float | None, chance: float) -> float:
    """Return how many seconds to wait before attempt number *attempt* (the second is 2).

    Full jitter: a random share of an exponentially growing bound, so that many clients do not come back at once
    (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015). What the server asks for is the least.

    Args:
        attempt: number of the attempt to come, from 2.
        retry_after: seconds the server asked for, or None.
        chance: a random number in [0, 1).
    """
    bound = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(attempt - 2, 30))
    return max(chance * bound, min(retry_after or 0.0, RETRY_AFTER_MOST))


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds a `Retry-After` header asks for (RFC 9110, 10.2.3), or None if it says nothing usable.

    Args:
        text: the header's value, seconds or a date, or None.
        now: the time, in seconds since the epoch.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
