"""Every exception getm raises.

All failures of a transfer are `GetmError`, an `OSError`, and where Python has a class for the case it is a base too:
`except FileNotFoundError` catches a 404. Mistakes of the caller are `UsageError`, a `ValueError`. Every class keeps its
facts as attributes and survives pickling. Texts never hold a query, a fragment or user info of a URL.
"""

from __future__ import annotations

from typing import Any


class GetmError(OSError):
    """Something went wrong between getm and the bytes.

    Args:
        message: what happened, where, what was expected and what came, and what to do.
        url: the redacted URL, if one is concerned.
        start: first byte of the range concerned.
        stop: the byte after its last.
        status: the HTTP status, if the server answered.
        attempts: how many times it was tried.
    """

    def __init__(  # noqa: PLR0913  # facts, each by its name
        self,
        message: str,
        *,
        url: str | None = None,
        start: int | None = None,
        stop: int | None = None,
        status: int | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.url = url
        self.start = start
        self.stop = stop
        self.status = status
        self.attempts = attempts

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, dict(self.__dict__))


def _rebuild(kind: type[GetmError], message: str, facts: dict[str, object]) -> GetmError:
    error = kind(message)
    error.__dict__.update(facts)
    return error


class NotFound(GetmError, FileNotFoundError):
    """The server knows no such object (404, 410)."""


class AccessDenied(GetmError, PermissionError):
    """The server refuses (401, 403), or a signed URL has expired."""


class TransferTimeout(GetmError, TimeoutError):
    """Nothing, or too little, arrived for too long."""


class SourceError(GetmError):
    """The server's fault; its subclasses say which."""


class RangeNotSupported(SourceError):
    """The server does not answer range requests, and the call needs them."""


class ObjectChanged(SourceError):
    """The object behind the URL was replaced while it was being read."""


class ShortRead(SourceError):
    """The server ended an answer early, again and again."""


class BadStatus(SourceError):
    """The server answered with a status that getm cannot use."""


class IntegrityError(GetmError):
    """The bytes are not those that were promised.

    Args:
        message: what differs, and what happened to the bytes.
        algorithm: name of the digest.
        expected: the promised digest, in hexadecimal.
        actual: the digest of what came, in hexadecimal.
        url: the redacted URL.
    """

    def __init__(
        self, message: str, *, algorithm: str = "", expected: str = "", actual: str = "", url: str | None = None
    ) -> None:
        super().__init__(message, url=url)
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual


class WorkerError(GetmError):
    """Background processes could not be started, or kept dying."""


class UsageError(ValueError):
    """The caller asked for something that cannot be."""


class MissingExtra(ImportError):
    """An optional part of getm is not installed; the text names the extra to install."""
